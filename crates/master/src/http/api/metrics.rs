//! `/metrics`: figures for monitoring systems.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use gaffer_domain::permissions::Action;
use serde_json::json;

use super::super::auth::{MetricsReader, bearer};
use super::super::description::{Answer, Content, Description, Operation, Schemas, Success};
use super::super::error::Error;
use crate::metrics::text::Format;
use crate::operations::Context;
use crate::operations::metrics::{self, StandbyMetrics};

pub const SHOW: Operation = Operation {
    description: "Figures of the master and of all projects, as OpenMetrics, or as the older text format of Prometheus if \
        only `text/plain` is accepted. For the operator, or with the token `GAFFER_METRICS_TOKEN`, which also works while the \
        database is away. Not on the port for workers.",
    ..Operation::new("get_metrics", "Get the metrics", Action::ReadMetrics)
};

/// `GET /metrics`
pub async fn show(
    State(context): State<Arc<Context>>,
    MetricsReader(actor): MetricsReader,
    headers: HeaderMap,
) -> Result<MetricsText, Error> {
    let format = format_of(&headers);
    Ok(MetricsText { format, text: metrics::read(&context, &actor, format).await? })
}

/// `GET /metrics` to a standby, which cannot check keys.
pub async fn standby(
    Extension(metrics): Extension<StandbyMetrics>,
    headers: HeaderMap,
) -> Result<MetricsText, Error> {
    let format = format_of(&headers);
    let text = bearer(&headers).and_then(|token| metrics.read(token, format));
    text.map(|text| MetricsText { format, text }).ok_or(Error::Standby)
}

fn format_of(headers: &HeaderMap) -> Format {
    Format::wanted(headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()))
}

/// The metrics in one of their formats.
#[derive(Debug)]
pub struct MetricsText {
    format: Format,
    text: String,
}

impl IntoResponse for MetricsText {
    fn into_response(self) -> Response {
        let content_type = HeaderValue::from_static(self.format.content_type());
        ([(header::CONTENT_TYPE, content_type)], self.text).into_response()
    }
}

impl Answer for MetricsText {
    fn describe(description: &mut Description, _: &mut Schemas) {
        let content = ["application/openmetrics-text", "text/plain"]
            .map(|media_type| Content { media_type, schema: json!({ "type": "string" }) });
        let success = Success { description: "All metrics", headers: vec![], content: content.into() };
        description.answers(StatusCode::OK, success);
    }
}
