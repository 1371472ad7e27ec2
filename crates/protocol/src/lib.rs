//! The words between processes: what master and worker say to each other, and the bodies of the REST API. Types and
//! their encodings only; nothing here decides or does anything.

pub mod definitions;
pub mod output;
pub mod rest;
pub mod wire;
