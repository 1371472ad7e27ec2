//! `/openapi.json`: the description of this API, for programs.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::super::description::{Answer, Content, Description, Operation, Schemas, Success};
use super::super::{API, API_PREFIX, Site};

pub const SHOW: Operation = Operation::public("get_openapi", "Get this description (OpenAPI 3.1)");

/// `GET /openapi.json`
pub async fn show(State(site): State<Arc<Site>>) -> OpenApi {
    OpenApi(API.to_json(&format!("{}{API_PREFIX}", site.base_path)))
}

/// The document.
#[derive(Debug)]
pub struct OpenApi(Value);

impl IntoResponse for OpenApi {
    fn into_response(self) -> Response {
        Json(self.0).into_response()
    }
}

impl Answer for OpenApi {
    fn describe(description: &mut Description, _: &mut Schemas) {
        let content = vec![Content::json(json!({ "type": "object" }))];
        let success = Success { description: "The document", headers: vec![], content };
        // A master that stands by answers nothing else than health checks.
        description.may_fail(503);
        description.answers(axum::http::StatusCode::OK, success);
    }
}
