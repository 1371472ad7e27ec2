//! A key without its secret.

use std::str::FromStr;

use gaffer_domain::Time;
use gaffer_domain::scopes::Scopes;

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
    /// Number of its user; none for a worker key.
    pub user_id: Option<i64>,
    pub name: String,
    /// What it may be used for; none for a worker key.
    pub scopes: Scopes,
    /// Whether its workers take tasks of other projects, and of which: all, or those of these names.
    pub shared_with: Option<Option<Vec<String>>>,
    /// How the key begins, to recognise it by.
    pub prefix: String,
    pub created_at: Time,
    /// When it was last used, to about a minute.
    pub last_used_at: Option<Time>,
    /// The address that it was used from then: of the client, or of its proxy.
    pub last_used_from: Option<String>,
    /// From when on it is refused.
    pub expires_at: Option<Time>,
    pub revoked_at: Option<Time>,
    /// Number of the key that a rotation made in its place.
    pub replaced_by: Option<i64>,
}

impl Key {
    /// Whether it is revoked, has expired, or neither.
    pub fn state(&self, now: Time) -> KeyState {
        match (self.revoked_at, self.expires_at) {
            (Some(_), _) => KeyState::Revoked,
            (None, Some(expiry)) if expiry <= now => KeyState::Expired,
            _ => KeyState::Valid,
        }
    }
}

/// Whether a key lets anybody in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyState {
    Valid,
    Expired,
    Revoked,
}

impl KeyState {
    pub fn as_str(self) -> &'static str {
        match self {
            KeyState::Valid => "valid",
            KeyState::Expired => "expired",
            KeyState::Revoked => "revoked",
        }
    }
}
