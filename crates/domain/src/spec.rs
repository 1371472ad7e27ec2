//! What a user submits: a job's specification, complete and valid, with every default made explicit.
//!
//! [`JobSpec::of`] is the only way in from untrusted data. It reports *all* mistakes at once, each with a JSON
//! pointer. Serialising a `JobSpec` gives the normal form, which is what the master stores and shows; reading the
//! normal form gives the same `JobSpec` again. What is stored is read by [`JobSpec::read_stored`], whatever the rules for
//! new input have become.
//!
//! Each file has a type, the table of its fields and their reader. [`field`] says what else follows from the tables, and
//! how to add a field.

mod container;
mod dependency;
mod depends;
mod driver;
mod each;
mod exit_codes;
pub mod field;
mod filling;
mod health;
mod indices;
mod job;
mod kind;
mod node;
mod parameter;
mod program;
mod reservation;
mod restart;
mod retention;
mod scheduling;
pub mod schema;
mod secrets;
mod stop;
mod stored;
mod strategy;
mod submission;
mod task;
#[cfg(test)]
pub(crate) mod tests;
mod update;
mod waits;

pub use crate::resources::Resources;
pub use container::{
    CONTAINER, Container, Gpus, InvalidPort, InvalidVolume, MAX_PORT_NAME_LEN, Network, Port, PortProtocol,
    PullPolicy, Volume,
};
pub use dependency::{Dependency, IndexMatch, On, When};
pub use driver::DriverKind;
pub use each::{Each, Item, MAX_AXES, MAX_ITEM_BYTES, MAX_TASKS_PER_JOB, Texts, WORKER};
pub use exit_codes::ExitCodes;
pub use filling::{Filled, Unfilled};
pub use health::{HealthCheck, InvalidStatusRange, MAX_IN_A_ROW, Probe, StatusRange};
pub use indices::Indices;
pub use job::{
    JOB_FIELDS, JobSpec, MAX_DEFINITIONS_PER_JOB, MAX_NAME_CHARS, MAX_SPEC_BYTES, SINGLE_TASK_JOB_FIELDS,
};
pub use kind::JobKind;
pub use node::FieldError;
pub use parameter::{Declared, PARAMETER};
pub use program::Action;
pub use reservation::Reservation;
pub use restart::{Backoff, OnLost, Restart, RestartPolicy};
pub use retention::Retention;
pub use scheduling::{Affinity, Concurrency, OnDrain, Placement};
pub use secrets::{SECRET, SecretUse, UnknownSecret, missing_secrets, secret_names, unknown_secrets};
pub use stop::{StopSignal, StopSpec, UnknownSignal};
pub use stored::{STORED_VERSION, UnreadableSpec};
pub use strategy::{Strategy, UnknownStrategy};
pub use submission::{SUBMISSION, Source, Submission, check_template_name};
pub use task::{OnLimit, OutputLimit, TASK, TaskSpec};
pub use update::{UPDATE, Update};
pub use waits::{Awaited, all_awaited, in_order};
