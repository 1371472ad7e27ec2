//! Health checks of the servers on this machine, for containers and service managers.

use std::path::PathBuf;

use gaffer_protocol::server_url::ServerUrl;
use reqwest::Response;

use super::{Finding, PATIENCE, stands_by};
use crate::access;
use crate::client;
use crate::config;

const DEFAULT_API_PORT: &str = "8000";

/// Whether the master on this machine is ready.
pub async fn master() -> Finding {
    let address = config::variable("GAFFER_API_ADDR").unwrap_or_default();
    let port = address.rsplit_once(':').map_or(DEFAULT_API_PORT, |(_, port)| port);
    let scheme = if config::variable("GAFFER_TLS_CERT").is_some() { "https" } else { "http" };
    let server = match access::server_url(&format!("{scheme}://127.0.0.1:{port}")) {
        Ok(server) => server,
        Err(failure) => return Finding::problem("master", failure.to_string(), "correct GAFFER_API_ADDR"),
    };
    let url = format!("{server}/readyz");
    match ready(&server).await {
        Ok(answer) if answer.status().is_success() => Finding::ok("master", format!("{url} is ready")),
        Ok(answer) => {
            let status = answer.status();
            match stands_by(answer).await {
                true => Finding::ok("master", format!("{url} is a standby: another master leads")),
                false => Finding::problem(
                    "master",
                    format!("{url} answers {status}"),
                    "check its log; usually the database is unavailable",
                ),
            }
        }
        Err(why) => Finding::problem("master", format!("{url}: {why}"), "start it with `gaffer master`"),
    }
}

/// Whether a worker runs on this machine.
pub fn worker() -> Finding {
    let dir = match config::variable("GAFFER_DATA_DIR")
        .map(PathBuf::from)
        .map_or_else(gaffer_worker::default_data_dir, Ok)
    {
        Ok(dir) => dir,
        Err(error) => return Finding::problem("worker", format!("{error:#}"), "set GAFFER_DATA_DIR"),
    };
    match gaffer_worker::is_running(&dir) {
        Ok(true) => Finding::ok("worker", format!("a worker runs with the data directory {}", dir.display())),
        Ok(false) => Finding::problem(
            "worker",
            format!("no worker runs with the data directory {}", dir.display()),
            "start it with `gaffer worker`",
        ),
        Err(error) => Finding::problem(
            "worker",
            format!("cannot tell whether a worker runs: {error}"),
            "run this as the worker's user",
        ),
    }
}

/// Asks a master on this machine. Its certificate is for its public name, and nothing secret is sent: any will do.
async fn ready(server: &ServerUrl) -> Result<Response, String> {
    let http = reqwest::Client::builder()
        .tls_danger_accept_invalid_certs(true)
        .tls_certs_only([])
        .no_proxy()
        .timeout(PATIENCE)
        .build()
        .map_err(|error| client::root(&error))?;
    http.get(format!("{}/readyz", server.api())).send().await.map_err(|error| client::root(&error))
}
