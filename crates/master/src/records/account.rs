//! Browser sessions and invitations, as people see them.

use gaffer_domain::members::MemberRole;
use gaffer_domain::{ProjectId, Time};

/// A browser session without its secret.
#[derive(Debug, Clone, PartialEq)]
pub struct WebSession {
    pub id: i64,
    /// The address that it was opened from: of the browser, or of its proxy.
    pub address: Option<String>,
    /// What the browser said it is.
    pub browser: Option<String>,
    /// The one project that it is for; none if it is for all of its user.
    pub project: Option<String>,
    pub created_at: Time,
    /// When it was last used, to about a minute.
    pub last_used_at: Time,
    /// Whether it is the one that asks.
    pub is_current: bool,
}

/// An identity at a sign-in provider that is linked with a user.
#[derive(Debug, Clone, PartialEq)]
pub struct LinkedIdentity {
    pub id: i64,
    /// The provider.
    pub issuer: String,
    /// What the provider called them at the last sign-in.
    pub name: String,
    pub created_at: Time,
    pub last_used_at: Option<Time>,
}

/// An invitation without its secret.
#[derive(Debug, Clone, PartialEq)]
pub struct Invitation {
    pub id: i64,
    pub project_id: ProjectId,
    /// Name of the project.
    pub project: String,
    pub role: MemberRole,
    /// Name of the user who made it.
    pub created_by: String,
    pub created_at: Time,
    pub expires_at: Time,
    pub revoked_at: Option<Time>,
    pub used_at: Option<Time>,
    /// Name of the user who has become a member with it.
    pub used_by: Option<String>,
}

impl Invitation {
    /// What became of it, by this time.
    pub fn state(&self, now: Time) -> &'static str {
        match (self.used_at, self.revoked_at) {
            (Some(_), _) => "used",
            (None, Some(_)) => "revoked",
            _ if self.expires_at <= now => "expired",
            _ => "open",
        }
    }
}
