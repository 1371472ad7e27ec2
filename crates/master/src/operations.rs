//! Every use case, one file per noun, called by the API, by pages and internally.
//!
//! An operation takes the context, the actor and a request. It begins with [`Context::permit`], which checks the list in
//! `gaffer_domain::permissions` and is the only access to anything that changes state. It returns a record or an error;
//! API and pages encode both, with the same text.

pub mod accounts;
mod actor;
pub mod audit;
mod context;
pub mod dead_letters;
pub mod device;
mod each_worker;
mod error;
pub mod events;
pub mod invitations;
pub mod jobs;
pub mod keys;
pub mod members;
pub mod metrics;
pub mod output;
pub mod projects;
pub mod provider;
mod quotas;
pub mod readiness;
mod recent;
mod refusals;
mod refused_keys;
pub mod registration;
pub mod retention;
pub mod secrets;
pub mod services;
pub mod sign_in;
pub mod sources;
pub mod system;
pub mod tasks;
pub mod templates;
pub mod updates;
pub mod users;
pub mod workers;

pub use actor::{Actor, Shown};
pub use context::Context;
pub use error::{OperationError, no_job};
