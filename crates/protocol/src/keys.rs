//! The form of keys. A master does not say what is wrong with a key, so its holder looks at its text.

use sha2::{Digest, Sha256};

/// The code of the API for each key that is no good.
pub const KEY_INVALID: &str = "key_invalid";
/// How a key of a worker begins.
pub const WORKER_KEY: &str = "gfw_";
/// How an enrolment key begins, for which a worker gets its own key.
pub const ENROLMENT_KEY: &str = "gfe_";
/// How a key of a user begins.
pub const USER_KEY: &str = "gfu_";
/// How the keys begin with which workers connect.
pub const OF_WORKERS: [&str; 2] = [WORKER_KEY, ENROLMENT_KEY];
/// Characters of which keys are made, after their beginning.
const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// 43 characters of 62 are worth 256 bits.
pub const RANDOM_CHARS: usize = 43;
/// Length of the beginning of a key that may be shown.
pub const SHOWN_CHARS: usize = 10;
const CHECK_CHARS: usize = 6;

/// A new key. `random`: fresh random numbers, of which each gives a character.
pub fn new_key(start: &str, random: &[u64; RANDOM_CHARS]) -> String {
    let chars = random.iter().filter_map(|number| ALPHABET.get((number % ALPHABET.len() as u64) as usize));
    let body: String = start.chars().chain(chars.copied().map(char::from)).collect();
    let check = checksum(&body);
    body + &check
}

/// The end of a key that begins like this, which shows typing errors.
fn checksum(body: &str) -> String {
    let digest = Sha256::digest(body);
    digest
        .iter()
        .take(CHECK_CHARS)
        .map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()]))
        .collect()
}

/// What the text of a refused key shows, as a sentence without a full stop. `wanted`: how keys for this purpose begin. None if the
/// text is that of such a key; then only the master knows more.
pub fn fault(key: &str, wanted: &[&str]) -> Option<&'static str> {
    match key.get(..WORKER_KEY.len()) {
        _ if key.is_empty() => Some("it is empty"),
        Some(start) if wanted.contains(&start) => (!is_whole(key)).then_some("it is truncated or mistyped"),
        Some(USER_KEY) => Some("it is a user key; workers need a worker key (gfw_…)"),
        Some(WORKER_KEY | ENROLMENT_KEY) => Some("it is a key for workers; the API needs a user key (gfu_…)"),
        _ => Some("it is not a key of gaffer"),
    }
}

fn is_whole(key: &str) -> bool {
    key.is_ascii()
        && key.len() == WORKER_KEY.len() + RANDOM_CHARS + CHECK_CHARS
        && checksum(&key[..key.len() - CHECK_CHARS]) == key[key.len() - CHECK_CHARS..]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(start: &str) -> String {
        new_key(start, &[u64::MAX; RANDOM_CHARS])
    }

    #[test]
    fn the_text_of_a_key_shows_mistakes_before_anybody_is_asked() {
        let (user, worker, enrolment) = (key(USER_KEY), key(WORKER_KEY), key(ENROLMENT_KEY));
        assert_eq!(fault(&user, &[USER_KEY]), None);
        for key in [&worker, &enrolment] {
            assert_eq!(fault(key, &OF_WORKERS), None);
        }
        let mistyped = user.replacen("gfu_", "gfu_x", 1)[..user.len()].to_owned();
        for (text, wanted, word) in [
            ("", USER_KEY, "empty"),
            ("%", USER_KEY, "not a key"),
            ("ääää", USER_KEY, "not a key"),
            (&user[..20], USER_KEY, "truncated"),
            (&mistyped, USER_KEY, "mistyped"),
            (&format!("{user}0"), USER_KEY, "mistyped"),
            (&format!("{USER_KEY}ääääää"), USER_KEY, "mistyped"),
            (&worker, USER_KEY, "for workers"),
            (&enrolment, USER_KEY, "for workers"),
            (&user, WORKER_KEY, "user key"),
        ] {
            let fault = fault(text, &[wanted]);
            assert!(fault.is_some_and(|fault| fault.contains(word)), "{text}: {fault:?}");
        }
    }
}
