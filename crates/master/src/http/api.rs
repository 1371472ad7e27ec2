//! The REST API: a file for each noun. Handlers read what comes in, call an operation or look at something, and answer.

pub mod events;
pub mod health;
pub mod jobs;
pub mod keys;
pub mod openapi;
pub mod output;
pub mod queue;
pub mod schema;
pub mod system;
pub mod tasks;
pub mod workers;
