//! `/schema/job.json`: the schema of what clients submit, for editors.

use std::sync::LazyLock;

use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use gaffer_domain::spec::schema;
use serde_json::json;

use super::super::description::{Answer, Content, Description, Operation, Schemas, Success};

pub const JOB: Operation =
    Operation::public("get_job_schema", "Get the schema of a job specification (JSON Schema)");

const MEDIA_TYPE: &str = "application/schema+json";

/// `GET /schema/job.json`
pub async fn job() -> JobSchema {
    JobSchema
}

/// The document.
#[derive(Debug)]
pub struct JobSchema;

impl IntoResponse for JobSchema {
    fn into_response(self) -> Response {
        static TEXT: LazyLock<String> = LazyLock::new(|| format!("{:#}\n", schema::of_job()));
        ([(CONTENT_TYPE, MEDIA_TYPE)], TEXT.as_str()).into_response()
    }
}

impl Answer for JobSchema {
    fn describe(description: &mut Description, _: &mut Schemas) {
        let content = vec![Content { media_type: MEDIA_TYPE, schema: json!({ "type": "object" }) }];
        let success = Success { description: "The schema", headers: vec![], content };
        // A master that stands by answers nothing else than health checks.
        description.may_fail(503);
        description.answers(StatusCode::OK, success);
    }
}
