//! The REST API, one file per noun. Handlers decode the request, call an operation or a view, and encode the
//! response.

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
use gaffer_domain::document::{self, Language, SyntaxError};
use gaffer_domain::text;
use gaffer_protocol::rest::ProblemField;
use serde::de::DeserializeOwned;

use super::error::Error;

/// Reads a JSON body into a type that refuses unknown fields.
fn body_as<T: DeserializeOwned>(headers: &HeaderMap, body: &Bytes) -> Result<T, Error> {
    let value = body_json(headers, body)?;
    serde_json::from_value(value).map_err(|error| Error::Unprocessable {
        code: "invalid_body",
        detail: format!("invalid request body: {error}"),
        errors: Vec::new(),
    })
}

/// Reads a JSON body.
fn body_json(headers: &HeaderMap, body: &Bytes) -> Result<serde_json::Value, Error> {
    let Some(Language::Json) = language(headers) else {
        return Err(unsupported("content-type", "expected application/json"));
    };
    let text = body_text(headers, body)?;
    // The other reader would take the last of two keys of one name.
    document(Language::Json, text)?;
    serde_json::from_str(text).map_err(|error| Error::Invalid {
        code: "invalid_json",
        detail: format!("the body is not valid JSON: {error}"),
        errors: Vec::new(),
    })
}

/// Reads a document body: JSON, YAML or TOML by content type.
fn body_document(headers: &HeaderMap, body: &Bytes) -> Result<document::Value, Error> {
    let language = language(headers).ok_or_else(|| {
        unsupported("content-type", "expected application/json, application/yaml or application/toml")
    })?;
    document(language, body_text(headers, body)?)
}

/// A document, or the complaint of its reader.
fn document(language: Language, text: &str) -> Result<document::Value, Error> {
    language.read(text).map_err(|error| unreadable(language, &error))
}

fn unreadable(language: Language, error: &SyntaxError) -> Error {
    let code = match language {
        Language::Json => "invalid_json",
        Language::Yaml => "invalid_yaml",
        Language::Toml => "invalid_toml",
    };
    let field = |pointer: &String| ProblemField {
        pointer: pointer.clone(),
        detail: error.to_string(),
        suggestion: None,
    };
    Error::Invalid {
        code,
        detail: format!("the body is not valid {}: {error}", language.name()),
        errors: error.pointer.as_ref().map(field).into_iter().collect(),
    }
}

/// The language of a content type; none for others.
fn language(headers: &HeaderMap) -> Option<Language> {
    let content_type =
        headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match media_type.as_str() {
        // The default of `curl -d` is accepted, because no client sends a form here.
        "" | "application/json" | "application/x-www-form-urlencoded" | "text/plain" => Some(Language::Json),
        "application/yaml" | "application/x-yaml" | "text/yaml" | "text/x-yaml" | "text/vnd.yaml" => {
            Some(Language::Yaml)
        }
        "application/toml" | "text/toml" | "text/x-toml" => Some(Language::Toml),
        _ => None,
    }
}

fn body_text<'b>(headers: &HeaderMap, body: &'b Bytes) -> Result<&'b str, Error> {
    // Nothing here is large enough to be worth what a compressed body may grow to.
    let encoding = headers.get(header::CONTENT_ENCODING).map(|value| value.as_bytes());
    if encoding.is_some_and(|encoding| !encoding.is_empty() && !encoding.eq_ignore_ascii_case(b"identity")) {
        return Err(unsupported("content-encoding", "expected an uncompressed body"));
    }
    text::decode(body).map_err(|why| Error::Invalid {
        code: "invalid_encoding",
        detail: format!("the body {why}"),
        errors: Vec::new(),
    })
}

fn unsupported(name: &'static str, expected: &str) -> Error {
    Error::field("unsupported_media_type", format!("header:{name}"), expected, None)
}
