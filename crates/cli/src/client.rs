//! The client of the REST API: one connection, errors from problem documents.

use std::error::Error;
use std::time::Duration;

use bytes::Bytes;
use gaffer_domain::JobId;
use gaffer_protocol::keys::{self, KEY_INVALID};
use gaffer_protocol::rest::{Problem, StdinPosition};
use gaffer_worker::route::Route;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, DATE, HeaderName, HeaderValue, LINK, LOCATION};
use reqwest::{Method, RequestBuilder, Response, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use crate::access::{Access, ENVIRONMENT};
use crate::backoff::Backoff;
use crate::config;
use crate::failure::Failure;
use crate::timestamp;

/// Long enough for a slow link, short enough that a wrong address is noticed.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an answer may take, except for streams.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest wait that the API grants, as it is written in the query.
pub const LONGEST_WAIT: &str = "60s";
/// How long the answer to such a wait may take.
const WAIT_TIMEOUT: Duration = Duration::from_secs(90);

/// The parameters of a request.
pub type Query = Vec<(&'static str, String)>;

/// The API of one installation, called with one key.
pub struct Client {
    http: reqwest::Client,
    base: Url,
    key: HeaderValue,
    /// What the text of the key shows, should the API refuse it.
    fault: Option<&'static str>,
    source: String,
    /// What is being sent, for messages.
    detour: String,
}

/// The HTTP client of all commands: the way to the API, and what is asked of every connection.
///
/// # Errors
/// [`Failure::Local`] if it can't be set up.
pub fn http(route: &Route) -> Result<reqwest::Client, Failure> {
    let failed = |error: reqwest::Error| Failure::Local(format!("cannot set up HTTP: {}", root(&error)));
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("gaffer/", env!("CARGO_PKG_VERSION")))
        .http1_only()
        .tcp_nodelay(true)
        .connect_timeout(CONNECT_TIMEOUT)
        // A stream may be silent for hours; keepalive detects a dead machine.
        .tcp_keepalive(Duration::from_secs(15))
        .tcp_keepalive_interval(Duration::from_secs(5))
        .tcp_keepalive_retries(3)
        // A key is for the address that it was given with.
        .redirect(reqwest::redirect::Policy::none())
        // Which proxy counts is decided as for workers.
        .no_proxy();
    builder = match route.tls() {
        Some(tls) => builder.tls_backend_preconfigured(tls.as_ref().clone()),
        // Reading the system's certificates takes longer than many a job.
        None => builder.tls_certs_only([]),
    };
    if let Some(proxy) = route.proxy() {
        let mut through = reqwest::Proxy::all(proxy.url()).map_err(failed)?;
        if let Some((user, password)) = &proxy.credentials {
            through = through.basic_auth(user, password);
        }
        builder = builder.proxy(through);
    }
    builder.build().map_err(failed)
}

/// An answer of the API with its body as it was sent.
pub struct Answer {
    pub body: Bytes,
    /// The page for people, if the API named one.
    pub page: Option<String>,
}

impl Client {
    /// A client; nothing is sent yet.
    ///
    /// # Errors
    /// [`Failure::Usage`] if address or key can't be used.
    pub fn new(access: &Access) -> Result<Client, Failure> {
        let base = Url::parse(&format!("{}/", access.url.api()))
            .map_err(|error| Failure::Usage(format!("{} is not a URL: {error}", access.url)))?;
        let mut key = HeaderValue::from_str(&format!("Bearer {}", access.key.reveal()))
            .map_err(|_| Failure::Usage("the key contains invalid characters".to_owned()))?;
        key.set_sensitive(true);
        let route = config::route(&access.url)?;
        let http = http(&route)?;
        let fault = keys::fault(access.key.reveal(), &[keys::USER_KEY]);
        Ok(Client { http, base, key, fault, source: access.source.clone(), detour: route.detour() })
    }

    /// The address that is called, without `/api/v1`.
    pub fn address(&self) -> &str {
        self.base.as_str().trim_end_matches("/api/v1/")
    }

    /// The answer to a GET.
    ///
    /// # Errors
    /// Errors of the API or the network.
    pub async fn get(&self, path: &[&str], query: &Query) -> Result<Answer, Failure> {
        self.answer(self.request(Method::GET, path, query).timeout(ANSWER_TIMEOUT)).await
    }

    /// GET, with the body read.
    ///
    /// # Errors
    /// Errors of the API or the network.
    pub async fn read<T: DeserializeOwned>(&self, path: &[&str], query: &Query) -> Result<T, Failure> {
        self.get(path, query).await?.read()
    }

    /// Waits until a job is final, at most a minute; returns its state.
    ///
    /// # Errors
    /// Errors of the API or the network.
    pub async fn wait<T: DeserializeOwned>(&self, job: JobId) -> Result<T, Failure> {
        let query = vec![("wait", LONGEST_WAIT.to_owned()), ("until", "final".to_owned())];
        let request = self.request(Method::GET, &["jobs", &job.to_string()], &query).timeout(WAIT_TIMEOUT);
        self.answer(request).await?.read()
    }

    /// POST, sent once.
    ///
    /// # Errors
    /// Errors of the API or the network.
    pub async fn post(&self, path: &[&str], body: &impl Serialize) -> Result<Answer, Failure> {
        self.post_with_key(path, &Query::new(), body, Uuid::new_v4()).await
    }

    /// POST, retried with the same idempotency key while the API is unreachable, so it takes effect once.
    ///
    /// # Errors
    /// What the API or the network says in the end.
    pub async fn post_patiently(
        &self,
        (path, query): (&[&str], &Query),
        body: &impl Serialize,
        patience: &mut Backoff,
        tell: impl Fn(&Failure),
    ) -> Result<Answer, Failure> {
        let idempotency_key = Uuid::new_v4();
        loop {
            match self.post_with_key(path, query, body, idempotency_key).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => patience.endure(failure, &tell).await?,
            }
        }
    }

    async fn post_with_key(
        &self,
        path: &[&str],
        query: &Query,
        body: &impl Serialize,
        key: Uuid,
    ) -> Result<Answer, Failure> {
        let request = self.request(Method::POST, path, query);
        let request = request.header(HeaderName::from_static("idempotency-key"), key.to_string());
        self.answer(request.json(body).timeout(ANSWER_TIMEOUT)).await
    }

    /// POST of a text, sent once.
    ///
    /// # Errors
    /// Errors of the API or the network.
    pub async fn post_text(&self, path: &[&str], media_type: &str, text: String) -> Result<Answer, Failure> {
        let request = self.request(Method::POST, path, &Query::new()).header(CONTENT_TYPE, media_type);
        self.answer(request.body(text).timeout(ANSWER_TIMEOUT)).await
    }

    /// PATCH with a JSON body, sent once.
    ///
    /// # Errors
    /// Errors of the API or the network.
    pub async fn patch(&self, path: &[&str], body: &impl Serialize) -> Result<Answer, Failure> {
        let request = self.request(Method::PATCH, path, &Query::new()).json(body);
        self.answer(request.timeout(ANSWER_TIMEOUT)).await
    }

    /// PUT of bytes, sent once.
    ///
    /// # Errors
    /// Errors of the API or the network.
    pub async fn put_bytes(&self, path: &[&str], bytes: &[u8]) -> Result<Answer, Failure> {
        let request = self.request(Method::PUT, path, &Query::new());
        let request = request.header(CONTENT_TYPE, "application/octet-stream").body(bytes.to_vec());
        self.answer(request.timeout(ANSWER_TIMEOUT)).await
    }

    /// Writes to the standard input of a task; returns the new offset.
    ///
    /// # Errors
    /// Errors of the API or the network.
    pub async fn write_stdin(
        &self,
        job: JobId,
        task: &str,
        writer: Uuid,
        offset: u64,
        bytes: Bytes,
        is_last: bool,
    ) -> Result<StdinPosition, Failure> {
        let query = vec![
            ("writer", writer.to_string()),
            ("offset", offset.to_string()),
            ("last", is_last.to_string()),
        ];
        let request = self.request(Method::POST, &["jobs", &job.to_string(), "tasks", task, "stdin"], &query);
        let request = request.header(CONTENT_TYPE, "application/octet-stream").body(bytes);
        self.answer(request.timeout(ANSWER_TIMEOUT)).await?.read()
    }

    /// Deletes.
    ///
    /// # Errors
    /// Errors of the API or the network.
    pub async fn delete(&self, path: &[&str]) -> Result<(), Failure> {
        self.answer(self.request(Method::DELETE, path, &Query::new()).timeout(ANSWER_TIMEOUT))
            .await
            .map(|_| ())
    }

    /// Deletes; `confirm` repeats the name of what goes with all that it has.
    ///
    /// # Errors
    /// Errors of the API or the network.
    pub async fn delete_confirmed(&self, path: &[&str], confirm: Option<String>) -> Result<(), Failure> {
        let query: Query = confirm.into_iter().map(|name| ("confirm", name)).collect();
        self.answer(self.request(Method::DELETE, path, &query).timeout(ANSWER_TIMEOUT)).await.map(|_| ())
    }

    /// Opens a stream in the given format.
    ///
    /// # Errors
    /// What the API or the network says before the stream starts.
    pub async fn open(
        &self,
        path: &[&str],
        query: &Query,
        format: &'static str,
        last_event: Option<i64>,
    ) -> Result<Response, Failure> {
        let mut request =
            self.request(Method::GET, path, query).header(ACCEPT, HeaderValue::from_static(format));
        if let Some(id) = last_event {
            request = request.header(HeaderName::from_static("last-event-id"), id.to_string());
        }
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        if response.status().is_success() { Ok(response) } else { Err(self.refusal(response).await) }
    }

    fn request(&self, method: Method, path: &[&str], query: &Query) -> RequestBuilder {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            // The names in a path are what users typed: each stays one segment.
            segments.pop_if_empty().extend(path);
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        self.http.request(method, url).header(AUTHORIZATION, self.key.clone())
    }

    async fn answer(&self, request: RequestBuilder) -> Result<Answer, Failure> {
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        if let Some(date) = response.headers().get(DATE).and_then(|date| date.to_str().ok()) {
            timestamp::heard(date);
        }
        if !response.status().is_success() {
            return Err(self.refusal(response).await);
        }
        let page = response.headers().get_all(LINK).iter().find_map(page_of);
        let body = response.bytes().await.map_err(|error| self.unreachable(&error))?;
        Ok(Answer { body, page })
    }

    async fn refusal(&self, response: Response) -> Failure {
        let status = response.status();
        let is_problem = response
            .headers()
            .get(CONTENT_TYPE)
            .is_some_and(|kind| kind.to_str().is_ok_and(|kind| kind.starts_with("application/problem+json")));
        let location = response.headers().get(LOCATION).and_then(|to| to.to_str().ok()).map(str::to_owned);
        let body = response.bytes().await.unwrap_or_default();
        if let Ok(mut problem) = serde_json::from_slice::<Problem>(&body)
            && (is_problem || !problem.code.is_empty())
        {
            if let Some(fault) = self.fault.filter(|_| problem.code == KEY_INVALID) {
                problem.detail = format!("the key is not valid{}: {fault}", self.found_in());
            }
            return Failure::Problem(Box::new(problem));
        }
        let message = match location {
            Some(to) => {
                format!("{} redirects to {to}; set GAFFER_URL to that address if it is right", self.address())
            }
            None => {
                format!("{} answered {status}, but not as a gaffer server; check the address", self.address())
            }
        };
        Failure::Garbled { status: Some(status.as_u16()), message }
    }

    /// Where address and key come from, if that is not obvious.
    fn found_in(&self) -> String {
        match self.source.as_str() {
            ENVIRONMENT => String::new(),
            source => format!(" (from {source})"),
        }
    }

    /// What a failed request or a stream that broke off means.
    pub fn unreachable(&self, error: &reqwest::Error) -> Failure {
        let found_in = self.found_in();
        let what =
            if error.is_body() || error.is_decode() { "lost the connection to" } else { "cannot reach" };
        let why = if error.is_timeout() { "timed out".to_owned() } else { root(error) };
        Failure::Unreachable(format!("{what} {}{found_in}{}: {why}", self.address(), self.detour))
    }
}

impl Answer {
    /// The body, which is text.
    ///
    /// # Errors
    /// [`Failure::Garbled`] if it is something else.
    pub fn text(&self) -> Result<String, Failure> {
        String::from_utf8(self.body.to_vec()).map_err(|error| Failure::Garbled {
            status: None,
            message: format!("the response of the API is not text: {error}"),
        })
    }

    /// The body, read.
    ///
    /// # Errors
    /// [`Failure::Garbled`] if it is something else.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        serde_json::from_slice(&self.body).map_err(|error| Failure::Garbled {
            status: None,
            message: format!("unreadable response of the API (different version?): {error}"),
        })
    }
}

/// The first cause: the outer errors only say that there was one.
pub fn root(error: &dyn Error) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}

/// The target of a `Link: <…>; rel="alternate"` header, which is how the API names a job's page.
fn page_of(header: &HeaderValue) -> Option<String> {
    let (target, parameters) = header.to_str().ok()?.trim().strip_prefix('<')?.split_once('>')?;
    let is_page =
        parameters.split(';').any(|part| matches!(part.trim(), "rel=\"alternate\"" | "rel=alternate"));
    (is_page && target.contains("://")).then(|| target.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_found_in_the_link_header() {
        let page = |text| page_of(&HeaderValue::from_static(text));
        assert_eq!(
            page("<http://h:3000/jobs/4>; rel=\"alternate\"; type=\"text/html\"").as_deref(),
            Some("http://h:3000/jobs/4")
        );
        assert_eq!(page("<http://h/api/v1/jobs?cursor=x>; rel=\"next\""), None);
        assert_eq!(page("nonsense"), None);
    }
}
