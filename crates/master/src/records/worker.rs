//! A registered worker.

use std::collections::BTreeMap;

use gaffer_domain::placement::{Feature, Lasting, Taken};
use gaffer_domain::spec::Resources;
use gaffer_domain::worker::{Intake, Sharing, WorkerState};
use gaffer_domain::{ProjectId, Time, WorkerId};
use gaffer_protocol::wire::DriverStatus;

/// A worker, connected or not, with what its live attempts have reserved.
#[derive(Debug, Clone)]
pub struct Worker {
    pub id: WorkerId,
    pub project: ProjectId,
    /// The other projects whose tasks it takes.
    pub sharing: Sharing,
    /// Its name, unique in the project.
    pub name: String,
    pub datacenter: String,
    pub labels: BTreeMap<String, String>,
    pub capacity: Resources,
    /// Countable resources.
    pub countables: BTreeMap<String, u32>,
    /// Drivers.
    pub drivers: Vec<DriverStatus>,
    /// What its program can do that earlier ones could not.
    pub features: Vec<Feature>,
    /// Processor architecture.
    pub arch: String,
    /// Operating system.
    pub os: String,
    /// Version of its program.
    pub version: String,
    /// What its operator should know.
    pub warnings: Vec<String>,
    /// What its operator wants it to take.
    pub intake: Intake,
    /// From then on, all that it still has moves, if it drains with a deadline.
    pub drain_until: Option<Time>,
    /// When a draining worker had nothing left.
    pub drained_at: Option<Time>,
    /// When it was last heard of; none while connected.
    pub offline_since: Option<Time>,
    /// Since when it is connected without a break; none while it is not.
    pub online_since: Option<Time>,
    /// When it first dialled in.
    pub created_at: Time,
    /// What its live attempts have reserved, started or not.
    pub reserved: Resources,
    /// What they hold beside that.
    pub taken: Taken,
    /// What services have of all that.
    pub lasting: Lasting,
    /// Attempts that it executes, of the project that looks, or else of the worker's project.
    pub running: i64,
    /// Attempts of that project placed there that have not started.
    pub waiting: i64,
    /// Those of other projects: for placement, and for nobody to see.
    pub of_others: OfOthers,
}

/// Attempts of other projects on a shared worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OfOthers {
    pub running: i64,
    pub waiting: i64,
}

impl Worker {
    /// A reservation on it is unreadable, so it accepts no new tasks.
    pub fn hides_what_is_taken(&mut self) {
        if self.intake == Intake::Open {
            self.intake = Intake::Cordoned;
        }
        self.warnings.push("this master cannot read what a task on it has reserved".to_owned());
    }

    /// State as users see it.
    pub fn state(&self, now: Time) -> WorkerState {
        WorkerState::of(self.offline_since, self.intake, now)
    }
}
