//! Gives waiting tasks to workers: a loop around one pass that anybody may ask for at any time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{TimeDelta, Utc};
use gaffer_domain::Time;
use gaffer_domain::placement::{Offer, TAKE_BACK_AFTER, place, room};
use gaffer_domain::task::TaskEvent;
use gaffer_protocol::wire::ToWorker;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::hub::Hub;
use crate::pace::Pace;
use crate::recorder::RecorderHandle;
use crate::store::gate::{Detail, Input};
use crate::store::workers::Worker;
use crate::store::{Store, StoreError};

/// The most placements that go through the gate together.
const MAX_PLACED_AT_ONCE: usize = 512;
/// The most attempts that are asked for back together.
const MAX_TAKEN_BACK_AT_ONCE: u32 = 2_000;
/// Wait after a failure of the database.
const RETRY: Duration = Duration::from_millis(500);

/// The scheduler.
#[derive(Debug)]
pub struct Scheduler {
    /// Where tasks and workers are read.
    pub store: Store,
    /// How far ahead to place.
    pub pace: Pace,
    /// Through which placements go to the gate.
    pub recorder: RecorderHandle,
    /// Asks for a pass.
    pub wake: Arc<Notify>,
    /// Through which workers are asked to give back what waits too long.
    pub hub: Hub,
}

/// What one pass did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pass {
    /// So many tasks were placed.
    pub placed: usize,
    /// More could be placed at once.
    pub more: bool,
    /// A task in its back-off may be placed from then on.
    pub next: Option<Time>,
}

impl Scheduler {
    /// Makes a pass whenever somebody asks for one, or the back-off of some task is over. Now and then, as long as
    /// anything waits on a worker, asks for what has waited there too long.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut take_back_at: Option<Instant> = None;
        loop {
            let wait = match self.schedule_once(Utc::now()).await {
                Ok(pass) => {
                    if pass.placed > 0 {
                        take_back_at.get_or_insert_with(|| Instant::now() + TAKE_BACK_AFTER.to_std());
                    }
                    if pass.more {
                        continue;
                    }
                    pass.next.map(|next| {
                        (next - Utc::now()).to_std().unwrap_or_default() + Duration::from_millis(1)
                    })
                }
                Err(error) => {
                    tracing::warn!(%error, "a scheduling pass failed");
                    Some(RETRY)
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.wake.notified() => {}
                () = sleep_or_forever(wait) => {}
                () = sleep_or_forever(take_back_at.map(|at| at.saturating_duration_since(Instant::now()))) => {
                    take_back_at = match self.take_back_once(Utc::now()).await {
                        Ok(false) => None,
                        Ok(true) | Err(_) => Some(Instant::now() + TAKE_BACK_AFTER.to_std()),
                    };
                }
            }
        }
    }

    /// Asks workers to give back what they have not started for too long: they were expected to be faster. Returns
    /// whether anything waits on a worker at all.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn take_back_once(&self, now: Time) -> Result<bool, StoreError> {
        let placed_before = now - TimeDelta::milliseconds(TAKE_BACK_AFTER.as_millis() as i64);
        let (overdue, any) = self.store.tasks_unstarted(placed_before, MAX_TAKEN_BACK_AT_ONCE).await?;
        for (attempt, worker) in overdue {
            self.hub.send(worker, ToWorker::TakeBack { attempt });
        }
        Ok(any)
    }

    /// One pass: the classes that wait, highest priority first, each as far as the workers have room for it.
    ///
    /// # Errors
    /// When the database does not answer; nothing was placed then, or it was and shows in the next pass.
    pub async fn schedule_once(&self, now: Time) -> Result<Pass, StoreError> {
        let mut pass = Pass::default();
        if !self.store.tasks_any_pending().await? {
            return Ok(pass);
        }
        // In this order: what a worker that has just come is given is the best of all that was accepted before.
        let workers = self.store.worker_list(None).await?;
        let classes = self.store.classes_pending().await?;
        let offer = |worker: &Worker| {
            let finished_lately = self.pace.finished_lately(worker.id, Instant::now());
            Offer { finished_lately, ..offer_of(worker, now) }
        };
        let mut offers: Vec<Offer> = workers.iter().map(offer).collect();
        let mut inputs = Vec::new();
        for class in classes {
            if class.first > now {
                pass.next = Some(pass.next.map_or(class.first, |next| next.min(class.first)));
                continue;
            }
            let mean_run = self.pace.mean(class.id);
            let free = MAX_PLACED_AT_ONCE - inputs.len();
            let room = room(&class.needs, class.project, &offers, mean_run).min(free);
            if room == 0 {
                continue;
            }
            let tasks = self.store.class_heads(class.id, now, room as u32).await?;
            let placed = place(&class.needs, class.project, tasks.len(), &mut offers, mean_run);
            for (task, (worker, receipt)) in tasks.into_iter().zip(placed) {
                let event = TaskEvent::Placed { worker };
                let detail = Detail::Placement(Box::new(receipt));
                inputs.push(Input { task, event, actor: "scheduler".into(), detail });
            }
            if inputs.len() >= MAX_PLACED_AT_ONCE {
                pass.more = true;
                break;
            }
        }
        if inputs.is_empty() {
            return Ok(pass);
        }
        match self.recorder.events(inputs).await {
            Ok(results) => pass.placed = results.iter().filter(|result| result.is_ok()).count(),
            Err(_) => pass.more = false,
        }
        Ok(pass)
    }
}

/// What a worker has to offer beside what it does now; without a backlog.
pub fn offer_of(worker: &Worker, now: Time) -> Offer {
    Offer {
        worker: worker.id,
        name: worker.name.clone(),
        project: worker.project,
        state: worker.state(now),
        datacenter: worker.datacenter.clone(),
        drivers: worker.drivers.iter().filter(|driver| driver.healthy).map(|driver| driver.driver).collect(),
        broken_drivers: worker
            .drivers
            .iter()
            .filter(|driver| !driver.healthy)
            .map(|driver| (driver.driver, driver.detail.clone().unwrap_or_default()))
            .collect(),
        capacity: worker.capacity,
        reserved: worker.reserved,
        waiting: worker.waiting.try_into().unwrap_or(u32::MAX),
        finished_lately: 0,
    }
}

async fn sleep_or_forever(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}
