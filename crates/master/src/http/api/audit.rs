//! `/audit`: who changed what, and the lines of that with their hashes.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use gaffer_domain::Time;
use gaffer_domain::permissions::Action;
use gaffer_protocol::rest::{AuditEntry, AuditOutcome};
use serde_json::json;

use super::super::description::{
    Answer, CURSOR, Content, Description, LIMIT, Listed, Operation, Parameter, Schemas, Success, Values,
};
use super::super::error::Error;
use super::super::params::{Params, page_of, wrong};
use crate::operations::audit::{self, Chain};
use crate::operations::{Actor, Context};
use crate::store::audit::AuditFilter;

/// Whose chain.
pub const OF: Parameter = Parameter::new(
    "of",
    Values::Word(|| vec!["project", "installation"]),
    "Chain: `project` (default), or `installation` for what belongs to no project.",
);
const TIME: Values = Values::Pattern(
    r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}([.]\d{1,9})?(Z|[+-]\d{2}:\d{2})$",
    "2026-11-30T00:00:00Z",
);
/// What the list can be narrowed down by.
pub const FILTERS: [&str; 6] = ["user", "action", "target", "outcome", "since", "until"];

const QUERY: &[Parameter] = &[
    LIMIT,
    CURSOR,
    OF,
    Parameter::new("user", Values::Text, "Only changes by this user."),
    Parameter::new("action", Values::Text, "Only this action, such as `stop_job`."),
    Parameter::new("target", Values::Text, "Only what was done to this, such as `job 42`."),
    Parameter::new(
        "outcome",
        Values::Word(|| AuditOutcome::ALL.map(AuditOutcome::as_str).to_vec()),
        "Only what ended like this.",
    ),
    Parameter::new("since", TIME, "Only from this time on."),
    Parameter::new("until", TIME, "Only before this time."),
];

pub const LIST: Operation = Operation {
    description: "Newest first: each change that a user asked for, with the key or session, the address, and how it ended. \
        Reading is not in it; refused attempts are, the same one at most once a minute.",
    query: QUERY,
    ..Operation::new("list_audit", "List who changed what", Action::ReadAudit)
};

/// `GET /audit`
pub async fn list(
    State(context): State<Arc<Context>>,
    actor: Actor,
    params: Params,
) -> Result<Listed<AuditEntry>, Error> {
    let limit = params.limit()?;
    let filter = AuditFilter { before: params.cursor()?, ..filter(&params)? };
    let entries = audit::list(&context, &actor, chain(&params)?, &filter, limit + 1).await?;
    let page = page_of(entries, limit, |entry| entry.id);
    Ok(Listed::of(&params, page))
}

/// The filter in a query, without a cursor.
///
/// # Errors
/// When something in it cannot be read.
pub fn filter(params: &Params) -> Result<AuditFilter, Error> {
    let text = |name| params.text(name).filter(|text| !text.is_empty());
    let time = |name| -> Result<Option<Time>, Error> {
        let Some(text) = text(name) else { return Ok(None) };
        let parsed = text.parse::<Time>();
        Ok(Some(parsed.map_err(|_| wrong(name, "expected a time such as 2026-11-30T00:00:00Z"))?))
    };
    let outcome = text("outcome").map(|text| {
        text.parse::<AuditOutcome>()
            .map_err(|()| wrong("outcome", "expected done, refused, failed or unknown"))
    });
    Ok(AuditFilter {
        user: text("user").map(str::to_owned),
        action: text("action").map(str::to_owned),
        target: text("target").map(str::to_owned),
        outcome: outcome.transpose()?,
        since: time("since")?,
        until: time("until")?,
        before: None,
    })
}

/// The chain that a query names.
///
/// # Errors
/// When it names another one.
pub fn chain(params: &Params) -> Result<Chain, Error> {
    match params.text("of") {
        None | Some("" | "project") => Ok(Chain::Project),
        Some("installation") => Ok(Chain::Installation),
        Some(_) => Err(wrong("of", "expected project or installation")),
    }
}

pub const LINES: Operation = Operation {
    description: "JSON objects, one per line, oldest first, at most `limit` from after the number `after`: ask again with the \
        last `number` until nothing comes. `hash` is the SHA-256 of the line without it, `previous` that of the line before; \
        `gaffer audit verify` checks both.",
    query: &[
        LIMIT,
        OF,
        Parameter::new(
            "after",
            Values::Integer { least: 0, most: i64::MAX as u64, default: Some(0) },
            "Only lines after the one with this number.",
        ),
    ],
    ..Operation::new("export_audit", "Export the audit log", Action::ReadAudit)
};

/// `GET /audit/lines`
pub async fn lines(
    State(context): State<Arc<Context>>,
    actor: Actor,
    params: Params,
) -> Result<Lines, Error> {
    let after = params.parse("after", "expected the number of a line")?.unwrap_or(0);
    Ok(Lines(audit::lines(&context, &actor, chain(&params)?, after, params.limit()?).await?))
}

/// Lines as they were hashed, each with its hash.
#[derive(Debug)]
pub struct Lines(Vec<String>);

const NDJSON: &str = "application/x-ndjson";

impl IntoResponse for Lines {
    fn into_response(self) -> Response {
        let text: String = self.0.into_iter().map(|line| line + "\n").collect();
        ([(header::CONTENT_TYPE, NDJSON)], text).into_response()
    }
}

impl Answer for Lines {
    fn describe(description: &mut Description, _: &mut Schemas) {
        let content = vec![Content { media_type: NDJSON, schema: json!({ "type": "string" }) }];
        let success = Success { description: "Lines of the chain", headers: vec![], content };
        description.answers(StatusCode::OK, success);
    }
}
