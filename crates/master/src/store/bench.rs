//! Statements of `gaffer bench` for the databases that it makes and removes itself, never for that of an installation.

pub mod floor;
pub mod history;
pub mod snapshot;
