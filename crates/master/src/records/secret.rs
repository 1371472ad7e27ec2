//! Secrets without their values.

use std::fmt;

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

/// A value as it is stored.
#[derive(Clone, PartialEq, Eq)]
pub struct Sealed {
    /// Which master key opens it.
    pub key_id: String,
    /// The data key, encrypted with the master key.
    pub data_key: Vec<u8>,
    /// The value, encrypted with the data key.
    pub value: Vec<u8>,
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealed(key {})", self.key_id)
    }
}
