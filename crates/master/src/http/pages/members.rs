//! The page *Members*: the members of the project, and the project itself.

use std::sync::Arc;

use askama::Template;
use axum::Form;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Redirect, Response};
use chrono::Utc;
use gaffer_domain::members::MemberRole;
use gaffer_domain::permissions::Action;
use gaffer_domain::quantity::Bytes;
use gaffer_domain::quota::{Limited, Quota, Usage};
use serde::Deserialize;

use super::super::Site;
use super::super::error::Error;
use super::super::params::{Params, id, page_of};
use super::format::address;
use super::frame::{Frame, SessionUser};
use super::jobs::curl;
use super::page;
use crate::operations::{Context, OperationError, invitations, members, projects};
use crate::records::{Invitation, Member};

const PAGE_ROWS: u32 = 100;
/// The latest invitations are shown.
const INVITATION_ROWS: u32 = 20;

#[derive(Template)]
#[template(path = "members.html")]
struct MembersPage {
    frame: Frame,
    cli: String,
    curl: String,
    /// Whether this visitor may change members.
    may_change: bool,
    may_manage: bool,
    is_personal: bool,
    weight: u32,
    quotas: Vec<QuotaRow>,
    user: String,
    error: Option<String>,
    roles: [MemberRole; 3],
    rows: Vec<MemberRow>,
    more: Option<String>,
    /// The link of an invitation that was made just now.
    link: Option<String>,
    invitations: Vec<InvitationRow>,
}

/// A quota with what is in use of it.
struct QuotaRow {
    name: &'static str,
    text: String,
    /// In hundredths.
    used: f64,
}

fn quota_rows(quota: &Quota, used: Usage) -> Vec<QuotaRow> {
    let limits = [
        (Limited::Cpu, used.cpu_millis, quota.cpu.map(|cpu| u64::from(cpu.millis()))),
        (Limited::Memory, used.memory_bytes, quota.memory.map(Bytes::get)),
        (Limited::Tasks, used.tasks, quota.tasks.map(u64::from)),
    ];
    let row = |(what, used, limit): (Limited, u64, Option<u64>)| {
        let limit = limit?;
        Some(QuotaRow {
            name: what.as_str(),
            text: format!("{} of {} in use", what.show(used), what.show(limit)),
            used: (used as f64 / limit.max(1) as f64 * 100.0).min(100.0),
        })
    };
    limits.into_iter().filter_map(row).collect()
}

struct InvitationRow {
    id: i64,
    role: MemberRole,
    state: &'static str,
    by: String,
    expires: Option<i64>,
    is_open: bool,
}

impl InvitationRow {
    fn of(invitation: Invitation) -> InvitationRow {
        let state = invitation.state(Utc::now());
        InvitationRow {
            id: invitation.id,
            role: invitation.role,
            state,
            by: invitation.created_by,
            expires: Some(invitation.expires_at.timestamp_millis()),
            is_open: state == "open",
        }
    }
}

struct MemberRow {
    user: String,
    role: MemberRole,
    since: Option<i64>,
    is_disabled: bool,
    is_by_groups: bool,
}

impl MemberRow {
    fn has(&self, role: &MemberRole) -> bool {
        self.role == *role
    }

    fn of(member: Member) -> MemberRow {
        MemberRow {
            user: member.user,
            role: member.role,
            since: Some(member.since.timestamp_millis()),
            is_disabled: member.is_disabled,
            is_by_groups: member.is_by_groups,
        }
    }
}

async fn members_page(
    context: &Context,
    site: &Site,
    visitor: &SessionUser,
    after: Option<i64>,
) -> Result<MembersPage, Error> {
    let project = projects::show(context, &visitor.actor, visitor.project()).await?;
    let found = members::list(context, &visitor.actor, &project.name, after, PAGE_ROWS + 1).await?;
    let found = page_of(found, PAGE_ROWS, |member| member.user_id);
    let frame = visitor.frame("/members");
    let may_change = frame.may(Action::ManageMembers);
    let invited = match may_change {
        true => invitations::list(context, &visitor.actor, None, None, INVITATION_ROWS).await?,
        false => Vec::new(),
    };
    let usage = match project.terms.quota == Quota::default() {
        true => Usage::default(),
        false => projects::usage(context, &visitor.actor, &project).await?,
    };
    let name = &project.name;
    Ok(MembersPage {
        weight: project.terms.weight.get(),
        quotas: quota_rows(&project.terms.quota, usage),
        cli: format!("gaffer projects members {name}\ngaffer projects set-member {name} USER operator"),
        curl: curl(site, "GET", &format!("/projects/{name}/members")),
        may_change,
        may_manage: frame.may(Action::ManageProject) && project.personal_of.is_none(),
        is_personal: project.personal_of.is_some(),
        frame,
        user: String::new(),
        error: None,
        roles: MemberRole::ALL,
        rows: found.items.into_iter().map(MemberRow::of).collect(),
        more: found.next_cursor.map(|cursor| address("/members", &[("cursor", &cursor)])),
        link: None,
        invitations: invited.into_iter().map(InvitationRow::of).collect(),
    })
}

/// `GET /members`
pub async fn list(
    State(context): State<Arc<Context>>,
    State(site): State<Arc<Site>>,
    visitor: SessionUser,
    params: Params,
) -> Result<Response, Error> {
    let params = params.only(&["cursor"], &[])?;
    page(&members_page(&context, &site, &visitor, params.cursor()?).await?)
}

#[derive(Debug, Deserialize)]
pub struct MemberForm {
    user: String,
    role: String,
}

/// `POST /members`: adds a member, or changes the role of one.
pub async fn set(
    State(context): State<Arc<Context>>,
    State(site): State<Arc<Site>>,
    visitor: SessionUser,
    Form(form): Form<MemberForm>,
) -> Result<Response, Error> {
    let user = form.user.trim();
    match members::set(&context, &visitor.actor, visitor.project(), user, &form.role).await {
        Ok(_) => Ok(Redirect::to("/members").into_response()),
        Err(OperationError::NotFound(what)) => {
            let mut answer = members_page(&context, &site, &visitor, None).await?;
            (answer.error, answer.user) = (Some(format!("There is no {what}.")), form.user);
            page(&answer)
        }
        Err(error) => Err(error.into()),
    }
}

/// `POST /members/{user}/remove`
pub async fn remove(
    State(context): State<Arc<Context>>,
    visitor: SessionUser,
    Path(user): Path<String>,
) -> Result<Response, Error> {
    members::remove(&context, &visitor.actor, visitor.project(), &user).await?;
    // Who leaves by themselves sees the project no more.
    let to = if *visitor.actor.user == *user { "/projects" } else { "/members" };
    Ok(Redirect::to(to).into_response())
}

#[derive(Debug, Deserialize)]
pub struct InvitationForm {
    role: String,
}

/// `POST /members/invitations`: shows the link of a new invitation, this once.
pub async fn invite(
    State(context): State<Arc<Context>>,
    State(site): State<Arc<Site>>,
    visitor: SessionUser,
    Form(form): Form<InvitationForm>,
) -> Result<Response, Error> {
    let invited = invitations::create(&context, &visitor.actor, None, &form.role, None).await?;
    let mut answer = members_page(&context, &site, &visitor, None).await?;
    answer.link = Some(site.invitation_url(&invited.token));
    page(&answer)
}

/// `POST /members/invitations/{invitation}/revoke`
pub async fn revoke(
    State(context): State<Arc<Context>>,
    visitor: SessionUser,
    Path(invitation): Path<String>,
) -> Result<Response, Error> {
    invitations::revoke(&context, &visitor.actor, id(&invitation, "invitation")?).await?;
    Ok(Redirect::to("/members").into_response())
}

#[derive(Debug, Deserialize)]
pub struct NameForm {
    name: String,
}

/// `POST /project/rename`
pub async fn rename(
    State(context): State<Arc<Context>>,
    visitor: SessionUser,
    Form(form): Form<NameForm>,
) -> Result<Response, Error> {
    let name = form.name.trim();
    let renamed = projects::rename(&context, &visitor.actor, visitor.project(), name).await?;
    Ok(Redirect::to(&format!("/projects/{}/members", renamed.name)).into_response())
}

#[derive(Debug, Deserialize)]
pub struct ConfirmForm {
    #[serde(default)]
    pub confirm: String,
}

impl ConfirmForm {
    /// What was typed, if anything.
    pub fn given(&self) -> Option<&str> {
        Some(self.confirm.trim()).filter(|text| !text.is_empty())
    }
}

/// `POST /project/delete`
pub async fn delete(
    State(context): State<Arc<Context>>,
    State(site): State<Arc<Site>>,
    visitor: SessionUser,
    Form(form): Form<ConfirmForm>,
) -> Result<Response, Error> {
    projects::delete(&context, &visitor.actor, visitor.project(), form.given()).await?;
    // Outside of the project, which is not there any more.
    Ok(Redirect::to(&format!("{}/projects", site.public_url)).into_response())
}
