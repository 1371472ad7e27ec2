//! Every use case, a file for each noun: what somebody wants to be done, from the API, from a page, or from within.
//!
//! An operation is given the context, who asks, and what is wanted. It begins with [`Context::permit`], which asks the one
//! list of `gaffer_domain::permissions` and is the only way to what changes anything. What it gives back is a record or an
//! error; doors make bodies and pages of these, with the same words.

mod actor;
mod context;
pub mod dead_letters;
mod error;
pub mod events;
pub mod jobs;
pub mod keys;
pub mod output;
pub mod readiness;
pub mod sign_in;
pub mod system;
pub mod tasks;
pub mod workers;

pub use actor::Actor;
pub use context::Context;
pub use error::OperationError;
