//! `gaffer dashboard`: makes a link that signs in to the dashboard, once.

use gaffer_protocol::rest::LoginLink;
use serde_json::json;

use crate::client::Client;
use crate::config;
use crate::failure::Failure;
use crate::moment;
use crate::out::Out;

/// Carries it out.
///
/// # Errors
/// What the API or the network says.
pub async fn run(out: &Out) -> Result<u8, Failure> {
    let client = Client::new(&config::access()?)?;
    let link: LoginLink = client.post(&["login-links"], &json!({})).await?.read()?;
    out.line(&link.url)?;
    out.remark(&format!(
        "signs in once, until {} ({})",
        moment::local(link.expires_at),
        moment::ago(link.expires_at, moment::now())
    ));
    Ok(0)
}
