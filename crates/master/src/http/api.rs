//! The REST API, one file per noun. Handlers decode the request, call an operation or a view, and encode the
//! response.

pub mod audit;
pub mod device;
pub mod events;
pub mod health;
pub mod invitations;
pub mod jobs;
pub mod keys;
pub mod members;
pub mod metrics;
pub mod openapi;
pub mod output;
pub mod ports;
pub mod projects;
pub mod queue;
pub mod retention;
pub mod scale;
pub mod schema;
pub mod secrets;
pub mod sessions;
pub mod system;
pub mod tasks;
pub mod templates;
pub mod users;
pub mod versions;
pub mod workers;
