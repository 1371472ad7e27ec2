//! Logins of commands that a user allows in the dashboard (in the shape of RFC 8628): the code that people compare, and what a command
//! that asks is told.

use std::time::Duration;

/// Letters of a code: consonants, so that no words come out, and none that is easily taken for a digit.
pub const ALPHABET: &[u8; 20] = b"BCDFGHJKLMNPQRSTVWXZ";
/// Letters of a code.
pub const CODE_CHARS: usize = 8;
/// How long a login may wait for its user.
pub const VALID: Duration = Duration::from_secs(600);
/// How often a command may ask at first.
pub const INTERVAL: Duration = Duration::from_secs(5);
/// By how much longer it has to wait when it asks too often.
pub const SLOWER_BY: Duration = Duration::from_secs(5);
/// Tolerance for what the network does to the interval.
const TOLERANCE: Duration = Duration::from_millis(500);

/// The letters of a code as somebody typed it; none if it is no code.
pub fn read_code(text: &str) -> Option<String> {
    let letters = text.chars().filter(|c| !matches!(c, '-' | ' ')).map(|c| c.to_ascii_uppercase());
    let code: String = letters.take(CODE_CHARS + 1).collect();
    let is_code = code.len() == CODE_CHARS && code.bytes().all(|byte| ALPHABET.contains(&byte));
    is_code.then_some(code)
}

/// A code as people read it: in two halves.
pub fn shown_code(code: &str) -> String {
    match code.split_at_checked(CODE_CHARS / 2) {
        Some((first, second)) => format!("{first}-{second}"),
        None => code.to_owned(),
    }
}

/// What has become of a login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Nobody has decided.
    Open,
    /// The user does not want it.
    Denied,
    /// The user allows it.
    Granted,
}

/// What a command that asks is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PollAnswer {
    /// Ask again after the interval.
    Pending,
    /// It asks too often: ask again after this interval.
    SlowDown(Duration),
    /// The user does not want it.
    Denied,
    /// It has waited for too long.
    Expired,
    /// Here is the key, once.
    Granted,
}

/// What a command is told that asks at this time. `age`: of the login; `since_last`: since the command asked last, with the
/// interval that it has to keep.
pub fn poll(
    decision: Decision,
    age: Duration,
    since_last: Option<Duration>,
    interval: Duration,
) -> PollAnswer {
    match decision {
        _ if age >= VALID => PollAnswer::Expired,
        Decision::Denied => PollAnswer::Denied,
        Decision::Granted => PollAnswer::Granted,
        Decision::Open if since_last.is_some_and(|since| since + TOLERANCE < interval) => {
            PollAnswer::SlowDown(interval + SLOWER_BY)
        }
        Decision::Open => PollAnswer::Pending,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_read_as_people_type_it() {
        for text in ["BCDF-GHJK", "bcdfghjk", " bcdf ghjk ", "BCDF--GHJK"] {
            assert_eq!(read_code(text).as_deref(), Some("BCDFGHJK"), "{text}");
        }
        for text in ["", "BCDF-GHJ", "BCDF-GHJKL", "ACDF-GHJK", "BCDF-GHJ1", "BCDFGHJK'"] {
            assert_eq!(read_code(text), None, "{text}");
        }
        assert_eq!(read_code(&shown_code("BCDFGHJK")).as_deref(), Some("BCDFGHJK"));
    }

    #[test]
    fn a_command_waits_between_two_questions_and_not_for_ever() {
        let seconds = Duration::from_secs;
        let ask =
            |decision, age, since: Option<u64>| poll(decision, seconds(age), since.map(seconds), INTERVAL);
        assert_eq!(ask(Decision::Open, 0, None), PollAnswer::Pending);
        assert_eq!(ask(Decision::Open, 20, Some(5)), PollAnswer::Pending);
        assert_eq!(ask(Decision::Open, 20, Some(1)), PollAnswer::SlowDown(seconds(10)));
        assert_eq!(ask(Decision::Granted, 20, Some(1)), PollAnswer::Granted);
        assert_eq!(ask(Decision::Denied, 20, Some(9)), PollAnswer::Denied);
        for decision in [Decision::Open, Decision::Granted, Decision::Denied] {
            assert_eq!(ask(decision, 600, Some(5)), PollAnswer::Expired);
        }
    }
}
