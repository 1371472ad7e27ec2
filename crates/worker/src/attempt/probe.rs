//! The probes of health checks: an HTTP request, a TCP connection, a program.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use gaffer_domain::health::CheckKind;
use gaffer_domain::reason::{ProcessEnd, signal_name};
use gaffer_domain::spec::StatusRange;
use gaffer_protocol::health::MAX_DETAIL_CHARS;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::driver::{Exec, ExecError};

/// The most that is read of an answer: the status line has to be in it, and what is shown of the body.
const MAX_ANSWER_BYTES: usize = 16 << 10;
const END_OF_HEAD: &str = "\r\n\r\n";
const NO_ANSWER: &str = "no answer in time";

/// What is asked, with everything it takes to ask.
pub(super) enum Asked<'a> {
    Http { port: u16, path: &'a str, status: StatusRange, headers: &'a BTreeMap<String, String> },
    Tcp { port: u16 },
    Command { exec: &'a dyn Exec, check: CheckKind, command: &'a [String] },
}

/// Whether it passed, and the answer in one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub passed: bool,
    pub detail: String,
}

impl Answer {
    pub fn failed(detail: impl Into<String>) -> Answer {
        Answer { passed: false, detail: detail.into() }
    }
}

/// Asks, for no longer than `limit`. None if it could not be asked, which says nothing of the task.
pub(super) async fn ask(asked: Asked<'_>, limit: Duration) -> Option<Answer> {
    let answer = match asked {
        Asked::Http { port, path, status, headers } => Ok(http(port, path, status, headers, limit).await),
        Asked::Tcp { port } => timeout(limit, tcp(port)).await,
        // `run` enforces the limit itself.
        Asked::Command { exec, check, command } => Ok(run(exec, check, command, limit).await?),
    };
    let mut answer = answer.unwrap_or_else(|_| Answer::failed(NO_ANSWER));
    answer.detail = one_line(&answer.detail);
    Some(answer)
}

async fn connect(port: u16) -> io::Result<TcpStream> {
    TcpStream::connect(("127.0.0.1", port)).await
}

async fn tcp(port: u16) -> Answer {
    match connect(port).await {
        Ok(_) => Answer { passed: true, detail: format!("port {port} accepts connections") },
        Err(error) => Answer::failed(format!("port {port}: {error}")),
    }
}

/// Follows no redirect and reads no more than it needs. Once the head of the answer has arrived it decides, also if the rest does
/// not come in time.
async fn http(
    port: u16,
    path: &str,
    status: StatusRange,
    headers: &BTreeMap<String, String>,
    limit: Duration,
) -> Answer {
    let mut answer = Vec::new();
    match timeout(limit, read_answer(port, path, headers, &mut answer)).await {
        Ok(Ok(())) => judged(&answer, status),
        Ok(Err(error)) => Answer::failed(format!("port {port}: {error}")),
        Err(_) if final_answer(&String::from_utf8_lossy(&answer)).contains(END_OF_HEAD) => {
            judged(&answer, status)
        }
        Err(_) => Answer::failed(NO_ANSWER),
    }
}

async fn read_answer(
    port: u16,
    path: &str,
    headers: &BTreeMap<String, String>,
    answer: &mut Vec<u8>,
) -> io::Result<()> {
    let mut stream = connect(port).await?;
    stream.write_all(request(port, path, headers).as_bytes()).await?;
    let mut buffer = [0; 4096];
    while answer.len() < MAX_ANSWER_BYTES && !is_whole(answer) {
        match stream.read(&mut buffer).await {
            Ok(0) => break,
            Ok(read) => answer.extend(buffer.iter().take(read)),
            // A server that closes without reading everything has answered all the same.
            Err(_) if !answer.is_empty() => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// An answer without the interim ones before it, which say that it is still to come (RFC 9110, section 15.2).
fn final_answer(answer: &str) -> &str {
    let mut rest = answer;
    while let Some((head, next)) = rest.split_once(END_OF_HEAD)
        && matches!(status_of(head), Some(100 | 102..=199))
    {
        rest = next;
    }
    rest
}

/// Whether nothing more is needed of an answer, though its connection may stay open.
fn is_whole(answer: &[u8]) -> bool {
    let text = String::from_utf8_lossy(answer);
    let Some((head, body)) = final_answer(&text).split_once(END_OF_HEAD) else { return false };
    // These never have a body.
    if matches!(status_of(head), Some(204 | 304)) {
        return true;
    }
    let header = |name: &str| {
        let fields = head.lines().filter_map(|line| line.split_once(':'));
        let mut found = fields.filter(|(given, _)| given.eq_ignore_ascii_case(name));
        found.next().map(|(_, value)| value.trim().to_owned())
    };
    let length = header("content-length").and_then(|length| length.parse::<usize>().ok());
    let is_chunked_end = header("transfer-encoding").is_some() && body.ends_with("0\r\n\r\n");
    length.is_some_and(|length| body.len() >= length)
        || is_chunked_end
        || body.chars().count() > MAX_DETAIL_CHARS
}

fn request(port: u16, path: &str, headers: &BTreeMap<String, String>) -> String {
    let has = |name: &str| headers.keys().any(|given| given.eq_ignore_ascii_case(name));
    let mut request = format!("GET {path} HTTP/1.1\r\n");
    if !has("host") {
        request.push_str(&format!("Host: 127.0.0.1:{port}\r\n"));
    }
    if !has("user-agent") {
        request.push_str("User-Agent: gaffer-health-check\r\n");
    }
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str("Connection: close\r\n\r\n");
    request
}

fn status_of(answer: &str) -> Option<u16> {
    let status = answer.strip_prefix("HTTP/1.")?.split(' ').nth(1)?;
    // Without a reason, the line ends here.
    status.split("\r\n").next()?.trim().parse().ok()
}

fn judged(answer: &[u8], wanted: StatusRange) -> Answer {
    let text = String::from_utf8_lossy(answer);
    let text = final_answer(&text);
    let Some(status) = status_of(text) else {
        return Answer::failed(if answer.is_empty() {
            "the connection was closed without an answer"
        } else {
            "the answer is not HTTP"
        });
    };
    let body = text.split_once(END_OF_HEAD).map_or("", |(_, body)| body).trim();
    let detail =
        if body.is_empty() { format!("status {status}") } else { format!("status {status}: {body}") };
    Answer { passed: (wanted.first..=wanted.last).contains(&status), detail }
}

async fn run(exec: &dyn Exec, check: CheckKind, command: &[String], limit: Duration) -> Option<Answer> {
    let ran = match exec.run(check, command, limit).await {
        Ok(ran) => ran,
        Err(ExecError::Failed(why)) => return Some(Answer::failed(why)),
        Err(ExecError::Away(why)) => {
            tracing::debug!(check = check.as_str(), why, "cannot make a check");
            return None;
        }
    };
    let how = match ran.end {
        ProcessEnd::Code(code) => format!("exit code {code}"),
        ProcessEnd::Signal(signal) => format!("killed by {}", signal_name(signal)),
    };
    let output = String::from_utf8_lossy(&ran.output);
    let output = output.trim();
    let detail = if output.is_empty() { how } else { format!("{how}: {output}") };
    Some(Answer { passed: ran.end == ProcessEnd::Code(0), detail })
}

/// Without line ends, and not too long.
fn one_line(text: &str) -> String {
    let plain = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    plain.take(MAX_DETAIL_CHARS).collect::<String>().trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use tokio::net::TcpListener;

    use super::*;

    const GOOD: StatusRange = StatusRange { first: 200, last: 399 };
    const LIMIT: Duration = Duration::from_secs(5);

    /// Answers one connection with these bytes; gives the request.
    async fn serve(answer: &'static [u8]) -> (u16, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let served = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 4096];
            let read = stream.read(&mut request).await.unwrap();
            // The client reads no more than it needs.
            let _ = stream.write_all(answer).await;
            String::from_utf8_lossy(&request[..read]).into_owned()
        });
        (port, served)
    }

    async fn get(answer: &'static [u8]) -> Answer {
        let (port, _) = serve(answer).await;
        ask(Asked::Http { port, path: "/", status: GOOD, headers: &BTreeMap::new() }, LIMIT).await.unwrap()
    }

    #[tokio::test]
    async fn the_status_decides_and_the_body_is_shown_in_one_line() {
        let answer = get(b"HTTP/1.1 200 OK\r\n\r\nfine\n").await;
        assert_eq!(answer, Answer { passed: true, detail: "status 200: fine".to_owned() });
        let answer = get(b"HTTP/1.1 503 No\r\na: b\r\n\r\ndatabase\r\nis away").await;
        assert_eq!(answer, Answer::failed("status 503: database  is away"));
        let answer = get(b"HTTP/1.0 302 Elsewhere\r\nlocation: http://example.org/\r\n\r\n").await;
        assert_eq!(answer, Answer { passed: true, detail: "status 302".to_owned() }, "it is not followed");
        assert_eq!(get(b"SSH-2.0-x\r\n").await, Answer::failed("the answer is not HTTP"));
        assert_eq!(get(b"").await, Answer::failed("the connection was closed without an answer"));
    }

    #[tokio::test]
    async fn a_connection_that_stays_open_is_not_waited_for() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let held = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
            stream
        });
        let asked = Asked::Http { port, path: "/", status: GOOD, headers: &BTreeMap::new() };
        let answer = ask(asked, Duration::from_secs(3600)).await.unwrap();
        assert_eq!(answer, Answer { passed: true, detail: "status 200: ok".to_owned() });
        drop(held.await);
    }

    #[tokio::test]
    async fn a_status_that_has_arrived_decides_although_the_body_does_not_end() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (done, held) = tokio::sync::oneshot::channel::<()>();
        let served = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n")
                .await
                .unwrap();
            let _ = held.await;
        });
        let asked = Asked::Http { port, path: "/", status: GOOD, headers: &BTreeMap::new() };
        let answer = ask(asked, Duration::from_millis(500)).await.unwrap();
        assert_eq!(answer, Answer { passed: true, detail: "status 200: data: 1".to_owned() });
        drop(done);
        served.await.unwrap();
    }

    #[tokio::test]
    async fn an_interim_answer_is_not_the_answer() {
        let answer = get(b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 503 No\r\n\r\ndown").await;
        assert_eq!(answer, Answer::failed("status 503: down"));
    }

    #[tokio::test]
    async fn an_endless_answer_is_not_read_to_its_end() {
        static LONG: [u8; 1 << 20] = [b'x'; 1 << 20];
        assert_eq!(get(&LONG).await, Answer::failed("the answer is not HTTP"));
    }

    #[tokio::test]
    async fn a_request_has_the_headers_of_the_check_and_each_once() {
        let (port, served) = serve(b"HTTP/1.1 204 None\r\n\r\n").await;
        let headers = BTreeMap::from([("Host".to_owned(), "web.example".to_owned())]);
        let asked = Asked::Http { port, path: "/health?full=1", status: GOOD, headers: &headers };
        assert!(ask(asked, LIMIT).await.unwrap().passed);
        let request = served.await.unwrap();
        assert!(request.starts_with("GET /health?full=1 HTTP/1.1\r\n"), "{request}");
        assert_eq!(request.to_lowercase().matches("host:").count(), 1, "{request}");
    }

    #[tokio::test]
    async fn nobody_who_does_not_answer_is_waited_for() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(ask(Asked::Tcp { port }, LIMIT).await.unwrap().passed);
        let asked = Asked::Http { port, path: "/", status: GOOD, headers: &BTreeMap::new() };
        assert_eq!(ask(asked, Duration::from_millis(50)).await, Some(Answer::failed("no answer in time")));
        drop(listener);
        assert!(!ask(Asked::Tcp { port }, LIMIT).await.unwrap().passed);
    }
}
