//! `gaffer version`: shows the versions of program and server.

use clap::Args;
use gaffer_protocol::rest::Version;
use gaffer_protocol::wire::PROTOCOL_VERSION;
use serde_json::json;

use crate::client::{Client, Query};
use crate::config;
use crate::failure::Failure;
use crate::out::Out;

/// How to show it.
#[derive(Debug, Args)]
pub struct VersionArgs {
    /// Show only the client's version
    #[arg(long)]
    client: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command. Without a reachable server, prints the program's version only.
///
/// # Errors
/// [`Failure::Output`]; what the API or the network says, after the program's own version.
pub async fn run(args: VersionArgs, out: &Out) -> Result<u8, Failure> {
    let own = env!("CARGO_PKG_VERSION");
    let server = if args.client { Ok(None) } else { server_version().await };
    if args.json {
        let version = server.as_ref().ok().and_then(Option::as_ref);
        out.line(
            &json!({"client": {"version": own, "worker_protocol": PROTOCOL_VERSION}, "server": version})
                .to_string(),
        )?;
    } else {
        out.line(&format!("client {own}"))?;
        if let Ok(Some(version)) = &server {
            out.line(&format!("server {}", version.version))?;
        }
    }
    server.map(|_| 0)
}

async fn server_version() -> Result<Option<Version>, Failure> {
    let access = match config::access() {
        Ok(access) => access,
        // No server is configured.
        Err(_) => return Ok(None),
    };
    Client::new(&access)?.read(&["version"], &Query::new()).await.map(Some)
}
