//! The installation that is measured: its API, and what this run makes there: jobs, which carry a label, and a session of the
//! dashboard. At the end they are deleted.

use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt as _, stream};
use gaffer_domain::JobId;
use gaffer_domain::job::JobState;
use gaffer_domain::task::StateName;
use gaffer_domain::worker::WorkerState;
use gaffer_protocol::rest::{Job, Page, Task, Worker};
use serde_json::{Value, json};
use tokio::sync::OnceCell;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::dashboard::Dashboard;
use super::leftovers::{Leftover, Leftovers};
use crate::access::Access;
use crate::client::{Client, Query};
use crate::failure::Failure;

/// The label of all jobs of measurements; its value is the run.
pub const LABEL: &str = "gaffer-bench";
/// The beginning of their names.
pub const NAME: &str = "bench ";
/// How long the jobs of a run may take to end and to be deleted.
const CLEAN_UP_TIMEOUT: Duration = Duration::from_secs(120);
/// How many jobs are deleted at the same time.
const DELETED_AT_ONCE: usize = 8;
const LARGEST_PAGE: &str = "500";

/// What is on the workers before anything is measured.
pub struct Found {
    /// The name of a worker that can run tasks.
    pub worker: String,
    /// Tasks that are on these workers already.
    pub other_tasks: i64,
}

/// The API of an installation, and which of its jobs are ours.
pub struct Installation {
    pub client: Arc<Client>,
    pub access: Access,
    /// What makes something that has to be removed. It is waited for even when a measurement is dropped, or what it makes would be
    /// found by nobody.
    submissions: TaskTracker,
    /// The value of the label.
    run: String,
    /// The only worker that is to run tasks.
    worker: Option<String>,
    /// The session of the dashboard, if one was needed.
    dashboard: Arc<OnceCell<Arc<Dashboard>>>,
    leftovers: Leftovers,
}

impl Installation {
    /// Nothing is sent yet.
    ///
    /// # Errors
    /// [`Failure::Usage`] if address or key cannot be used.
    pub fn new(
        access: Access,
        worker: Option<String>,
        leftovers: Leftovers,
    ) -> Result<Installation, Failure> {
        // A word in every place, also where a number would be something else.
        let run = format!("r{}", &Uuid::new_v4().simple().to_string()[..12]);
        let client = Arc::new(Client::new(&access)?);
        let (submissions, dashboard) = (TaskTracker::new(), Arc::default());
        Ok(Installation { client, access, submissions, run, worker, dashboard, leftovers })
    }

    /// The label of this run's jobs: `gaffer-bench=…`.
    pub fn label(&self) -> String {
        format!("{LABEL}={}", self.run)
    }

    /// The run, as part of other names.
    pub fn run(&self) -> &str {
        &self.run
    }

    /// The requirement on workers, as an expression.
    pub fn constraint(&self) -> Option<String> {
        self.worker.as_ref().map(|name| format!("name == {}", json!(name)))
    }

    /// Whether there is a worker that can run tasks, and what these workers do already.
    ///
    /// # Errors
    /// [`Failure::Usage`] if there is no such worker; errors of the API or the network.
    pub async fn check(&self) -> Result<Found, Failure> {
        let query = vec![("state", WorkerState::Online.to_string()), ("limit", LARGEST_PAGE.to_owned())];
        let page: Page<Worker> = self.client.read(&["workers"], &query).await?;
        let is_meant = |worker: &&Worker| self.worker.as_ref().is_none_or(|name| *name == worker.name);
        let meant: Vec<&Worker> = page.items.iter().filter(is_meant).collect();
        match (&self.worker, meant.first()) {
            (Some(name), None) => Err(Failure::Usage(format!("--worker {name}: no such worker is online"))),
            (None, None) => Err(Failure::Usage(
                "no worker is online; start one, or measure a scratch installation with --history 0"
                    .to_owned(),
            )),
            (_, Some(first)) => Ok(Found {
                worker: first.name.clone(),
                other_tasks: meant.iter().map(|worker| worker.running + worker.waiting).sum(),
            }),
        }
    }

    /// A specification with what all jobs of this run have: name, label, worker.
    pub fn spec(&self, name: &str, mut fields: Value) -> Value {
        fields["name"] = json!(format!("{NAME}{name}"));
        fields["labels"] = json!({ LABEL: self.run });
        if let Some(constraint) = self.constraint().filter(|_| fields["constraints"].is_null()) {
            fields["constraints"] = json!([constraint]);
        }
        fields
    }

    /// Submits a job.
    ///
    /// # Errors
    /// Errors of the API or the network.
    pub async fn submit(&self, spec: &Value) -> Result<Job, Failure> {
        let (client, spec) = (self.client.clone(), spec.clone());
        self.to_its_end(async move { client.post(&["jobs"], &spec).await?.read() }).await
    }

    /// Does something that makes jobs or others that have to be removed, to its end even if nobody waits for it any more.
    ///
    /// # Errors
    /// Those of `work`.
    pub async fn to_its_end<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Failure>> + Send + 'static,
    ) -> Result<T, Failure> {
        let done = self.submissions.spawn(work).await;
        done.unwrap_or_else(|error| Err(Failure::Local(format!("a submission failed: {error}"))))
    }

    /// The dashboard; signs in when it is needed for the first time.
    ///
    /// # Errors
    /// As [`Dashboard::sign_in`].
    pub async fn dashboard(&self) -> Result<Arc<Dashboard>, Failure> {
        let (client, cell) = (self.client.clone(), self.dashboard.clone());
        let leftovers = self.leftovers.clone();
        let signing_in = async move {
            let sign_in = || async {
                let dashboard = Dashboard::sign_in(&client).await?;
                leftovers.add(Leftover::Session(dashboard.address()));
                Ok(Arc::new(dashboard))
            };
            cell.get_or_try_init(sign_in).await.cloned()
        };
        self.to_its_end(signing_in).await
    }

    /// Ends the session of the dashboard, if there is one.
    ///
    /// # Errors
    /// As [`Dashboard::sign_out`]; [`Failure::Local`] if that takes too long.
    pub async fn sign_out(&self) -> Result<(), Failure> {
        let late = || Failure::Local("the dashboard did not answer in time to sign out".to_owned());
        self.within_time(late, async {
            let Some(dashboard) = self.dashboard.get() else { return Ok(()) };
            dashboard.sign_out().await?;
            self.leftovers.remove(&Leftover::Session(dashboard.address()));
            Ok(())
        })
        .await
    }

    /// Waits for the requests without an answer: they may still make something.
    ///
    /// # Errors
    /// [`Failure::Local`] if that takes too long.
    pub async fn settled(&self) -> Result<(), Failure> {
        let late = || Failure::Local("requests of this run are still without an answer".to_owned());
        self.within_time(late, async { Ok(()) }).await
    }

    /// Waits until a job has ended.
    ///
    /// # Errors
    /// Errors of the API or the network.
    pub async fn ended(&self, job: JobId) -> Result<Job, Failure> {
        loop {
            let job: Job = self.client.wait(job).await?;
            if is_final(&job) {
                return Ok(job);
            }
        }
    }

    /// Waits until all tasks of a job have completed.
    ///
    /// # Errors
    /// [`Failure::Local`] if one has not; errors of the API or the network.
    pub async fn completed(&self, job: JobId) -> Result<Job, Failure> {
        let job = self.ended(job).await?;
        if job.known_state() == Some(JobState::Completed) {
            return Ok(job);
        }
        let completed = job.tasks_in(StateName::Completed);
        let why = job.reason.map(|reason| reason.message).unwrap_or_default();
        Err(Failure::Local(format!("job {} {} after {completed} completed tasks: {why}", job.id, job.state)))
    }

    /// The only task of a job.
    ///
    /// # Errors
    /// Errors of the API or the network.
    pub async fn task(&self, job: JobId) -> Result<Task, Failure> {
        let page: Page<Task> = self.client.read(&["jobs", &job.to_string(), "tasks"], &Query::new()).await?;
        page.items.into_iter().next().ok_or_else(|| Failure::Local(format!("job {job} has no task")))
    }

    /// Stops what is left of this run's jobs and waits for it.
    ///
    /// # Errors
    /// As [`Installation::delete_all`].
    pub async fn end_all(&self) -> Result<(), Failure> {
        self.within_time(|| self.left_over(), async {
            let unfinished: Vec<JobId> =
                self.jobs().await?.iter().filter(|job| !is_final(job)).map(|job| job.id).collect();
            self.each(unfinished, async |job| self.end(job).await).await
        })
        .await
    }

    /// Stops and deletes all jobs of this run.
    ///
    /// # Errors
    /// [`Failure::Local`] if that takes too long, with the label of what is left; errors of the API or the network.
    pub async fn delete_all(&self) -> Result<(), Failure> {
        self.within_time(|| self.left_over(), async {
            loop {
                let jobs = self.jobs().await?;
                if jobs.is_empty() {
                    return Ok(());
                }
                let jobs = jobs.iter().map(|job| job.id).collect();
                self.each(jobs, async |job| self.delete(job).await).await?;
            }
        })
        .await
    }

    /// Stops and deletes the jobs of all runs, also those of one that still measures; returns how many there were.
    ///
    /// # Errors
    /// Errors of the API or the network.
    pub async fn delete_all_runs(&self) -> Result<usize, Failure> {
        let named = self.jobs_where(("name", NAME.to_owned())).await?;
        let jobs: Vec<JobId> =
            named.iter().filter(|job| job.labels.contains_key(LABEL)).map(|job| job.id).collect();
        let count = jobs.len();
        self.each(jobs, async |job| self.delete(job).await).await?;
        Ok(count)
    }

    /// Stops and deletes one job.
    ///
    /// # Errors
    /// Errors of the API or the network.
    pub async fn delete(&self, job: JobId) -> Result<(), Failure> {
        self.end(job).await?;
        match self.client.delete(&["jobs", &job.to_string()]).await {
            Err(failure) if failure.is_not_found() => Ok(()),
            deleted => deleted,
        }
    }

    async fn within_time(
        &self,
        late: impl FnOnce() -> Failure,
        work: impl Future<Output = Result<(), Failure>>,
    ) -> Result<(), Failure> {
        let work = async {
            self.submissions.close();
            self.submissions.wait().await;
            self.submissions.reopen();
            work.await
        };
        tokio::time::timeout(CLEAN_UP_TIMEOUT, work).await.unwrap_or_else(|_| Err(late()))
    }

    /// What to say if jobs are left.
    pub fn left_over(&self) -> Failure {
        Failure::Local(format!("jobs of this run are left: gaffer jobs -l {}", self.label()))
    }

    async fn each(
        &self,
        jobs: Vec<JobId>,
        act: impl AsyncFn(JobId) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let act = &act;
        let mut acts =
            stream::iter(jobs).map(|job| async move { act(job).await }).buffer_unordered(DELETED_AT_ONCE);
        while let Some(done) = acts.next().await {
            done?;
        }
        Ok(())
    }

    /// Stops a job if it has not ended, and waits for its end.
    ///
    /// # Errors
    /// Errors of the API or the network.
    pub async fn end(&self, job: JobId) -> Result<(), Failure> {
        let path = ["jobs", &job.to_string()];
        let now: Job = match self.client.read(&path, &Query::new()).await {
            Err(failure) if failure.is_not_found() => return Ok(()),
            now => now?,
        };
        if is_final(&now) {
            return Ok(());
        }
        match self.client.post(&["jobs", path[1], "stop"], &json!({})).await {
            Ok(_) => {}
            Err(failure) if failure.is_conflict() || failure.is_not_found() => {}
            Err(failure) => return Err(failure),
        }
        self.ended(job).await.map(|_| ())
    }

    /// All jobs of this run, found by their label: also one whose submission was interrupted.
    async fn jobs(&self) -> Result<Vec<Job>, Failure> {
        self.jobs_where(("label", self.label())).await
    }

    async fn jobs_where(&self, filter: (&'static str, String)) -> Result<Vec<Job>, Failure> {
        let mut jobs = Vec::new();
        let mut cursor = None;
        loop {
            let mut query = vec![filter.clone(), ("limit", LARGEST_PAGE.to_owned())];
            query.extend(cursor.map(|cursor| ("cursor", cursor)));
            let page: Page<Job> = self.client.read(&["jobs"], &query).await?;
            jobs.extend(page.items);
            cursor = page.next_cursor;
            if cursor.is_none() {
                return Ok(jobs);
            }
        }
    }
}

fn is_final(job: &Job) -> bool {
    job.known_state().is_some_and(JobState::is_final)
}
