//! Where waiting tasks stand in their queue, and what is live on workers.

use gaffer_domain::{TaskId, Time, WorkerId};

/// A place in the queue of a class: what is to be placed first comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PlaceInQueue {
    pub not_before: Time,
    pub task: TaskId,
}

impl PlaceInQueue {
    /// Before everything.
    pub const START: PlaceInQueue = PlaceInQueue { not_before: Time::UNIX_EPOCH, task: TaskId(0) };

    /// The first place behind this one.
    pub fn next(self) -> PlaceInQueue {
        PlaceInQueue { task: TaskId(self.task.0 + 1), ..self }
    }
}

/// How many attempts of one class are live on a worker, either waiting there or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LiveOnWorker {
    pub worker: WorkerId,
    pub class: i64,
    pub waiting: bool,
    pub count: i64,
}

/// Where a task is live: the worker, and whether it waits there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OnWorker {
    pub worker: WorkerId,
    pub waiting: bool,
}

/// A task that is live elsewhere than before, or in another way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LiveChange {
    pub class: i64,
    pub before: Option<OnWorker>,
    pub after: Option<OnWorker>,
}
