//! Scenarios, named by behaviour.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on should fail"
)]

mod acknowledgements;
mod cli;
mod clocks;
mod containers;
mod crash;
mod doors;
mod draining;
mod events;
mod gate;
mod jobs;
mod leases;
mod leftovers;
mod masters;
mod pages;
mod placement;
mod refused;
mod scheduling;
mod sessions;
mod stored;
mod survival;
mod tenants;
mod torture;
mod wire;
