//! Checks the origin of forms, and names the setting to fix behind a reverse proxy.

use axum::http::{HeaderMap, HeaderName, header};
use gaffer_protocol::server_url::ServerUrl;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// The longest part of a header that a message repeats.
const MAX_SHOWN_CHARS: usize = 120;

/// Why a request counts as another site's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// According to `Sec-Fetch-Site`.
    #[error("this request comes from another site (the browser sent `Sec-Fetch-Site: {0}`)")]
    Site(String),
    /// The page that sent it has no origin that could be compared.
    #[error("this request comes from another site (the browser sent `Origin: {0}`)")]
    Origin(String),
    /// The page is of one host, the request arrived for another.
    #[error(
        "this request comes from a page of {origin}, but arrived with `Host: {host}`. If {origin} is this dashboard \
         behind a reverse proxy, the proxy replaces the header Host: set GAFFER_PUBLIC_URL={origin} on the master (with \
         its path, if it has one), or let the proxy pass the header on (nginx: proxy_set_header Host $http_host)"
    )]
    Host {
        /// As sent by the browser.
        origin: String,
        /// As it arrived.
        host: String,
    },
    /// The page came by another scheme than the request.
    #[error(
        "this request comes from a page of {origin}, but arrived by plain HTTP. If a reverse proxy speaks TLS for this \
         dashboard, set GAFFER_PUBLIC_URL={origin} on the master (with its path, if it has one), or let the proxy send \
         the header X-Forwarded-Proto (nginx: proxy_set_header X-Forwarded-Proto $scheme)"
    )]
    Scheme {
        /// As sent by the browser.
        origin: String,
    },
}

/// Whether another site has led the browser here, as far as the browser says so.
pub fn is_from_another_site(headers: &HeaderMap) -> bool {
    headers.get(SEC_FETCH_SITE).is_some_and(|site| site != "same-origin" && site != "none")
}

/// Whether a request that changes something may do so, by its origin. `public`: the origin of the dashboard's
/// public address.
///
/// # Errors
/// When it comes from elsewhere.
pub fn check(headers: &HeaderMap, public: &str) -> Result<(), Refusal> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    // Browsers send this only to https and localhost; it is the most reliable source.
    if let Some(site) = text(SEC_FETCH_SITE) {
        return match site {
            "same-origin" | "none" => Ok(()),
            other => Err(Refusal::Site(shown(other))),
        };
    }
    let Some(stated) = text(header::ORIGIN) else { return Ok(()) };
    let Some(origin) = origin_of(stated) else { return Err(Refusal::Origin(shown(stated))) };
    if origin == public {
        return Ok(());
    }
    let Some(host) = text(header::HOST) else {
        return Err(Refusal::Host { origin, host: "(none)".to_owned() });
    };
    // No site can make a browser send this one: it is the proxy's word on what the browser spoke.
    let scheme = match text(FORWARDED_PROTO).and_then(|list| list.split(',').next()).map(str::trim) {
        Some("https") => "https",
        _ => "http",
    };
    let is_at = |scheme: &str| origin_of(&format!("{scheme}://{host}")).is_some_and(|here| here == origin);
    if is_at(scheme) {
        return Ok(());
    }
    Err(match is_at("http") || is_at("https") {
        true => Refusal::Scheme { origin },
        false => Refusal::Host { origin, host: shown(host) },
    })
}

/// Scheme, host and port, in one form for each.
fn origin_of(url: &str) -> Option<String> {
    url.parse::<ServerUrl>().ok().filter(|url| url.path().is_empty()).map(|url| url.origin())
}

fn shown(text: &str) -> String {
    text.chars().take(MAX_SHOWN_CHARS).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn checked(public: &str, pairs: &[(&'static str, &'static str)]) -> Result<(), Refusal> {
        let headers = pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()))
            .collect::<HeaderMap>();
        check(&headers, public)
    }

    #[test]
    fn a_page_of_this_site_may_write() {
        for pairs in [
            &[][..],
            &[("host", "lab:3000")],
            &[("sec-fetch-site", "same-origin"), ("origin", "http://lab"), ("host", "127.0.0.1:3000")],
            &[("sec-fetch-site", "none")],
            &[("origin", "http://lab:3000"), ("host", "lab:3000")],
            &[("origin", "http://LAB"), ("host", "lab:80")],
            // A proxy that replaces Host, or the port in it.
            &[("origin", "http://gaffer.lab"), ("host", "127.0.0.1:3000")],
            // A proxy that terminates TLS and says so.
            &[("origin", "https://lab"), ("host", "lab"), ("x-forwarded-proto", "https")],
            &[("origin", "https://lab:8443"), ("host", "lab:8443"), ("x-forwarded-proto", "https, http")],
        ] {
            assert_eq!(checked("http://gaffer.lab", pairs), Ok(()), "{pairs:?}");
        }
    }

    #[test]
    fn a_page_of_another_site_may_not() {
        for pairs in [
            &[("sec-fetch-site", "cross-site"), ("origin", "http://gaffer.lab")][..],
            &[("sec-fetch-site", "same-site")],
            &[("origin", "http://evil.example"), ("host", "lab:3000")],
            &[("origin", "http://lab:3001"), ("host", "lab:3000")],
            &[("origin", "https://lab:3000"), ("host", "lab:3000")],
            &[("origin", "https://gaffer.lab"), ("host", "lab:3000")],
            &[("origin", "http://gaffer.lab.evil.example"), ("host", "lab:3000")],
            &[("origin", "http://gaffer.lab@evil.example"), ("host", "lab:3000")],
            &[("origin", "null"), ("host", "lab:3000")],
            &[("origin", "http://lab:3000")],
        ] {
            assert!(checked("http://gaffer.lab", pairs).is_err(), "{pairs:?}");
        }
    }

    #[test]
    fn a_refusal_says_which_header_a_proxy_changes_and_what_to_set() {
        let host =
            checked("http://0.0.0.0:3000", &[("origin", "http://gaffer.lab"), ("host", "10.0.0.5:3000")]);
        let text = host.unwrap_err().to_string();
        for part in ["Host: 10.0.0.5:3000", "GAFFER_PUBLIC_URL=http://gaffer.lab", "proxy_set_header Host"] {
            assert!(text.contains(part), "{text}");
        }
        let scheme = checked("http://lab", &[("origin", "https://gaffer.lab"), ("host", "gaffer.lab")]);
        let text = scheme.unwrap_err().to_string();
        for part in ["plain HTTP", "GAFFER_PUBLIC_URL=https://gaffer.lab", "X-Forwarded-Proto"] {
            assert!(text.contains(part), "{text}");
        }
    }
}
