//! The quieter tabs of a job: its tasks, its history, its specification.

use askama::Template;
use gaffer_domain::task::StateName;

use super::super::auth::Principal;
use super::super::error::Error;
use super::super::params::{Params, wrong};
use super::events::history;
use super::format::{address, many};
use super::frame::Frame;
use super::job::Top;
use super::job_head::task_rows;
use super::jobs::curl;
use super::rows::{Choice, EventRow, TaskRow};
use crate::Master;
use crate::store::tasks::TaskFilter;

/// Tasks on a page.
pub const PAGE_TASKS: u32 = 500;

#[derive(Template)]
#[template(path = "job_tasks.html")]
pub struct TasksTab {
    frame: Frame,
    top: Top,
    states: Vec<Choice>,
    rows: Vec<TaskRow>,
    more: Option<String>,
}

/// Which tasks a query asks for.
pub fn task_filter(params: &Params) -> Result<TaskFilter, Error> {
    let states = "blocked, pending, scheduled, running, stopping, completed, failed or cancelled";
    let given = params.text("state").is_some_and(|state| !state.is_empty());
    let after = match params.text("cursor").filter(|cursor| !cursor.is_empty()) {
        None => None,
        Some(text) => {
            let read = || {
                let (position, index) = text.strip_prefix('c')?.split_once('.')?;
                Some((position.parse().ok()?, index.parse().ok()?))
            };
            Some(read().ok_or_else(|| wrong("cursor", "this is no cursor that an earlier page gave"))?)
        }
    };
    Ok(TaskFilter { state: if given { params.parse::<StateName>("state", states)? } else { None }, after })
}

impl TasksTab {
    /// Reads its part.
    pub async fn new(
        master: &Master,
        frame: Frame,
        mut top: Top,
        params: &Params,
    ) -> Result<TasksTab, Error> {
        let job = top.job.id;
        let here = format!("/jobs/{job}");
        let state = params.text("state").unwrap_or_default();
        let cursor = params.text("cursor").unwrap_or_default();
        let mut tasks = master.reads.task_list(job, &task_filter(params)?, PAGE_TASKS + 1).await?;
        let has_more = tasks.len() > PAGE_TASKS as usize;
        tasks.truncate(PAGE_TASKS as usize);
        let spec = master.reads.spec(job).await?;
        let next = tasks.last().filter(|_| has_more).and_then(|last| {
            let position =
                spec.as_ref()?.tasks.iter().position(|definition| definition.name == last.view.task)?;
            Some(format!("c{position}.{}", last.view.index))
        });
        let choice = |value: &str, name: String| Choice {
            name,
            href: address(&here, &[("tab", "tasks"), ("state", value)]),
            is_chosen: state == value,
        };
        let mut states = vec![choice("", "All".to_owned())];
        for name in StateName::ALL {
            let n = top.job.task_counts.get(name.as_str()).copied().unwrap_or(0);
            if n > 0 {
                states.push(choice(name.as_str(), format!("{name} {}", many(n.unsigned_abs()))));
            }
        }
        let live = [("tab", "tasks"), ("state", state), ("cursor", cursor)];
        top.live = address(&format!("{here}/live"), &live);
        top.cli = format!("gaffer job {job}\ngaffer logs {job}.TASK");
        top.curl = curl(master, "GET", &address(&format!("{here}/tasks"), &[("state", state)]));
        Ok(TasksTab {
            frame,
            top,
            states,
            rows: task_rows(&tasks),
            more: next.map(|next| address(&here, &[("tab", "tasks"), ("state", state), ("cursor", &next)])),
        })
    }
}

#[derive(Template)]
#[template(path = "job_events.html")]
pub struct EventsTab {
    frame: Frame,
    top: Top,
    rows: Vec<EventRow>,
    blank: EventRow,
    older: Option<String>,
}

impl EventsTab {
    /// Reads its part.
    pub async fn new(
        master: &Master,
        caller: &Principal,
        frame: Frame,
        mut top: Top,
        params: &Params,
    ) -> Result<EventsTab, Error> {
        let job = top.job.id;
        let from_now_on = master.events_from_now_on(caller).await?.to_string();
        let (rows, next) = history(master, caller, Some(job), params).await?;
        let is_first = params.text("cursor").is_none();
        let live = [("tab", "events"), ("after", if is_first { from_now_on.as_str() } else { "" })];
        top.live = address(&format!("/jobs/{job}/live"), &live);
        top.cli = format!("gaffer events -f {job}");
        top.curl = curl(master, "GET", &format!("/jobs/{job}/events"));
        Ok(EventsTab {
            frame,
            top,
            rows,
            blank: EventRow::default(),
            older: next
                .map(|cursor| address(&format!("/jobs/{job}"), &[("tab", "events"), ("cursor", &cursor)])),
        })
    }
}

#[derive(Template)]
#[template(path = "job_spec.html")]
pub struct SpecTab {
    frame: Frame,
    top: Top,
    spec: String,
}

impl SpecTab {
    /// Its part is in the job.
    pub fn new(master: &Master, frame: Frame, mut top: Top) -> SpecTab {
        let job = top.job.id;
        top.live = format!("/jobs/{job}/live?tab=spec");
        top.cli = format!("gaffer job {job} -o json | jq .spec > job.json\ngaffer submit job.json");
        top.curl = curl(master, "GET", &format!("/jobs/{job}"));
        SpecTab { spec: serde_json::to_string_pretty(&top.job.spec).unwrap_or_default(), frame, top }
    }
}
