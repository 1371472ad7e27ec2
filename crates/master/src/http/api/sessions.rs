//! `/sessions`: browser sessions of the caller's user.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use gaffer_domain::permissions::Action;
use gaffer_protocol::rest::{Page, Session};

use super::super::bodies::people;
use super::super::description::{Done, Operation};
use super::super::error::Error;
use super::super::params::id;
use crate::operations::{Actor, Context, accounts};

pub const LIST: Operation = Operation {
    description: "The latest used first, all in one page.",
    ..Operation::new("list_sessions", "List your browser sessions", Action::ManageSessions)
};

/// `GET /sessions`
pub async fn list(State(context): State<Arc<Context>>, actor: Actor) -> Result<Json<Page<Session>>, Error> {
    let items = accounts::sessions(&context, &actor).await?;
    Ok(Json(Page { items: items.into_iter().map(people::session).collect(), next_cursor: None }))
}

pub const END: Operation = Operation {
    description: "Responses that are read with it end at once.",
    ..Operation::new("end_session", "End a browser session", Action::ManageSessions)
};

/// `DELETE /sessions/{session}`
pub async fn end(
    State(context): State<Arc<Context>>,
    actor: Actor,
    Path(session): Path<String>,
) -> Result<Done, Error> {
    accounts::end_session(&context, &actor, id(&session, "session")?).await?;
    Ok(Done)
}

pub const END_OTHERS: Operation = Operation {
    description: "All but the one that asks.",
    ..Operation::new("end_sessions", "End your browser sessions", Action::ManageSessions)
};

/// `DELETE /sessions`
pub async fn end_others(State(context): State<Arc<Context>>, actor: Actor) -> Result<Done, Error> {
    accounts::end_other_sessions(&context, &actor).await?;
    Ok(Done)
}
