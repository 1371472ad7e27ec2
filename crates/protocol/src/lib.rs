//! Messages between processes: worker protocol, REST bodies, and server addresses. Types and encodings only.

#![warn(missing_docs)]

pub mod definitions;
pub mod elapsed;
pub mod output;
pub mod proxies;
pub mod rest;
pub mod server_url;
pub mod trace;
pub mod wire;
