//! The list of jobs: filters in the address, rows that change in place.

use std::sync::Arc;
use std::time::Duration;

use askama::Template;
use axum::extract::State;
use axum::response::Response;
use axum::response::sse::Event;
use gaffer_domain::JobId;
use gaffer_protocol::rest;
use tokio::sync::watch;

use super::super::api::jobs::filter;
use super::super::auth::Caller;
use super::super::error::Error;
use super::super::params::{Params, cursor};
use super::frame::{Frame, Visitor};
use super::page;
use super::rows::{Choice, JobRow};
use super::shown::{address, quoted};
use super::stream::{Feed, Sent, stream};
use crate::Master;
use crate::store::jobs::JobFilter;

const PAGE_ROWS: u32 = 50;
const PACE: Duration = Duration::from_millis(700);
/// The states to choose from, as they stand in the address.
const STATES: [(&str, &str); 5] = [
    ("All", ""),
    ("Under way", "pending,running,stopping"),
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
    name: String,
    filters: Vec<Choice>,
    is_filtered: bool,
    rows: Vec<JobRow>,
    blank: JobRow,
    newest: Option<String>,
    older: Option<String>,
}

/// What the address asks for, to make other addresses of it.
#[derive(Debug, Clone, Default)]
struct Asked {
    state: String,
    name: String,
    driver: String,
    labels: Vec<String>,
}

impl Asked {
    fn of(params: &Params) -> Asked {
        let state: Vec<&str> = params.list("state").collect();
        Asked {
            state: state.join(","),
            name: params.text("name").unwrap_or_default().to_owned(),
            driver: params.text("driver").unwrap_or_default().to_owned(),
            labels: params.all("label").filter(|label| !label.is_empty()).map(str::to_owned).collect(),
        }
    }

    fn href(&self, path: &str, cursor: &str) -> String {
        let mut pairs = vec![
            ("state", self.state.as_str()),
            ("name", self.name.as_str()),
            ("driver", self.driver.as_str()),
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
        words.extend(self.labels.iter().map(|label| format!("-l {}", quoted(label))));
        words.join(" ")
    }
}

/// The same request with curl.
pub fn curl(master: &Master, method: &str, path: &str) -> String {
    let method = if method == "GET" { String::new() } else { format!(" -X {method}") };
    let url = quoted(&format!("{}/api/v1{path}", master.public_url));
    format!("curl{method} -H \"Authorization: Bearer $GAFFER_KEY\" {url}")
}

fn known(params: Params) -> Result<Params, Error> {
    params.only(&["cursor", "name", "driver"], &["state", "label"])
}

/// `GET /jobs`
pub async fn list(
    State(master): State<Arc<Master>>,
    visitor: Visitor,
    params: Params,
) -> Result<Response, Error> {
    let params = known(params)?;
    let asked = Asked::of(&params);
    let mut jobs = master.store.job_list(visitor.caller.project, &filter(&params)?, PAGE_ROWS + 1).await?;
    let more = jobs.len() > PAGE_ROWS as usize;
    jobs.truncate(PAGE_ROWS as usize);
    let here = params.text("cursor").unwrap_or_default();
    let older = jobs.last().filter(|_| more).map(|last| asked.href("/jobs", &cursor(last.id.0)));
    let states = STATES.map(|(name, state)| Choice {
        name: name.to_owned(),
        href: Asked { state: state.to_owned(), ..asked.clone() }.href("/jobs", ""),
        is_chosen: asked.state == state,
    });
    page(&JobsPage {
        frame: visitor.frame("/jobs"),
        live: asked.href("/jobs/live", here),
        cli: asked.cli(),
        curl: curl(&master, "GET", &asked.href("/jobs", "")),
        states: states.into(),
        chosen_states: Some(asked.state.clone()).filter(|state| !state.is_empty()).into_iter().collect(),
        chosen_labels: asked.label_filters(),
        filters: asked.filters(),
        is_filtered: !asked.filters().is_empty() || !here.is_empty(),
        rows: jobs.iter().map(JobRow::from).collect(),
        blank: JobRow::default(),
        newest: (!here.is_empty()).then(|| asked.href("/jobs", "")),
        older,
        driver: asked.driver,
        name: asked.name,
    })
}

/// `GET /jobs/live`: the stream of that page.
pub async fn live(
    State(master): State<Arc<Master>>,
    visitor: Visitor,
    params: Params,
) -> Result<Response, Error> {
    let params = known(params)?;
    let filter = filter(&params)?;
    let feed = JobsFeed {
        changes: master.changes.of_any(),
        fresh: filter.before.is_none(),
        filter,
        master: master.clone(),
        caller: visitor.caller,
        watched: Vec::new(),
        sent: Sent::default(),
    };
    Ok(stream(master, feed))
}

struct JobsFeed {
    master: Arc<Master>,
    caller: Caller,
    filter: JobFilter,
    /// Whether new jobs belong to this page: the first one.
    fresh: bool,
    changes: watch::Receiver<u64>,
    /// Jobs that the browser shows and that are not over, by number: they stay on the page although they may no
    /// longer be what it asks for.
    watched: Vec<JobId>,
    sent: Sent,
}

impl JobsFeed {
    /// Jobs that were shown and have left the list meanwhile.
    async fn departed(&self, listed: &[rest::Job]) -> Result<Vec<rest::Job>, Error> {
        let mut departed = Vec::new();
        let gone = |job: &&JobId| !listed.iter().any(|listed| listed.id == **job);
        for job in self.watched.iter().filter(gone) {
            departed.extend(self.master.store.job_get(self.caller.project, *job).await?);
        }
        Ok(departed)
    }
}

impl Feed for JobsFeed {
    async fn look(&mut self) -> Result<Vec<Event>, Error> {
        self.changes.mark_unchanged();
        let mut jobs = self.master.store.job_list(self.caller.project, &self.filter, PAGE_ROWS).await?;
        let departed = self.departed(&jobs).await?;
        jobs.extend(departed);
        self.watched = jobs.iter().filter(|job| job.finished_at.is_none()).map(|job| job.id).collect();
        // Oldest first: each new row is put on top of those before.
        let mut rows: Vec<JobRow> = jobs.iter().map(JobRow::from).collect();
        rows.sort_by_key(|row| row.number);
        Ok(self.sent.changes("jobs", &rows, self.fresh).into_iter().collect())
    }

    async fn changed(&mut self) {
        let _ = self.changes.changed().await;
    }

    fn pace(&self) -> Duration {
        PACE
    }
}
