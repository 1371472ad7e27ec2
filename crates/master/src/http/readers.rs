//! Responses that last end with the key or the session of their reader.

use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::{Request, State};
use axum::http::{Extensions, HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use gaffer_protocol::rest::{OutputLine, Problem};
use http_body::Body;

use super::endable::{Ending, endable};
use super::error::{Error, problem};
use crate::open_streams::{Credential, OpenStream, OpenStreams};
use crate::operations::Actor;
use crate::views::Views;

/// Who reads the response of a request, once that is known.
#[derive(Debug, Clone)]
struct Reader {
    open_streams: OpenStreams,
    known: Arc<Mutex<Option<(Credential, OpenStream)>>>,
}

/// The request with these extensions is the actor's.
pub fn note(extensions: &Extensions, actor: &Actor) {
    if let (Some(reader), Some(credential)) = (extensions.get::<Reader>(), actor.shown.credential) {
        let mut known = reader.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get_or_insert_with(|| (credential, reader.open_streams.begin(credential)));
    }
}

/// Ends the response when the credential of its reader is no good any more. What is complete when the request has been answered
/// is left alone, unless it was read for somebody whose credential ended meanwhile: a request may wait for long.
pub async fn end_with_credential(
    State(views): State<Arc<Views>>,
    mut request: Request,
    next: Next,
) -> Response {
    let reader = Reader { open_streams: views.open_streams.clone(), known: Arc::default() };
    request.extensions_mut().insert(reader.clone());
    let only_reads = request.method().is_safe();
    let response = next.run(request).await;
    let known = reader.known.lock().unwrap_or_else(PoisonError::into_inner).take();
    let Some((credential, stream)) = known else { return response };
    if only_reads && stream.has_ended() {
        let (code, detail) = why_ended(credential);
        return Error::Unauthorized(code, detail.to_owned()).into_response();
    }
    if response.body().size_hint().exact().is_some() {
        return response;
    }
    let (parts, body) = response.into_parts();
    let (body, ender) = endable(body);
    ender.end_after(async move { stream.ended().await }, ending(credential, &parts.headers));
    Response::from_parts(parts, body)
}

fn why_ended(credential: Credential) -> (&'static str, &'static str) {
    match credential {
        Credential::Key(_) => (
            "key_revoked",
            "the key was revoked or has expired, or its user is no member of the project any more",
        ),
        Credential::WebSession(..) => (
            "session_ended",
            "the browser session has ended, or its user is no member of the project any more; sign in again",
        ),
    }
}

/// How such a response ends, by its form.
fn ending(credential: Credential, headers: &HeaderMap) -> Ending {
    let (code, detail) = why_ended(credential);
    let problem = problem(StatusCode::UNAUTHORIZED, code, detail);
    let form = headers.get(header::CONTENT_TYPE).and_then(|form| form.to_str().ok()).unwrap_or_default();
    match form {
        "text/event-stream" => Ending { last_words: Some(error_event(&problem).into()), breaks_off: None },
        "application/x-ndjson" => {
            Ending { last_words: Some(error_line(problem).into()), breaks_off: Some(detail) }
        }
        _ => Ending { last_words: None, breaks_off: Some(detail) },
    }
}

/// The event with which a stream ends that cannot go on.
pub fn error_event(problem: &Problem) -> String {
    format!("event: error\ndata: {}\n\n", serde_json::to_string(problem).unwrap_or_default())
}

/// The same as the last line of an output.
pub fn error_line(problem: Problem) -> String {
    let line = OutputLine::Error(Box::new(problem));
    format!("{}\n", serde_json::to_string(&line).unwrap_or_default())
}
