//! Resolves which server a command calls, and with which key.

use std::fmt;

use gaffer_domain::text::without_bom;
use gaffer_protocol::server_url::{InvalidServerUrl, ServerUrl};

use crate::failure::Failure;

/// The source of an access that variables set.
pub const ENVIRONMENT: &str = "the environment";

/// The server to call, and the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    pub url: ServerUrl,
    pub key: Key,
    /// Where the address was found, for messages.
    pub source: String,
}

/// An API key. It never shows in a message.
#[derive(Clone, PartialEq, Eq)]
pub struct Key(String);

impl Key {
    /// A key as typed or stored.
    pub fn new(text: &str) -> Key {
        Key(without_bom(text).trim().to_owned())
    }

    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

/// An address as people write it.
///
/// # Errors
/// [`Failure::Usage`] if it is none, with what to write.
pub fn server_url(text: &str) -> Result<ServerUrl, Failure> {
    text.parse().map_err(|error: InvalidServerUrl| Failure::Usage(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_is_none_is_a_mistake_of_its_writer() {
        for text in ["host:8000", "ftp://host", "http://", "http://host/?key=x"] {
            assert!(matches!(server_url(text), Err(Failure::Usage(_))), "{text}");
        }
        let base = server_url("https://example.org/gaffer/api/v1/").map(|url| url.to_string());
        assert_eq!(base.ok().as_deref(), Some("https://example.org/gaffer"));
    }
}
