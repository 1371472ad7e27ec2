//! Bodies of requests: JSON of programs, and documents that people write.

use axum::body::Bytes;
use axum::http::{HeaderMap, header};
use gaffer_domain::document::{self, Language, SyntaxError};
use gaffer_domain::secrets::SecretValue;
use gaffer_domain::template::TemplateText;
use gaffer_domain::text;
use gaffer_protocol::rest::{ProblemField, SecretText};
use serde::de::DeserializeOwned;

use super::error::Error;

/// Reads a JSON body into a type that refuses unknown fields.
pub fn body_as<T: DeserializeOwned>(headers: &HeaderMap, body: &Bytes) -> Result<T, Error> {
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
        detail: format!("the body cannot be read as JSON: {error}"),
        errors: Vec::new(),
    })
}

/// Reads a body that people write: JSON, YAML or TOML, as its content type says.
pub fn body_document(headers: &HeaderMap, body: &Bytes) -> Result<document::Value, Error> {
    let language = language(headers).ok_or_else(|| {
        unsupported("content-type", "expected application/json, application/yaml or application/toml")
    })?;
    document(language, body_text(headers, body)?)
}

/// The same as it was written, if it can be read.
pub fn body_written(headers: &HeaderMap, body: &Bytes) -> Result<TemplateText, Error> {
    body_document(headers, body)?;
    let language = language(headers).unwrap_or(Language::Json);
    Ok(TemplateText { language, text: body_text(headers, body)?.to_owned() })
}

/// The value of a secret: the body as it is, or the `value` of a JSON body.
pub fn body_secret(headers: &HeaderMap, body: &Bytes) -> Result<SecretValue, Error> {
    match media_type(headers).as_str() {
        "application/json" => {
            let SecretText { value } = body_as(headers, body)?;
            Ok(SecretValue::new(value.into_bytes()))
        }
        "application/octet-stream" | "text/plain" => {
            is_not_compressed(headers)?;
            Ok(SecretValue::new(body.to_vec()))
        }
        // What a program sends that says nothing may be either.
        _ => Err(unsupported(
            "content-type",
            "expected application/octet-stream or text/plain for the value as it is, or application/json",
        )),
    }
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
        detail: format!("the body cannot be read as {}: {error}", language.name()),
        errors: error.pointer.as_ref().map(field).into_iter().collect(),
    }
}

/// What a body says that it is written in; none for anything else.
fn language(headers: &HeaderMap) -> Option<Language> {
    match media_type(headers).as_str() {
        // curl's own choice for -d is accepted: nobody sends a form here.
        "" | "application/json" | "application/x-www-form-urlencoded" | "text/plain" => Some(Language::Json),
        "application/yaml" | "application/x-yaml" | "text/yaml" | "text/x-yaml" | "text/vnd.yaml" => {
            Some(Language::Yaml)
        }
        "application/toml" | "text/toml" | "text/x-toml" => Some(Language::Toml),
        _ => None,
    }
}

fn media_type(headers: &HeaderMap) -> String {
    let content_type =
        headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// Nothing here is large enough to be worth what a compressed body may grow to.
fn is_not_compressed(headers: &HeaderMap) -> Result<(), Error> {
    let encoding = headers.get(header::CONTENT_ENCODING).map(|value| value.as_bytes());
    match encoding.is_some_and(|encoding| !encoding.is_empty() && !encoding.eq_ignore_ascii_case(b"identity"))
    {
        true => Err(unsupported("content-encoding", "expected a body that is not compressed")),
        false => Ok(()),
    }
}

fn body_text<'b>(headers: &HeaderMap, body: &'b Bytes) -> Result<&'b str, Error> {
    is_not_compressed(headers)?;
    text::decode(body).map_err(|why| Error::Invalid {
        code: "invalid_encoding",
        detail: format!("the body {why}"),
        errors: Vec::new(),
    })
}

fn unsupported(name: &'static str, expected: &str) -> Error {
    Error::field("unsupported_media_type", format!("header:{name}"), expected, None)
}
