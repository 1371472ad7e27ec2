//! The base path: removed from requests, added to redirects and page addresses. It has two parts: the path of the site, and
//! the project of the page.
//!
//! `/projects/NAME` before the address of a page chooses the project that the page is about: `/projects/lab/jobs` shows the
//! jobs of `lab`. Two tabs can show two projects, and a link names its project. Handlers know nothing of it: who is asking
//! (`auth`) has the project from here.
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
use gaffer_domain::members::Name;
use gaffer_protocol::server_url::ServerUrl;
use tower::ServiceExt;

/// First segments of addresses that exist without a base path: one of them as a base path would mean two things.
const OWN_SEGMENTS: [&str; 41] = [
    "account",
    "api",
    "audit",
    "dead-letters",
    "device",
    "events",
    "favicon.ico",
    "invitation",
    "invitations",
    "jobs",
    "join",
    "keys",
    "live",
    "livez",
    "login",
    "login-links",
    "logout",
    "members",
    "metrics",
    "openapi.json",
    "project",
    "projects",
    "queue",
    "readyz",
    "reference",
    "register",
    "reset",
    "retention",
    "schema",
    "secrets",
    "services",
    "sessions",
    "static",
    "system",
    "templates",
    "theme",
    "trace",
    "users",
    "version",
    "worker",
    "workers",
];

/// What goes before an address: the path of the public address, empty or like `/gaffer`, and the project, if the request named
/// one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BasePath {
    site: Arc<str>,
    project: Option<Arc<str>>,
}

/// Before the name of a project in an address.
const PROJECTS: &str = "/projects/";

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
            false => Ok(BasePath { site: public.path().into(), project: None }),
        }
    }

    /// The path that a cookie of this site has.
    pub fn for_cookies(&self) -> &str {
        if self.site.is_empty() { "/" } else { &self.site }
    }

    /// What goes before the address of what is the same in all projects.
    pub fn site(&self) -> &str {
        &self.site
    }

    /// Name of the project that the address has.
    pub fn project(&self) -> Option<&str> {
        self.project.as_deref()
    }

    /// What goes before addresses in this project.
    pub fn in_project(&self, name: &str) -> BasePath {
        BasePath { site: self.site.clone(), project: Some(name.into()) }
    }

    /// The same outside of all projects.
    pub fn outside(&self) -> BasePath {
        BasePath { site: self.site.clone(), project: None }
    }

    /// The address without the base path; none if it does not have it.
    fn stripped(&self, uri: &Uri) -> Option<Uri> {
        let whole = uri.path_and_query()?.as_str();
        let rest = whole.strip_prefix(&*self.site).filter(|_| !self.site.is_empty())?;
        rooted(rest)?.parse().ok()
    }
}

/// What is left of an address behind a whole segment.
fn rooted(rest: &str) -> Option<String> {
    match rest.as_bytes().first() {
        Some(b'/') => Some(rest.to_owned()),
        None | Some(b'?') => Some(format!("/{rest}")),
        Some(_) => None,
    }
}

/// The project that an address begins with, and the address in it. `/projects/NAME` itself is the project's overview.
fn project_of(uri: &Uri) -> Option<(Name, Uri)> {
    let rest = uri.path_and_query()?.as_str().strip_prefix(PROJECTS)?;
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (name, rest) = rest.split_at(end);
    Some((name.parse().ok()?, rooted(rest)?.parse().ok()?))
}

impl fmt::Display for BasePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.site)?;
        match &self.project {
            Some(project) => write!(f, "{PROJECTS}{project}"),
            None => Ok(()),
        }
    }
}

/// The same routes below the base path, and at their own addresses; with projects, if there are pages among them.
pub fn below(site: BasePath, routes: Router, has_projects: bool) -> Router {
    // Wraps the router instead of being a layer of it, because routes are matched after the path was removed.
    let service = tower::service_fn(move |mut request: Request| {
        if let Some(uri) = site.stripped(request.uri()) {
            *request.uri_mut() = uri;
        }
        let mut base = site.clone();
        if has_projects && let Some((project, uri)) = project_of(request.uri()) {
            base = site.in_project(project.as_str());
            *request.uri_mut() = uri;
        }
        request.extensions_mut().insert(base.clone());
        let routes = routes.clone();
        async move { routes.oneshot(request).await.map(|response| with_base(&base, response)) }
    });
    Router::new().fallback_service(service)
}

/// An answer whose addresses of this site are those that browsers know.
fn with_base(base: &BasePath, mut response: Response) -> Response {
    let headers = response.headers_mut();
    for (name, before) in [(header::LOCATION, ""), (header::LINK, "<")] {
        let local = headers.get(&name).and_then(|value| value.to_str().ok()?.strip_prefix(before));
        let local = local.filter(|rest| rest.starts_with('/') && !rest.starts_with("//"));
        let whole = local.map(|rest| match rest.starts_with(PROJECTS) {
            // It names its project.
            true => format!("{before}{}{rest}", base.site()),
            false => format!("{before}{base}{rest}"),
        });
        if let Some(value) = whole.and_then(|whole| HeaderValue::from_str(&whole).ok()) {
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
    fn a_project_is_taken_off_if_its_name_is_one() {
        let of = |uri: &str| {
            project_of(&uri.parse().unwrap()).map(|(name, uri)| (name.to_string(), uri.to_string()))
        };
        for (uri, name, rest) in [
            ("/projects/lab", "lab", "/"),
            ("/projects/lab/", "lab", "/"),
            ("/projects/lab?a=b", "lab", "/?a=b"),
            ("/projects/lab/jobs/4?tab=tasks", "lab", "/jobs/4?tab=tasks"),
            ("/projects/lab/projects/lab", "lab", "/projects/lab"),
        ] {
            assert_eq!(of(uri), Some((name.to_owned(), rest.to_owned())), "{uri}");
        }
        for uri in [
            "/projects",
            "/projects/",
            "/projects/La%62/jobs",
            "/projects/../jobs",
            "/jobs",
            "/projectslab/jobs",
        ] {
            assert_eq!(of(uri), None, "{uri}");
        }
        let gaffer = base("https://example.org/gaffer");
        assert_eq!(gaffer.in_project("lab").to_string(), "/gaffer/projects/lab");
        assert_eq!(gaffer.in_project("lab").outside(), gaffer);
    }

    #[test]
    fn no_route_can_be_taken_for_a_base_path() {
        for source in [include_str!("../http.rs"), include_str!("pages.rs")] {
            let routes = [".route(\"/", ".get(\"/", ".post(\"/", ".put(\"/", ".patch(\"/", ".delete(\"/"];
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
