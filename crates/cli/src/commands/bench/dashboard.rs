//! The dashboard of the measured installation, as a signed-in browser sees it.

use gaffer_protocol::rest::LoginLink;
use reqwest::header::{ACCEPT, COOKIE, HeaderValue, LOCATION, SET_COOKIE};
use reqwest::{Method, Response, StatusCode, Url};
use serde_json::json;

use crate::access::server_url;
use crate::client::{self, Client};
use crate::config;
use crate::failure::Failure;

/// A session of the dashboard.
pub struct Dashboard {
    http: reqwest::Client,
    link: Url,
    cookie: HeaderValue,
    /// Before the addresses of pages: that of the dashboard, and the project.
    prefix: String,
}

impl Dashboard {
    /// Signs in, with a link that the API gives.
    ///
    /// # Errors
    /// Errors of the API; [`Failure::Unreachable`] if the dashboard is not within reach from here.
    pub async fn sign_in(client: &Client) -> Result<Dashboard, Failure> {
        let link: LoginLink = client.post(&["login-links"], &json!({})).await?.read()?;
        let link =
            Url::parse(&link.url).map_err(|error| garbled(None, &format!("no sign-in link: {error}")))?;
        let http = client::http(&config::route(&server_url(&link.origin().ascii_serialization())?)?)?;
        let response = http.get(link.clone()).send().await.map_err(unreachable)?;
        let status = response.status();
        let cookie = response.headers().get(SET_COOKIE).and_then(|cookie| cookie.to_str().ok());
        let cookie = cookie.and_then(|cookie| cookie.split(';').next());
        let cookie = cookie.and_then(|cookie| HeaderValue::from_str(cookie).ok());
        match cookie {
            Some(mut cookie) if status.is_success() => {
                cookie.set_sensitive(true);
                let prefix = link.path().trim_end_matches("/login").to_owned();
                Dashboard { http, link, cookie, prefix }.in_project().await
            }
            _ => Err(garbled(Some(status.as_u16()), "the dashboard did not accept its sign-in link")),
        }
    }

    /// The same in the project where addresses without one lead.
    async fn in_project(self) -> Result<Dashboard, Failure> {
        let response = self.send(Method::GET, "/jobs").await?;
        let place = response.headers().get(LOCATION).and_then(|place| place.to_str().ok());
        match place.and_then(|place| place.strip_suffix("/jobs")).map(str::to_owned) {
            Some(prefix) => Ok(Dashboard { prefix, ..self }),
            // A server without projects in its addresses.
            None => Ok(self),
        }
    }

    /// Reads a whole page; `path` with its query.
    ///
    /// # Errors
    /// [`Failure::Unreachable`], or [`Failure::Garbled`] if it is no page.
    pub async fn page(&self, path: &str) -> Result<(), Failure> {
        let status = self.ask(Method::GET, path).await?;
        match status.is_success() {
            true => Ok(()),
            false => Err(garbled(Some(status.as_u16()), &format!("the page {path} answered {status}"))),
        }
    }

    /// Ends the session.
    ///
    /// # Errors
    /// [`Failure::Unreachable`], or [`Failure::Garbled`] if the dashboard refuses.
    pub async fn sign_out(&self) -> Result<(), Failure> {
        let status = self.ask(Method::POST, "/logout").await?;
        // It leads to the page where one signs in.
        match status.is_redirection() {
            true => Ok(()),
            false => {
                Err(garbled(Some(status.as_u16()), &format!("the dashboard did not sign out: {status}")))
            }
        }
    }

    /// Its address, for messages.
    pub fn address(&self) -> String {
        self.link.origin().ascii_serialization()
    }

    /// Sends a request and takes the whole answer.
    async fn ask(&self, method: Method, path: &str) -> Result<StatusCode, Failure> {
        let response = self.send(method, path).await?;
        let status = response.status();
        response.bytes().await.map_err(unreachable)?;
        Ok(status)
    }

    async fn send(&self, method: Method, path: &str) -> Result<Response, Failure> {
        let url = self.link.join(&format!("{}{path}", self.prefix));
        let url = url.map_err(|error| garbled(None, &format!("no address of a page: {error}")))?;
        let request = self.http.request(method, url);
        let request = request.header(ACCEPT, "text/html").header(COOKIE, self.cookie.clone());
        request.send().await.map_err(unreachable)
    }
}

fn garbled(status: Option<u16>, message: &str) -> Failure {
    Failure::Garbled { status, message: message.to_owned() }
}

fn unreachable(error: reqwest::Error) -> Failure {
    Failure::Unreachable(format!("cannot reach the dashboard: {}", client::root(&error)))
}
