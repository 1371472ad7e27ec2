//! Scenarios, named by behaviour.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on should fail"
)]

mod acknowledgements;
mod cli;
mod containers;
mod crash;
mod doors;
mod draining;
mod gate;
mod jobs;
mod leases;
mod masters;
mod pages;
mod placement;
mod scheduling;
mod sessions;
mod survival;
mod tenants;
mod torture;
mod wire;
