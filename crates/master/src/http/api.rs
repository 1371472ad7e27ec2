//! The REST API: a file for each noun. Handlers check what comes in, ask the store or the recorder, and answer.

pub mod events;
pub mod health;
pub mod jobs;
pub mod keys;
pub mod output;
pub mod queue;
pub mod system;
pub mod tasks;
pub mod workers;

use axum::body::Bytes;
use axum::http::{HeaderMap, header};
use serde::de::DeserializeOwned;

use super::error::Error;

/// Reads a JSON body into a type that refuses unknown fields.
fn body_as<T: DeserializeOwned>(headers: &HeaderMap, body: &Bytes) -> Result<T, Error> {
    let value = body_json(headers, body)?;
    serde_json::from_value(value).map_err(|error| Error::Unprocessable {
        code: "invalid_body",
        detail: format!("the body is not what is wanted here: {error}"),
        errors: Vec::new(),
    })
}

/// Reads a JSON body.
fn body_json(headers: &HeaderMap, body: &Bytes) -> Result<serde_json::Value, Error> {
    let content_type =
        headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    // curl's own choice for -d is accepted: nobody sends a form here.
    let is_json =
        matches!(media_type, "" | "application/json" | "application/x-www-form-urlencoded" | "text/plain");
    if !is_json {
        return Err(Error::field(
            "unsupported_media_type",
            "header:content-type",
            format!("expected application/json, found {media_type:?}; `gaffer submit` reads YAML and TOML"),
            None,
        ));
    }
    serde_json::from_slice(body).map_err(|error| Error::Invalid {
        code: "invalid_json",
        detail: format!("the body is not JSON: {error}"),
        errors: Vec::new(),
    })
}
