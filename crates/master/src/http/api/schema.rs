//! The schema of what clients send.

use std::sync::LazyLock;

use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use gaffer_domain::spec::schema;

/// `GET /api/v1/schema/job.json`: for editors, without a key.
pub async fn job() -> impl IntoResponse {
    static TEXT: LazyLock<String> = LazyLock::new(|| format!("{:#}\n", schema::of_job()));
    ([(CONTENT_TYPE, "application/schema+json")], TEXT.as_str())
}
