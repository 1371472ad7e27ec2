//! The form of keys. A master does not say what is wrong with a key, so whoever holds one looks at its text.

use sha2::{Digest, Sha256};

/// The code of the API for each key that is no good.
pub const KEY_INVALID: &str = "key_invalid";
/// How a key of a worker begins.
pub const WORKER_KEY: &str = "gfw_";
/// How a key of a user begins.
pub const USER_KEY: &str = "gfu_";
/// Characters of which keys are made, after their beginning.
pub const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// 43 characters of 62 are worth 256 bits.
pub const RANDOM_CHARS: usize = 43;
const CHECK_CHARS: usize = 6;

/// The end of a key that begins like this, which shows typing errors.
pub fn checksum(body: &str) -> String {
    let digest = Sha256::digest(body);
    digest
        .iter()
        .take(CHECK_CHARS)
        .map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()]))
        .collect()
}

/// What the text of a refused key shows, as a sentence without a full stop. `wanted`: how a key for this purpose begins. None if the
/// text is that of such a key; then only the master knows more.
pub fn fault(key: &str, wanted: &str) -> Option<&'static str> {
    match key.get(..WORKER_KEY.len()) {
        _ if key.is_empty() => Some("it is empty"),
        Some(start) if start == wanted => (!is_whole(key, wanted)).then_some("it is truncated or mistyped"),
        Some(USER_KEY) => Some("it is a user key; workers need a worker key (gfw_…)"),
        Some(WORKER_KEY) => Some("it is a worker key; the API needs a user key (gfu_…)"),
        _ => Some("it is not a key of gaffer"),
    }
}

fn is_whole(key: &str, start: &str) -> bool {
    key.is_ascii()
        && key.len() == start.len() + RANDOM_CHARS + CHECK_CHARS
        && checksum(&key[..key.len() - CHECK_CHARS]) == key[key.len() - CHECK_CHARS..]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(start: &str) -> String {
        let body = format!("{start}{}", "x".repeat(RANDOM_CHARS));
        format!("{body}{}", checksum(&body))
    }

    #[test]
    fn the_text_of_a_key_shows_mistakes_before_anybody_is_asked() {
        let (user, worker) = (key(USER_KEY), key(WORKER_KEY));
        assert_eq!((fault(&user, USER_KEY), fault(&worker, WORKER_KEY)), (None, None));
        let mistyped = user.replacen('x', "y", 1);
        for (text, wanted, word) in [
            ("", USER_KEY, "empty"),
            ("%", USER_KEY, "not a key"),
            ("ääää", USER_KEY, "not a key"),
            (&user[..20], USER_KEY, "truncated"),
            (&mistyped, USER_KEY, "mistyped"),
            (&format!("{user}0"), USER_KEY, "mistyped"),
            (&format!("{USER_KEY}ääääää"), USER_KEY, "mistyped"),
            (&worker, USER_KEY, "worker key"),
            (&user, WORKER_KEY, "user key"),
        ] {
            let fault = fault(text, wanted);
            assert!(fault.is_some_and(|fault| fault.contains(word)), "{text}: {fault:?}");
        }
    }
}
