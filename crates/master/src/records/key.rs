//! A key, without what it is: that is shown once and kept nowhere.

use std::str::FromStr;

use gaffer_domain::Time;

/// Whom a key lets in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    /// A worker.
    Worker,
    /// A user.
    User,
}

impl KeyKind {
    /// Its name.
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

/// A key.
#[derive(Debug, Clone, PartialEq)]
pub struct Key {
    /// Its number.
    pub id: i64,
    /// Whom it lets in.
    pub kind: KeyKind,
    /// What it is for.
    pub name: String,
    /// How the key begins, to recognise it by.
    pub prefix: String,
    /// When it was made.
    pub created_at: Time,
    /// When it was last used, to about a minute.
    pub last_used_at: Option<Time>,
    /// From when on it is refused.
    pub expires_at: Option<Time>,
    /// When it was revoked.
    pub revoked_at: Option<Time>,
}
