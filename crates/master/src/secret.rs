//! Secrets that are shown once and stored as hashes: API keys, links, browser sessions. And the token for metrics,
//! which the operator chooses.

use std::str::FromStr;

use rand::Rng;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// 43 characters of 62 are worth 256 bits.
const RANDOM_CHARS: usize = 43;
const CHECK_CHARS: usize = 6;
/// Length of the visible prefix of a key.
const SHOWN_CHARS: usize = 10;
/// The shortest token for metrics. Nobody guesses as much, so its guesses need no limit.
const MIN_TOKEN_CHARS: usize = 32;

/// What a secret is for; its text begins with this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Lets a worker dial in.
    WorkerKey,
    /// Calls the API.
    UserKey,
    /// Signs in, once.
    LoginLink,
    /// Keeps a browser signed in.
    WebSession,
    /// Lets a user choose a password, once.
    PasswordReset,
    /// Makes somebody a member of a project, once.
    Invitation,
    /// Asks for the key of a login, once.
    DeviceLogin,
}

impl Purpose {
    fn prefix(self) -> &'static str {
        match self {
            Purpose::WorkerKey => "gfw_",
            Purpose::UserKey => "gfu_",
            Purpose::LoginLink => "gfl_",
            Purpose::WebSession => "gfs_",
            Purpose::PasswordReset => "gfr_",
            Purpose::Invitation => "gfi_",
            Purpose::DeviceLogin => "gfd_",
        }
    }
}

/// A new secret, in the one moment in which its text is known.
#[derive(Debug)]
pub struct NewSecret {
    /// The text to hand out.
    pub text: String,
    pub sha256: [u8; 32],
}

impl NewSecret {
    /// Generates a secret: a prefix, 256 random bits, and a checksum, which detects typing errors without a query.
    pub fn new(purpose: Purpose) -> NewSecret {
        let mut rng = rand::rng();
        let mut text = purpose.prefix().to_owned();
        text.extend((0..RANDOM_CHARS).map(|_| char::from(ALPHABET[rng.random_range(0..ALPHABET.len())])));
        let check = checksum(&text);
        text.push_str(&check);
        NewSecret { sha256: hash(&text), text }
    }

    /// The beginning, which may be shown.
    pub fn shown(&self) -> &str {
        &self.text[..SHOWN_CHARS]
    }
}

/// The visible prefix of a presented secret.
pub fn beginning_of(text: &str) -> &str {
    text.get(..SHOWN_CHARS).unwrap_or(text)
}

/// The hash to look a secret up by; none if the text can't be a secret for this purpose, so that nothing else ever
/// reaches the database.
pub fn hash_of(text: &str, purpose: Purpose) -> Option<[u8; 32]> {
    let well_formed = text.len() == purpose.prefix().len() + RANDOM_CHARS + CHECK_CHARS
        && text.starts_with(purpose.prefix())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if !well_formed {
        return None;
    }
    let (body, check) = text.split_at(text.len() - CHECK_CHARS);
    (checksum(body) == check).then(|| hash(text))
}

/// The token of a monitoring system, as its hash.
#[derive(Debug, Clone)]
pub struct MetricsToken([u8; 32]);

impl MetricsToken {
    /// Whether this is it.
    pub fn is(&self, presented: &str) -> bool {
        self.0.ct_eq(&hash(presented)).into()
    }
}

impl FromStr for MetricsToken {
    type Err = String;

    fn from_str(text: &str) -> Result<MetricsToken, String> {
        let text = text.trim();
        match text.len() >= MIN_TOKEN_CHARS && text.bytes().all(|byte| byte.is_ascii_graphic()) {
            true => Ok(MetricsToken(hash(text))),
            false => Err(format!(
                "a token has at least {MIN_TOKEN_CHARS} characters, without spaces; `openssl rand -hex 32` prints one"
            )),
        }
    }
}

fn hash(text: &str) -> [u8; 32] {
    Sha256::digest(text).into()
}

fn checksum(body: &str) -> String {
    let digest = hash(body);
    digest[..CHECK_CHARS]
        .iter()
        .map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()]))
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn a_secret_is_found_again_by_its_own_text_and_purpose_only() {
        let secret = NewSecret::new(Purpose::WorkerKey);
        assert_eq!(hash_of(&secret.text, Purpose::WorkerKey), Some(secret.sha256));
        assert_eq!(hash_of(&secret.text, Purpose::UserKey), None);
        assert_ne!(NewSecret::new(Purpose::WorkerKey).text, secret.text);
    }

    #[test]
    fn a_token_for_metrics_is_long_and_is_only_itself() {
        let text = "0123456789abcdef0123456789abcdef";
        let token: MetricsToken = text.parse().unwrap();
        assert!(token.is(text) && !token.is(&text[1..]) && !token.is(""));
        for weak in ["", "secret", &text[1..], "0123456789abcdef 0123456789abcdef"] {
            assert!(weak.parse::<MetricsToken>().is_err(), "{weak}");
        }
    }

    #[test]
    fn what_cannot_be_a_secret_is_refused_without_a_look_up() {
        let secret = NewSecret::new(Purpose::UserKey).text;
        let mut mistyped = secret.clone().into_bytes();
        mistyped[10] = if mistyped[10] == b'x' { b'y' } else { b'x' };
        let mistyped = String::from_utf8(mistyped).unwrap();
        for text in ["", "%", "gfu_", &mistyped, &secret[1..], &format!("{secret}0"), "gfu_ääääääääääääää"]
        {
            assert_eq!(hash_of(text, Purpose::UserKey), None, "{text}");
        }
    }
}
