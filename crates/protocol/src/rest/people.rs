//! REST bodies about users, projects and members.

use chrono::{DateTime, Utc};
use gaffer_domain::members::MemberRole;
use gaffer_domain::quantity::{Bytes, Cpu};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

/// What a member can be.
const ROLES: [&str; 3] =
    [MemberRole::Viewer.as_str(), MemberRole::Operator.as_str(), MemberRole::Admin.as_str()];
/// What a name of a user or a project looks like.
const NAME: &str = "^[a-z0-9][a-z0-9._-]{0,39}$";

/// A project.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Project {
    /// Name of the project.
    pub name: String,
    /// Your role in it; null if you are no member.
    #[schemars(extend("enum" = [ROLES[0], ROLES[1], ROLES[2], serde_json::Value::Null]))]
    pub role: Option<String>,
    /// The user whose personal project it is; null if it is no personal one.
    pub personal_of: Option<String>,
    /// Number of members.
    pub members: u32,
    /// Weight beside other projects on shared workers.
    #[serde(default = "super::queue::default_weight")]
    pub weight: u32,
    /// Its quotas.
    #[serde(default)]
    pub quota: Quotas,
    /// When the project was created.
    pub created_at: DateTime<Utc>,
}

/// What to set for a project; what is left out stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SetProject {
    /// Weight beside other projects on shared workers; 100 if nothing was set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000))]
    pub weight: Option<u32>,
    /// Quotas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<SetQuota>,
}

/// Quotas to set; what is left out stays as it is, and null removes a quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SetQuota {
    /// Processors that live attempts may have reserved together: a number, or a text such as `500m`.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<f64>", extend("type" = ["number", "string", "null"], "examples" = [8]))]
    pub cpu: Option<Option<Cpu>>,
    /// Memory that live attempts may have reserved together: bytes, or a text such as `16GiB`.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<u64>", extend("type" = ["integer", "string", "null"], "examples" = ["16GiB"]))]
    pub memory: Option<Option<Bytes>>,
    /// Number of live attempts.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<u32>", range(min = 1, max = 2_000_000_000))]
    pub tasks: Option<Option<u32>>,
}

/// A field that is there, be it null.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// What live attempts of a project may have together, and what they have.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Quotas {
    /// Reserved processors that all may have; null without a quota.
    pub cpu: Option<f64>,
    /// Reserved memory that all may have; null without a quota.
    pub memory_bytes: Option<u64>,
    /// Live attempts that there may be; null without a quota.
    pub tasks: Option<u32>,
    /// What is in use; null in a list of projects.
    pub used: Option<QuotaUsage>,
}

/// What live attempts of a project have together.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct QuotaUsage {
    /// Reserved processors.
    pub cpu: f64,
    /// Reserved memory.
    pub memory_bytes: u64,
    /// Number of live attempts.
    pub tasks: u64,
}

/// A project to create.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewProject {
    /// Name of the project: 1 to 40 characters (`a-z`, `0-9`, `-`, `_`, `.`), beginning with a letter or a digit.
    #[schemars(regex(pattern = NAME))]
    pub name: String,
}

/// A member of a project.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Member {
    /// Name of the user.
    pub user: String,
    /// What the user may do in the project.
    #[schemars(extend("enum" = ROLES))]
    pub role: String,
    /// When the user became a member.
    pub since: DateTime<Utc>,
    /// Whether the user is disabled.
    pub disabled: bool,
    /// Whether groups of the sign-in provider made the membership; they take it away at a later sign-in.
    #[serde(default)]
    pub by_groups: bool,
}

/// The role that a member is to have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SetMember {
    /// `viewer` reads, `operator` also runs jobs and directs workers, `admin` also manages members and keys.
    #[schemars(extend("enum" = ROLES))]
    pub role: String,
}

/// A user.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct User {
    /// Name of the user.
    pub name: String,
    /// Whether the user administers the installation.
    pub admin: bool,
    /// Since when the user is disabled; null if they are not.
    pub disabled_at: Option<DateTime<Utc>>,
    /// When the user was created.
    pub created_at: DateTime<Utc>,
    /// When a browser session or a key of the user was last used, to within a minute.
    pub last_used_at: Option<DateTime<Utc>>,
    /// A link that signs the user in, once, within a day; only in the response to the creation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login_url: Option<String>,
}

/// A user to create.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewUser {
    /// Name of the user and of the personal project: 1 to 40 characters (`a-z`, `0-9`, `-`, `_`, `.`), beginning with a letter
    /// or a digit.
    #[schemars(regex(pattern = NAME))]
    pub name: String,
    /// Whether the user administers the installation.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub admin: bool,
}
