//! The master's address, from the forms that people write to the one that is dialled.

use std::fmt;
use std::str::FromStr;

use gaffer_protocol::wire::WORKER_PATH;
use tokio_tungstenite::tungstenite::http::Uri;

/// A complete WebSocket address: `ws` or `wss`, with a path, without user and query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MasterUrl(Uri);

/// Why a text is not the address of a master, and what to write.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is not the address of a master: {reason}; write something like ws://master.example:8080 or \
     https://gaffer.example"
)]
pub struct InvalidMasterUrl {
    text: String,
    reason: &'static str,
}

impl MasterUrl {
    pub(crate) fn uri(&self) -> &Uri {
        &self.0
    }

    /// Whether TLS protects it.
    pub(crate) fn is_secure(&self) -> bool {
        self.0.scheme_str() == Some("wss")
    }
}

impl fmt::Display for MasterUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for MasterUrl {
    type Err = InvalidMasterUrl;

    fn from_str(text: &str) -> Result<MasterUrl, InvalidMasterUrl> {
        let text = text.trim();
        read(text).map(MasterUrl).map_err(|reason| {
            // A password that somebody put there by mistake is not repeated.
            let shown = text.rsplit_once('@').map_or(text, |(_, rest)| rest);
            InvalidMasterUrl { text: shown.chars().take(120).collect(), reason }
        })
    }
}

fn read(text: &str) -> Result<Uri, &'static str> {
    let (scheme, rest) =
        text.split_once("://").ok_or("it does not begin with ws://, wss://, http:// or https://")?;
    let scheme = match scheme.to_ascii_lowercase().as_str() {
        "ws" | "http" => "ws",
        "wss" | "https" => "wss",
        _ => return Err("its scheme is none of ws, wss, http and https"),
    };
    let parsed: Uri = format!("{scheme}://{rest}").parse().map_err(|_| "it is malformed")?;
    let authority = parsed.authority().ok_or("it names no host")?;
    if authority.as_str().contains('@') {
        return Err("it must not hold a user or password (the key goes into API_KEY)");
    }
    if authority.host().is_empty() {
        return Err("it names no host");
    }
    if parsed.query().is_some() {
        return Err("it must not have a query");
    }
    // The text after the colon, if any: `Uri` takes an empty port and one that is too large.
    let port = authority.as_str()[authority.host().len()..].strip_prefix(':');
    if port.is_some_and(|port| port.parse::<u16>().is_err() || port == "0") {
        return Err("its port is not a number from 1 to 65535");
    }
    let path = match parsed.path() {
        "" | "/" => WORKER_PATH,
        path => path,
    };
    format!("{scheme}://{authority}{path}").parse().map_err(|_| "it is malformed")
}
