//! The page *Queue*: waiting tasks with reasons, and scheduler statistics.

use std::sync::Arc;
use std::time::Duration;

use askama::Template;
use axum::extract::State;
use axum::response::Response;
use gaffer_domain::permissions::Action;
use serde::Serialize;

use super::super::Site;
use super::super::error::Error;
use super::format::{count, many, sentence};
use super::frame::{Frame, SessionUser};
use super::jobs::curl;
use super::page;
use super::plot::PassPlot;
use super::stream::{Feed, Feeds, stream};
use super::view::{Browser, Row, View};
use crate::background::scheduler::stats::Passes;
use crate::operations::Actor;
use crate::queue::{Queue, queue};
use crate::records::QueueClass;
use crate::snapshot;
use crate::views::Views;

const PACE: Duration = Duration::from_secs(1);
/// Workers that are named, one by one, for each class.
const VERDICTS: usize = 50;

#[derive(Template)]
#[template(path = "queue.html")]
struct QueuePage {
    frame: Frame,
    cli: String,
    curl: String,
    head: Head,
    plot: PassPlot,
    rows: Vec<ClassRow>,
    blank: ClassRow,
    reasons: Vec<Reasons>,
}

/// The whole in figures.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Head {
    strategy: String,
    /// Of shared workers, with the weight; empty where there is none.
    share: String,
    tasks: String,
    oldest: Option<i64>,
    passes: String,
    median: String,
    longest: String,
}

/// A class of waiting tasks.
#[derive(Debug, Clone, Default, Serialize)]
struct ClassRow {
    key: String,
    ahead: String,
    count: String,
    priority: i16,
    owner: String,
    href: String,
    job: String,
    since: Option<i64>,
    needs: String,
    why: String,
}

/// Worker by worker, why a class waits.
#[derive(Debug)]
struct Reasons {
    needs: String,
    help: Vec<String>,
    workers: Vec<[String; 2]>,
}

impl Row for ClassRow {
    fn key(&self) -> &str {
        &self.key
    }
}

impl From<&QueueClass> for ClassRow {
    fn from(class: &QueueClass) -> Self {
        ClassRow {
            key: class.class.to_string(),
            ahead: many(class.why.position.map_or(0, |position| position.ahead)),
            count: many(class.why.count.unsigned_abs()),
            priority: class.priority,
            owner: class.owner.clone(),
            href: format!("/jobs/{}", class.job),
            job: format!("{} {}", class.job, class.job_name),
            since: Some(class.since.timestamp_millis()),
            needs: class.needs.clone(),
            why: sentence(&class.why.message),
        }
    }
}

impl From<&QueueClass> for Reasons {
    fn from(class: &QueueClass) -> Self {
        let why = &class.why;
        let workers = why.workers.iter().take(VERDICTS).map(|verdict| {
            let why = verdict.message.strip_prefix(&verdict.worker).unwrap_or(&verdict.message).trim_start();
            [verdict.worker.clone(), why.to_owned()]
        });
        let help = why.help.iter().chain(&why.would_help).map(|help| sentence(help));
        Reasons { needs: class.needs.clone(), help: help.collect(), workers: workers.collect() }
    }
}

impl From<&Queue> for Head {
    fn from(queue: &Queue) -> Self {
        let Passes { count: passes, recent } = &queue.passes;
        let mut micros: Vec<u64> = recent.iter().map(|pass| pass.micros).collect();
        micros.sort_unstable();
        let millis = |micros: Option<&u64>| {
            micros.map_or_else(|| "—".to_owned(), |n| format!("{:.1} ms", *n as f64 / 1e3))
        };
        Head {
            strategy: queue.strategy.to_string(),
            share: queue.share.map_or_else(String::new, |share| {
                format!("{:.0}%, weight {}", share * 100.0, queue.weight.get())
            }),
            tasks: count(queue.waiting, "task"),
            oldest: queue.waiting_since.map(|since| since.timestamp_millis()),
            passes: many(*passes),
            median: millis(micros.get(micros.len() / 2)),
            longest: millis(micros.last()),
        }
    }
}

/// `GET /queue`
pub async fn show(
    State(views): State<Arc<Views>>,
    State(site): State<Arc<Site>>,
    visitor: SessionUser,
) -> Result<Response, Error> {
    let queue = queue(&views, &visitor.actor, snapshot::NOW).await?;
    page(&QueuePage {
        frame: visitor.frame("/queue"),
        cli: "gaffer queue".to_owned(),
        curl: curl(&site, "GET", "/queue"),
        head: Head::from(&queue),
        plot: PassPlot::of(&queue.passes.recent),
        rows: queue.classes.iter().map(ClassRow::from).collect(),
        blank: ClassRow::default(),
        reasons: queue.classes.iter().map(Reasons::from).collect(),
    })
}

/// `GET /queue/live`: the stream of that page.
pub async fn live(
    State(views): State<Arc<Views>>,
    State(feeds): State<Arc<Feeds>>,
    visitor: SessionUser,
) -> Result<Response, Error> {
    let actor = visitor.actor;
    // Scheduler statistics are for some: they share a feed of their own.
    let (project, sees_all) = (actor.project, actor.standing.may(Action::LookAtScheduler));
    let feed = || QueueFeed { views: views.clone(), actor };
    Ok(stream(&views, &feeds, format!("{project} queue {sees_all}"), Browser::default(), feed))
}

struct QueueFeed {
    views: Arc<Views>,
    actor: Actor,
}

impl Feed for QueueFeed {
    async fn look(&mut self) -> Result<View, Error> {
        let queue = queue(&self.views, &self.actor, snapshot::RECENT).await?;
        let rows: Vec<ClassRow> = queue.classes.iter().map(ClassRow::from).collect();
        Ok(View::default().fields(&Head::from(&queue)).whole("classes", &rows))
    }

    fn pace(&self) -> Duration {
        PACE
    }
}
