//! Requests to the provider: with time limits, without redirects, with answers of limited length.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::time::Duration;

use futures::StreamExt as _;
use openidconnect::{HttpRequest, HttpResponse};

/// How long one request may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest answer: metadata, keys and tokens have a few kilobytes.
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// A client for a provider.
#[derive(Debug, Clone)]
pub struct Http(reqwest::Client);

/// One request.
type Call = Pin<Box<dyn Future<Output = Result<HttpResponse, io::Error>> + Send>>;

impl Http {
    /// Sets it up. It trusts the system's certificates.
    ///
    /// # Errors
    /// When that cannot be done.
    pub fn new() -> anyhow::Result<Http> {
        let builder = reqwest::Client::builder()
            .user_agent(concat!("gaffer/", env!("CARGO_PKG_VERSION")))
            .timeout(PATIENCE)
            .connect_timeout(PATIENCE / 2)
            // A redirect could lead anywhere in the network of the master.
            .redirect(reqwest::redirect::Policy::none());
        Ok(Http(builder.build()?))
    }

    /// Makes requests.
    pub fn calls(&self) -> impl Fn(HttpRequest) -> Call + Send + Sync + use<> {
        let client = self.0.clone();
        move |request| Box::pin(call(client.clone(), request))
    }
}

async fn call(client: reqwest::Client, request: HttpRequest) -> Result<HttpResponse, io::Error> {
    let request = reqwest::Request::try_from(request).map_err(|error| io::Error::other(root(error)))?;
    let answer = client.execute(request).await.map_err(|error| io::Error::other(root(error)))?;
    let (status, headers) = (answer.status(), answer.headers().clone());
    let mut body = Vec::new();
    let mut parts = answer.bytes_stream();
    while let Some(part) = parts.next().await {
        body.extend_from_slice(&part.map_err(|error| io::Error::other(root(error)))?);
        if body.len() > MAX_ANSWER_BYTES {
            return Err(io::Error::other("its answer is too long"));
        }
    }
    let mut response = HttpResponse::new(body);
    (*response.status_mut(), *response.headers_mut()) = (status, headers);
    Ok(response)
}

/// What went wrong, without the address, which may have a secret in it.
fn root(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut cause: &dyn std::error::Error = &error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
