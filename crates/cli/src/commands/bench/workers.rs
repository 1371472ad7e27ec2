//! What idle workers cost, and how soon all of them are back when they reconnect at the same moment.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use gaffer_master::listener::shares;
use gaffer_master::store::bench::history::transactions;
use gaffer_worker::config::ApiKey;
use gaffer_worker::simulated::SimulatedWorker;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;
use uuid::Uuid;

use super::figures::{Figures, KIBIBYTES, PER_SECOND, PERCENT, SECONDS};
use super::processes::{ProcessorTime, resident_kib};
use super::scratch::Scratch;
use super::{Bench, local};
use crate::failure::Failure;
use crate::open_files;

/// Postgres counts what a connection did up to ten seconds later, when nothing more came.
const SETTLED_AFTER: Duration = Duration::from_secs(15);

/// Measures it on a scratch installation.
///
/// # Errors
/// Errors of the API; [`Failure::Local`] if the master refuses a worker.
pub async fn measure(bench: &Bench<'_>, figures: &mut Figures) -> Result<(), Failure> {
    let scratch = bench.scratch()?;
    has_room(bench.args.sessions)?;
    let workers = simulated(bench, "idle", bench.args.sessions).await?;
    let count = f64::from(bench.args.sessions);
    let resident = || scratch.pid().and_then(resident_kib);
    let before = resident();
    let mut fleet = Fleet::default();
    let begun = Instant::now();
    fleet.connect(&workers).await?;
    figures.add("all connect at once", SECONDS, begun.elapsed().as_secs_f64());
    for round in bench.rounds() {
        bench.show("workers", round);
        fleet.hang_up();
        let begun = Instant::now();
        fleet.connect(&workers).await?;
        figures.add("all reconnect at once", SECONDS, begun.elapsed().as_secs_f64());
        if let Some((before, now)) = before.zip(resident()) {
            figures.add("memory of an idle worker", KIBIBYTES, (now - before) / count);
        }
        idle(scratch, bench.args.watch.to_std(), figures).await?;
    }
    Ok(())
}

/// Whether the master of a scratch installation, which has the limit of this process, may have that many workers.
fn has_room(sessions: u32) -> Result<(), Failure> {
    let files = open_files::limit();
    let [.., most] = shares(files, None);
    if sessions > most {
        let detail = format!(
            "--sessions {sessions}: a master that may open {files} files takes {most} workers; \
             raise the limit (ulimit -n) to more than twice as many files as workers"
        );
        return Err(Failure::Local(detail));
    }
    Ok(())
}

/// What the master and its database do while nothing happens. Postgres counts what it did with a delay, so some time passes first.
async fn idle(scratch: &Scratch, time: Duration, figures: &mut Figures) -> Result<(), Failure> {
    sleep(SETTLED_AFTER.max(time * 2)).await;
    let url = scratch.database_url()?;
    let count = async || transactions(&url).await.map_err(local("cannot ask the scratch database"));
    let (used, before, begun) = (ProcessorTime::of(scratch), count().await?, Instant::now());
    sleep(time).await;
    let seconds = begun.elapsed().as_secs_f64();
    if let Some((before, after)) = used.zip(ProcessorTime::of(scratch)) {
        figures.add("processor of gaffer while idle", PERCENT, after.since(before).gaffer / seconds * 100.0);
    }
    let ended = count().await? - before;
    figures.add("transactions while idle", PER_SECOND, ended as f64 / seconds);
    Ok(())
}

/// Simulated workers of the scratch installation, not connected yet.
///
/// # Errors
/// Errors of the API.
pub async fn simulated(bench: &Bench<'_>, name: &str, count: u32) -> Result<Vec<SimulatedWorker>, Failure> {
    let scratch = bench.scratch()?;
    let (route, key) = scratch.for_workers(bench.installation).await?;
    let run = bench.installation.run();
    let worker = |number| SimulatedWorker {
        route: route.clone(),
        key: ApiKey::from(key.clone()),
        identity: Uuid::new_v4(),
        name: format!("{name}-{run}-{number}"),
        labels: BTreeMap::new(),
        takes_tasks: false,
    };
    Ok((0..count).map(worker).collect())
}

/// Connected simulated workers. Dropping it closes their connections.
#[derive(Default)]
pub struct Fleet(JoinSet<anyhow::Error>);

impl Fleet {
    /// Connects all at the same moment, and waits until the last is welcome.
    ///
    /// # Errors
    /// [`Failure::Local`] if the master refuses one.
    pub async fn connect(&mut self, workers: &[SimulatedWorker]) -> Result<(), Failure> {
        let (connected, mut count) = watch::channel(0);
        for worker in workers {
            let (worker, connected) = (worker.clone(), connected.clone());
            self.0.spawn(async move { worker.run(&connected).await });
        }
        let failed = local("a simulated worker cannot connect");
        tokio::select! {
            _ = count.wait_for(|count| *count >= workers.len()) => Ok(()),
            Some(ended) = self.0.join_next() => Err(match ended {
                Ok(error) => failed(error),
                Err(error) => Failure::Local(format!("a simulated worker failed: {error}")),
            }),
        }
    }

    /// Closes all connections without a word.
    pub fn hang_up(&mut self) {
        self.0 = JoinSet::new();
    }
}
