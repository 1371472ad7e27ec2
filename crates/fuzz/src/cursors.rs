//! Queries of the API and the places that they name: what is read can be written and is read as the same, and a link to the
//! next page is a header that a client can use.

use std::time::Duration;

use axum::extract::FromRequestParts as _;
use futures::FutureExt as _;
use gaffer_domain::search::ResumePoint;
use gaffer_master::http::params::{MAX_LIMIT, Params, cursor, task_cursor};
use http::{HeaderValue, Request};

/// Reads a query, and a place where a search continues.
pub fn check(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    if let Ok(place) = text.parse::<ResumePoint>() {
        assert_eq!(place.to_string().parse(), Ok(place));
        if let Some(inside) = place.inside {
            assert!(inside.line_offset <= place.offset && inside.dropped <= place.offset);
        }
    }
    let Some(params) = params(text) else { return };
    for params in [&params, &params.given()] {
        check_params(params);
    }
}

/// The parameters of a request; none if the query cannot be read.
fn params(query: &str) -> Option<Params> {
    let request = Request::builder().uri(format!("/jobs?{query}")).body(()).ok()?;
    let (mut parts, ()) = request.into_parts();
    let read = Params::from_request_parts(&mut parts, &()).now_or_never();
    read.expect("reading a query waits for nothing").ok()
}

fn check_params(of: &Params) {
    if let Ok(Some(number)) = of.cursor() {
        assert!(number >= 0);
        let again = params(&format!("cursor={}", cursor(number))).expect("a cursor is a query");
        assert_eq!(again.cursor().ok().flatten(), Some(number));
    }
    if let Ok(Some((position, index))) = of.task_cursor()
        && let Ok(unsigned) = u32::try_from(index)
    {
        let again =
            params(&format!("cursor={}", task_cursor(position, unsigned))).expect("a cursor is a query");
        assert_eq!(again.task_cursor().ok().flatten(), Some((position, index)));
    }
    if let Ok(limit) = of.limit() {
        assert!((1..=MAX_LIMIT).contains(&limit));
    }
    let most = Duration::from_secs(60);
    if let Ok(Some(wait)) = of.span("wait", most) {
        assert!(wait <= most);
    }
    assert!(of.list("state").all(|value| !value.is_empty() && !value.contains(',')));
    HeaderValue::from_str(&of.next_link("c1")).expect("a link is a header");
}

/// Queries of lists, and places.
pub fn seeds() -> Vec<Vec<u8>> {
    let texts = [
        "cursor=c42&limit=50&state=running,failed&label=a%3Db&counts=1",
        "cursor=c3.17&limit=500&q=a%20b&wait=60s",
        "state=&state=pending&limit=0&%=%&a=%ff&=x",
        "1024",
        "1048576.12.1048564.1",
        "cursor=c-1&wait=1h30m&limit=99999999999",
    ];
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}
