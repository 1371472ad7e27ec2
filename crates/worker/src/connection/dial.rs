//! One try to reach the master: TCP, TLS, and the WebSocket handshake with the worker's key.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use gaffer_protocol::output::MAX_OUTPUT_FRAME_BYTES;
use gaffer_protocol::rest::Problem;
use gaffer_protocol::wire::MAX_CONTROL_FRAME_BYTES;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::header::AUTHORIZATION;
use tokio_tungstenite::tungstenite::http::{HeaderValue, Response};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, ClientRequestBuilder};
use tokio_tungstenite::{Connector, MaybeTlsStream, WebSocketStream, client_async_tls_with_config};

use crate::config::{ApiKey, MasterUrl};

/// The longest that a try may take.
pub(super) const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection on which nothing is acknowledged for so long is given up: a new one is made sooner than the kernel, whose
/// pauses double, would try the old one again. Nothing is lost with it.
const UNACKNOWLEDGED_LIMIT_MILLIS: u32 = 2_000;
/// Small, for an idle connection costs this much memory; what is read is short.
const READ_BUFFER_BYTES: usize = 8 << 10;
const WRITE_BUFFER_BYTES: usize = 64 << 10;

/// An open connection.
pub(super) type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Whom to dial, and how.
pub(super) struct Dialer {
    url: MasterUrl,
    key: HeaderValue,
    connector: Option<Connector>,
}

/// Why there is no connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum DialError {
    /// The master, or something in front of it, does not want this worker. To be tried again only slowly.
    #[error("{0}")]
    Refused(String),
    /// There was nobody to ask.
    #[error("{0}")]
    Unreachable(String),
}

impl Dialer {
    /// `tls_ca`: a file of certificates that count instead of the public ones.
    pub fn new(url: MasterUrl, key: &ApiKey, tls_ca: Option<&Path>) -> anyhow::Result<Dialer> {
        let mut key = HeaderValue::try_from(format!("Bearer {}", key.reveal()))
            .ok()
            .context("the worker key holds characters that no key has")?;
        key.set_sensitive(true);
        let connector = match tls_ca {
            Some(path) if url.is_secure() => Some(Connector::Rustls(Arc::new(trusting(path)?))),
            _ => None,
        };
        Ok(Dialer { url, key, connector })
    }

    pub fn url(&self) -> &MasterUrl {
        &self.url
    }

    /// `connect_patience`: how long to wait until there is a connection at all.
    pub async fn dial(&self, connect_patience: Duration) -> Result<Socket, DialError> {
        let unreachable = |reason: String| DialError::Unreachable(reason);
        let request = ClientRequestBuilder::new(self.url.uri().clone()).into_client_request();
        let mut request = request.map_err(|error| unreachable(error.to_string()))?;
        request.headers_mut().insert(AUTHORIZATION, self.key.clone());
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            .write_buffer_size(WRITE_BUFFER_BYTES)
            .max_write_buffer_size(WRITE_BUFFER_BYTES + MAX_CONTROL_FRAME_BYTES + MAX_OUTPUT_FRAME_BYTES)
            .max_message_size(Some(MAX_CONTROL_FRAME_BYTES))
            .max_frame_size(Some(MAX_CONTROL_FRAME_BYTES));
        let no_answer = |limit: Duration| unreachable(format!("no answer within {} s", limit.as_secs_f32()));
        let stream = tokio::time::timeout(connect_patience, self.connect()).await;
        let stream = stream.map_err(|_| no_answer(connect_patience))?;
        let stream = stream.map_err(|error| unreachable(error.to_string()))?;
        let greeting = client_async_tls_with_config(request, stream, Some(config), self.connector.clone());
        match tokio::time::timeout(DIAL_TIMEOUT, greeting).await {
            Err(_) => Err(no_answer(DIAL_TIMEOUT)),
            Ok(Ok((socket, _))) => Ok(socket),
            Ok(Err(tungstenite::Error::Http(response))) => Err(refusal(&response)),
            Ok(Err(tungstenite::Error::Io(error))) => Err(unreachable(error.to_string())),
            Ok(Err(error)) => Err(unreachable(error.to_string())),
        }
    }

    async fn connect(&self) -> io::Result<TcpStream> {
        let uri = self.url.uri();
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        let port = uri.port_u16().unwrap_or(if self.url.is_secure() { 443 } else { 80 });
        let stream = TcpStream::connect((host, port)).await?;
        stream.set_nodelay(true)?;
        rustix::net::sockopt::set_tcp_user_timeout(&stream, UNACKNOWLEDGED_LIMIT_MILLIS)?;
        Ok(stream)
    }
}

/// What an HTTP answer other than "switching protocols" means.
fn refusal(response: &Response<Option<Vec<u8>>>) -> DialError {
    let status = response.status();
    let body = response.body().as_deref().unwrap_or_default();
    let detail = serde_json::from_slice::<Problem>(body).map(|problem| problem.detail).ok();
    match (status.as_u16(), detail) {
        (401 | 403, Some(detail)) => DialError::Refused(format!("refused the key: {detail}")),
        (401 | 403, None) => DialError::Refused(format!("refused the key ({status})")),
        (404, _) => DialError::Refused("has no door for workers at this address (404 Not Found)".to_owned()),
        (_, Some(detail)) => DialError::Unreachable(format!("answered {status}: {detail}")),
        (_, None) => DialError::Unreachable(format!("answered {status}")),
    }
}

fn trusting(path: &Path) -> anyhow::Result<rustls::ClientConfig> {
    let cannot = || format!("cannot read the certificates in {}", path.display());
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).with_context(cannot)? {
        roots.add(certificate.with_context(cannot)?).with_context(cannot)?;
    }
    ensure!(!roots.is_empty(), "{} holds no certificate", path.display());
    Ok(rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    fn answered(status: u16, body: &str) -> DialError {
        let response = Response::builder().status(status).body(Some(body.as_bytes().to_vec())).unwrap();
        refusal(&response)
    }

    #[test]
    fn a_refused_key_is_told_in_the_words_of_the_master() {
        let problem =
            r#"{"title":"Unauthorized","status":401,"code":"key_revoked","detail":"this key was revoked"}"#;
        let expected = DialError::Refused("refused the key: this key was revoked".to_owned());
        assert_eq!(answered(401, problem), expected);
        assert_eq!(answered(403, "<html>"), DialError::Refused("refused the key (403 Forbidden)".to_owned()));
    }

    #[test]
    fn a_master_that_cannot_serve_now_is_tried_again_soon() {
        assert_eq!(answered(503, ""), DialError::Unreachable("answered 503 Service Unavailable".to_owned()));
        assert!(matches!(answered(404, ""), DialError::Refused(_)));
    }

    #[test]
    fn certificates_must_be_there_and_make_sense() {
        let url: MasterUrl = "wss://m".parse().unwrap();
        let key = ApiKey::from("k".to_owned());
        let error = |path: &Path| format!("{:#}", Dialer::new(url.clone(), &key, Some(path)).err().unwrap());
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(error(file.path()).contains("holds no certificate"));
        assert!(error(Path::new("/no/such")).contains("cannot read the certificates in /no/such"));
    }
}
