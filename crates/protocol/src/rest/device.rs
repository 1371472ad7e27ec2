//! REST bodies about logins of commands, in the shape of RFC 8628.

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A login to begin.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeviceRequest {
    /// What the machine is called that asks, for the user to recognise; its first 60 characters are shown.
    #[serde(default)]
    pub client: String,
}

/// A login that has begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DeviceAuthorization {
    /// The secret with which to ask for the key.
    pub device_code: String,
    /// The code that the user compares.
    pub user_code: String,
    /// The page where the user enters it.
    pub verification_uri: String,
    /// The same page with the code.
    pub verification_uri_complete: String,
    /// Seconds until the login expires.
    pub expires_in: u64,
    /// Seconds between two requests for the key.
    pub interval: u64,
}

/// Which login to get the key of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeviceTokenRequest {
    /// The secret from the beginning of the login.
    pub device_code: String,
}

/// The key of a login.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DeviceKey {
    /// A user key, this once.
    pub key: String,
    /// Name of its user.
    pub user: String,
    /// Name of its project.
    pub project: String,
    /// When it expires.
    pub expires_at: Option<DateTime<Utc>>,
}
