//! `Last-Event-ID` of an output: where a stream of events broke off.

use axum::http::HeaderMap;
use gaffer_domain::search::ResumePoint;

use super::super::super::error::Error;
use super::Format;
use super::cursor::Cursor;
use crate::records::Task;

/// Where a stream of events broke off.
pub(super) struct LastEvent {
    /// Which task's event it was, if the stream is of several.
    pub task: Option<String>,
    attempt: u32,
    offset: u64,
}

impl LastEvent {
    /// The id of an event; `task` only in a stream of several.
    pub fn id(task: Option<&str>, attempt: u32, offset: u64) -> String {
        match task {
            Some(task) => format!("{task}:{attempt}:{offset}"),
            None => format!("{attempt}:{offset}"),
        }
    }

    pub fn of(headers: &HeaderMap, format: Format) -> Result<Option<LastEvent>, Error> {
        let Some(value) = headers.get("last-event-id").filter(|_| format == Format::Events) else {
            return Ok(None);
        };
        let read = || {
            let mut parts = value.to_str().ok()?.rsplitn(3, ':');
            let offset = parts.next()?.parse().ok()?;
            let attempt = parts.next()?.parse().ok()?;
            Some(LastEvent { task: parts.next().map(str::to_owned), attempt, offset })
        };
        read().map(Some).ok_or_else(|| LastEvent::wrong("expected an id that this stream has sent"))
    }

    pub fn wrong(detail: &str) -> Error {
        Error::field("invalid_header", "header:last-event-id", detail, None)
    }

    /// The same place in the output of this task.
    pub fn cursor(&self, task: &Task) -> Cursor {
        let Task { position, index, .. } = *task;
        Cursor { position, index, attempt: self.attempt, at: ResumePoint::from(self.offset) }
    }
}
