//! Whether an answer is what the description of the API says: status, media type, headers, and every field of its body.
//! Pure.
//!
//! This is stricter than JSON Schema: what is not described must not be there.

use std::collections::BTreeSet;

use chrono::DateTime;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::resolved;

/// An answer as it came.
#[derive(Debug, Clone, Copy)]
pub struct Answered<'a> {
    /// Its status.
    pub status: u16,
    /// Its headers, by name in small letters.
    pub headers: &'a [(String, String)],
    /// Its body.
    pub body: &'a [u8],
}

/// Everything in which an answer differs from the description of the operation, in words.
pub fn mismatches(document: &Value, path: &str, method: &str, answered: Answered<'_>) -> Vec<String> {
    let operation = &document["paths"][path][method];
    let status = answered.status.to_string();
    let Some(response) = operation["responses"].get(&status) else {
        return vec![format!("{method} {path} answers {status}, which is not described")];
    };
    let response = resolved(document, response);
    let header = |name: &str| {
        let same = |(known, _): &&(String, String)| known.eq_ignore_ascii_case(name);
        answered.headers.iter().find(same).map(|(_, value)| value.as_str())
    };
    let mut found = Vec::new();
    for (name, described) in response["headers"].as_object().into_iter().flatten() {
        if described["required"] == true && header(name).is_none() {
            found.push(format!("{status} has no header {name}"));
        }
    }
    let media_type = header("content-type").map(|text| text.split(';').next().unwrap_or_default().trim());
    match (response["content"].as_object(), media_type) {
        (None, None) => {}
        (None, Some(media_type)) => found.push(format!("{status} has a body of {media_type}")),
        (Some(_), None) => found.push(format!("{status} has no content type")),
        (Some(content), Some(media_type)) => match content.get(media_type) {
            None => found.push(format!("{status} is {media_type}")),
            Some(form) if media_type.ends_with("json") && media_type != "application/x-ndjson" => {
                match serde_json::from_slice(answered.body) {
                    Ok(body) => found.extend(differences(document, &form["schema"], &body)),
                    Err(error) => found.push(format!("{status} is no JSON: {error}")),
                }
            }
            Some(_) => {}
        },
    }
    found.into_iter().map(|what| format!("{method} {path}: {what}")).collect()
}

/// Everything in which a value differs from its schema, in words.
pub fn differences(document: &Value, schema: &Value, value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    Check { document }.whole(schema, value, "", &mut found);
    found
}

/// Keywords that say nothing about what is valid, or nothing that has to be looked at here.
const SILENT: [&str; 8] =
    ["description", "title", "default", "examples", "example", "$schema", "pattern", "deprecated"];

struct Check<'a> {
    document: &'a Value,
}

/// The fields of an object that some part of a schema speaks of.
enum Described {
    All,
    These(BTreeSet<String>),
}

impl Described {
    fn none() -> Described {
        Described::These(BTreeSet::new())
    }

    fn and(self, other: Described) -> Described {
        match (self, other) {
            (Described::These(mut one), Described::These(other)) => {
                one.extend(other);
                Described::These(one)
            }
            _ => Described::All,
        }
    }
}

impl Check<'_> {
    /// Checks a value against all that is said of it.
    fn whole(&self, schema: &Value, value: &Value, at: &str, found: &mut Vec<String>) {
        let described = self.part(schema, value, at, found);
        if let (Described::These(names), Value::Object(fields)) = (described, value) {
            for name in fields.keys().filter(|name| !names.contains(*name)) {
                found.push(format!("{at}.{name} is not described"));
            }
        }
    }

    /// Checks a value against a part of what is said of it. Gives the fields that this part speaks of.
    fn part(&self, schema: &Value, value: &Value, at: &str, found: &mut Vec<String>) -> Described {
        let Some(keywords) = schema.as_object() else { return Described::All };
        let says_nothing = keywords.keys().all(|keyword| SILENT.contains(&keyword.as_str()));
        let is_any_object = schema["type"] == "object"
            && !["properties", "additionalProperties"].iter().any(|keyword| keywords.contains_key(*keyword));
        let mut described = if says_nothing || is_any_object { Described::All } else { Described::none() };
        for (keyword, said) in keywords {
            described = described.and(self.keyword(keywords, keyword, said, value, at, found));
        }
        described
    }

    fn keyword(
        &self,
        schema: &Map<String, Value>,
        keyword: &str,
        said: &Value,
        value: &Value,
        at: &str,
        found: &mut Vec<String>,
    ) -> Described {
        let mut say = |what: String| found.push(format!("{at} {what}"));
        let is_beyond = |is_beyond: fn(f64, f64) -> bool| match (value.as_f64(), said.as_f64()) {
            (Some(value), Some(limit)) => is_beyond(value, limit),
            _ => false,
        };
        let length = value.as_array().map(|items| items.len() as u64);
        match keyword {
            "$ref" => {
                let target =
                    said.as_str().and_then(|target| self.document.pointer(target.strip_prefix('#')?));
                match target {
                    Some(target) => return self.part(target, value, at, found),
                    None => say(format!("refers to nothing: {said}")),
                }
            }
            "type" if !has_type(said, value) => say(format!("is {value}, not of type {said}")),
            "const" if said != value => say(format!("is {value}, not {said}")),
            "enum" if said.as_array().is_some_and(|words| !words.contains(value)) => {
                say(format!("is {value}, none of {said}"));
            }
            "minimum" if is_beyond(|value, least| value < least) => {
                say(format!("is {value}, less than {said}"))
            }
            "maximum" if is_beyond(|value, most| value > most) => {
                say(format!("is {value}, more than {said}"))
            }
            "minItems" if length < said.as_u64().filter(|_| length.is_some()) => {
                say(format!("has too few items: {value}"))
            }
            "maxItems" if length > said.as_u64() => say(format!("has too many items: {value}")),
            "format" if !has_format(said, value) => say(format!("is {value}, not of format {said}")),
            "type" | "const" | "enum" | "minimum" | "maximum" | "minItems" | "maxItems" | "format" => {}
            "items" => {
                for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                    self.whole(said, item, &format!("{at}[{index}]"), found);
                }
            }
            "required" => {
                let names = said.as_array().into_iter().flatten().filter_map(Value::as_str);
                for name in
                    names.filter(|name| value.as_object().is_some_and(|fields| !fields.contains_key(*name)))
                {
                    say(format!("has no field {name}"));
                }
            }
            "properties" => {
                let fields = said.as_object().into_iter().flatten();
                for (name, schema) in fields.clone() {
                    if let Some(value) = value.get(name) {
                        self.whole(schema, value, &format!("{at}.{name}"), found);
                    }
                }
                return Described::These(fields.map(|(name, _)| name.clone()).collect());
            }
            "additionalProperties" if *said == Value::Bool(false) => {}
            "additionalProperties" => {
                let is_known =
                    |name: &String| schema.get("properties").is_some_and(|known| known.get(name).is_some());
                for (name, value) in
                    value.as_object().into_iter().flatten().filter(|(name, _)| !is_known(name))
                {
                    self.whole(said, value, &format!("{at}.{name}"), found);
                }
                return Described::All;
            }
            "allOf" => {
                let parts = said.as_array().into_iter().flatten();
                return parts.fold(Described::none(), |described, part| {
                    described.and(self.part(part, value, at, found))
                });
            }
            "anyOf" | "oneOf" => return self.one_of(said, value, at, found),
            silent if SILENT.contains(&silent) => {}
            unknown => say(format!("has a keyword in its schema that this test does not know: {unknown}")),
        }
        Described::none()
    }

    fn one_of(&self, variants: &Value, value: &Value, at: &str, found: &mut Vec<String>) -> Described {
        let mut described = None;
        let mut nearest: Option<Vec<String>> = None;
        for variant in variants.as_array().into_iter().flatten() {
            let mut wrong = Vec::new();
            let fields = self.part(variant, value, at, &mut wrong);
            if wrong.is_empty() {
                described = Some(described.unwrap_or_else(Described::none).and(fields));
            } else if nearest.as_ref().is_none_or(|nearest| wrong.len() < nearest.len()) {
                nearest = Some(wrong);
            }
        }
        match described {
            Some(described) => described,
            None => {
                found.extend(nearest.unwrap_or_default());
                Described::All
            }
        }
    }
}

fn has_type(said: &Value, value: &Value) -> bool {
    let is = |kind: &Value| match kind.as_str().unwrap_or_default() {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => false,
    };
    match said {
        Value::Array(kinds) => kinds.iter().any(is),
        kind => is(kind),
    }
}

fn has_format(said: &Value, value: &Value) -> bool {
    match (said.as_str(), value.as_str()) {
        (Some("date-time"), Some(text)) => DateTime::parse_from_rfc3339(text).is_ok(),
        (Some("uuid"), Some(text)) => Uuid::parse_str(text).is_ok(),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn document() -> Value {
        json!({
            "paths": { "/jobs": { "get": { "responses": {
                "200": {
                    "headers": { "x-request-id": { "required": true } },
                    "content": { "application/json": { "schema": { "$ref": "#/components/schemas/Job" } } },
                },
                "204": {},
            } } } },
            "components": { "schemas": { "Job": {
                "type": "object",
                "required": ["id"],
                "properties": {
                    "id": { "type": "integer", "minimum": 1 },
                    "state": { "type": ["string", "null"], "enum": ["failed", null] },
                    "at": { "type": "string", "format": "date-time" },
                    "labels": { "type": "object", "additionalProperties": { "type": "string" } },
                    "after": { "anyOf": [{ "$ref": "#/components/schemas/Job" }, { "type": "null" }] },
                    "load": { "type": "array", "items": { "type": "number" }, "minItems": 2, "maxItems": 2 },
                },
            } } },
        })
    }

    #[test]
    fn a_value_that_is_as_described_is_told_from_one_that_is_not() {
        let schema = json!({ "$ref": "#/components/schemas/Job" });
        let full = json!({
            "id": 1, "state": "failed", "at": "2026-01-02T03:04:05Z", "labels": { "any": "thing" },
            "after": { "id": 2, "after": null }, "load": [1, 2.5],
        });
        assert_eq!(differences(&document(), &schema, &full), Vec::<String>::new());
        for (value, expected) in [
            (json!({}), " has no field id"),
            (json!({ "id": 0 }), ".id is 0, less than 1"),
            (json!({ "id": "1" }), ".id is \"1\", not of type \"integer\""),
            (json!({ "id": 1, "name": "x" }), ".name is not described"),
            (json!({ "id": 1, "state": "lost" }), ".state is \"lost\", none of [\"failed\",null]"),
            (json!({ "id": 1, "at": "yesterday" }), ".at is \"yesterday\", not of format \"date-time\""),
            (json!({ "id": 1, "labels": { "a": 1 } }), ".labels.a is 1, not of type \"string\""),
            (json!({ "id": 1, "load": [1] }), ".load has too few items: [1]"),
            (json!({ "id": 1, "after": { "id": 2, "more": 1 } }), ".after.more is not described"),
        ] {
            assert_eq!(differences(&document(), &schema, &value), [expected], "{value}");
        }
    }

    #[test]
    fn status_headers_and_media_type_are_looked_at() {
        let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let json = [header("content-type", "application/json"), header("x-request-id", "1")];
        let of = |status, headers: &[(String, String)], body: &[u8]| {
            mismatches(&document(), "/jobs", "get", Answered { status, headers, body }).join("; ")
        };
        assert_eq!(of(200, &json, br#"{"id": 1}"#), "");
        assert_eq!(of(418, &json, b""), "get /jobs answers 418, which is not described");
        assert_eq!(of(200, &json[..1], br#"{"id": 1}"#), "get /jobs: 200 has no header x-request-id");
        let text = [header("content-type", "text/plain"), header("x-request-id", "1")];
        assert_eq!(of(200, &text, b""), "get /jobs: 200 is text/plain");
        assert_eq!(of(204, &[], b""), "");
        assert_eq!(of(204, &text, b""), "get /jobs: 204 has a body of text/plain");
    }
}
