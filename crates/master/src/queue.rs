//! Waiting tasks of a project in scheduling order with reasons, and scheduler statistics.

use std::time::Duration;

use gaffer_domain::Time;
use gaffer_domain::permissions::Action;
use gaffer_domain::placement::Strategy;
use gaffer_domain::projects::Weight;
use gaffer_domain::queue::{Line, lines, share_of_shared};

use crate::background::scheduler::reservations::ReservedFor;
use crate::background::scheduler::stats::Passes;
use crate::explain::{Judge, line_of};
use crate::operations::Actor;
use crate::records::{QueueClass, QueuePosition, WaitingTasks};
use crate::snapshot::Snapshot;
use crate::store::StoreError;
use crate::views::Views;

/// Maximum number of listed classes.
const MAX_CLASSES: usize = 100;
/// Maximum number of listed workers per class; `explain` lists all.
const MAX_VERDICTS: usize = 50;

/// What waits for workers, and how the scheduler does.
#[derive(Debug, Clone)]
pub struct Queue {
    /// The weight of the project beside others on shared workers.
    pub weight: Weight,
    /// Its dominant share of the shared workers that it may use, 0 to 1; none if there is none.
    pub share: Option<f64>,
    /// How workers are chosen for jobs that do not say.
    pub strategy: Strategy,
    /// Number of waiting tasks.
    pub waiting: u64,
    /// Since when the first of them could have been placed.
    pub waiting_since: Option<Time>,
    /// The scheduler's passes since the master started, for who may know of all projects.
    pub passes: Passes,
    /// What waits, by class, in the order in which it will go; at most 100.
    pub classes: Vec<QueueClass>,
}

/// Tells what waits, or waited at most `max_age` ago.
///
/// # Errors
/// When the database does not answer.
pub async fn queue(views: &Views, actor: &Actor, max_age: Duration) -> Result<Queue, StoreError> {
    let snapshot = views.snapshots.of(actor.project, max_age).await?;
    let classes = snapshot.told.get_or_init(|| tell(&snapshot, &views.status.reservations.get()));
    Ok(Queue {
        weight: snapshot.in_use.terms(actor.project).weight,
        share: share_of_shared(&snapshot.in_use, actor.project, &snapshot.offers),
        strategy: views.status.strategy,
        waiting: snapshot.queue.iter().map(|queued| queued.count.unsigned_abs()).sum(),
        waiting_since: snapshot.queue.iter().map(|queued| queued.class.first).min(),
        passes: match actor.must_be_allowed(Action::LookAtScheduler).is_ok() {
            true => views.status.scheduler_stats.passes(),
            false => Default::default(),
        },
        classes: classes.clone(),
    })
}

/// The reasons of waiting classes, in scheduling order.
fn tell(snapshot: &Snapshot, kept: &ReservedFor) -> Vec<QueueClass> {
    let queue = &snapshot.queue;
    let line = line_of(queue);
    let mut places: Vec<(usize, Line)> = lines(&line).into_iter().enumerate().collect();
    places.sort_by_key(|(at, place)| (place.ahead, line[*at].since, line[*at].id));
    let judge = Judge::new(snapshot, kept, MAX_VERDICTS);
    let tell = |(at, Line { ahead, waiting }): &(usize, Line)| {
        let queued = &queue[*at];
        let (class, (job, job_name)) = (&queued.class, &queued.job);
        let workers = queued.workers.as_deref();
        let why = judge.explain(job_name, queued.count, &class.of.needs, class.id, workers);
        let position = Some(QueuePosition { ahead: *ahead, waiting: *waiting });
        QueueClass {
            class: class.id,
            priority: class.of.priority,
            owner: class.of.owner.clone(),
            needs: class.of.needs.to_string(),
            job: *job,
            job_name: job_name.clone(),
            since: class.first,
            why: WaitingTasks { position, ..why },
        }
    };
    places.iter().take(MAX_CLASSES).map(tell).collect()
}
