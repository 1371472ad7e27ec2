//! Which passwords are accepted.

use std::fmt;

/// The shortest password, in characters.
pub const MIN_CHARS: usize = 10;
/// The longest password, in bytes: a longer one would only cost time.
pub const MAX_BYTES: usize = 512;

/// Why a password is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeakPassword {
    /// It has fewer than [`MIN_CHARS`].
    TooShort,
    /// It has more than [`MAX_BYTES`].
    TooLong,
    /// It is the name of its user, perhaps with something around it.
    Name,
    /// It has fewer than four different characters.
    Uniform,
}

impl fmt::Display for WeakPassword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WeakPassword::TooShort => write!(f, "a password needs at least {MIN_CHARS} characters"),
            WeakPassword::TooLong => write!(f, "a password has at most {MAX_BYTES} bytes"),
            WeakPassword::Name => write!(f, "a password must not be made of the name of its user"),
            WeakPassword::Uniform => write!(f, "a password needs at least four different characters"),
        }
    }
}

impl std::error::Error for WeakPassword {}

/// Whether a user of that name may have this password. Length decides, not which kinds of characters it has.
///
/// # Errors
/// When they may not, with the reason.
pub fn check(password: &str, user: &str) -> Result<(), WeakPassword> {
    if password.len() > MAX_BYTES {
        return Err(WeakPassword::TooLong);
    }
    if password.chars().count() < MIN_CHARS {
        return Err(WeakPassword::TooShort);
    }
    let lower = password.to_lowercase();
    if !user.is_empty() && lower.replace(&user.to_lowercase(), "").chars().count() < MIN_CHARS / 2 {
        return Err(WeakPassword::Name);
    }
    let mut different: Vec<char> = password.chars().collect();
    different.sort_unstable();
    different.dedup();
    if different.len() < 4 { Err(WeakPassword::Uniform) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_long_and_says_nothing_of_its_user() {
        let long = "ab1 ".repeat(MAX_BYTES);
        for (password, expected) in [
            ("correct horse", Ok(())),
            ("0123456789", Ok(())),
            ("pässwörter", Ok(())),
            ("", Err(WeakPassword::TooShort)),
            ("123456789", Err(WeakPassword::TooShort)),
            ("anastasia1", Err(WeakPassword::Name)),
            ("AnastasiaAnastasia", Err(WeakPassword::Name)),
            ("anastasia and a horse", Ok(())),
            ("aaaaaaaaaaaa", Err(WeakPassword::Uniform)),
            ("1212121212121", Err(WeakPassword::Uniform)),
            (&long, Err(WeakPassword::TooLong)),
        ] {
            assert_eq!(check(password, "anastasia"), expected, "{password}");
        }
    }
}
