//! Encrypts what a browser keeps for this master between two requests. The key lives as long as the process: who is on the way while
//! the master is restarted begins again.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chacha20poly1305::aead::{Aead as _, KeyInit as _};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};
use rand::RngCore as _;
use serde::Serialize;
use serde::de::DeserializeOwned;

const NONCE_BYTES: usize = 24;
/// What a browser keeps at most.
const MAX_TEXT_BYTES: usize = 3_800;

/// Seals and opens.
pub struct Sealer(XChaCha20Poly1305);

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sealer(…)")
    }
}

impl Sealer {
    /// With a new key.
    pub fn new() -> Sealer {
        let mut key = [0; 32];
        rand::rng().fill_bytes(&mut key);
        Sealer(XChaCha20Poly1305::new(&Key::from(key)))
    }

    /// The text of a value, which nobody else can read or make. Empty if that is too long for a cookie.
    pub fn seal(&self, value: &impl Serialize) -> String {
        let mut nonce = [0; NONCE_BYTES];
        rand::rng().fill_bytes(&mut nonce);
        let plain = serde_json::to_vec(value).unwrap_or_default();
        let Ok(sealed) = self.0.encrypt(&XNonce::from(nonce), &plain[..]) else { return String::new() };
        let text = URL_SAFE_NO_PAD.encode([&nonce[..], &sealed].concat());
        if text.len() > MAX_TEXT_BYTES { String::new() } else { text }
    }

    /// The value of a text; none if it is not of this sealer, or of another kind.
    pub fn open<T: DeserializeOwned>(&self, text: &str) -> Option<T> {
        if text.len() > MAX_TEXT_BYTES {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (nonce, sealed) = bytes.split_first_chunk::<NONCE_BYTES>()?;
        let plain = self.0.decrypt(&XNonce::from(*nonce), sealed).ok()?;
        serde_json::from_slice(&plain).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_opened_by_its_own_sealer_alone() {
        let (own, other) = (Sealer::new(), Sealer::new());
        let text = own.seal(&("state", 7));
        assert_eq!(own.open::<(String, i32)>(&text), Some(("state".to_owned(), 7)));
        assert_eq!(other.open::<(String, i32)>(&text), None);
        assert_eq!(own.open::<Vec<String>>(&text), None);
        let mut changed = text.clone();
        changed.replace_range(40..41, if &text[40..41] == "A" { "B" } else { "A" });
        for text in [changed.as_str(), "", "x", &text[..20], &"A".repeat(5_000)] {
            assert_eq!(own.open::<(String, i32)>(text), None);
        }
        assert_eq!(own.seal(&"x".repeat(4_000)), "");
    }
}
