//! A small client of the REST API.

use std::path::Path;
use std::time::Duration;

use gaffer_protocol::rest::{Job, Page, Task};
use reqwest::header::{AUTHORIZATION, HeaderMap};
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};

use crate::{PATIENCE, eventually_within};

/// An HTTP client that trusts the certificates in a file, and follows no redirect.
pub fn trusting(ca: &Path) -> reqwest::Client {
    let certificates = reqwest::Certificate::from_pem_bundle(&std::fs::read(ca).unwrap()).unwrap();
    let builder = reqwest::Client::builder().tls_certs_only(certificates);
    builder.redirect(reqwest::redirect::Policy::none()).no_proxy().build().unwrap()
}

/// A client with a key.
#[derive(Debug, Clone)]
pub struct Client {
    base: String,
    key: String,
    http: reqwest::Client,
}

/// A status and a JSON body.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    /// The body; null if it is no JSON.
    pub body: Value,
    pub text: String,
}

impl Client {
    /// A client of the API at `base` (without `/api/v1`).
    pub fn new(base: &str, key: &str) -> Client {
        let http = reqwest::Client::builder().tcp_nodelay(true).build().unwrap();
        Client { base: base.to_owned(), key: key.to_owned(), http }
    }

    /// A client that trusts the certificates in a file.
    pub fn trusting(base: &str, key: &str, ca: &Path) -> Client {
        Client { base: base.to_owned(), key: key.to_owned(), http: trusting(ca) }
    }

    /// The same client with another key.
    pub fn with_key(&self, key: &str) -> Client {
        Client { key: key.to_owned(), ..self.clone() }
    }

    /// The address that it asks, without `/api/v1`.
    pub fn base(&self) -> &str {
        &self.base
    }

    pub fn key(&self) -> &str {
        &self.key
    }

    /// A request that has not been sent yet.
    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let url = format!("{}/api/v1{path}", self.base);
        self.http.request(method, url).header(AUTHORIZATION, format!("Bearer {}", self.key))
    }

    /// The raw answer to a GET.
    pub async fn open(&self, path: &str, accept: &str) -> Response {
        self.request(Method::GET, path).header("accept", accept).send().await.unwrap()
    }

    /// GET.
    pub async fn get(&self, path: &str) -> Answer {
        answer(self.request(Method::GET, path)).await
    }

    /// POST with a JSON body.
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        answer(self.request(Method::POST, path).json(body)).await
    }

    /// DELETE.
    pub async fn delete(&self, path: &str) -> Answer {
        answer(self.request(Method::DELETE, path)).await
    }

    /// Submits a job; returns its number.
    pub async fn submit(&self, spec: Value) -> i64 {
        let answer = self.post("/jobs", &spec).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text);
        answer.body["id"].as_i64().unwrap()
    }

    /// A job as it is now.
    pub async fn job(&self, job: i64) -> Job {
        serde_json::from_value(self.get(&format!("/jobs/{job}")).await.body).unwrap()
    }

    /// All tasks of a job.
    pub async fn tasks(&self, job: i64) -> Vec<Task> {
        let mut tasks = Vec::new();
        let mut cursor = String::new();
        loop {
            let answer = self.get(&format!("/jobs/{job}/tasks?limit=500{cursor}")).await;
            let page: Page<Task> = serde_json::from_value(answer.body).unwrap();
            tasks.extend(page.items);
            match page.next_cursor {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return tasks,
            }
        }
    }

    /// Waits until a job is over.
    pub async fn finished(&self, job: i64) -> Job {
        self.finished_within(job, *PATIENCE).await
    }

    /// Waits until a job has ended, up to this deadline.
    pub async fn finished_within(&self, job: i64, patience: Duration) -> Job {
        eventually_within(patience, &format!("job {job} is over"), async || {
            let answer = self.get(&format!("/jobs/{job}?wait=10s")).await;
            let job: Job = serde_json::from_value(answer.body).ok()?;
            job.finished_at.is_some().then_some(job)
        })
        .await
    }

    /// Waits until a job is in a state.
    pub async fn in_state(&self, job: i64, state: &str) -> Job {
        eventually_within(*PATIENCE, &format!("job {job} is {state}"), async || {
            let job = self.job(job).await;
            (job.state == state).then_some(job)
        })
        .await
    }

    /// The whole output of a job's tasks, raw.
    pub async fn output(&self, job: i64) -> Vec<u8> {
        let response = self.open(&format!("/jobs/{job}/output"), "text/plain").await;
        assert_eq!(response.status(), StatusCode::OK);
        response.bytes().await.unwrap().to_vec()
    }
}

async fn answer(request: reqwest::RequestBuilder) -> Answer {
    Answer::of(request.send().await.unwrap()).await
}

impl Answer {
    /// Reads a whole response.
    pub async fn of(response: Response) -> Answer {
        let (status, headers) = (response.status(), response.headers().clone());
        let text = response.text().await.unwrap();
        Answer { status, headers, body: serde_json::from_str(&text).unwrap_or(Value::Null), text }
    }
}

/// A job of one host task that runs a shell script.
pub fn script(text: &str) -> Value {
    json!({ "script": text })
}

/// A job of scripted tasks.
pub fn play(text: &str, count: u32) -> Value {
    json!({ "driver": "scripted", "script": text, "count": count })
}
