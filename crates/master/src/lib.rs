//! The master: stores jobs, workers and keys in Postgres, places tasks, serves workers, API and pages.
//!
//! Postgres is the source of truth, the domain decides, `store` writes, the scheduler places, `hub` delivers, and heartbeats
//! of workers repair differences. No state in memory is needed after a restart.

pub mod absences;
pub mod arrivals;
pub mod background;
pub mod backup;
pub mod certificate;
pub mod changes;
pub mod clocks;
pub mod config;
pub mod control;
pub mod device_logins;
pub mod election;
pub mod embedded_postgres;
pub mod explain;
pub mod exposition;
pub mod guesses;
pub mod health;
pub mod http;
pub mod hub;
pub mod input;
pub mod large_jobs;
pub mod leadership;
pub mod listener;
pub mod live;
mod look_rate;
pub mod metrics;
pub mod oidc;
pub mod open_streams;
pub mod operations;
pub mod output;
pub mod output_store;
pub mod pace;
pub mod password_guesses;
pub mod passwords;
pub mod pauses;
pub mod queue;
pub mod rate;
pub mod records;
pub mod render;
pub mod scheduling_state;
pub mod search;
pub mod search_budget;
pub mod secret;
pub mod serve;
mod session;
pub mod snapshot;
mod standby;
pub mod store;
pub mod troubles;
mod unknown_outcome;
pub mod vault;
pub mod views;
pub mod wakes;
pub mod write_batcher;

pub use serve::{Running, run, start};
