//! The list of jobs: filters in the address, rows updated in place.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use askama::Template;
use axum::extract::State;
use axum::response::Response;
use gaffer_domain::{JobId, ProjectId};
use tokio::sync::watch;

use super::super::Site;
use super::super::api::jobs::filter;
use super::super::error::Error;
use super::super::params::{Params, cursor};
use super::format::{address, many, quoted};
use super::frame::{Frame, SessionUser};
use super::page;
use super::rows::{Choice, JobRow};
use super::stream::{Feed, Feeds, stream};
use super::view::{Browser, View};
use crate::records::Job;
use crate::store::jobs::JobFilter;
use crate::store::search::MAX_SEARCHED;
use crate::views::Views;

const PAGE_ROWS: u32 = 50;
/// Number of latest jobs that an open page with filters watches.
const MAX_SEARCHED_LIVE: u32 = 2_000;
/// Jobs that stay on an open page although others have pushed them out of the list.
const MAX_DEPARTED: usize = 200;
const PACE: Duration = Duration::from_millis(700);
/// The states to choose from, as they stand in the address.
const STATES: [(&str, &str); 5] = [
    ("All", ""),
    ("Active", "pending,running,stopping"),
    ("Failed", "failed"),
    ("Completed", "completed"),
    ("Cancelled", "cancelled"),
];

#[derive(Template)]
#[template(path = "jobs.html")]
struct JobsPage {
    frame: Frame,
    live: String,
    cli: String,
    curl: String,
    states: Vec<Choice>,
    chosen_states: Vec<String>,
    chosen_labels: Vec<Choice>,
    driver: String,
    worker: String,
    name: String,
    filters: Vec<Choice>,
    is_filtered: bool,
    rows: Vec<JobRow>,
    blank: JobRow,
    /// Number of searched jobs, if there are more.
    searched: Option<String>,
    newest: Option<String>,
    older: Option<String>,
}

/// What the address asks for, to make other addresses of it.
#[derive(Debug, Clone, Default)]
struct Asked {
    state: String,
    name: String,
    driver: String,
    worker: String,
    labels: Vec<String>,
}

impl Asked {
    fn of(params: &Params) -> Asked {
        let state: Vec<&str> = params.list("state").collect();
        Asked {
            state: state.join(","),
            name: params.text("name").unwrap_or_default().to_owned(),
            driver: params.text("driver").unwrap_or_default().to_owned(),
            worker: params.text("worker").unwrap_or_default().to_owned(),
            labels: params.all("label").filter(|label| !label.is_empty()).map(str::to_owned).collect(),
        }
    }

    fn href(&self, path: &str, cursor: &str) -> String {
        let mut pairs = vec![
            ("state", self.state.as_str()),
            ("name", self.name.as_str()),
            ("driver", self.driver.as_str()),
            ("worker", self.worker.as_str()),
        ];
        pairs.extend(self.labels.iter().map(|label| ("label", label.as_str())));
        pairs.push(("cursor", cursor));
        address(path, &pairs)
    }

    /// Each filter with the address that takes it off.
    fn filters(&self) -> Vec<Choice> {
        let off =
            |name: String, rest: Asked| Choice { name, href: rest.href("/jobs", ""), ..Choice::default() };
        let mut filters = Vec::new();
        if !self.state.is_empty() {
            filters.push(off(self.state.replace(',', ", "), Asked { state: String::new(), ..self.clone() }));
        }
        if !self.name.is_empty() {
            filters.push(off(
                format!("name contains {}", self.name),
                Asked { name: String::new(), ..self.clone() },
            ));
        }
        if !self.driver.is_empty() {
            filters.push(off(
                format!("driver {}", self.driver),
                Asked { driver: String::new(), ..self.clone() },
            ));
        }
        if !self.worker.is_empty() {
            filters.push(off(
                format!("worker {}", self.worker),
                Asked { worker: String::new(), ..self.clone() },
            ));
        }
        filters.extend(self.label_filters());
        filters
    }

    fn label_filters(&self) -> Vec<Choice> {
        let without = |at: usize| {
            let mut labels = self.labels.clone();
            labels.remove(at);
            Asked { labels, ..self.clone() }
        };
        let chip = |(at, label): (usize, &String)| Choice {
            name: label.clone(),
            href: without(at).href("/jobs", ""),
            ..Choice::default()
        };
        self.labels.iter().enumerate().map(chip).collect()
    }

    /// The same on the command line.
    fn cli(&self) -> String {
        let mut words = vec!["gaffer jobs".to_owned()];
        if !self.state.is_empty() {
            words.push(format!("--state {}", quoted(&self.state)));
        }
        if !self.name.is_empty() {
            words.push(format!("--name {}", quoted(&self.name)));
        }
        if !self.driver.is_empty() {
            words.push(format!("--driver {}", quoted(&self.driver)));
        }
        if !self.worker.is_empty() {
            words.push(format!("--worker {}", quoted(&self.worker)));
        }
        words.extend(self.labels.iter().map(|label| format!("-l {}", quoted(label))));
        words.join(" ")
    }
}

/// The same request with curl.
pub fn curl(site: &Site, method: &str, path: &str) -> String {
    let method = if method == "GET" { String::new() } else { format!(" -X {method}") };
    let url = quoted(&format!("{}/api/v1{path}", site.public_url));
    format!("curl{method} -H \"Authorization: Bearer $GAFFER_KEY\" {url}")
}

fn known(params: Params) -> Result<Params, Error> {
    params.only(&["cursor", "name", "driver", "worker"], &["state", "label"])
}

/// `GET /jobs`
pub async fn list(
    State(views): State<Arc<Views>>,
    State(site): State<Arc<Site>>,
    visitor: SessionUser,
    params: Params,
) -> Result<Response, Error> {
    let params = known(params)?;
    let asked = Asked::of(&params);
    let filter = filter(&views, &visitor.actor, &params).await?;
    let found = views.reads.job_search(visitor.actor.project, &filter, PAGE_ROWS + 1, MAX_SEARCHED).await?;
    let mut jobs = found.jobs;
    views.healths.add_availability(&mut jobs);
    let more = jobs.len() > PAGE_ROWS as usize;
    jobs.truncate(PAGE_ROWS as usize);
    let here = params.text("cursor").unwrap_or_default();
    let last = jobs.last().filter(|_| more).map(|job| job.id).or(found.searched_to);
    let older = last.map(|last| asked.href("/jobs", &cursor(last.0)));
    let states = STATES.map(|(name, state)| Choice {
        name: name.to_owned(),
        href: Asked { state: state.to_owned(), ..asked.clone() }.href("/jobs", ""),
        is_chosen: asked.state == state,
    });
    page(&JobsPage {
        frame: visitor.frame("/jobs"),
        live: asked.href("/jobs/live", here),
        cli: asked.cli(),
        curl: curl(&site, "GET", &asked.href("/jobs", "")),
        states: states.into(),
        chosen_states: Some(asked.state.clone()).filter(|state| !state.is_empty()).into_iter().collect(),
        chosen_labels: asked.label_filters(),
        filters: asked.filters(),
        is_filtered: !asked.filters().is_empty() || !here.is_empty(),
        rows: jobs.iter().map(JobRow::from).collect(),
        blank: JobRow::default(),
        searched: found.searched_to.map(|_| many(u64::from(MAX_SEARCHED))),
        newest: (!here.is_empty()).then(|| asked.href("/jobs", "")),
        older,
        driver: asked.driver,
        worker: asked.worker,
        name: asked.name,
    })
}

/// `GET /jobs/live`: the stream of that page.
pub async fn live(
    State(views): State<Arc<Views>>,
    State(feeds): State<Arc<Feeds>>,
    visitor: SessionUser,
    params: Params,
) -> Result<Response, Error> {
    let params = known(params)?;
    let filter = filter(&views, &visitor.actor, &params).await?;
    let project = visitor.actor.project;
    let key = format!("{project} jobs {filter:?}");
    let feed = || JobsFeed {
        changes: views.changes.of_any(),
        fresh: filter.before.is_none(),
        filter,
        views: views.clone(),
        project,
        departed: BTreeMap::new(),
        listed: Vec::new(),
    };
    Ok(stream(&views, &feeds, key, Browser::default(), feed))
}

struct JobsFeed {
    views: Arc<Views>,
    project: ProjectId,
    filter: JobFilter,
    /// Whether new jobs belong to this page: the first one.
    fresh: bool,
    changes: watch::Receiver<u64>,
    /// Jobs that have left the list, as they were last, the latest ones: they stay on the pages that show them.
    departed: BTreeMap<JobId, Job>,
    listed: Vec<Job>,
}

impl JobsFeed {
    /// Looks at what the page asks for, and at what has left the list and is not over.
    async fn look_at_jobs(&mut self) -> Result<(), Error> {
        let mut found =
            self.views.reads.job_search(self.project, &self.filter, PAGE_ROWS, MAX_SEARCHED_LIVE).await?;
        self.views.healths.add_availability(&mut found.jobs);
        let before = std::mem::replace(&mut self.listed, found.jobs);
        self.departed.extend(before.into_iter().map(|job| (job.id, job)));
        self.departed.retain(|id, _| !self.listed.iter().any(|listed| listed.id == *id));
        let unfinished = self.departed.values().filter(|job| !job.is_over());
        let unfinished: Vec<JobId> = unfinished.map(|job| job.id).collect();
        let mut now = self.views.reads.jobs_by_id(self.project, &unfinished).await?;
        self.views.healths.add_availability(&mut now);
        // What was deleted is nowhere.
        for job in unfinished.iter().filter(|id| !now.iter().any(|job| job.id == **id)) {
            self.departed.remove(job);
        }
        self.departed.extend(now.into_iter().map(|job| (job.id, job)));
        while self.departed.len() > MAX_DEPARTED {
            self.departed.pop_first();
        }
        Ok(())
    }
}

impl Feed for JobsFeed {
    async fn look(&mut self) -> Result<View, Error> {
        self.changes.mark_unchanged();
        self.look_at_jobs().await?;
        // Oldest first: each new row is put on top of those before.
        let rows: Vec<JobRow> = self.listed.iter().rev().map(JobRow::from).collect();
        let departed: Vec<JobRow> = self.departed.values().map(JobRow::from).collect();
        Ok(View::default().some("jobs", &rows, self.fresh).departed("jobs", &departed))
    }

    async fn changed(&mut self) {
        let _ = self.changes.changed().await;
    }

    fn pace(&self) -> Duration {
        PACE
    }
}
