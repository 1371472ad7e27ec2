//! Placement: [`feasible`], then [`score`]; the lowest score wins, and each step can be explained.

mod each_worker;
mod feasible;
mod feature;
mod help;
mod infeasible;
pub mod pauses;
pub(crate) mod ranking;
mod receipt;
mod requirements;
mod strategy;
#[cfg(test)]
pub(crate) mod tests;
pub mod unhealthy;
mod worker_snapshot;

use std::time::Duration;

use self::ranking::{Course, Question, Ranking, suitable_at};
use crate::quantity::Span;
pub use crate::spec::{Strategy, UnknownStrategy};
use crate::{ProjectId, Time, WorkerId};
pub use each_worker::{EachWorker, each_worker, no_worker};
pub use feasible::{backlog_limit, feasible, room, suitable};
pub(crate) use feasible::{shortfall, suits};
pub use feature::{Feature, UnknownFeature};
pub use help::{Change, Help, what_would_help};
pub use infeasible::{Infeasible, Resource};
pub use receipt::{Candidate, Part, Receipt};
pub use requirements::{DefinitionRef, HostPort, Requirements};
pub use strategy::{Fleet, LIEB, Terms, score, terms};
pub use worker_snapshot::{Lasting, Measured, READING_GOOD_FOR, Taken, WorkerSnapshot};

/// How far ahead of its capacity a worker is given work: as much as it runs in this time, so that short tasks never
/// wait for a message to travel.
pub const BACKLOG_HORIZON: Span = Span::from_millis(1_000);
/// A task queued on a worker for longer than this was a wrong estimate, and is returned.
pub const TAKE_BACK_AFTER: Span = Span::from_millis(3_000);
/// The most tasks that wait on one worker, however short they are.
pub const MAX_BACKLOG: u32 = 512;

/// The input of a pass for one class.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// What each task needs.
    pub needs: &'a Requirements,
    /// Whose they are.
    pub project: ProjectId,
    /// Maximum number of placements.
    pub tasks: usize,
    /// How long attempts of the class ran lately; none if that is not known.
    pub mean_run: Option<Duration>,
    /// How workers are scored where the needs do not say.
    pub strategy: Strategy,
    /// The worker chosen last for the project: *round_robin* continues after it.
    pub last: Option<WorkerId>,
    /// For the receipts.
    pub now: Option<Time>,
}

/// One pass for one class: chooses workers for up to `tasks` tasks, one after the other, keeping count in `offers` as it
/// goes. Deterministic: of equal scores the worker wins where fewer attempts wait (so that tasks which need nothing are
/// spread, too), then the one with the lower id. Who starts a task at once goes before who would let it wait. Ends at the
/// first task that fits nowhere, as the others have the same needs.
///
/// Each offer is ranked once, and the chosen one again, as long as the choice of one changes no other's rank.
pub fn place(request: &Request<'_>, offers: &mut [WorkerSnapshot]) -> Vec<(WorkerId, Receipt)> {
    let Request { needs, project, tasks, mean_run, strategy, last, now } = *request;
    let workers = offers.iter().filter(|offer| offer.is_for(project)).count() as u32;
    let strategy = needs.strategy.unwrap_or(strategy);
    let question = Question { class: 0, needs, project, strategy, mean_run, now, workers };
    let mut course = Course { fleet: Fleet::of(project, offers), last };
    let suitable = suitable_at(needs, project, offers);
    let mut ranking = Ranking::new(question, &suitable, offers, &course);
    let mut placed = Vec::new();
    while placed.len() < tasks
        && let Some((at, receipt)) = ranking.choose(offers, &mut course)
    {
        placed.push((offers[at].worker, receipt));
    }
    placed
}
