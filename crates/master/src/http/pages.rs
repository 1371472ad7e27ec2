//! Pages.
use std::sync::Arc;
use axum::Router;
use axum::response::Response;
use gaffer_protocol::rest::Problem;
use crate::Master;
/// Routes.
pub fn routes() -> Router<Arc<Master>> {
    Router::new()
}
/// Error page.
pub fn error_page(_problem: &Problem, response: Response) -> Response {
    response
}
