//! The addresses that a master tells browsers and workers.

use std::net::SocketAddr;

use anyhow::{Context as _, ensure};
use gaffer_protocol::server_url::ServerUrl;

/// What links begin with: as configured, else this machine's own view of the dashboard.
pub fn public_url(
    configured: Option<&str>,
    dashboard: SocketAddr,
    speaks_tls: bool,
) -> anyhow::Result<ServerUrl> {
    let scheme = if speaks_tls { "https" } else { "http" };
    let own = match dashboard.ip().is_unspecified() {
        true => format!("{scheme}://localhost:{}", dashboard.port()),
        false => format!("{scheme}://{dashboard}"),
    };
    let public: ServerUrl = configured.unwrap_or(&own).parse().context("GAFFER_PUBLIC_URL")?;
    ensure!(
        public.is_secure() || !speaks_tls,
        "GAFFER_PUBLIC_URL={public}: with GAFFER_TLS_CERT the ports speak TLS only; the address must begin with https://"
    );
    Ok(public)
}

/// Where workers dial in: behind a reverse proxy at the one address for all, else at the dashboard's host with the
/// workers' own port.
pub fn worker_url(
    configured: Option<&str>,
    public: &ServerUrl,
    dashboard: SocketAddr,
    workers: SocketAddr,
    speaks_tls: bool,
) -> String {
    let is_proxied = configured.is_some()
        && (public.is_secure() != speaks_tls
            || !public.path().is_empty()
            || public.port() != dashboard.port());
    match is_proxied {
        true => public.for_workers(),
        false => public.directly_at(workers.port(), speaks_tls).for_workers(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn workers_are_told_the_port_that_is_theirs_or_the_proxy() {
        let (dashboard, workers) = ("0.0.0.0:3000".parse().unwrap(), "0.0.0.0:8081".parse().unwrap());
        let told_by = |public: Option<&str>, speaks_tls| {
            let url = public_url(public, dashboard, speaks_tls).unwrap();
            worker_url(public, &url, dashboard, workers, speaks_tls)
        };
        let told = |public| told_by(public, false);
        assert_eq!(told(None), "ws://localhost:8081");
        for (public, expected) in [
            ("http://localhost:3000", "ws://localhost:8081"),
            ("http://127.0.0.1:3000/", "ws://127.0.0.1:8081"),
            ("http://[::1]:3000", "ws://[::1]:8081"),
            ("http://gaffer.lab", "ws://gaffer.lab"),
            ("http://lab:3000/gaffer/", "ws://lab:3000/gaffer"),
            ("https://gaffer.example.org", "wss://gaffer.example.org"),
            ("https://example.org/gaffer/", "wss://example.org/gaffer"),
        ] {
            assert_eq!(told(Some(public)), expected, "{public}");
        }
        // A master that speaks TLS itself.
        assert_eq!(told_by(None, true), "wss://localhost:8081");
        for (public, expected) in [
            ("https://gaffer.lab:3000", "wss://gaffer.lab:8081"),
            ("https://gaffer.example.org", "wss://gaffer.example.org"),
        ] {
            assert_eq!(told_by(Some(public), true), expected, "{public}");
        }
    }

    #[test]
    fn links_of_a_master_that_speaks_tls_begin_with_https() {
        let dashboard = "0.0.0.0:3000".parse().unwrap();
        assert_eq!(public_url(None, dashboard, true).unwrap().to_string(), "https://localhost:3000");
        let error = public_url(Some("http://gaffer.lab:3000"), dashboard, true).unwrap_err();
        assert!(error.to_string().contains("must begin with https://"), "{error}");
    }

    #[test]
    fn a_public_address_that_is_none_names_its_setting() {
        let error = public_url(Some("gaffer.lab"), "0.0.0.0:3000".parse().unwrap(), false).unwrap_err();
        let error = format!("{error:#}");
        assert!(error.contains("GAFFER_PUBLIC_URL") && error.contains("http://gaffer.lab"), "{error}");
    }
}
