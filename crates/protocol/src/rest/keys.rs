//! REST bodies about API keys.

use chrono::{DateTime, Utc};
use gaffer_domain::quantity::Span;
use gaffer_domain::scopes::Scope;
use gaffer_domain::worker::limits::WorkerLimits;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

/// What a key can be for.
const KEY_KINDS: [&str; 3] = ["worker", "user", "enrolment"];
/// What a user key can be used for.
const SCOPES: [&str; 4] =
    [Scope::Read.as_str(), Scope::Submit.as_str(), Scope::Operate.as_str(), Scope::Admin.as_str()];

/// An API key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Key {
    /// Key number.
    pub id: i64,
    /// `worker` lets a worker connect, `user` calls the API, `enrolment` lets workers get keys of their own.
    #[schemars(extend("enum" = KEY_KINDS))]
    pub kind: String,
    /// What the key is for.
    pub name: String,
    /// What a user key may be used for; a worker key has none.
    #[serde(default)]
    #[schemars(extend("items" = json!({ "type": "string", "enum": SCOPES })))]
    pub scopes: Vec<String>,
    /// For a worker key: whether its workers take tasks of other projects, too.
    #[serde(default)]
    pub shared: bool,
    /// Names of these projects; null if the key is not shared, or shared with all.
    #[serde(default)]
    pub shared_with: Option<Vec<String>>,
    /// How the key begins.
    pub prefix: String,
    /// When the key was created.
    pub created_at: DateTime<Utc>,
    /// When the key was last used, to within a minute.
    pub last_used_at: Option<DateTime<Utc>>,
    /// Address that the key was last used from: of the client, or of the reverse proxy before the master.
    #[serde(default)]
    pub last_used_from: Option<String>,
    /// When the key expires; null if it does not.
    pub expires_at: Option<DateTime<Utc>>,
    /// When the key was revoked.
    pub revoked_at: Option<DateTime<Utc>>,
    /// Number of the key that replaces it, after a rotation.
    #[serde(default)]
    pub replaced_by: Option<i64>,
    /// What workers with the key may claim; null if all.
    #[serde(default)]
    pub limits: Option<WorkerLimits>,
    /// How many workers an enrolment key still makes.
    #[serde(default)]
    pub uses_left: Option<u32>,
    /// Name of the one worker whose key it is, if it got the key for an enrolment key.
    #[serde(default)]
    pub worker: Option<String>,
    /// The key itself; only in the response to its creation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// A key to create.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewKey {
    /// `worker` lets a worker connect, `user` calls the API, `enrolment` lets workers get keys of their own.
    #[schemars(extend("enum" = KEY_KINDS))]
    pub kind: String,
    /// What the key is for: 1 to 120 printable characters.
    #[schemars(length(min = 1, max = 120))]
    pub name: String,
    /// What a user key may be used for; without it, what the key that creates it may. A worker key has no scopes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("items" = json!({ "type": "string", "enum": SCOPES })))]
    pub scopes: Option<Vec<String>>,
    /// For a worker key: its workers take tasks of other projects, too. Only administrators of the installation may say so.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shared: bool,
    /// With `shared`, the names of these projects, at most 100; without it, all projects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 100))]
    pub shared_with: Option<Vec<String>>,
    /// Lifetime in seconds, at most 100 years; without it the key is valid until it is revoked. An enrolment key is valid for at most 30
    /// days, and for an hour without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 3_153_600_000_u64))]
    pub expires_in_seconds: Option<u64>,
    /// What workers with the key may claim; not for user keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<WorkerLimits>,
    /// How many workers an enrolment key makes, 1 without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000))]
    pub uses: Option<u32>,
}

/// How to rotate a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RotateRequest {
    /// How long the old key stays valid: a duration such as `1h` (the default) or a number of seconds, at most 30 days.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("type" = ["string", "number", "null"], "examples" = ["1h"]))]
    pub overlap: Option<Span>,
}
