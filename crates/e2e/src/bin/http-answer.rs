//! An HTTP server that runs as a task in tests: `http-answer DIR`.
//!
//! It listens on the port of `GAFFER_PORT_HTTP`. Each answer has the status in the file `DIR/INDEX` of its task index, or in
//! `DIR/all`; 200 without either. Its body names job, task index, attempt and process.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on should fail")]

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

fn main() {
    let dir = PathBuf::from(std::env::args_os().nth(1).expect("a directory"));
    let port: u16 = variable("GAFFER_PORT_HTTP").parse().expect("a port");
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).expect("the port is free");
    for stream in listener.incoming().flatten() {
        // A client that goes away is none of ours.
        let _ = answer(stream, &dir);
    }
}

fn answer(mut stream: TcpStream, dir: &std::path::Path) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut request = [0; 4096];
    let _ = stream.read(&mut request)?;
    let index = variable("GAFFER_TASK_INDEX");
    let stated = [dir.join(&index), dir.join("all")].into_iter();
    let status = stated.filter_map(|path| std::fs::read_to_string(path).ok()).next();
    let status = status.unwrap_or_else(|| "200".to_owned());
    let (job, attempt) = (variable("GAFFER_JOB_ID"), variable("GAFFER_ATTEMPT"));
    let body = format!("job {job} index {index} attempt {attempt} process {}\n", std::process::id());
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {} Test\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}",
        status.trim()
    )
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}
