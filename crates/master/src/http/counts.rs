//! Counts requests by their route, with the time until the answer.

use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;

use crate::metrics::http::HttpMetrics;
use crate::metrics::registrar::Word;

/// Counts a request to the port of this name.
pub async fn count(
    State((metrics, port)): State<(HttpMetrics, &'static str)>,
    request: Request,
    next: Next,
) -> Response {
    let begun = Instant::now();
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().map(Word::from);
    let response = next.run(request).await;
    metrics.answered(port, method.as_str(), route, response.status().as_u16(), begun.elapsed());
    response
}
