//! REST bodies about users, projects and members.

use chrono::{DateTime, Utc};
use gaffer_domain::members::MemberRole;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
    /// When the project was created.
    pub created_at: DateTime<Utc>,
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
