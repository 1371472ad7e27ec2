//! An API that answers as a test tells it, and remembers what it was asked.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use futures::StreamExt;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;

/// A request as it arrived.
#[derive(Debug, Clone)]
pub struct Asked {
    /// `GET /jobs/1?a=b`, without `/api/v1`.
    pub line: String,
    pub headers: BTreeMap<String, String>,
    pub body: Bytes,
}

impl Asked {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(String::as_str).unwrap_or_default()
    }
}

/// What to answer.
pub struct Reply {
    status: u16,
    content_type: &'static str,
    link: Option<String>,
    body: Body,
}

impl Reply {
    pub fn json(status: u16, body: &Value) -> Reply {
        Reply::text(status, "application/json", body.to_string())
    }

    pub fn text(status: u16, content_type: &'static str, body: impl Into<Body>) -> Reply {
        Reply { status, content_type, link: None, body: body.into() }
    }

    pub fn problem(status: u16, code: &str, detail: &str, errors: Value) -> Reply {
        let problem = json!({
            "type": "about:blank", "title": "Title", "status": status, "code": code, "detail": detail,
            "request_id": "req-1", "errors": errors,
        });
        Reply { content_type: "application/problem+json", ..Reply::json(status, &problem) }
    }

    /// Lines of an output, then its regular end.
    pub fn lines(lines: &[Value]) -> Reply {
        Reply::text(200, "application/x-ndjson", in_lines(lines))
    }

    /// Lines of an output, then a connection that breaks.
    pub fn cut(lines: &[Value]) -> Reply {
        let parts = vec![Ok(Bytes::from(in_lines(lines))), Err(io::Error::other("cut"))];
        // The pause lets the bytes leave before the connection does.
        let stream = futures::stream::iter(parts).then(|part| async {
            tokio::task::yield_now().await;
            part
        });
        Reply { body: Body::from_stream(stream), ..Reply::lines(&[]) }
    }

    /// Lines of an output, then others once the test says so.
    pub fn lines_when(first: &[Value], mut go: watch::Receiver<bool>, then: &[Value]) -> Reply {
        let (first, then) = (in_lines(first), in_lines(then));
        let start = futures::stream::iter([Ok::<_, Infallible>(Bytes::from(first))]);
        let rest = futures::stream::once(async move {
            let _ = go.wait_for(|go| *go).await;
            Ok(Bytes::from(then))
        });
        Reply { body: Body::from_stream(start.chain(rest)), ..Reply::lines(&[]) }
    }

    pub fn linked(self, link: &str) -> Reply {
        Reply { link: Some(link.to_owned()), ..self }
    }
}

fn in_lines(lines: &[Value]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}

type Answer = dyn Fn(&Asked) -> Reply + Send + Sync;

struct Shared {
    answer: Box<Answer>,
    asked: Mutex<Vec<Asked>>,
    count: watch::Sender<usize>,
}

/// The API.
pub struct Fake {
    shared: Arc<Shared>,
    pub address: SocketAddr,
}

impl Fake {
    pub async fn start(answer: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> io::Result<Fake> {
        let shared = Arc::new(Shared {
            answer: Box::new(answer),
            asked: Mutex::default(),
            count: watch::channel(0).0,
        });
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let router = Router::new().fallback(reply).with_state(Arc::clone(&shared));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(Fake { shared, address })
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What it was asked so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.shared.asked.lock().map(|asked| asked.clone()).unwrap_or_default()
    }

    /// The request lines so far.
    pub fn lines(&self) -> Vec<String> {
        self.asked().into_iter().map(|asked| asked.line).collect()
    }

    /// Waits for a request that begins like this.
    pub async fn until_asked(&self, start: &str) {
        let mut count = self.shared.count.subscribe();
        while !self.lines().iter().any(|line| line.starts_with(start)) {
            if count.changed().await.is_err() {
                return;
            }
        }
    }
}

async fn reply(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().map(|path| path.as_str()).unwrap_or_default();
    let headers = parts
        .headers
        .iter()
        .filter_map(|(name, value)| Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned())));
    let asked = Asked {
        line: format!("{} {}", parts.method, path.strip_prefix("/api/v1").unwrap_or(path)),
        headers: headers.collect(),
        body: axum::body::to_bytes(body, usize::MAX).await.unwrap_or_default(),
    };
    let answer = (shared.answer)(&asked);
    if let Ok(mut all) = shared.asked.lock() {
        all.push(asked);
    }
    shared.count.send_modify(|count| *count += 1);
    let mut response = Response::builder()
        .status(StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR))
        .header("content-type", answer.content_type);
    if let Some(link) = answer.link {
        response = response.header("link", link);
    }
    response.body(answer.body).unwrap_or_default()
}

/// A job as the API shows it.
pub fn job(id: i64, state: &str, tasks: i64) -> Value {
    json!({
        "id": id, "name": "true", "type": "batch", "state": state, "reason": null, "labels": {}, "priority": 50,
        "task_counts": {state: tasks}, "created_by": "ana", "rerun_of": null, "created_at": "2026-01-01T00:00:00Z",
        "started_at": null, "finished_at": null, "spec": {"name": "true"}, "a_later_field": [1.50, {"b": 1, "a": 2}],
    })
}

/// The end of a task's output.
pub fn end(address: &str, state: &str, attempt: u32, more: Value) -> Value {
    let mut task = json!({
        "job": 1, "task": address.split('.').next(), "index": 0, "address": address, "driver": "host", "state": state,
        "reason": null, "exit_code": null, "signal": null, "attempt": attempt, "worker": "pi4", "worker_id": 1,
        "not_before": null, "created_at": "2026-01-01T00:00:00Z", "started_at": "2026-01-01T00:00:01Z",
        "finished_at": "2026-01-01T00:01:13Z",
    });
    if let (Some(task), Value::Object(more)) = (task.as_object_mut(), more) {
        task.extend(more);
    }
    json!({"end": task})
}

/// A piece of text.
pub fn text(address: &str, attempt: u32, offset: u64, stream: &str, text: &str) -> Value {
    json!({"data": {
        "task": address, "attempt": attempt, "offset": offset, "at": "2026-01-01T00:00:02Z", "stream": stream, "text": text,
    }})
}
