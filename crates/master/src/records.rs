//! Domain records of the master, with states as enums and nothing formatted. `http` makes bodies and pages of them.

mod account;
mod dead_letter;
mod event;
mod figures;
mod health;
mod job;
mod key;
mod people;
mod scheduling;
mod secret;
mod task;
mod template;
mod timeline;
mod waiting;
mod worker;

pub use account::{Invitation, LinkedIdentity, WebSession};
pub use dead_letter::{DeadLetter, LetterKind};
pub use event::Event;
pub use figures::{DispatchStage, PoolUse, PriorityTotals, TaskChanges};
pub use health::{AttemptHealth, CheckSummary, HealthResult};
pub use job::{Job, JobUpdate, RunningTasks};
pub use key::{Key, KeyKind, KeyState, UnknownKeyKind};
pub use people::{Member, Project, User};
pub use scheduling::{LiveChange, LiveOnWorker, OnWorker, PlaceInQueue};
pub use secret::{KeyUse, Sealed, Secret};
pub use task::{Attempt, ResultOf, Task, TaskPorts};
pub use template::{Template, TemplateVersion, VersionEntry};
pub use timeline::{AttemptTimes, DefinitionTimes};
pub use waiting::{Explanation, QueueClass, QueuePosition, WaitingTasks, WithoutInstance, WorkerVerdict};
pub use worker::{OfOthers, Worker};
