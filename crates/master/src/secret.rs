//! Secrets that are shown once and stored as hashes: API keys, links, browser sessions. And the token for metrics,
//! which the operator chooses.

use std::str::FromStr;

use gaffer_protocol::keys::{ENROLMENT_KEY, SHOWN_CHARS, USER_KEY, WORKER_KEY, new_key};
use rand::Rng;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// The shortest token for metrics. Nobody guesses as much, so its guesses need no limit.
const MIN_TOKEN_CHARS: usize = 32;

/// What a secret is for; its text begins with this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Lets a worker dial in.
    WorkerKey,
    /// Lets workers get keys of their own.
    EnrolmentKey,
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
            Purpose::WorkerKey => WORKER_KEY,
            Purpose::EnrolmentKey => ENROLMENT_KEY,
            Purpose::UserKey => USER_KEY,
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
    /// Generates a secret: a prefix, 256 random bits, and a checksum, by which its holder finds typing errors.
    pub fn new(purpose: Purpose) -> NewSecret {
        let text = new_key(purpose.prefix(), &rand::rng().random());
        NewSecret { sha256: hash_of(&text), text }
    }

    /// The beginning, which may be shown.
    pub fn shown(&self) -> &str {
        &self.text[..SHOWN_CHARS]
    }
}

/// The visible prefix of a presented secret, whatever was presented.
pub fn beginning_of(text: &str) -> &str {
    text.char_indices().nth(SHOWN_CHARS).map_or(text, |(end, _)| &text[..end])
}

/// The hash to look a secret up by. Any text has one: what cannot be a secret is looked up too, so that its refusal takes as
/// long as that of a secret which nobody has any more.
pub fn hash_of(text: &str) -> [u8; 32] {
    Sha256::digest(text).into()
}

/// The token of a monitoring system, as its hash.
#[derive(Debug, Clone)]
pub struct MetricsToken([u8; 32]);

impl MetricsToken {
    /// Whether this is it.
    pub fn is(&self, presented: &str) -> bool {
        self.0.ct_eq(&hash_of(presented)).into()
    }
}

impl FromStr for MetricsToken {
    type Err = String;

    fn from_str(text: &str) -> Result<MetricsToken, String> {
        let text = text.trim();
        match text.len() >= MIN_TOKEN_CHARS && text.bytes().all(|byte| byte.is_ascii_graphic()) {
            true => Ok(MetricsToken(hash_of(text))),
            false => Err(format!(
                "a token has at least {MIN_TOKEN_CHARS} characters, without spaces; `openssl rand -hex 32` prints one"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn a_secret_has_the_form_by_which_its_holder_finds_mistakes() {
        let secret = NewSecret::new(Purpose::WorkerKey);
        assert_eq!(gaffer_protocol::keys::fault(&secret.text, &[WORKER_KEY]), None);
        assert_eq!(hash_of(&secret.text), secret.sha256);
        assert_ne!(NewSecret::new(Purpose::WorkerKey).text, secret.text);
    }

    #[test]
    fn the_beginning_of_anything_that_is_presented_is_short() {
        for (text, beginning) in
            [("", ""), ("%", "%"), ("gfu_0123456789", "gfu_012345"), ("ääääääääääää", "ääääääääää")]
        {
            assert_eq!(beginning_of(text), beginning);
        }
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
}
