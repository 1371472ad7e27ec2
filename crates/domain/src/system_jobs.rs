//! On which workers a job of `type: system` has an instance: one of each task on every worker that matches.
//!
//! [`decide`] compares the workers with the instances that there are, and remembers nothing: it is asked again whenever a worker may
//! have changed. An instance is a task with an index, and belongs to one worker for as long as the job lives. When its worker does not
//! match any more, it is scaled down; when the worker matches again, the same instance runs again.
//!
//! A worker that is out of contact for a moment counts as if it were connected. A worker that is lost or cordoned, or whose driver
//! fails, keeps the instance that it has and gets no new one: what it executes says when it ends. A worker that drains keeps none.

use std::collections::HashMap;

use crate::placement::{Infeasible, Requirements, WorkerSnapshot, suitable};
use crate::worker::{Intake, WorkerState};
use crate::{ProjectId, TaskId, WorkerId};

/// An instance of a definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// Its task.
    pub task: TaskId,
    /// The only worker that it runs on.
    pub worker: WorkerId,
    /// The worker's name.
    pub name: String,
    /// How far it is.
    pub state: InstanceState,
}

/// How far an instance is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InstanceState {
    /// It waits for its worker, or is there.
    Live,
    /// It is being scaled down.
    Leaving,
    /// It was scaled down.
    Away,
    /// It ended by itself. `is_present`: its attempt was of the present version of its definition.
    Ended {
        /// Whether a newer version may do better.
        is_present: bool,
    },
    /// It was stopped for another reason, such as too many failures in the job.
    Stopped,
}

/// Whether a worker is to have an instance.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// It is.
    Yes,
    /// It keeps one that it has, and gets none.
    KeepsOnly(Infeasible),
    /// It is to have none.
    No(Infeasible),
}

/// What is to be done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// The workers that get their first instance, by name.
    pub start: Vec<(WorkerId, String)>,
    /// The instances that run again.
    pub resume: Vec<TaskId>,
    /// The instances that are scaled down, and why.
    pub stop: Vec<(TaskId, String)>,
}

impl Plan {
    /// Whether nothing is to be done.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many instances change.
    pub fn len(&self) -> usize {
        self.start.len() + self.resume.len() + self.stop.len()
    }

    /// Leaves out what exceeds a number of changes. Those that stop come first: they may free what others need.
    pub fn truncate(&mut self, most: usize) {
        self.stop.truncate(most);
        self.resume.truncate(most - self.stop.len());
        self.start.truncate(most - self.stop.len() - self.resume.len());
    }
}

/// The worker as it is judged: one that is out of contact for a moment as if it were connected, and one that drains as draining, whether
/// it is connected or not.
pub fn expected(offer: WorkerSnapshot, intake: Intake) -> WorkerSnapshot {
    let state = match (offer.state, intake) {
        (WorkerState::Offline | WorkerState::Lost, Intake::Draining) => WorkerState::Draining,
        (WorkerState::Offline, Intake::Cordoned) => WorkerState::Cordoned,
        (WorkerState::Offline, Intake::Open) => WorkerState::Online,
        (state, _) => state,
    };
    WorkerSnapshot { state, ..offer }
}

/// Whether a worker, as [`expected`] gives it, is to have an instance of a definition with these needs.
pub fn judge(needs: &Requirements, project: ProjectId, offer: &WorkerSnapshot) -> Verdict {
    let as_connected = WorkerSnapshot { state: WorkerState::Online, ..offer.clone() };
    match suitable(needs, project, &as_connected) {
        // It may work again soon, and says itself what its failure ends.
        Err(fails @ Infeasible::Driver { why: Some(_), .. }) => Verdict::KeepsOnly(fails),
        Err(unfit) => Verdict::No(unfit),
        Ok(()) => match offer.state {
            WorkerState::Online => Verdict::Yes,
            WorkerState::Draining => Verdict::No(Infeasible::Draining),
            WorkerState::Cordoned => Verdict::KeepsOnly(Infeasible::Cordoned),
            state @ (WorkerState::Offline | WorkerState::Lost) => {
                Verdict::KeepsOnly(Infeasible::Away { state })
            }
        },
    }
}

/// Decides what is to be done so that a definition with these needs has its instances. `offers` are the workers as [`expected`] gives
/// them.
pub fn decide(
    needs: &Requirements,
    project: ProjectId,
    offers: &[WorkerSnapshot],
    instances: &[Instance],
) -> Plan {
    let mut verdicts: HashMap<WorkerId, Verdict> =
        offers.iter().map(|offer| (offer.worker, judge(needs, project, offer))).collect();
    let mut plan = Plan::default();
    for Instance { task, worker, name, state } in instances {
        // What is left are the workers without any instance.
        let verdict = verdicts.remove(worker);
        let is_to_stop = matches!(state, InstanceState::Live | InstanceState::Ended { .. });
        match (verdict, state) {
            (Some(Verdict::Yes), InstanceState::Leaving | InstanceState::Away)
            | (Some(Verdict::Yes), InstanceState::Ended { is_present: false }) => plan.resume.push(*task),
            (Some(Verdict::No(unfit)), _) if is_to_stop => {
                plan.stop.push((*task, format!("scaled down: {name} {unfit}")));
            }
            (None, _) if is_to_stop => {
                plan.stop.push((*task, format!("scaled down: its worker {name} was removed")));
            }
            _ => {}
        }
    }
    let is_new = |offer: &&WorkerSnapshot| verdicts.get(&offer.worker) == Some(&Verdict::Yes);
    plan.start = offers.iter().filter(is_new).map(|offer| (offer.worker, offer.name.clone())).collect();
    plan.start.sort_by(|(one, name), (other, later)| (name, one).cmp(&(later, other)));
    plan
}

#[cfg(test)]
mod tests;
