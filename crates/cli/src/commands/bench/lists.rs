//! How long people wait for lists: jobs by each filter, one job, `gaffer jobs`, and pages of the dashboard.

use std::time::Instant;

use gaffer_domain::JobId;
use gaffer_domain::job::JobState;
use gaffer_domain::spec::DriverKind;
use gaffer_protocol::rest::{Job, Page};
use serde_json::json;

use super::Bench;
use super::figures::{Figures, MILLISECONDS, OF_REQUESTS, millis_since};
use super::history::{LABEL, RARE, SOUGHT_KIND, name};
use super::installation::Installation;
use super::program::Program;
use crate::client::Query;
use crate::failure::Failure;

/// The code of the API for a filter that it does not have.
const UNKNOWN_PARAMETER: &str = "unknown_parameter";
/// A whole process is slow to start, so there are fewer of them: one for so many requests.
const REQUESTS_PER_PROCESS: u32 = 10;

/// Measures it. In a scratch installation with history each filter finds something: in a tenth of all jobs, or only in the oldest.
///
/// # Errors
/// Errors of the API or the network.
pub async fn measure(bench: &Bench<'_>, figures: &mut Figures) -> Result<(), Failure> {
    let installation = bench.installation;
    let job = a_job(installation).await?;
    let lists = lists(installation).await?;
    let dashboard = match installation.dashboard().await {
        Ok(dashboard) => Some(dashboard),
        Err(failure) => {
            figures.note(format!("pages: {failure}"));
            None
        }
    };
    for round in bench.rounds() {
        bench.show("lists", round);
        for list in &lists {
            match samples(bench.args.jobs, async || list.read(installation).await).await {
                Ok(samples) => {
                    figures.add_percentiles(&list.title, MILLISECONDS, OF_REQUESTS, &samples, None)
                }
                Err(Failure::Problem(problem)) if problem.code == UNKNOWN_PARAMETER => {
                    figures.note(format!("{}: this version has no such filter", list.title));
                }
                Err(failure) => return Err(failure),
            }
        }
        let number = job.to_string();
        for (title, path) in [
            ("GET /jobs/{job}", vec!["jobs", &number]),
            ("GET /jobs/{job}/tasks", vec!["jobs", &number, "tasks"]),
        ] {
            let read = async || installation.client.get(&path, &Query::new()).await.map(drop);
            let samples = samples(bench.args.jobs, read).await?;
            figures.add_percentiles(title, MILLISECONDS, OF_REQUESTS, &samples, None);
        }
        for (title, path) in pages(&number).iter().filter(|_| dashboard.is_some()) {
            let Some(dashboard) = &dashboard else { continue };
            let samples = samples(bench.args.jobs, async || dashboard.page(path).await).await?;
            figures.add_percentiles(title, MILLISECONDS, OF_REQUESTS, &samples, None);
        }
        let processes = bench.args.jobs.div_ceil(REQUESTS_PER_PROCESS);
        let samples = samples(processes, async || jobs_command(installation).await).await?;
        figures.add_percentiles("`gaffer jobs`", MILLISECONDS, OF_REQUESTS, &samples, None);
    }
    Ok(())
}

/// A finished job to look at: of history, else one that ends now.
async fn a_job(installation: &Installation) -> Result<JobId, Failure> {
    let spec = installation.spec("lists", json!({"command": ["echo", "hello"]}));
    let own = installation.submit(&spec).await?.id;
    installation.completed(own).await?;
    let query = vec![("label", format!("{LABEL}={SOUGHT_KIND}")), ("limit", "1".to_owned())];
    let page: Page<Job> = installation.client.read(&["jobs"], &query).await?;
    Ok(page.items.first().map_or(own, |job| job.id))
}

/// A request for jobs.
struct List {
    title: String,
    query: Query,
}

impl List {
    fn new(title: &str, query: &[(&'static str, &str)]) -> List {
        let title = format!("GET /jobs{title}");
        List { title, query: query.iter().map(|(name, value)| (*name, (*value).to_owned())).collect() }
    }

    async fn read(&self, installation: &Installation) -> Result<(), Failure> {
        installation.client.get(&["jobs"], &self.query).await.map(drop)
    }
}

/// Every filter, with values that many jobs have and with values of none but the oldest.
async fn lists(installation: &Installation) -> Result<Vec<List>, Failure> {
    let first: Page<Job> = installation.client.read(&["jobs"], &Query::new()).await?;
    let [completed, failed, cancelled] =
        [JobState::Completed, JobState::Failed, JobState::Cancelled].map(JobState::as_str);
    let active = [JobState::Pending, JobState::Running, JobState::Stopping].map(JobState::as_str).join(",");
    let (tenth, rare) = (format!("{LABEL}={SOUGHT_KIND}"), format!("{LABEL}={RARE}"));
    let name = name(SOUGHT_KIND);
    let worker = installation.check().await?.worker;
    let mut lists = vec![
        List::new("", &[]),
        List::new("?state=completed", &[("state", completed)]),
        List::new("?state=failed", &[("state", failed)]),
        List::new("?state=cancelled, rare", &[("state", cancelled)]),
        List::new("?state=active", &[("state", &active)]),
        List::new("?name, a tenth", &[("name", &name)]),
        List::new("?name, rare", &[("name", RARE)]),
        List::new("?label, a tenth", &[("label", &tenth)]),
        List::new("?label, rare", &[("label", &rare)]),
        List::new("?label&name, none", &[("label", &tenth), ("name", RARE)]),
        List::new("?driver=host", &[("driver", DriverKind::Host.as_str())]),
        List::new("?driver=docker, rare", &[("driver", DriverKind::Docker.as_str())]),
        List::new("?worker", &[("worker", &worker)]),
    ];
    if let Some(cursor) = &first.next_cursor {
        lists.push(List::new("?cursor", &[("cursor", cursor)]));
    }
    Ok(lists)
}

/// Pages of the dashboard, by title.
fn pages(job: &str) -> [(&'static str, String); 4] {
    [
        ("page of jobs", "/jobs".to_owned()),
        ("page of jobs, by a rare name", format!("/jobs?name={RARE}")),
        ("page of a job", format!("/jobs/{job}")),
        ("page of a job's events", format!("/jobs/{job}?tab=events")),
    ]
}

/// How long each of so many takes, in milliseconds. The first one fills caches and does not count.
async fn samples(count: u32, act: impl AsyncFn() -> Result<(), Failure>) -> Result<Vec<f64>, Failure> {
    act().await?;
    let mut samples = Vec::new();
    for _ in 0..count {
        let begun = Instant::now();
        act().await?;
        samples.push(millis_since(begun));
    }
    Ok(samples)
}

/// A whole process.
async fn jobs_command(installation: &Installation) -> Result<(), Failure> {
    Program::new(installation, "gaffer jobs", &["jobs"])?.run().await.map(drop)
}
