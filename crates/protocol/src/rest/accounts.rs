//! REST bodies about browser sessions and invitations.

use chrono::{DateTime, Utc};
use gaffer_domain::members::MemberRole;
use gaffer_domain::quantity::Span;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a member can be.
const ROLES: [&str; 3] =
    [MemberRole::Viewer.as_str(), MemberRole::Operator.as_str(), MemberRole::Admin.as_str()];
/// What became of an invitation.
const INVITATION_STATES: [&str; 4] = ["open", "used", "revoked", "expired"];

/// A browser session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Session {
    /// Number of the session.
    pub id: i64,
    /// Address that it was opened from: of the browser, or of the reverse proxy before the master.
    pub address: Option<String>,
    /// What the browser said it is (`User-Agent`).
    pub browser: Option<String>,
    /// The one project that it is for; null if it is for all projects of the user.
    pub project: Option<String>,
    /// When it was opened.
    pub created_at: DateTime<Utc>,
    /// When it was last used, to within a minute.
    pub last_used_at: DateTime<Utc>,
    /// Whether it is the one that asks.
    pub current: bool,
}

/// An invitation to a project.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Invitation {
    /// Number of the invitation.
    pub id: i64,
    /// Name of the project.
    pub project: String,
    /// The role that it gives.
    #[schemars(extend("enum" = ROLES))]
    pub role: String,
    /// What became of it.
    #[schemars(extend("enum" = INVITATION_STATES))]
    pub state: String,
    /// Who made it.
    pub created_by: String,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it expires.
    pub expires_at: DateTime<Utc>,
    /// Who has become a member with it.
    pub used_by: Option<String>,
    /// The link; only in the response to its creation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

/// An invitation to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewInvitation {
    /// Name of the project; without it, that of the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// The role that it gives.
    #[schemars(extend("enum" = ROLES))]
    pub role: String,
    /// How long it is valid: a duration such as `7d` (the default) or a number of seconds, at most 30 days.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("type" = ["string", "number", "null"], "examples" = ["7d"]))]
    pub valid: Option<Span>,
}
