//! Gives waiting tasks to workers: a loop around one pass that anybody may ask for at any time.

use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use gaffer_domain::Time;
use gaffer_domain::placement::{Offer, place, room};
use gaffer_domain::task::TaskEvent;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::pace::Pace;
use crate::recorder::RecorderHandle;
use crate::store::gate::{Detail, Input};
use crate::store::workers::Worker;
use crate::store::{Store, StoreError};

/// The most placements that go through the gate together.
const MAX_PLACED_AT_ONCE: usize = 512;
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
    /// Makes a pass whenever somebody asks for one, or the back-off of some task is over.
    pub async fn run(self, shutdown: CancellationToken) {
        loop {
            let wait = match self.schedule_once(Utc::now()).await {
                Ok(Pass { more: true, .. }) => continue,
                Ok(Pass { next: Some(next), .. }) => {
                    Some((next - Utc::now()).to_std().unwrap_or_default() + Duration::from_millis(1))
                }
                Ok(Pass { next: None, .. }) => None,
                Err(error) => {
                    tracing::warn!(%error, "a scheduling pass failed");
                    Some(RETRY)
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.wake.notified() => {}
                () = sleep_or_forever(wait) => {}
            }
        }
    }

    /// One pass: the classes that wait, highest priority first, each as far as the workers have room for it.
    ///
    /// # Errors
    /// When the database does not answer; nothing was placed then, or it was and shows in the next pass.
    pub async fn schedule_once(&self, now: Time) -> Result<Pass, StoreError> {
        let classes = self.store.classes_pending().await?;
        let mut pass = Pass::default();
        if classes.is_empty() {
            return Ok(pass);
        }
        let mut offers: Vec<Offer> =
            self.store.worker_list(None).await?.iter().map(|worker| offer_of(worker, now)).collect();
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

/// What a worker has to offer, as placement sees it.
pub fn offer_of(worker: &Worker, now: Time) -> Offer {
    Offer {
        worker: worker.id,
        name: worker.name.clone(),
        project: worker.project,
        state: worker.state(now),
        datacenter: worker.datacenter.clone(),
        drivers: worker.drivers.iter().filter(|driver| driver.healthy).map(|driver| driver.driver).collect(),
        capacity: worker.capacity,
        reserved: worker.reserved,
        waiting: worker.waiting.try_into().unwrap_or(u32::MAX),
    }
}


async fn sleep_or_forever(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}
