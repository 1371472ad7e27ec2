//! The page *Retention*: what expires, when, how much that frees, and what is kept.

use std::sync::Arc;

use askama::Template;
use axum::extract::State;
use axum::response::Response;

use super::super::Site;
use super::super::error::Error;
use super::format::{bytes, moment};
use super::frame::{Frame, SessionUser};
use super::jobs::curl;
use super::page;
use crate::operations::retention::{Count, EraPreview};
use crate::operations::{Context, retention};

#[derive(Template)]
#[template(path = "retention.html")]
struct RetentionPage {
    frame: Frame,
    cli: String,
    curl: String,
    retention: String,
    eras: Vec<EraRow>,
}

/// An era of history, and what of it goes.
struct EraRow {
    name: String,
    opened: Option<i64>,
    size: String,
    goes: String,
    until: String,
    keeps: String,
}

/// `GET /retention`
pub async fn show(
    State(context): State<Arc<Context>>,
    State(site): State<Arc<Site>>,
    visitor: SessionUser,
) -> Result<Response, Error> {
    let preview = retention::preview(&context, &visitor.actor).await?;
    page(&RetentionPage {
        frame: visitor.frame("/system"),
        cli: "gaffer retention preview".to_owned(),
        curl: curl(&site, "GET", "/retention"),
        retention: preview.retention.to_string(),
        eras: preview.eras.iter().map(EraRow::of).collect(),
    })
}

impl EraRow {
    fn of(era: &EraPreview) -> EraRow {
        let goes = Count {
            jobs: era.expiring.jobs + era.record.waiting_jobs,
            tasks: era.expiring.tasks + era.record.waiting_tasks,
        };
        let how = match (goes.jobs, era.record.closed_at, era.is_dropped()) {
            (0, ..) => String::new(),
            (_, Some(_), true) => ", as a whole".to_owned(),
            (_, None, true) => ", as a whole once the era is closed".to_owned(),
            (_, _, false) => ", in batches".to_owned(),
        };
        let kept = [("unfinished", era.unfinished), ("pinned", era.pinned), ("kept for ever", era.unlimited)];
        let kept = kept.iter().filter(|(_, count)| count.jobs > 0);
        EraRow {
            name: era.record.number.map_or_else(|| "earlier".to_owned(), |number| number.to_string()),
            opened: era.record.opened_at.map(|at| at.timestamp_millis()),
            size: match era.record.objects {
                0 => bytes(era.record.bytes.unsigned_abs()),
                _ => format!(
                    "{} and {} in object storage",
                    bytes(era.record.bytes.unsigned_abs()),
                    bytes(era.record.object_bytes.unsigned_abs())
                ),
            },
            goes: format!("{} jobs with {} tasks{how}", goes.jobs, goes.tasks),
            until: era.expires.map(|(_, last)| moment(&last.timestamp_millis())).unwrap_or_default(),
            keeps: kept.map(|(why, count)| format!("{} {why}", count.jobs)).collect::<Vec<_>>().join(", "),
        }
    }
}
