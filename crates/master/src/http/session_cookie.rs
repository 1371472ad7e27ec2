//! The cookie of a browser session: set at sign-in, taken away at sign-out.

use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;

use super::Site;
use super::auth::SESSION_COOKIE;
use super::peer::Peer;
use crate::operations::sign_in::Origin;

/// How much is kept of what a browser says it is.
const MAX_BROWSER_CHARS: usize = 200;

/// Gives the browser a session; an empty one with no time takes it away.
pub fn set_session(site: &Site, response: &mut Response, value: &str, secs: u32) {
    let secure = if site.public_url.starts_with("https://") { "; Secure" } else { "" };
    let path = site.base_path.for_cookies();
    let cookie =
        format!("{SESSION_COOKIE}={value}; Path={path}; Max-Age={secs}; HttpOnly; SameSite=Strict{secure}");
    if let Ok(cookie) = HeaderValue::from_str(&cookie) {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
}

/// Where somebody signs in from.
pub fn origin(headers: &HeaderMap, peer: &Peer) -> Origin {
    let browser = headers.get(header::USER_AGENT).and_then(|browser| browser.to_str().ok());
    let browser = browser.map(|browser| browser.chars().take(MAX_BROWSER_CHARS).collect());
    Origin { address: peer.address(), browser }
}
