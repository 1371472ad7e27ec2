#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use std::net::SocketAddr;

use axum::routing::{get, post};
use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{interval, timeout};

use super::*;
use crate::metrics::Metrics;

/// So long that a test which waits for it has failed.
const PATIENCE: Duration = Duration::from_secs(120);
/// Of timeouts whose end a test waits for.
const SHORT: Duration = Duration::from_millis(300);
/// Of timeouts that must not pass between two words of a test, however busy the machine is.
const LONG: Duration = Duration::from_secs(4);

fn timeouts(limit: Duration) -> Timeouts {
    Timeouts { header: limit, idle: limit, body: limit, whole_body: PATIENCE, answer: limit }
}

/// A port that knows a few requests; where it listens, and how to take it down.
async fn port(
    timeouts: Timeouts,
    limits: PlaceLimits,
) -> (SocketAddr, CancellationToken, tokio::task::JoinHandle<()>) {
    port_with(timeouts, limits, Transport::default()).await
}

async fn port_with(
    timeouts: Timeouts,
    limits: PlaceLimits,
    transport: Transport,
) -> (SocketAddr, CancellationToken, tokio::task::JoinHandle<()>) {
    let ticks = || {
        let ticks = futures::stream::unfold(interval(LONG / 4), |mut interval| async {
            interval.tick().await;
            Some((Ok::<_, Infallible>(Bytes::from_static(b"tick")), interval))
        });
        Body::from_stream(ticks)
    };
    let router = Router::new()
        .route("/", get(|| async { "hello" }))
        .route("/length", post(|body: Bytes| async move { body.len().to_string() }))
        .route("/ticks", get(move || async move { ticks() }));
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, shutdown) = (socket.local_addr().unwrap(), CancellationToken::new());
    let metrics = Metrics::default().http;
    let listener = Listener { name: "test", socket, router, limits, timeouts, transport, metrics };
    (address, shutdown.clone(), tokio::spawn(listener.serve(shutdown)))
}

async fn patient_for(limit: Duration) -> SocketAddr {
    port(timeouts(limit), PlaceLimits::new(100, 100)).await.0
}

async fn connected(to: SocketAddr, text: &str) -> TcpStream {
    let mut stream = TcpStream::connect(to).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    stream
}

/// All that comes until the other end closes.
async fn until_closed(stream: &mut TcpStream) -> String {
    let mut all = Vec::new();
    // A reset is an end, too.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut all)).await.expect("it stays open");
    String::from_utf8(all).unwrap()
}

async fn read_until(stream: &mut TcpStream, text: &str) -> String {
    let mut all = Vec::new();
    while !String::from_utf8_lossy(&all).contains(text) {
        let read = timeout(PATIENCE, stream.read_buf(&mut all)).await.expect("nothing comes").unwrap();
        assert!(read > 0, "closed after {:?}", String::from_utf8_lossy(&all));
    }
    String::from_utf8(all).unwrap()
}

#[tokio::test]
async fn connections_that_say_nothing_are_closed() {
    let port = patient_for(SHORT).await;
    for text in ["", "GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nHost: x\r\n"] {
        assert_eq!(until_closed(&mut connected(port, text).await).await, "", "{text:?}");
    }
}

#[tokio::test]
async fn handshakes_that_take_too_long_are_closed() {
    let files = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../e2e/certificates");
    let certificate = Certificate::load(&files.join("server.pem"), &files.join("server.key")).await.unwrap();
    let transport = Transport { certificate: Some(Arc::new(certificate)), ..Transport::default() };
    let (port, shutdown, running) = port_with(timeouts(SHORT), PlaceLimits::new(100, 100), transport).await;
    // Nothing, the beginning of a hello, a plain request without an end.
    for text in ["", "\u{16}\u{3}\u{1}\u{1}\0\u{1}", "GET / HTTP/1.1\r\nHost: x\r\n"] {
        assert_eq!(until_closed(&mut connected(port, text).await).await, "", "{text:?}");
    }
    let mut slow = connected(port, "\u{16}\u{3}\u{1}\u{2}\0").await;
    dribble_until_closed(&mut slow).await;
    // One that is in the middle of it does not hold up the end of the master.
    let _open = connected(port, "\u{16}").await;
    shutdown.cancel();
    timeout(PATIENCE, running).await.expect("it waits for a handshake").unwrap();
}

/// Sends a byte at a time, often enough not to be silent, until that is not taken any more.
async fn dribble_until_closed(stream: &mut TcpStream) {
    let mut pause = interval(SHORT / 10);
    let dribble = async {
        loop {
            pause.tick().await;
            if stream.write_all(b"x").await.is_err() {
                return;
            }
        }
    };
    timeout(PATIENCE, dribble).await.expect("it is still read");
}

#[tokio::test]
async fn a_header_that_comes_byte_by_byte_has_a_whole_time() {
    let port = patient_for(SHORT).await;
    let mut stream = connected(port, "GET / HTTP/1.1\r\n").await;
    dribble_until_closed(&mut stream).await;
}

#[tokio::test]
async fn a_connection_is_used_again_until_it_is_idle_for_too_long() {
    let port = patient_for(LONG).await;
    let mut stream = connected(port, "").await;
    for _ in 0..3 {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        read_until(&mut stream, "hello").await;
    }
    assert_eq!(until_closed(&mut stream).await, "");
}

#[tokio::test]
async fn a_body_that_stops_is_not_waited_for_and_a_slow_one_is() {
    let head = "POST /length HTTP/1.1\r\nHost: x\r\nContent-Length: 40\r\n\r\n";
    let port = patient_for(SHORT).await;
    let answer = until_closed(&mut connected(port, &format!("{head}half")).await).await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    // Longer than it may stand still, without ever doing so.
    let mut slow = connected(patient_for(LONG).await, head).await;
    let mut pause = interval(LONG / 10);
    for _ in 0..20 {
        pause.tick().await;
        slow.write_all(b"xx").await.unwrap();
    }
    assert!(read_until(&mut slow, "\r\n\r\n40").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_body_that_dribbles_has_a_whole_time() {
    let timeouts = Timeouts { whole_body: SHORT, ..timeouts(LONG) };
    let (port, ..) = port(timeouts, PlaceLimits::new(100, 100)).await;
    let mut stream =
        connected(port, "POST /length HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n").await;
    dribble_until_closed(&mut stream).await;
}

#[tokio::test]
async fn a_stream_stays_open_for_as_long_as_it_is_read() {
    let port = patient_for(LONG).await;
    let mut stream = connected(port, "GET /ticks HTTP/1.1\r\nHost: x\r\n\r\n").await;
    // Longer than anything may be silent.
    for _ in 0..8 {
        read_until(&mut stream, "tick").await;
    }
}

#[tokio::test]
async fn a_full_port_lets_newcomers_in() {
    let (port, ..) = port(Timeouts::default(), PlaceLimits::new(20, 20)).await;
    let mut crowd = Vec::new();
    for _ in 0..100 {
        crowd.push(connected(port, "").await);
    }
    let mut newcomer = connected(port, "GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    read_until(&mut newcomer, "hello").await;
    for stream in &mut crowd[..80] {
        assert_eq!(until_closed(stream).await, "");
    }
}

#[tokio::test]
async fn going_down_waits_for_answers_and_for_nobody_who_is_silent() {
    let (port, shutdown, serving) = port(Timeouts::default(), PlaceLimits::new(100, 100)).await;
    let mut silent = connected(port, "").await;
    let mut idle = connected(port, "GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    read_until(&mut idle, "hello").await;
    let mut at_work =
        connected(port, "POST /length HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nab").await;
    // Begun for sure: what is answered on another connection came later.
    read_until(&mut connected(port, "GET / HTTP/1.1\r\nHost: x\r\n\r\n").await, "hello").await;
    shutdown.cancel();
    assert_eq!(until_closed(&mut silent).await, "");
    assert_eq!(until_closed(&mut idle).await, "");
    at_work.write_all(b"cd").await.unwrap();
    assert!(until_closed(&mut at_work).await.ends_with("4"));
    timeout(PATIENCE, serving).await.expect("it does not end").unwrap();
}
