//! TLS on a port: the handshake, and an answer to those who speak plain HTTP there.

use rustls::ServerConfig;
use std::io;
use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::socket::Socket;

/// The most that is read of a plain request before the answer, and after it.
const MAX_PLAIN_BYTES: usize = 64 << 10;
/// The answer, in the format of the API, so that commands and workers show its text.
const TLS_REQUIRED: &str = r#"{"type":"about:blank","title":"Invalid request","status":400,"code":"tls_required","detail":"this port speaks TLS: use an address that begins with https:// (for workers wss://)"}"#;

/// Begins TLS on a socket; the limits of its place end a handshake that takes too long.
///
/// # Errors
/// When the client speaks no TLS, or none that fits.
pub async fn accept(socket: Socket, config: Arc<ServerConfig>) -> io::Result<TlsStream<Socket>> {
    let mut first = [0];
    // Each method of HTTP begins with a capital letter, which no TLS record does.
    if socket.peek(&mut first).await? == 1 && first[0].is_ascii_uppercase() {
        refuse_plain(socket).await?;
        return Err(io::Error::other("plain HTTP on a TLS port"));
    }
    TlsAcceptor::from(config).accept(socket).await
}

/// Tells a client that speaks plain HTTP what to change. A close with unread data would take the answer with it.
async fn refuse_plain(mut socket: Socket) -> io::Result<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") && request.len() < MAX_PLAIN_BYTES {
        if socket.read_buf(&mut request).await? == 0 {
            break;
        }
    }
    let answer = format!(
        "HTTP/1.1 400 Bad Request\r\ncontent-type: application/problem+json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{TLS_REQUIRED}",
        TLS_REQUIRED.len()
    );
    socket.write_all(answer.as_bytes()).await?;
    socket.shutdown().await?;
    let rest = (&mut socket).take(MAX_PLAIN_BYTES as u64);
    tokio::io::copy(&mut { rest }, &mut tokio::io::sink()).await?;
    Ok(())
}
