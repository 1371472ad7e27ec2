//! The reference of the REST API, for people: the same that `/api/v1/openapi.json` says to programs.

use askama::Template;
use axum::response::Response;
use serde_json::Value;

use super::super::API;
use super::super::description::{API_VERSION, Content, Description, Header, INTRODUCTION, STATUSES, Success};
use super::super::error::Error;
use super::frame::{Frame, SessionUser};
use super::page;

#[derive(Template)]
#[template(path = "reference.html")]
struct Reference {
    frame: Frame,
    version: &'static str,
    introduction: Vec<&'static str>,
    sections: Vec<Section>,
    objects: Vec<Object>,
}

struct Section {
    name: &'static str,
    operations: Vec<OperationText>,
}

struct OperationText {
    id: &'static str,
    method: String,
    path: &'static str,
    summary: &'static str,
    description: &'static str,
    /// Of a key; none if none is needed.
    scopes: Option<String>,
    parameters: Vec<ParameterRow>,
    /// What is sent, then what is answered, by status.
    bodies: Vec<BodyRow>,
}

struct ParameterRow {
    name: &'static str,
    place: &'static str,
    is_required: bool,
    kind: Kind,
    description: &'static str,
}

struct BodyRow {
    label: String,
    forms: Vec<Form>,
    headers: Vec<Header>,
    meaning: &'static str,
}

struct Form {
    media_type: &'static str,
    kind: Kind,
}

struct Object {
    name: String,
    description: String,
    /// If it has no fields.
    kind: Kind,
    fields: Vec<Field>,
}

struct Field {
    name: String,
    is_required: bool,
    kind: Kind,
    description: String,
}

/// A type in words; those that are the names of objects lead to these.
type Kind = Vec<(String, String)>;

/// `GET /reference`
pub async fn show(visitor: SessionUser) -> Result<Response, Error> {
    let sections = API.sections().into_iter().map(|name| {
        let of_section = API.descriptions.iter().filter(|description| description.section == name);
        Section { name, operations: of_section.map(operation).collect() }
    });
    page(&Reference {
        frame: visitor.frame("/reference"),
        version: API_VERSION,
        introduction: INTRODUCTION.trim().split("\n\n").collect(),
        sections: sections.collect(),
        objects: API.schemas.iter().map(|(name, schema)| object(name, schema)).collect(),
    })
}

fn operation(description: &Description) -> OperationText {
    let parameters = description.parameters().map(|(place, parameter)| ParameterRow {
        name: parameter.name,
        place,
        is_required: parameter.is_required,
        kind: kind(&parameter.schema()),
        description: parameter.description,
    });
    let sent = description.body.iter().map(|body| BodyRow {
        label: if body.is_required { "request".to_owned() } else { "request (optional)".to_owned() },
        forms: forms(&body.content),
        headers: Vec::new(),
        meaning: "",
    });
    let done =
        description.successes.iter().map(|(status, Success { description, headers, content })| BodyRow {
            label: status.to_string(),
            forms: forms(content),
            headers: headers.clone(),
            meaning: description,
        });
    let failed = STATUSES.iter().filter_map(|status| {
        let why = description.errors.get(&status.status).copied()?;
        let problem = Form { media_type: "application/problem+json", kind: link("Problem") };
        let meaning = if why.is_empty() { status.meaning } else { why };
        let headers = status.headers.to_vec();
        Some(BodyRow { label: status.status.to_string(), forms: vec![problem], headers, meaning })
    });
    OperationText {
        id: description.operation.id,
        method: description.method.to_uppercase(),
        path: description.path,
        summary: description.operation.summary,
        description: description.operation.description,
        scopes: description.operation.action.map(|action| action.scopes().to_string()),
        parameters: parameters.collect(),
        bodies: sent.chain(done).chain(failed).collect(),
    }
}

fn forms(content: &[Content]) -> Vec<Form> {
    content.iter().map(|Content { media_type, schema }| Form { media_type, kind: kind(schema) }).collect()
}

fn object(name: &str, schema: &Value) -> Object {
    let required = schema["required"].as_array();
    let is_required = |name: &str| required.is_some_and(|names| names.iter().any(|known| known == name));
    let place = |name: &str| {
        required.and_then(|names| names.iter().position(|known| known == name)).unwrap_or(usize::MAX)
    };
    let properties = schema["properties"].as_object().into_iter().flatten();
    let mut fields: Vec<Field> = properties
        .map(|(name, field)| Field {
            name: name.clone(),
            is_required: is_required(name),
            kind: kind(field),
            description: text(&described(field)["description"]),
        })
        .collect();
    // Required ones are in the order of the type.
    fields.sort_by_key(|field| place(&field.name));
    let kind = if fields.is_empty() { kind(schema) } else { Vec::new() };
    Object { name: name.to_owned(), description: text(&schema["description"]), kind, fields }
}

/// A schema, or the one that it refers to for its description: a field of another object.
fn described(schema: &Value) -> &Value {
    let target = schema["$ref"].as_str().and_then(|target| target.strip_prefix("#/components/schemas/"));
    let place = target.and_then(|target| target.split_once("/properties/"));
    place.and_then(|(object, field)| API.schemas.get(object)?.get("properties")?.get(field)).unwrap_or(schema)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn plain(text: impl Into<String>) -> Kind {
    vec![(String::new(), text.into())]
}

fn link(name: &str) -> Kind {
    vec![(name.to_owned(), name.to_owned())]
}

/// The type that a schema stands for.
fn kind(schema: &Value) -> Kind {
    if let Some(target) = schema["$ref"].as_str() {
        // Of a field of another object, that object tells more.
        let name = target.split("/properties/").next().and_then(|object| object.rsplit('/').next());
        return link(name.unwrap_or_default());
    }
    if let Some(word) = schema["const"].as_str() {
        return plain(format!("\u{201c}{word}\u{201d}"));
    }
    if let Some(words) = schema["enum"].as_array() {
        let words: Vec<String> = words.iter().map(text).collect();
        return plain(words.join(", "));
    }
    for keyword in ["anyOf", "oneOf"] {
        if let Some(variants) = schema[keyword].as_array() {
            return joined(variants.iter().map(kind), " or ");
        }
    }
    // A variant of a tagged type: its fields, the tag among them.
    if let Some(fields) = schema["properties"].as_object() {
        let fields = fields.iter().map(|(name, field)| {
            let mut named = plain(format!("{name}: "));
            named.extend(kind(field));
            named
        });
        let mut object = plain("{");
        object.extend(joined(fields, ", "));
        object.extend(plain("}"));
        return object;
    }
    let names: Vec<&str> = match &schema["type"] {
        Value::Array(names) => names.iter().filter_map(Value::as_str).collect(),
        Value::String(name) => vec![name.as_str()],
        _ => Vec::new(),
    };
    let one = |name: &str| match name {
        "array" => {
            let mut list = plain("list of ");
            list.extend(kind(&schema["items"]));
            list
        }
        "object" if schema["additionalProperties"].is_object() => {
            let mut map = plain("map of ");
            map.extend(kind(&schema["additionalProperties"]));
            map
        }
        "string" if schema["format"] == "date-time" => plain("time"),
        "string" if schema["format"] == "uuid" => plain("UUID"),
        "string" => plain(match schema["examples"][0].as_str() {
            Some(example) => format!("string, such as {example}"),
            None => "string".to_owned(),
        }),
        "integer" => plain(match (schema["minimum"].as_u64(), schema["maximum"].as_u64()) {
            (Some(least), Some(most)) if most <= 1_000_000 => format!("integer, {least} to {most}"),
            (Some(least @ 1..), _) => format!("integer from {least}"),
            _ => "integer".to_owned(),
        }),
        other => plain(other),
    };
    joined(names.into_iter().map(one), " or ")
}

fn joined(kinds: impl Iterator<Item = Kind>, between: &str) -> Kind {
    let mut all = Kind::new();
    for kind in kinds {
        if !all.is_empty() {
            all.extend(plain(between));
        }
        all.extend(kind);
    }
    all
}

/// A text in parts, and whether each is code: what stands between backticks.
pub fn code_spans(text: &str) -> impl Iterator<Item = (bool, &str)> {
    text.split('`')
        .enumerate()
        .map(|(index, part)| (index % 2 == 1, part))
        .filter(|(_, part)| !part.is_empty())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn words(schema: Value) -> String {
        kind(&schema).into_iter().map(|(_, text)| text).collect()
    }

    #[test]
    fn types_are_written_in_words() {
        for (schema, expected) in [
            (json!({ "type": "string", "format": "date-time" }), "time"),
            (json!({ "type": ["string", "null"] }), "string or null"),
            (json!({ "type": "integer", "minimum": 1, "maximum": 500 }), "integer, 1 to 500"),
            (json!({ "type": "array", "items": { "$ref": "#/components/schemas/Job" } }), "list of Job"),
            (json!({ "anyOf": [{ "$ref": "#/x/Reason" }, { "type": "null" }] }), "Reason or null"),
            (json!({ "type": "string", "enum": ["failed", "running"] }), "failed, running"),
            (
                json!({ "properties": { "code": { "const": "away" }, "port": { "type": "integer" } } }),
                "{code: \u{201c}away\u{201d}, port: integer}",
            ),
            (json!({}), ""),
        ] {
            assert_eq!(words(schema.clone()), expected, "{schema}");
        }
        let spans: Vec<_> = code_spans("Send `cursor` to go on").collect();
        assert_eq!(spans, [(false, "Send "), (true, "cursor"), (false, " to go on")]);
    }
}
