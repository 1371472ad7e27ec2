//! Users, projects and members.

use gaffer_protocol::rest;

use super::super::Site;
use crate::operations::users::Created;
use crate::records::{Member, Project, User};

/// A project.
pub fn project(project: Project) -> rest::Project {
    rest::Project {
        name: project.name,
        role: project.role.map(|role| role.as_str().to_owned()),
        personal_of: project.personal_of,
        members: project.members,
        created_at: project.created_at,
    }
}

/// A member.
pub fn member(member: Member) -> rest::Member {
    rest::Member {
        user: member.user,
        role: member.role.as_str().to_owned(),
        since: member.since,
        disabled: member.is_disabled,
    }
}

/// A user.
pub fn user(user: User) -> rest::User {
    rest::User {
        name: user.name,
        admin: user.is_admin,
        disabled_at: user.disabled_at,
        created_at: user.created_at,
        last_used_at: user.last_used_at,
        login_url: None,
    }
}

/// A user with the link that signs them in, once.
pub fn created_user(site: &Site, created: Created) -> rest::User {
    rest::User { login_url: Some(site.sign_in_url(&created.link.token)), ..user(created.user) }
}
