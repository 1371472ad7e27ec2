//! The rules of gaffer: jobs, tasks, workers, state transitions and placement.
//!
//! Everything here is pure. Nothing reads a clock, a file, a socket or a database: time is an argument, and a
//! decision is returned as a value that the caller carries out.

#![warn(missing_docs)]

mod as_text;
pub mod clocks;
pub mod conditions;
pub mod constraint;
pub mod critical_path;
pub mod dependency_graph;
pub mod device_codes;
pub mod document;
pub mod groups;
pub mod health;
pub mod id;
pub mod job;
pub mod lease;
pub mod members;
pub mod moves;
pub mod output_move;
pub mod parameters;
pub mod passwords;
pub mod permissions;
pub mod placement;
pub mod policy;
pub mod projects;
pub mod quantity;
pub mod queue;
pub mod quota;
pub mod reason;
pub mod redact;
pub mod rerun;
pub mod resources;
pub mod restore;
pub mod retention;
pub mod rollout;
pub mod scale;
pub mod scopes;
pub mod search;
pub mod secrets;
#[cfg(test)]
mod seeds;
pub mod spec;
pub mod spelling;
pub mod system_jobs;
pub mod task;
pub mod template;
pub mod text;
pub mod versions;
pub mod visible;
pub mod worker;

pub use id::{AttemptRef, JobId, ProjectId, TaskId, WorkerId, task_address};

/// A point in time by the wall clock of its source. Only the database's clock judges leases.
pub type Time = chrono::DateTime<chrono::Utc>;
