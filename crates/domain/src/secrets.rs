//! Secrets: values that belong to a project, are stored encrypted, and reach only the attempts whose tasks name them.

use std::fmt;

use zeroize::Zeroizing;

use crate::quantity::shown;

/// The longest value, in bytes. A variable of a process cannot be much longer.
pub const MAX_VALUE_BYTES: usize = 64 << 10;
/// The longest name, in bytes.
pub const MAX_NAME_BYTES: usize = 128;
/// The most secrets of a project.
pub const MAX_SECRETS: usize = 1_000;
/// The most secrets that a task uses.
pub const MAX_USES: usize = 32;
/// The most bytes that all secrets of a task have together.
pub const MAX_BYTES_OF_TASK: usize = 256 << 10;

/// Shorter values are not hidden in output: they would be found everywhere.
pub const MIN_HIDDEN_BYTES: usize = 4;

/// The value of a secret. It is overwritten when it is dropped, and is in no message.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretValue(Zeroizing<Vec<u8>>);

impl SecretValue {
    /// Takes the bytes over.
    pub fn new(bytes: Vec<u8>) -> SecretValue {
        SecretValue(Zeroizing::new(bytes))
    }

    /// The value itself.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// As the value of a variable.
    ///
    /// # Errors
    /// Why no variable can have it.
    pub fn as_variable(&self) -> Result<&str, &'static str> {
        match std::str::from_utf8(self.bytes()) {
            Ok(text) if text.contains('\0') => Err("its value has a zero byte"),
            Ok(text) => Ok(text),
            Err(_) => Err("its value is not text in UTF-8"),
        }
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretValue(…)")
    }
}

/// Why a text cannot be the name of a secret; none if it can. It is the name of a variable as well.
pub fn wrong_name(name: &str) -> Option<String> {
    if name.starts_with("GAFFER_") {
        return Some(format!("{} is reserved: gaffer itself sets the names in GAFFER_", shown(name)));
    }
    let is_name = name.len() <= MAX_NAME_BYTES
        && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let rule = "write letters, digits and _, not beginning with a digit";
    (!is_name)
        .then(|| format!("{} cannot be the name of a secret: {rule}, at most {MAX_NAME_BYTES}", shown(name)))
}

/// Why a value cannot be stored; none if it can.
pub fn wrong_value(value: &[u8]) -> Option<String> {
    match value.len() {
        0 => Some("the value is empty".to_owned()),
        bytes if bytes > MAX_VALUE_BYTES => {
            Some(format!("the value has {bytes} bytes, more than the {MAX_VALUE_BYTES} that are allowed"))
        }
        _ => None,
    }
}

/// What to say to somebody who stores a value that is not hidden in output; none if it is.
pub fn warning(value: &[u8]) -> Option<String> {
    let line_end = |byte: &u8| matches!(byte, b'\n' | b'\r');
    let visible = value.len() - value.iter().rev().take_while(|byte| line_end(byte)).count();
    (visible < MIN_HIDDEN_BYTES).then(|| {
        format!("a value of fewer than {MIN_HIDDEN_BYTES} bytes is not hidden in the output of tasks: it would be found everywhere")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_of_a_variable_and_not_gaffers() {
        for name in ["A", "_", "DB_PASSWORD", "a1", &"x".repeat(MAX_NAME_BYTES)] {
            assert_eq!(wrong_name(name), None);
        }
        for name in ["", "1A", "A-B", "A B", "A=B", "ä", "a.b", "../x", "A\n", "GAFFER_KEY", &"x".repeat(129)]
        {
            assert!(wrong_name(name).is_some(), "{name:?}");
        }
    }

    #[test]
    fn a_value_has_a_limit_in_bytes_and_is_in_no_message() {
        assert!(wrong_value(b"").is_some() && wrong_value(&vec![0; MAX_VALUE_BYTES + 1]).is_some());
        assert_eq!(wrong_value(&vec![0; MAX_VALUE_BYTES]), None);
        assert!(warning(b"abc\n").is_some() && warning(b"abcd").is_none());
        assert_eq!(format!("{:?}", SecretValue::new(b"hunter2".to_vec())), "SecretValue(…)");
        assert_eq!(SecretValue::new(b"hunter2".to_vec()).as_variable(), Ok("hunter2"));
        assert!(SecretValue::new(vec![b'a', 0]).as_variable().is_err());
        assert!(SecretValue::new(vec![0xff]).as_variable().is_err());
    }
}
