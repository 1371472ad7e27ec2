//! An S3 server on loopback that keeps objects in a directory: for tests of output in object storage.
//!
//! `s3-server DIRECTORY PORT` prints its port when it listens, and checks signatures against one pair of keys.

#![allow(clippy::print_stdout, reason = "its port is its output")]

use std::path::PathBuf;

use anyhow::Context as _;
use gaffer_e2e::s3::{ACCESS_KEY, SECRET_KEY};
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use s3s_fs::FileSystem;
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let (Some(directory), Some(port)) = (args.next(), args.next()) else {
        anyhow::bail!("usage: s3-server DIRECTORY PORT");
    };
    let files = FileSystem::new(PathBuf::from(&directory));
    let files = files.map_err(|error| anyhow::anyhow!("{directory}: {error:?}"))?;
    let mut builder = S3ServiceBuilder::new(files);
    builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
    let service = builder.build().into_shared();
    let listener = TcpListener::bind(("127.0.0.1", port.parse::<u16>()?)).await.context("cannot listen")?;
    println!("{}", listener.local_addr()?.port());
    loop {
        let (socket, _) = listener.accept().await?;
        let connection = http1::Builder::new().serve_connection(TokioIo::new(socket), service.clone());
        tokio::spawn(async move {
            // A client that goes away is no error of the server.
            let _ = connection.await;
        });
    }
}
