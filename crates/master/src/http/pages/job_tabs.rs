//! The tabs Tasks, Graph, Timeline, History and Specification of a job.

use askama::Template;
use chrono::Utc;
use gaffer_domain::parameters::Parameter;
use gaffer_domain::task::StateName;
use gaffer_domain::versions::{difference_line, differences};
use gaffer_protocol::ports::NamedPort;
use serde_json::Value;

use super::super::Site;
use super::super::api::tasks::{filter, page_of_tasks};
use super::super::error::Error;
use super::super::params::Params;
use super::events::history;
use super::format::{address, many};
use super::frame::Frame;
use super::job_head::{Top, task_rows};
use super::jobs::curl;
use super::rows::{Choice, EventRow, TaskRow, named_port};
use super::{Markup, job_graph, job_timeline};
use crate::operations::events::from_now_on;
use crate::operations::{Actor, sources, tasks, updates};
use crate::records::TaskPorts;
use crate::store::versions::Version;
use crate::views::Views;

/// Tasks on a page.
pub const PAGE_TASKS: u32 = 500;
/// Tasks whose ports are shown.
const SHOWN_PORTS: u32 = 100;

#[derive(Template)]
#[template(path = "job_tasks.html")]
pub struct TasksTab {
    frame: Frame,
    top: Top,
    states: Vec<Choice>,
    rows: Vec<TaskRow>,
    /// What a further row is made of.
    blank: TaskRow,
    /// How the list changes: rows of a job that is kept running come and go.
    mode: &'static str,
    more: Option<String>,
    /// Named ports of its first running tasks.
    ports: Vec<PortRow>,
}

struct PortRow {
    task: String,
    port: String,
    worker: String,
}

impl PortRow {
    fn all(task: TaskPorts) -> impl Iterator<Item = PortRow> {
        let TaskPorts { address, worker, ports, .. } = task;
        let row = move |port: NamedPort| PortRow {
            task: address.clone(),
            port: named_port(&port),
            worker: worker.clone(),
        };
        ports.into_iter().map(row)
    }
}

impl TasksTab {
    /// Reads its part.
    pub async fn new(
        views: &Views,
        site: &Site,
        frame: Frame,
        mut top: Top,
        params: &Params,
    ) -> Result<TasksTab, Error> {
        let job = top.job.id;
        let here = format!("/jobs/{job}");
        let state = params.text("state").unwrap_or_default();
        let cursor = params.text("cursor").unwrap_or_default();
        let tasks = tasks::list(&views.reads, job, &filter(&params.given())?, PAGE_TASKS + 1).await?;
        let (mut tasks, next) = page_of_tasks(tasks, PAGE_TASKS);
        views.add_health(&mut tasks);
        let choice = |value: &str, name: String| Choice {
            name,
            href: address(&here, &[("tab", "tasks"), ("state", value)]),
            is_chosen: state == value,
        };
        let mut states = vec![choice("", "All".to_owned())];
        for name in StateName::ALL {
            let n = top.job.task_counts.get(name);
            if n > 0 {
                states.push(choice(name.as_str(), format!("{name} {}", many(n.unsigned_abs()))));
            }
        }
        let live = [("tab", "tasks"), ("state", state), ("cursor", cursor)];
        top.live = address(&format!("{here}/live"), &live);
        top.cli = format!("gaffer job {job}\ngaffer logs {job}.TASK");
        top.curl = curl(site, "GET", &address(&format!("{here}/tasks"), &[("state", state)]));
        let ports = views.reads.task_ports(job, None, SHOWN_PORTS).await?;
        Ok(TasksTab {
            ports: ports.into_iter().flat_map(PortRow::all).collect(),
            mode: if top.job.kind.is_kept_running() { "flow" } else { "hold" },
            frame,
            top,
            states,
            rows: task_rows(&tasks),
            blank: TaskRow::default(),
            more: next.map(|next| address(&here, &[("tab", "tasks"), ("state", state), ("cursor", &next)])),
        })
    }
}

/// A tab with a picture.
#[derive(Template)]
#[template(path = "job_picture.html")]
pub struct PictureTab {
    frame: Frame,
    top: Top,
    heading: &'static str,
    explained: &'static str,
    picture: Markup,
}

impl PictureTab {
    /// What the tasks wait for.
    pub async fn graph(views: &Views, site: &Site, frame: Frame, mut top: Top) -> Result<PictureTab, Error> {
        let picture = job_graph::picture(views, &top.job, &frame.base.to_string(), &mut None).await?;
        let command = format!("gaffer job {}", top.job.id);
        describe(&mut top, site, "graph", command, "/tasks");
        let explained = "each task is to the right of what it waits for";
        Ok(PictureTab { picture, frame, top, heading: "Graph", explained })
    }

    /// When the tasks ran.
    pub async fn timeline(
        views: &Views,
        site: &Site,
        frame: Frame,
        mut top: Top,
    ) -> Result<PictureTab, Error> {
        let picture = job_timeline::picture(views, &top.job, &frame.base.to_string(), Utc::now()).await?;
        let command = format!("gaffer job {}", top.job.id);
        describe(&mut top, site, "timeline", command, "/tasks");
        Ok(PictureTab { picture, frame, top, heading: "Timeline", explained: "since the job was submitted" })
    }
}

/// What shows the same as a tab: a command, and the part of the API below the job.
fn describe(top: &mut Top, site: &Site, tab: &str, command: String, below: &str) {
    let job = top.job.id;
    top.live = format!("/jobs/{job}/live?tab={tab}");
    top.cli = command;
    top.curl = curl(site, "GET", &format!("/jobs/{job}{below}"));
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
        views: &Views,
        site: &Site,
        actor: &Actor,
        frame: Frame,
        mut top: Top,
        params: &Params,
    ) -> Result<EventsTab, Error> {
        let job = top.job.id;
        let from_now_on = from_now_on(views, actor.project).await?.to_string();
        let (rows, next) = history(views, actor, Some(job), params).await?;
        let is_first = params.text("cursor").is_none();
        let live = [("tab", "events"), ("after", if is_first { from_now_on.as_str() } else { "" })];
        describe(&mut top, site, "events", format!("gaffer events -f {job}"), "/events");
        top.live = address(&format!("/jobs/{job}/live"), &live);
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
#[template(path = "job_versions.html")]
pub struct VersionsTab {
    frame: Frame,
    top: Top,
    versions: Vec<VersionRow>,
}

/// A version of a service.
struct VersionRow {
    version: u32,
    created: Option<i64>,
    by: String,
    message: String,
    /// `tasks.web.image: "a" → "b"`
    changes: Vec<String>,
    can_roll_back: bool,
}

/// Changes of one version that are shown.
const SHOWN_CHANGES: usize = 20;
/// The longest value of a change that is shown, in characters.
const SHOWN_VALUE_CHARS: usize = 60;

impl VersionsTab {
    /// Reads its part.
    pub async fn new(
        views: &Views,
        site: &Site,
        actor: &Actor,
        frame: Frame,
        mut top: Top,
    ) -> Result<VersionsTab, Error> {
        let job = top.job.id;
        let command = format!("gaffer versions {job}\ngaffer rollback {job} --to VERSION");
        describe(&mut top, site, "versions", command, "/versions");
        let found = updates::versions(views, actor, job).await?;
        let can_update = top.head.can_stop;
        let before = found.iter().skip(1).map(Some).chain([None]);
        let row = |(version, before): (&Version, Option<&Version>)| VersionRow {
            version: version.version,
            created: Some(version.created_at.timestamp_millis()),
            by: version.created_by.clone(),
            message: version.message.clone(),
            changes: before.map(|before| changes(&before.spec, &version.spec)).unwrap_or_default(),
            can_roll_back: can_update && version.version != top.job.version,
        };
        let versions = found.iter().zip(before).map(row).collect();
        Ok(VersionsTab { frame, top, versions })
    }
}

fn changes(before: &Value, after: &Value) -> Vec<String> {
    let all = differences(before, after);
    let more = all.len().saturating_sub(SHOWN_CHANGES);
    let lines = all.iter().take(SHOWN_CHANGES);
    let lines = lines.map(|one| difference_line(&one.field, &one.before, &one.after, SHOWN_VALUE_CHARS));
    lines.chain((more > 0).then(|| format!("and {more} more"))).collect()
}

#[derive(Template)]
#[template(path = "job_spec.html")]
pub struct SpecTab {
    frame: Frame,
    top: Top,
    spec: String,
    parameters: Vec<ParameterRow>,
    /// Before the values of its parameters were put in.
    source: Option<String>,
}

struct ParameterRow {
    name: String,
    value: String,
    description: String,
    expected: String,
}

impl SpecTab {
    /// Reads its part.
    pub async fn new(views: &Views, site: &Site, frame: Frame, mut top: Top) -> Result<SpecTab, Error> {
        let job = top.job.id;
        let spec = views.reads.job_specs(&[job], 0).await?.pop().unwrap_or_default();
        let stored = views.reads.spec(job).await?;
        let row = |(name, parameter): (&String, &Parameter)| ParameterRow {
            name: name.clone(),
            value: parameter.value.clone(),
            description: parameter.declaration.description.clone().unwrap_or_default(),
            expected: parameter.declaration.takes.expected(),
        };
        let parameters: Vec<ParameterRow> =
            stored.iter().flat_map(|spec| spec.parameters.iter()).map(row).collect();
        let source = sources::read(&views.reads, job).await?;
        let has_placeholders = !source.parameters.is_empty();
        let source = has_placeholders.then(|| source.document.to_pretty_json());
        let command = match parameters.first() {
            Some(first) => format!("gaffer rerun {job} -p {}=VALUE\ngaffer rerun {job} --edit", first.name),
            None => format!("gaffer job {job} -o json | jq .spec > job.json\ngaffer submit job.json"),
        };
        describe(&mut top, site, "spec", command, "");
        let spec = serde_json::to_string_pretty(&spec).unwrap_or_default();
        Ok(SpecTab { spec, parameters, source, frame, top })
    }
}
