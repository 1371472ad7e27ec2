//! Users, projects, members, invitations and browser sessions.

use chrono::Utc;
use gaffer_domain::quantity::{Bytes, Cpu};
use gaffer_domain::quota::{Quota, Usage};
use gaffer_protocol::rest;

use super::super::Site;
use crate::operations::invitations::Invited;
use crate::operations::users::Created;
use crate::records::{Invitation, Member, Project, User, WebSession};

/// A project.
pub fn project(project: Project) -> rest::Project {
    rest::Project {
        name: project.name,
        role: project.role.map(|role| role.as_str().to_owned()),
        personal_of: project.personal_of,
        members: project.members,
        weight: project.terms.weight.get(),
        quota: quotas(project.terms.quota),
        created_at: project.created_at,
    }
}

fn quotas(Quota { cpu, memory, tasks }: Quota) -> rest::Quotas {
    rest::Quotas { cpu: cpu.map(Cpu::cores), memory_bytes: memory.map(Bytes::get), tasks, used: None }
}

/// A project with what it has in use.
pub fn project_in_use(found: Project, usage: Usage) -> rest::Project {
    let mut body = project(found);
    let Usage { cpu_millis, memory_bytes, tasks } = usage;
    body.quota.used = Some(rest::QuotaUsage { cpu: cpu_millis as f64 / 1e3, memory_bytes, tasks });
    body
}

/// A member.
pub fn member(member: Member) -> rest::Member {
    rest::Member {
        user: member.user,
        role: member.role.as_str().to_owned(),
        since: member.since,
        disabled: member.is_disabled,
        by_groups: member.is_by_groups,
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

/// An invitation.
pub fn invitation(invitation: Invitation) -> rest::Invitation {
    rest::Invitation {
        id: invitation.id,
        state: invitation.state(Utc::now()).to_owned(),
        project: invitation.project,
        role: invitation.role.as_str().to_owned(),
        created_by: invitation.created_by,
        created_at: invitation.created_at,
        expires_at: invitation.expires_at,
        used_by: invitation.used_by,
        url: None,
    }
}

/// An invitation with its link, once.
pub fn created_invitation(site: &Site, invited: Invited) -> rest::Invitation {
    rest::Invitation { url: Some(site.invitation_url(&invited.token)), ..invitation(invited.invitation) }
}

/// A browser session.
pub fn session(session: WebSession) -> rest::Session {
    rest::Session {
        id: session.id,
        address: session.address,
        browser: session.browser,
        project: session.project,
        created_at: session.created_at,
        last_used_at: session.last_used_at,
        current: session.is_current,
    }
}
