//! `gaffer dashboard`: creates a one-time sign-in link.

use gaffer_protocol::rest::LoginLink;
use serde_json::json;

use crate::client::Client;
use crate::config;
use crate::failure::Failure;
use crate::out::Out;
use crate::timestamp;

/// Runs the command.
///
/// # Errors
/// Errors of the API or the network.
pub async fn run(out: &Out) -> Result<u8, Failure> {
    let client = Client::new(&config::access()?)?;
    let link: LoginLink = client.post(&["login-links"], &json!({})).await?.read()?;
    out.line(&link.url)?;
    out.remark(&format!(
        "works once, expires {} ({})",
        timestamp::local(link.expires_at),
        timestamp::ago(link.expires_at, timestamp::now())
    ));
    Ok(0)
}
