//! Scenarios, named by behaviour.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on should fail"
)]

mod accounts;
mod acknowledgements;
mod audit;
mod authorisation;
mod backup;
mod bench;
mod cli;
mod clocks;
mod conditions;
mod connections;
mod containers;
mod copies;
mod crash;
mod description;
mod doors;
mod draining;
mod each;
mod each_worker;
mod environment;
mod events;
mod fleets;
mod guessing;
mod health;
mod job_user;
mod jobs;
mod keys;
mod leases;
mod leftovers;
mod lost_rights;
mod masters;
mod metrics;
mod networks;
mod output_store;
mod pages;
mod parameters;
mod people;
mod pictures;
mod placement;
mod plans;
mod ports;
mod refused;
mod reruns;
mod retention;
mod revoked;
mod rollouts;
mod scheduling;
mod searching;
mod secrets;
mod services;
mod sessions;
mod stdin;
mod stored;
mod survival;
mod system_jobs;
mod system_updates;
mod templates;
mod tenants;
mod texts;
mod torture;
mod transitions;
mod updates;
mod upgrade;
mod viewers;
mod wire;
mod words;
