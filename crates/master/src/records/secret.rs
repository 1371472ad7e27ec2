//! Secrets without their values.

use gaffer_domain::Time;

/// A secret, without its value.
#[derive(Debug, Clone, PartialEq)]
pub struct Secret {
    pub name: String,
    /// Counts the values that it had.
    pub version: u64,
    pub created_by: String,
    pub created_at: Time,
    /// Who set the present value.
    pub updated_by: String,
    pub updated_at: Time,
    /// When an attempt last got it, to within a minute.
    pub last_used_at: Option<Time>,
}

/// How many secrets are encrypted with a master key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyUse {
    pub key_id: String,
    pub secrets: u64,
}
