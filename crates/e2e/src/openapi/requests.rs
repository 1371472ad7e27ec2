//! Requests made up from the description of the API: mostly as it says, sometimes not. Pure.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, IteratorRandom};
use serde_json::{Value, json};
use url::form_urlencoded;

use super::resolved;

/// A request that somebody could send.
#[derive(Debug, Clone)]
pub struct MadeUp {
    /// The path as it is described.
    pub path: String,
    /// In small letters.
    pub method: String,
    /// The address below `/api/v1`, with its query.
    pub address: String,
    /// Headers.
    pub headers: Vec<(String, String)>,
    /// The body and its media type.
    pub body: Option<(String, Vec<u8>)>,
}

/// What exists and can be asked for: a name of a parameter, and a value.
pub type Known = Vec<(&'static str, String)>;

/// Parameters with which a request would take long: these have tests of their own.
const SLOW: [&str; 2] = ["follow", "wait"];
/// Texts that have caused trouble somewhere.
const ODD: [&str; 14] = [
    "",
    " ",
    "0",
    "-1",
    "1e9",
    "99999999999999999999",
    "null",
    "%",
    "'",
    "\u{0}",
    "\u{e4}\u{1f600}",
    "../..",
    "a\nb",
    "{}",
];

/// Makes up the next request.
pub fn make_up(document: &Value, known: &Known, random: &mut StdRng) -> Option<MadeUp> {
    let operations = document["paths"].as_object()?.iter().flat_map(|(path, methods)| {
        methods.as_object().into_iter().flatten().map(move |(method, operation)| (path, method, operation))
    });
    let (path, method, operation) = operations.choose(random)?;
    let mut made_up = MadeUp {
        path: path.clone(),
        method: method.clone(),
        address: path.clone(),
        headers: Vec::new(),
        body: None,
    };
    let mut query = form_urlencoded::Serializer::new(String::new());
    for parameter in operation["parameters"].as_array().into_iter().flatten() {
        let name = parameter["name"].as_str().unwrap_or_default();
        let is_left_out = parameter["required"] != true && random.random_bool(0.6);
        if SLOW.contains(&name) || is_left_out {
            continue;
        }
        let value = text(&parameter["schema"], name, known, random);
        match parameter["in"].as_str() {
            Some("path") => {
                let encoded: String = form_urlencoded::byte_serialize(value.as_bytes()).collect();
                let encoded = encoded.replace('+', "%20");
                made_up.address = made_up.address.replace(&format!("{{{name}}}"), &encoded);
            }
            Some("query") => drop(query.append_pair(name, &value)),
            _ => made_up.headers.push((name.to_owned(), value)),
        }
    }
    if random.random_bool(0.03) {
        query.append_pair("nobody-knows-this", "1");
    }
    let query = query.finish();
    if !query.is_empty() {
        made_up.address = format!("{}?{query}", made_up.address);
    }
    made_up.body = body(document, &operation["requestBody"], random);
    // What no client can send is not sent.
    let is_sendable = |(_, value): &(String, String)| {
        value.bytes().all(|byte| byte == b'\t' || byte >= b' ' && byte != 127)
    };
    made_up.headers.retain(is_sendable);
    Some(made_up)
}

/// A value of a parameter: mostly one that exists or is allowed.
fn text(schema: &Value, name: &str, known: &Known, random: &mut StdRng) -> String {
    if random.random_bool(0.15) {
        return ODD.choose(random).copied().unwrap_or_default().to_owned();
    }
    let exists = known.iter().filter(|(of, _)| *of == name).choose(random);
    if let Some((_, value)) = exists.filter(|_| random.random_bool(0.8)) {
        return value.clone();
    }
    match value_of(&Value::Null, schema, random) {
        Value::String(text) => text,
        Value::Array(items) => items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

fn body(document: &Value, described: &Value, random: &mut StdRng) -> Option<(String, Vec<u8>)> {
    let content = described["content"].as_object()?;
    if random.random_bool(if described["required"] == true { 0.05 } else { 0.3 }) {
        return None;
    }
    let (media_type, form) = content.iter().choose(random)?;
    let value = value_of(document, &form["schema"], random);
    let bytes = match random.random_range(0..10) {
        0 => ODD.choose(random).copied().unwrap_or_default().as_bytes().to_vec(),
        // JSON is YAML as well.
        _ => value.to_string().into_bytes(),
    };
    Some((media_type.clone(), bytes))
}

/// A value that the schema allows, or nearly so.
fn value_of(document: &Value, schema: &Value, random: &mut StdRng) -> Value {
    if random.random_bool(0.05) {
        return ODD.choose(random).map_or(Value::Null, |odd| json!(odd));
    }
    let schema = resolved(document, schema);
    for keyword in ["enum", "examples"] {
        if let Some(value) = schema[keyword].as_array().and_then(|values| values.choose(random)) {
            return value.clone();
        }
    }
    if let Some(variant) = schema["anyOf"].as_array().and_then(|variants| variants.choose(random)) {
        return value_of(document, variant, random);
    }
    let kinds = match &schema["type"] {
        Value::Array(kinds) => kinds.clone(),
        kind => vec![kind.clone()],
    };
    match kinds.choose(random).and_then(Value::as_str) {
        Some("integer" | "number") => {
            let least = schema["minimum"].as_u64().unwrap_or(0);
            let most = schema["maximum"].as_u64().unwrap_or(u64::MAX);
            match random.random_range(0..4) {
                0 => json!(least),
                1 => json!(most),
                2 => json!(random.random_range(least..=most)),
                _ => json!(random.random_range(least..=most.min(least.saturating_add(100)))),
            }
        }
        Some("boolean") => json!(random.random_bool(0.5)),
        Some("array") => {
            let count = random.random_range(0..3);
            (0..count).map(|_| value_of(document, &schema["items"], random)).collect()
        }
        Some("object") => {
            let fields = schema["properties"].as_object().into_iter().flatten();
            let is_required =
                |name: &str| schema["required"].as_array().is_some_and(|names| names.contains(&json!(name)));
            let mut object = serde_json::Map::new();
            for (name, field) in fields {
                if random.random_bool(if is_required(name) { 0.95 } else { 0.5 }) {
                    object.insert(name.clone(), value_of(document, field, random));
                }
            }
            Value::Object(object)
        }
        Some("string") if schema["format"] == "uuid" => json!(uuid::Uuid::from_u128(random.random())),
        Some("string") => json!(["a", "main", "host", "x y", "42"].choose(random)),
        _ => Value::Null,
    }
}
