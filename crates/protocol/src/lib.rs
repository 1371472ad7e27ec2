//! The words between processes: what master and worker say to each other, the bodies of the REST API, and the addresses
//! at which they find each other. Types and their encodings only; beside them the clock by which both sides measure leases.

pub mod audit;
pub mod boot_time;
pub mod definitions;
pub mod elapsed;
pub mod health;
pub mod keys;
pub mod network;
pub mod output;
pub mod ports;
pub mod proxies;
pub mod rest;
pub mod secrets;
pub mod server_url;
pub mod trace;
pub mod wire;
