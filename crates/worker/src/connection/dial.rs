//! One connection attempt to the master: TCP, proxy, TLS, WebSocket handshake with the worker key.

use std::time::Duration;

use anyhow::Context as _;
use gaffer_protocol::keys;
use gaffer_protocol::output::MAX_OUTPUT_FRAME_BYTES;
use gaffer_protocol::rest::Problem;
use gaffer_protocol::server_url::ServerUrl;
use gaffer_protocol::wire::MAX_CONTROL_FRAME_BYTES;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::header::{AUTHORIZATION, LOCATION};
use tokio_tungstenite::tungstenite::http::{HeaderValue, Response};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self};
use tokio_tungstenite::{Connector, MaybeTlsStream, WebSocketStream, client_async_tls_with_config};

use crate::config::ApiKey;
use crate::route::{NoConnection, Route, Stream};

/// The longest that a try may take.
pub(super) const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// Small, because each idle connection keeps this much memory, and received frames are short.
const READ_BUFFER_BYTES: usize = 8 << 10;
const WRITE_BUFFER_BYTES: usize = 64 << 10;

pub(crate) type Socket = WebSocketStream<MaybeTlsStream<Stream>>;

/// The address, proxy and certificates.
pub(crate) struct Dialer {
    route: Route,
    key: Option<HeaderValue>,
    /// What the text of the key shows, should the master refuse it.
    fault: Option<&'static str>,
}

/// Why the connection failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DialError {
    /// The master, or something in front of it, does not want this worker. To be tried again only slowly.
    #[error("{0}")]
    Refused(String),
    /// The master does not want this key.
    #[error("{0}")]
    KeyRefused(String),
    /// The proxy on the way does not want to pass this on. To be tried again only slowly.
    #[error("{0}")]
    Blocked(String),
    /// The master was not reachable.
    #[error("{0}")]
    Unreachable(String),
}

impl Dialer {
    /// Without a key, only checks that the server is a master.
    pub fn new(route: Route, key: Option<&ApiKey>) -> anyhow::Result<Dialer> {
        let header = |key: &ApiKey| {
            let mut header = HeaderValue::try_from(format!("Bearer {}", key.reveal()))
                .ok()
                .context("the worker key contains invalid characters")?;
            header.set_sensitive(true);
            anyhow::Ok(header)
        };
        let fault = key.and_then(|key| keys::fault(key.reveal(), &keys::OF_WORKERS));
        Ok(Dialer { route, key: key.map(header).transpose()?, fault })
    }

    pub fn url(&self) -> &ServerUrl {
        self.route.server()
    }

    /// `connect_patience`: timeout for the TCP connection.
    pub async fn dial(&self, connect_patience: Duration) -> Result<Socket, DialError> {
        let unreachable = |reason: String| DialError::Unreachable(reason);
        let request = self.url().worker_door().into_client_request();
        let mut request = request.map_err(|error| unreachable(error.to_string()))?;
        if let Some(key) = &self.key {
            request.headers_mut().insert(AUTHORIZATION, key.clone());
        }
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            .write_buffer_size(WRITE_BUFFER_BYTES)
            .max_write_buffer_size(WRITE_BUFFER_BYTES + MAX_CONTROL_FRAME_BYTES + MAX_OUTPUT_FRAME_BYTES)
            .max_message_size(Some(MAX_CONTROL_FRAME_BYTES))
            .max_frame_size(Some(MAX_CONTROL_FRAME_BYTES));
        let no_answer = |limit: Duration| unreachable(format!("no answer within {} s", limit.as_secs_f32()));
        let stream = tokio::time::timeout(connect_patience, self.route.connect()).await;
        let stream = stream.map_err(|_| no_answer(connect_patience))?.map_err(|error| match error {
            NoConnection::Unreachable(reason) => unreachable(reason),
            NoConnection::Refused(reason) => DialError::Blocked(reason),
        })?;
        let connector = match self.route.tls() {
            Some(tls) if self.url().is_secure() => Connector::Rustls(tls.clone()),
            _ => Connector::Plain,
        };
        let greeting = Box::pin(client_async_tls_with_config(request, stream, Some(config), Some(connector)));
        match tokio::time::timeout(DIAL_TIMEOUT, greeting).await {
            Err(_) => Err(no_answer(DIAL_TIMEOUT)),
            Ok(Ok((socket, _))) => Ok(socket),
            Ok(Err(tungstenite::Error::Http(response))) => Err(refusal(&response, self.fault)),
            Ok(Err(tungstenite::Error::Io(error))) => Err(unreachable(error.to_string())),
            Ok(Err(error)) => Err(unreachable(error.to_string())),
        }
    }
}

/// What an HTTP answer other than "switching protocols" means.
fn refusal(response: &Response<Option<Vec<u8>>>, fault: Option<&str>) -> DialError {
    let status = response.status();
    let body = response.body().as_deref().unwrap_or_default();
    let problem = serde_json::from_slice::<Problem>(body).ok();
    let detail = problem.map(|problem| match fault.filter(|_| problem.code == keys::KEY_INVALID) {
        Some(fault) => fault.to_owned(),
        None => problem.detail,
    });
    if status.is_redirection() {
        let to =
            response.headers().get(LOCATION).and_then(|to| to.to_str().ok()).unwrap_or("another address");
        let to: String = to.chars().take(200).collect();
        // A key is for the address that it was given with.
        return DialError::Refused(format!(
            "redirects to {to} ({status}); set MASTER_URL to that address if it is right"
        ));
    }
    match (status.as_u16(), detail) {
        (401 | 403, Some(detail)) => DialError::KeyRefused(format!("refused the key: {detail}")),
        (401 | 403, None) => DialError::KeyRefused(format!("refused the key ({status})")),
        (404, _) => DialError::Refused("does not accept workers at this address (404 Not Found)".to_owned()),
        (_, Some(detail)) => DialError::Unreachable(format!("answered {status}: {detail}")),
        (_, None) => DialError::Unreachable(format!("answered {status}")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    fn answered(status: u16, body: &str) -> DialError {
        let response = Response::builder().status(status).body(Some(body.as_bytes().to_vec())).unwrap();
        refusal(&response, Some("it is truncated or mistyped"))
    }

    #[test]
    fn a_refused_key_is_told_in_the_words_of_the_master() {
        let problem =
            |code| format!(r#"{{"title":"Unauthorized","status":401,"code":"{code}","detail":"in words"}}"#);
        let expected = |why: &str| DialError::KeyRefused(format!("refused the key: {why}"));
        assert_eq!(answered(401, &problem("key_missing")), expected("in words"));
        // The master does not say what is wrong with a key; its text may.
        assert_eq!(answered(401, &problem("key_invalid")), expected("it is truncated or mistyped"));
        assert_eq!(
            answered(403, "<html>"),
            DialError::KeyRefused("refused the key (403 Forbidden)".to_owned())
        );
    }

    #[test]
    fn a_redirect_is_told_and_not_followed() {
        let response =
            Response::builder().status(308).header(LOCATION, "https://m/worker").body(None).unwrap();
        let DialError::Refused(reason) = refusal(&response, None) else { panic!() };
        assert!(reason.contains("https://m/worker") && reason.contains("MASTER_URL"), "{reason}");
    }

    #[test]
    fn a_master_that_cannot_serve_now_is_tried_again_soon() {
        assert_eq!(answered(503, ""), DialError::Unreachable("answered 503 Service Unavailable".to_owned()));
        assert!(matches!(answered(404, ""), DialError::Refused(_)));
    }
}
