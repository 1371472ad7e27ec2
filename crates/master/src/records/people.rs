//! Users, projects and members.

use gaffer_domain::members::MemberRole;
use gaffer_domain::projects::Terms;
use gaffer_domain::{ProjectId, Time};

/// A user of the installation.
#[derive(Debug, Clone, PartialEq)]
pub struct User {
    pub id: i64,
    pub name: String,
    /// Whether they administer the installation.
    pub is_admin: bool,
    pub created_at: Time,
    /// Since when they can do nothing; none if they can.
    pub disabled_at: Option<Time>,
    /// When one of their browser sessions or keys was last used, to about a minute.
    pub last_used_at: Option<Time>,
}

/// A project, as somebody sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Project {
    pub id: ProjectId,
    pub name: String,
    pub created_at: Time,
    /// Name of the user whose personal project it is.
    pub personal_of: Option<String>,
    /// The role of who looks; none if they are no member.
    pub role: Option<MemberRole>,
    /// Number of members.
    pub members: u32,
    /// What was set for it.
    pub terms: Terms,
}

/// A member of a project.
#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    pub user_id: i64,
    pub user: String,
    pub role: MemberRole,
    /// When they joined.
    pub since: Time,
    /// Whether the user is disabled.
    pub is_disabled: bool,
    /// Whether groups of a sign-in provider made the membership, and take it away.
    pub is_by_groups: bool,
}
