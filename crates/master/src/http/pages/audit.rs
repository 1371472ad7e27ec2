//! The page *Audit log*: who changed what, from where, and how it ended.

use std::sync::Arc;

use askama::Template;
use axum::extract::State;
use axum::response::Response;
use gaffer_domain::permissions::Action;
use gaffer_protocol::rest::{AuditEntry, AuditOutcome};
use serde_json::Value;

use super::super::Site;
use super::super::api::audit::{FILTERS, chain, filter};
use super::super::error::Error;
use super::super::params::{Params, page_of};
use super::format::{address, quoted};
use super::frame::{Frame, SessionUser};
use super::jobs::curl;
use super::page;
use crate::operations::Context;
use crate::operations::audit::{self, Chain};
use crate::store::audit::AuditFilter;

const PAGE_ROWS: u32 = 100;

#[derive(Template)]
#[template(path = "audit.html")]
struct AuditPage {
    frame: Frame,
    cli: String,
    curl: String,
    user: String,
    target: String,
    since: String,
    until: String,
    actions: Vec<Choice>,
    outcomes: Vec<Choice>,
    is_filtered: bool,
    of_installation: bool,
    may_see_installation: bool,
    rows: Vec<Row>,
    older: Option<String>,
}

/// A word that can be chosen.
struct Choice {
    word: &'static str,
    is_chosen: bool,
}

struct Row {
    number: String,
    at: Option<i64>,
    user: String,
    through: String,
    action: String,
    target: String,
    /// Path of the job that it is about, if it is about one.
    job: Option<String>,
    outcome: &'static str,
    detail: String,
    change: String,
}

impl Row {
    fn of(entry: AuditEntry) -> Row {
        let through = [entry.credential.as_deref(), entry.address.as_deref()];
        let through: Vec<&str> = through.into_iter().flatten().collect();
        let job = entry.target.strip_prefix("job ").and_then(|rest| rest.split(' ').next());
        let job = job.filter(|number| number.bytes().all(|byte| byte.is_ascii_digit()));
        Row {
            number: entry.number.map_or_else(|| "—".to_owned(), |number| number.to_string()),
            at: Some(entry.at.timestamp_millis()),
            user: entry.user,
            through: if through.is_empty() { "the master itself".to_owned() } else { through.join(" from ") },
            action: entry.action.replace('_', " "),
            job: job.map(|number| format!("/jobs/{number}")),
            target: entry.target,
            outcome: entry.outcome.map_or("in progress", AuditOutcome::as_str),
            detail: entry.detail.unwrap_or_default(),
            change: change(entry.before.as_ref(), entry.after.as_ref()),
        }
    }
}

/// What was changed, in a line.
fn change(before: Option<&Value>, after: Option<&Value>) -> String {
    let Some(after) = after.and_then(Value::as_object) else { return String::new() };
    let before = before.and_then(Value::as_object);
    let shown = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let field = |(name, now): (&String, &Value)| match before.and_then(|before| before.get(name)) {
        Some(earlier) => format!("{name}: {} → {}", shown(earlier), shown(now)),
        None => format!("{name}: {}", shown(now)),
    };
    let fields: Vec<String> = after.iter().filter(|(_, now)| !now.is_null()).map(field).collect();
    fields.join(", ")
}

/// `GET /audit`
pub async fn list(
    State(context): State<Arc<Context>>,
    State(site): State<Arc<Site>>,
    visitor: SessionUser,
    params: Params,
) -> Result<Response, Error> {
    let known: Vec<&str> = FILTERS.into_iter().chain(["of", "cursor"]).collect();
    let params = params.only(&known, &[])?;
    let of = chain(&params)?;
    let wanted = AuditFilter { before: params.cursor()?, ..filter(&params)? };
    let entries = audit::list(&context, &visitor.actor, of, &wanted, PAGE_ROWS + 1).await?;
    let entries = page_of(entries, PAGE_ROWS, |entry| entry.id);
    let text = |name| params.text(name).unwrap_or_default();
    let query: Vec<(&str, &str)> = FILTERS
        .into_iter()
        .chain(["of"])
        .map(|name| (name, text(name)))
        .filter(|(_, value)| !value.is_empty())
        .collect();
    let older = entries.next_cursor.as_deref().map(|cursor| {
        let with_cursor: Vec<_> = query.iter().copied().chain([("cursor", cursor)]).collect();
        address("/audit", &with_cursor)
    });
    let action = text("action");
    let actions = Action::ALL.into_iter().filter(|action| !action.only_reads()).map(Action::name);
    let actions =
        actions.chain(["sign_in", "sign_out"]).map(|word| Choice { word, is_chosen: word == action });
    let outcomes = AuditOutcome::ALL.map(AuditOutcome::as_str);
    let outcomes = outcomes.map(|word| Choice { word, is_chosen: word == text("outcome") });
    page(&AuditPage {
        frame: visitor.frame("/events"),
        cli: cli(&query),
        curl: curl(&site, "GET", &address("/audit", &query)),
        user: text("user").to_owned(),
        target: text("target").to_owned(),
        since: text("since").to_owned(),
        until: text("until").to_owned(),
        actions: actions.collect(),
        outcomes: outcomes.into(),
        is_filtered: query.iter().any(|(name, _)| *name != "of"),
        of_installation: of == Chain::Installation,
        may_see_installation: visitor.actor.must_be_allowed(Action::ReadAuditOfInstallation).is_ok(),
        rows: entries.items.into_iter().map(Row::of).collect(),
        older,
    })
}

/// The command that shows the same.
fn cli(query: &[(&str, &str)]) -> String {
    let option = |(name, value): &(&str, &str)| match *name {
        "of" => format!(" --{value}"),
        name => format!(" --{name} {}", quoted(value)),
    };
    format!("gaffer audit{}", query.iter().map(option).collect::<String>())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_change_is_told_in_a_line() {
        let (before, after) =
            (json!({ "intake": "open" }), json!({ "intake": "draining", "deadline": null }));
        assert_eq!(change(Some(&before), Some(&after)), "intake: open → draining");
        assert_eq!(change(None, Some(&json!({ "count": 3 }))), "count: 3");
        assert_eq!(change(None, None), "");
    }
}
