//! The history of a scratch installation: a few finished jobs of several kinds, copied until there are as many tasks as asked for.

use std::time::Duration;

use gaffer_domain::JobId;
use gaffer_master::store::bench::history::History as Database;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::installation::Installation;
use super::local;
use super::scratch::Scratch;
use crate::failure::Failure;
use crate::status::Status;

/// How often the database is asked whether it has deleted everything.
const PAUSE: Duration = Duration::from_millis(50);
/// How long the deletion of the job that a newcomer sees may take.
const SAMPLE_DELETED: Duration = Duration::from_secs(10);
/// Kinds of jobs, each with its name and label; the last one fails.
const KINDS: u64 = 10;
/// The kind that lists look for.
pub const SOUGHT_KIND: u64 = 3;
pub const LABEL: &str = "bench-history";
/// The name, and the value of the label, of two jobs that are older than all others. One is cancelled, and for another driver.
pub const RARE: &str = "needle";

/// The name of the jobs of a kind.
pub fn name(kind: u64) -> String {
    format!("history {kind}")
}

/// The database of a scratch installation with its history.
pub struct Filled {
    pub database: Database,
    /// The latest task of history, and how many there are up to it.
    last_task: i64,
    tasks: u64,
}

/// What is in the database at some moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    pub finished_tasks: u64,
    pub database_bytes: i64,
}

impl Filled {
    /// Waits until nothing is left of deleted jobs, which would be removed beside the next measurements; at most for so long.
    ///
    /// # Errors
    /// [`Failure::Local`] if the database does not answer.
    pub async fn deletion_done(&mut self, patience: Duration) -> Result<(), Failure> {
        let done = async {
            while !self.database.is_deletion_done().await.map_err(local("cannot ask the scratch database"))? {
                sleep(PAUSE).await;
            }
            Ok(())
        };
        // What is left then is counted with what there is.
        timeout(patience, done).await.unwrap_or(Ok(()))
    }

    /// What is there now, with what earlier measurements left.
    ///
    /// # Errors
    /// [`Failure::Local`] if the database does not answer.
    pub async fn standing(&mut self) -> Result<Standing, Failure> {
        let failed = || local("cannot ask the scratch database");
        let later = self.database.finished_tasks_after(self.last_task).await.map_err(failed())?;
        let database_bytes = self.database.size_bytes().await.map_err(failed())?;
        Ok(Standing { finished_tasks: self.tasks + later, database_bytes })
    }
}

/// Writes a history of so many finished tasks, in jobs of `job_tasks` tasks each; one more job has the rest.
///
/// # Errors
/// [`Failure::Local`] if the database does not answer; errors of the API.
pub async fn fill(
    scratch: &Scratch,
    installation: &Installation,
    tasks: u64,
    job_tasks: u32,
    status: &Status<'_>,
) -> Result<Filled, Failure> {
    let failed = || local("cannot fill the scratch database");
    let mut database = Database::connect(&scratch.database_url()?).await.map_err(failed())?;
    database.hold_statistics().await.map_err(failed())?;
    let mut filled = Filled { database, last_task: 0, tasks: 0 };
    filled.deletion_done(SAMPLE_DELETED).await?;
    if tasks > 0 {
        write(&mut filled.database, installation, tasks, u64::from(job_tasks), status).await?;
    }
    filled.tasks = filled.database.finished_tasks_after(0).await.map_err(failed())?;
    filled.last_task = filled.database.latest_finished_task().await.map_err(failed())?;
    Ok(filled)
}

/// Runs one job of each kind, and copies them. All others come before these, which have to be next to each other.
async fn write(
    database: &mut Database,
    installation: &Installation,
    tasks: u64,
    job_tasks: u64,
    status: &Status<'_>,
) -> Result<(), Failure> {
    rare_jobs(installation).await?;
    let (jobs, rest) = (tasks / job_tasks, tasks % job_tasks);
    if rest > 0 {
        let job = installation.submit(&original(0, rest)).await?.id;
        installation.ended(job).await?;
    }
    let mut originals = Vec::new();
    for kind in 0..KINDS.min(jobs) {
        originals.push(installation.submit(&original(kind, job_tasks)).await?.id);
    }
    for job in &originals {
        installation.ended(*job).await?;
    }
    let (Some(JobId(first)), Some(JobId(last))) = (originals.first(), originals.last()) else {
        return Ok(());
    };
    let show = |done: u64| status.show(&format!("history: {} of {tasks} finished tasks", done * job_tasks));
    database.copy_jobs(*first..=*last, jobs, show).await.map_err(local("cannot fill the scratch database"))
}

fn original(kind: u64, tasks: u64) -> Value {
    let command = if kind + 1 == KINDS { json!(["false"]) } else { json!(["echo", "hello"]) };
    json!({
        "name": name(kind),
        "labels": {LABEL: kind.to_string()},
        "command": command,
        "count": tasks,
        "restart": {"policy": "never"},
    })
}

/// One completes, the other is stopped before any worker can run it.
async fn rare_jobs(installation: &Installation) -> Result<(), Failure> {
    let spec = json!({"name": RARE, "labels": {LABEL: RARE}, "command": ["true"]});
    let completed = installation.submit(&spec).await?.id;
    let nowhere = format!("labels.{LABEL} == {RARE}");
    let spec = json!({"name": format!("{RARE} in a container"), "image": RARE, "constraints": [nowhere]});
    let waiting = installation.submit(&spec).await?.id;
    installation.end(waiting).await?;
    installation.completed(completed).await.map(|_| ())
}
