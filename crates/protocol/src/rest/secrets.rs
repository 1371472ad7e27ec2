//! REST bodies about secrets. None has a value in it but the one that sets it.

use std::fmt;

use chrono::{DateTime, Utc};
use gaffer_domain::secrets::MAX_VALUE_BYTES;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A secret, without its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Secret {
    /// Name of the secret, unique in the project.
    pub name: String,
    /// Number of values that it has had.
    pub version: u64,
    /// Name of the user who created it.
    pub created_by: String,
    /// When it was created.
    pub created_at: DateTime<Utc>,
    /// Name of the user who set its present value.
    pub updated_by: String,
    /// When its present value was set.
    pub updated_at: DateTime<Utc>,
    /// When an attempt last got its value, to within a minute; null if none did.
    pub last_used_at: Option<DateTime<Utc>>,
    /// What to know about its value; only in the response to setting it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
}

/// The value of a secret.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SecretText {
    /// The value, as text. A value that is not text is sent as `application/octet-stream`.
    #[schemars(length(min = 1, max = MAX_VALUE_BYTES))]
    pub value: String,
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretText(…)")
    }
}
