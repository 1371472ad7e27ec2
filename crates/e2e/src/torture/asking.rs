//! Requests of a run to the REST API, retried while the master is unavailable.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use gaffer_protocol::rest::{Event, Job, OutputData, OutputLine, Page, Task, TaskDetail, Worker};
use reqwest::header::RETRY_AFTER;
use reqwest::{Method, Response, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::sleep;

use super::fleet::Fleet;
use crate::client::Client;

/// How long anything may take to answer again after a fault.
const PATIENCE: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_millis(100);

impl Fleet {
    /// A client of the master.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Submits until it is accepted; the key makes that one job, however often it takes.
    pub async fn submit(&self, spec: &Value, key: u64) -> i64 {
        let answer = self
            .patiently("a job to be accepted", async || {
                let request = self.client.request(Method::POST, "/jobs").json(spec);
                let answer = request.header("idempotency-key", key.to_string()).send().await.ok()?;
                self.note(&answer);
                let (status, text) = (answer.status(), answer.text().await.ok()?);
                let is_accepted = status.is_success();
                assert!(is_accepted || status.is_server_error(), "a good job is refused: {text}");
                if is_accepted { serde_json::from_str::<Value>(&text).ok() } else { None }
            })
            .await;
        answer["id"].as_i64().unwrap()
    }

    /// Tasks of these jobs that are not over, as far as anybody can tell now.
    pub async fn waiting(&self, jobs: &[(i64, u64)]) -> u64 {
        let Some((last, _)) = jobs.last() else { return 0 };
        let Some(job) = self.ask::<Job>(&format!("/jobs/{last}")).await else { return u64::MAX };
        let over = ["completed", "failed", "cancelled"];
        let counts = job.task_counts.iter().filter(|(state, _)| !over.contains(&state.as_str()));
        counts.map(|(_, count)| count.unsigned_abs()).sum()
    }

    /// Waits until all is over, or until patience ends; gives all tasks as they are then, with their jobs' seeds.
    pub async fn settle(&self, jobs: &[(i64, u64)], patience: Duration) -> Vec<(u64, Task)> {
        let deadline = Instant::now() + patience;
        let mut all = Vec::new();
        for (job, seed) in jobs {
            while Instant::now() < deadline
                && self
                    .ask::<Job>(&format!("/jobs/{job}?wait=5s"))
                    .await
                    .is_none_or(|job| job.finished_at.is_none())
            {
                sleep(RETRY).await;
            }
            all.extend(self.tasks(*job).await.into_iter().map(|task| (*seed, task)));
        }
        all
    }

    /// The tasks of a job, at most 500; none if there is no such job.
    pub async fn tasks(&self, job: i64) -> Vec<Task> {
        let path = format!("/jobs/{job}/tasks?limit=500");
        let page: Option<Page<Task>> =
            self.patiently("the tasks of a job", async || self.ask_known(&path).await).await;
        page.map_or_else(Vec::new, |page| page.items)
    }

    /// A task with all its attempts.
    pub async fn detail(&self, task: &Task) -> TaskDetail {
        let path = format!("/jobs/{}/tasks/{}", task.job, task.address);
        self.patiently("a task", async || self.ask(&path).await).await
    }

    /// A task's output, as records.
    pub async fn output(&self, task: &Task) -> Vec<OutputData> {
        self.records(&format!("/jobs/{}/tasks/{}/output", task.job, task.address)).await
    }

    /// The output of all tasks of a job, as records.
    pub async fn output_of_job(&self, job: i64) -> Vec<OutputData> {
        self.records(&format!("/jobs/{job}/output")).await
    }

    async fn records(&self, path: &str) -> Vec<OutputData> {
        let text = self
            .patiently("an output", async || {
                let request = self.client.request(Method::GET, path).header("accept", "application/x-ndjson");
                let answer = request.send().await.ok()?;
                self.note(&answer);
                // One that breaks off in the middle is asked for again, too.
                if answer.status().is_success() { answer.text().await.ok() } else { None }
            })
            .await;
        let lines = text.lines().filter_map(|line| serde_json::from_str::<OutputLine>(line).ok());
        let data = lines.filter_map(|line| match line {
            OutputLine::Data(data) => Some(data),
            OutputLine::End(_) | OutputLine::Match(_) | OutputLine::Searched(_) | OutputLine::Error(_) => {
                None
            }
        });
        data.collect()
    }

    /// A worker as the master has it; none if nobody answers, or if it never dialled in.
    pub async fn worker(&self, number: usize) -> Option<Worker> {
        worker(&self.client, &Fleet::name(number)).await
    }

    /// Waits until all workers are connected.
    pub async fn assemble(&self) {
        for number in 0..self.workers() {
            self.patiently("a worker to dial in", async || {
                self.worker(number).await.filter(|worker| worker.state == "online")
            })
            .await;
        }
    }

    /// All that happened after an event.
    pub async fn history(&self, after: i64) -> Vec<Event> {
        let (mut all, mut after) = (Vec::new(), after);
        loop {
            let path = format!("/events?limit=500&after={after}");
            let page: Page<Event> = self.patiently("history", async || self.ask(&path).await).await;
            let Some(last) = page.items.last() else { return all };
            after = last.id;
            all.extend(page.items);
        }
    }

    pub async fn ask<T: DeserializeOwned>(&self, path: &str) -> Option<T> {
        let answer = self.client.request(Method::GET, path).send().await.ok()?;
        self.note(&answer);
        if answer.status().is_success() { answer.json().await.ok() } else { None }
    }

    /// The same of what need not be there: none inside if it is not.
    async fn ask_known<T: DeserializeOwned>(&self, path: &str) -> Option<Option<T>> {
        let answer = self.client.request(Method::GET, path).send().await.ok()?;
        self.note(&answer);
        match answer.status().as_u16() {
            404 => Some(None),
            200 => answer.json().await.ok().map(Some),
            _ => None,
        }
    }

    pub(super) fn note(&self, answer: &Response) {
        if answer.status().is_server_error() {
            self.server_errors.fetch_add(1, Ordering::Relaxed);
            if answer.status() != StatusCode::SERVICE_UNAVAILABLE
                || !answer.headers().contains_key(RETRY_AFTER)
            {
                let told = format!("{} of {}", answer.status(), answer.url().path());
                self.improper_errors.lock().unwrap_or_else(PoisonError::into_inner).push(told);
            }
        }
    }

    async fn patiently<T>(&self, what: &str, ask: impl AsyncFn() -> Option<T>) -> T {
        crate::eventually_within(PATIENCE, what, async || ask().await).await
    }
}

/// Looks until there is something, so often that how long it took is a measurement.
pub async fn watched<T>(patience: Duration, what: &str, look: impl AsyncFn() -> Option<T>) -> T {
    const PAUSE: Duration = Duration::from_millis(5);
    let start = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(start.elapsed() < patience, "waited {patience:?} in vain until {what}");
        sleep(PAUSE).await;
    }
}

/// A worker as the master has it now.
pub async fn worker(client: &Client, name: &str) -> Option<Worker> {
    let answer = client.request(Method::GET, &format!("/workers/{name}")).send().await.ok()?;
    if answer.status().is_success() { answer.json().await.ok() } else { None }
}
