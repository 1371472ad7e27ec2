//! Who sent a request: the other end of the connection, or whom a trusted reverse proxy names.

use std::net::{IpAddr, SocketAddr};

use axum::http::{HeaderMap, HeaderName};

use crate::config::TrustedProxies;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Who sent a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    /// Its address, for limits and for the audit log.
    pub address: IpAddr,
    /// Whether it speaks TLS, to this master or to a reverse proxy.
    pub is_secure: bool,
}

impl Client {
    /// `peer`: the other end of the connection, which speaks TLS if it `is_encrypted`.
    ///
    /// With trusted proxies, only their headers count. Without any, `X-Forwarded-For` does not count; `X-Forwarded-Proto` does, as
    /// no site can make a browser send it, and it decides nothing but which scheme the origin of a form may have.
    pub fn of(peer: IpAddr, is_encrypted: bool, headers: &HeaderMap, trusted: &TrustedProxies) -> Client {
        let peer = peer.to_canonical();
        let is_proxy = trusted.contains(peer);
        let address = if is_proxy { nearest_untrusted(peer, headers, trusted) } else { peer };
        let said = (is_proxy || trusted.is_empty()).then(|| forwarded_proto(headers)).flatten();
        Client {
            address,
            is_secure: said.map_or(is_encrypted, |scheme| scheme == "https" || is_encrypted && !is_proxy),
        }
    }
}

/// Each proxy appends the address that it was called from. Read from the right, the first that is no trusted proxy is the
/// last that a trusted one has seen; what stands before it may be invented.
fn nearest_untrusted(peer: IpAddr, headers: &HeaderMap, trusted: &TrustedProxies) -> IpAddr {
    let lines = headers.get_all(FORWARDED_FOR).iter().rev();
    let mut nearest = peer;
    for line in lines {
        let Ok(line) = line.to_str() else { return nearest };
        for part in line.rsplit(',') {
            let Some(address) = address(part.trim()) else { return nearest };
            nearest = address;
            if !trusted.contains(address) {
                return nearest;
            }
        }
    }
    nearest
}

/// An address, which some proxies write with a port.
fn address(text: &str) -> Option<IpAddr> {
    let without_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    let address = text.trim_matches(['[', ']']).parse().ok().or_else(without_port)?;
    Some(IpAddr::to_canonical(&address))
}

fn forwarded_proto(headers: &HeaderMap) -> Option<&str> {
    headers.get(FORWARDED_PROTO)?.to_str().ok()?.split(',').next().map(str::trim)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::from_static(name), value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn the_client_is_the_last_address_that_a_trusted_proxy_has_seen() {
        let trusted: TrustedProxies = "10.0.0.0/8,127.0.0.1".parse().unwrap();
        for (peer, lines, expected) in [
            ("9.9.9.9", &["1.1.1.1"][..], "9.9.9.9"),
            ("127.0.0.1", &[], "127.0.0.1"),
            ("127.0.0.1", &["1.1.1.1"], "1.1.1.1"),
            // What the client itself has sent stands to the left.
            ("127.0.0.1", &["8.8.8.8, 1.1.1.1"], "1.1.1.1"),
            ("127.0.0.1", &["8.8.8.8", "1.1.1.1, 10.0.0.7"], "1.1.1.1"),
            ("127.0.0.1", &["8.8.8.8, nonsense, 10.0.0.7"], "10.0.0.7"),
            ("127.0.0.1", &["1.1.1.1,"], "127.0.0.1"),
            ("127.0.0.1", &["10.0.0.9, 10.0.0.7"], "10.0.0.9"),
            ("::ffff:127.0.0.1", &["1.1.1.1:4711"], "1.1.1.1"),
            ("127.0.0.1", &["[2001:db8::1]:80"], "2001:db8::1"),
            ("127.0.0.1", &["2001:db8::1"], "2001:db8::1"),
        ] {
            let lines: Vec<_> = lines.iter().map(|line| ("x-forwarded-for", *line)).collect();
            let client = Client::of(peer.parse().unwrap(), false, &headers(&lines), &trusted);
            assert_eq!(client.address, expected.parse::<IpAddr>().unwrap(), "{peer} {lines:?}");
        }
        let forged = headers(&[("x-forwarded-for", "1.1.1.1")]);
        let client = Client::of("127.0.0.1".parse().unwrap(), false, &forged, &TrustedProxies::default());
        assert_eq!(client.address.to_string(), "127.0.0.1", "without trusted proxies");
    }

    #[test]
    fn a_client_speaks_tls_here_or_says_a_proxy() {
        let trusted: TrustedProxies = "10.0.0.0/8".parse().unwrap();
        let none = TrustedProxies::default();
        for (peer, is_encrypted, proto, proxies, expected) in [
            ("10.0.0.1", false, Some("https"), &trusted, true),
            ("10.0.0.1", true, Some("http"), &trusted, false),
            ("10.0.0.1", true, None, &trusted, true),
            ("9.9.9.9", false, Some("https"), &trusted, false),
            ("9.9.9.9", false, Some("https"), &none, true),
            ("9.9.9.9", true, Some("http"), &none, true),
            ("9.9.9.9", true, None, &none, true),
            ("9.9.9.9", false, None, &none, false),
        ] {
            let lines: Vec<_> = proto.iter().map(|proto| ("x-forwarded-proto", *proto)).collect();
            let client = Client::of(peer.parse().unwrap(), is_encrypted, &headers(&lines), proxies);
            assert_eq!(client.is_secure, expected, "{peer} {is_encrypted} {proto:?}");
        }
    }
}
