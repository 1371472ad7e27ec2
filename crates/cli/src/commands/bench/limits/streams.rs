//! How fast bytes pass between two processes of this machine that do nothing else.

use std::process::Stdio;
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;

use super::super::load::{LoadArgs, WRITE_BYTES};
use super::super::{local, program};
use crate::failure::Failure;

/// Sent over the loopback address.
const LOOPBACK_BYTES: usize = 256 << 20;

/// Bytes per second that a program's output has when its reader only counts it.
pub async fn pipe(load: &LoadArgs) -> Result<f64, Failure> {
    let failed = || local("cannot read from a pipe");
    let mut command = Command::new(program::path()?);
    command.args(load.words()).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    let begun = Instant::now();
    let mut process = command.spawn().map_err(failed())?;
    let mut bytes = 0;
    if let Some(mut stdout) = process.stdout.take() {
        bytes = count(&mut stdout).await.map_err(failed())?;
    }
    process.wait().await.map_err(failed())?;
    if bytes as u64 != load.total_bytes() {
        return Err(Failure::Local(format!("read {bytes} of {} bytes from a pipe", load.total_bytes())));
    }
    Ok(bytes as f64 / begun.elapsed().as_secs_f64())
}

/// Bytes per second over a TCP connection of this machine with itself.
pub async fn loopback() -> Result<f64, Failure> {
    let failed = || local("cannot use the loopback address");
    let listener = TcpListener::bind("127.0.0.1:0").await.map_err(failed())?;
    let address = listener.local_addr().map_err(failed())?;
    let mut sender = TcpStream::connect(address).await.map_err(failed())?;
    let (mut receiver, _) = listener.accept().await.map_err(failed())?;
    let begun = Instant::now();
    let send = async move {
        let piece = vec![b'x'; WRITE_BYTES];
        for _ in 0..LOOPBACK_BYTES / WRITE_BYTES {
            sender.write_all(&piece).await?;
        }
        sender.shutdown().await
    };
    let sending = tokio::spawn(send);
    let bytes = count(&mut receiver).await.map_err(failed())?;
    sending.await.map_err(local("cannot use the loopback address"))?.map_err(failed())?;
    Ok(bytes as f64 / begun.elapsed().as_secs_f64())
}

async fn count(from: &mut (impl AsyncReadExt + Unpin)) -> std::io::Result<usize> {
    let mut buffer = vec![0; WRITE_BYTES];
    let mut bytes = 0;
    loop {
        match from.read(&mut buffer).await? {
            0 => return Ok(bytes),
            read => bytes += read,
        }
    }
}
