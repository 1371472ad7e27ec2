//! A key without its secret.

use std::str::FromStr;

use gaffer_domain::Time;

/// Kind of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    Worker,
    User,
}

impl KeyKind {
    pub fn as_str(self) -> &'static str {
        match self {
            KeyKind::Worker => "worker",
            KeyKind::User => "user",
        }
    }
}

impl FromStr for KeyKind {
    type Err = UnknownKeyKind;

    fn from_str(text: &str) -> Result<KeyKind, UnknownKeyKind> {
        [KeyKind::Worker, KeyKind::User].into_iter().find(|kind| kind.as_str() == text).ok_or(UnknownKeyKind)
    }
}

/// The text is not a kind of key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("kind is `worker` or `user`")]
pub struct UnknownKeyKind;

#[derive(Debug, Clone, PartialEq)]
pub struct Key {
    pub id: i64,
    /// Kind of the key.
    pub kind: KeyKind,
    pub name: String,
    /// How the key begins, to recognise it by.
    pub prefix: String,
    pub created_at: Time,
    /// When it was last used, to about a minute.
    pub last_used_at: Option<Time>,
    /// From when on it is refused.
    pub expires_at: Option<Time>,
    pub revoked_at: Option<Time>,
}
