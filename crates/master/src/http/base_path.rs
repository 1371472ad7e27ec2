//! The base path: removed from requests, added to redirects and page addresses.
//!
//! A reverse proxy may serve gaffer below a path (`https://example.org/gaffer/`), and either strip that path from
//! requests or pass it on. Both work: with and without it, an address means the same here. All code inside knows
//! addresses without it; this module and the templates (`frame.base`) are the only ones that add it.

use std::fmt;
use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderValue, Uri, header};
use axum::response::Response;
use gaffer_protocol::server_url::ServerUrl;
use tower::ServiceBuilder;

/// First segments of addresses that exist without a base path: one of them as a base path would mean two things.
const OWN_SEGMENTS: [&str; 27] = [
    "api",
    "dead-letters",
    "events",
    "favicon.ico",
    "jobs",
    "keys",
    "live",
    "livez",
    "login",
    "login-links",
    "logout",
    "metrics",
    "openapi.json",
    "queue",
    "readyz",
    "reference",
    "retention",
    "schema",
    "services",
    "static",
    "system",
    "templates",
    "theme",
    "trace",
    "version",
    "worker",
    "workers",
];

/// The path of the public address: empty, or like `/gaffer`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BasePath(Arc<str>);

/// A base path that is also the address of one of gaffer's own pages.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("its path begins with /{0}, which is a path of gaffer itself: choose another one, such as /gaffer")]
pub struct AmbiguousBasePath(String);

impl BasePath {
    /// The base path of a public address.
    ///
    /// # Errors
    /// When it can't be told from an address of gaffer's own.
    pub fn of(public: &ServerUrl) -> Result<BasePath, AmbiguousBasePath> {
        let first = public.path().trim_start_matches('/').split('/').next().unwrap_or_default();
        match OWN_SEGMENTS.contains(&first) {
            true => Err(AmbiguousBasePath(first.to_owned())),
            false => Ok(BasePath(public.path().into())),
        }
    }

    /// The path that a cookie of this site has.
    pub fn for_cookies(&self) -> &str {
        if self.0.is_empty() { "/" } else { &self.0 }
    }

    /// The address without the base path; none if it does not have it.
    fn stripped(&self, uri: &Uri) -> Option<Uri> {
        let whole = uri.path_and_query()?.as_str();
        let rest = whole.strip_prefix(&*self.0).filter(|_| !self.0.is_empty())?;
        let rest = match rest.as_bytes().first() {
            Some(b'/') => rest.to_owned(),
            None | Some(b'?') => format!("/{rest}"),
            Some(_) => return None,
        };
        rest.parse().ok()
    }
}

impl fmt::Display for BasePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The same routes below the base path, and at their own addresses.
pub fn below(base: BasePath, routes: Router) -> Router {
    let outward = base.clone();
    let inward = move |mut request: Request| {
        if let Some(uri) = base.stripped(request.uri()) {
            *request.uri_mut() = uri;
        }
        request.extensions_mut().insert(base.clone());
        request
    };
    // Wraps the router instead of being a layer of it, because routes are matched after the path was removed.
    let service = ServiceBuilder::new()
        .map_request(inward)
        .map_response(move |response: Response| with_base(&outward, response))
        .service(routes);
    Router::new().fallback_service(service)
}

/// An answer whose addresses of this site are those that browsers know.
fn with_base(base: &BasePath, mut response: Response) -> Response {
    let headers = response.headers_mut();
    for (name, before) in [(header::LOCATION, ""), (header::LINK, "<")] {
        let local = headers.get(&name).and_then(|value| value.to_str().ok()?.strip_prefix(before));
        let local = local.filter(|rest| rest.starts_with('/') && !rest.starts_with("//"));
        if let Some(value) =
            local.and_then(|rest| HeaderValue::from_str(&format!("{before}{base}{rest}")).ok())
        {
            headers.insert(name, value);
        }
    }
    response
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn base(url: &str) -> BasePath {
        BasePath::of(&url.parse().unwrap()).unwrap()
    }

    fn stripped(base: &BasePath, uri: &str) -> Option<String> {
        base.stripped(&uri.parse().unwrap()).map(|uri| uri.to_string())
    }

    #[test]
    fn the_base_path_is_taken_off_as_whole_segments_only() {
        let gaffer = base("https://example.org/tools/gaffer/");
        for (uri, rest) in [
            ("/tools/gaffer", Some("/")),
            ("/tools/gaffer/", Some("/")),
            ("/tools/gaffer?a=b", Some("/?a=b")),
            ("/tools/gaffer/jobs/4?tab=tasks&x=/tools/gaffer", Some("/jobs/4?tab=tasks&x=/tools/gaffer")),
            ("/tools/gafferer/jobs", None),
            ("/jobs", None),
            ("/", None),
        ] {
            assert_eq!(stripped(&gaffer, uri).as_deref(), rest, "{uri}");
        }
        assert_eq!(stripped(&BasePath::default(), "/jobs"), None);
        assert_eq!((gaffer.for_cookies(), BasePath::default().for_cookies()), ("/tools/gaffer", "/"));
    }

    #[test]
    fn no_route_can_be_taken_for_a_base_path() {
        for source in [include_str!("../http.rs"), include_str!("pages.rs")] {
            let routes = [".route(\"/", ".get(\"/", ".post(\"/", ".delete(\"/"];
            for rest in routes.into_iter().flat_map(|route| source.split(route).skip(1)) {
                let first = rest.split(['/', '"']).next().unwrap();
                assert!(first.is_empty() || OWN_SEGMENTS.contains(&first), "{first} is not in the list");
            }
        }
        for path in ["/jobs", "/workers/gaffer", "/api"] {
            let url: ServerUrl = format!("https://example.org{path}").parse().unwrap();
            assert!(BasePath::of(&url).is_err(), "{path}");
        }
        assert!(BasePath::of(&"https://example.org/jobsite".parse().unwrap()).is_ok());
    }
}
