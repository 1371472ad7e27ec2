//! The JSON Schema (2020-12) of a job's specification, from the tables of its fields.
//!
//! It accepts everything that the reader accepts. It cannot say everything that the reader refuses: limits of amounts
//! that are written as text, and most rules between fields.

use serde_json::{Map, Value, json};

use super::driver::DriverKind;
use super::each::{AXIS, MAX_AXES, MAX_TASKS_PER_JOB, WORKER};
use super::field::{ANY_NAME, Absent, Field, Kind, Most, Tables};
use super::job::{IS_NOT_YET, JOB_FIELDS, NOT_YET, SINGLE_TASK_JOB_FIELDS};
use super::task::TASK_FIELDS;
use crate::document::Language;

/// Where the schema has a task.
const TASK: &str = "#/$defs/task";

/// The schema of a job.
pub fn of_job() -> Value {
    let is_of_job = |name: &str| JOB_FIELDS.iter().copied().flatten().any(|field| field.name == name);
    let task_alone = || TASK_FIELDS.iter().copied().flatten().filter(|field| !is_of_job(field.name));
    let mut job = object(JOB_FIELDS);
    job["properties"]["tasks"]["items"] = json!({ "$ref": TASK });
    job["properties"]["tasks"]["minItems"] = json!(1);
    if let Some(properties) = job["properties"].as_object_mut() {
        for Field { name, .. } in task_alone() {
            properties.insert((*name).to_owned(), json!({ "$ref": format!("{TASK}/properties/{name}") }));
        }
    }
    let mut task = merged(object(TASK_FIELDS), json!({ "allOf": [{ "$ref": "#/$defs/work" }] }));
    let is_of_task = |name: &str| TASK_FIELDS.iter().copied().flatten().any(|field| field.name == name);
    for Field { name, .. } in JOB_FIELDS.iter().copied().flatten().filter(|field| !is_of_task(field.name)) {
        // The reader takes null for a field that is left out, wherever it stands.
        task["properties"][*name] =
            json!({ "type": "null", "description": format!("`{name}` is a field of the job.") });
    }
    for name in NOT_YET {
        let reserved = json!({ "type": "null", "description": format!("`{name}` {IS_NOT_YET}.") });
        job["properties"][name] = reserved.clone();
        task["properties"][name] = reserved;
    }
    merged(
        json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": "gaffer job",
            "description": "A job for gaffer: a list of tasks, or the fields of a single one.",
            "if": has("tasks"),
            "then": without(task_alone()),
            "else": { "$ref": "#/$defs/work" },
            "$defs": {
                "task": task,
                "work": work(),
            },
        }),
        job,
    )
}

/// What holds for the fields of a task, wherever they stand.
fn work() -> Value {
    let driver = |kind: DriverKind| json!({ "properties": { "driver": { "const": kind.as_str() } }, "required": ["driver"] });
    let lacking = |kind: DriverKind| {
        let fields = SINGLE_TASK_JOB_FIELDS.iter().copied().flatten();
        without(fields.filter(move |field| !field.drivers.contains(&kind)))
    };
    let in_container = json!({ "anyOf": [has("image"), driver(DriverKind::Docker)] });
    let mut rules = vec![
        json!({ "anyOf": [has("command"), has("script"), has("image")] }),
        json!({ "anyOf": [has("image"), { "properties": { "command": { "minItems": 1 } } }] }),
        json!({
            "if": in_container,
            "then": merged(has("image"), json!({ "allOf": [lacking(DriverKind::Docker)] })),
            "else": { "if": driver(DriverKind::Scripted), "then": lacking(DriverKind::Scripted), "else": lacking(DriverKind::Host) },
        }),
        json!({ "not": { "allOf": [has("image"), { "anyOf": [driver(DriverKind::Host), driver(DriverKind::Scripted)] }] } }),
    ];
    for field in TASK_FIELDS.iter().copied().flatten() {
        let both = |other: &&str| json!({ "not": { "allOf": [has(field.name), has(other)] } });
        rules.extend(field.excludes.iter().map(both));
    }
    json!({ "allOf": rules })
}

/// The field is there and not null.
fn has(name: &str) -> Value {
    json!({ "properties": { name: { "not": { "type": "null" } } }, "required": [name] })
}

/// The fields are not there, or null.
fn without<'f>(fields: impl Iterator<Item = &'f Field>) -> Value {
    let nothing = fields.map(|field| (field.name.to_owned(), json!({ "type": "null" })));
    json!({ "properties": nothing.collect::<Map<_, _>>() })
}

fn object(fields: Tables) -> Value {
    let all = || fields.iter().copied().flatten();
    let required: Vec<_> =
        all().filter(|field| field.absent == Absent::Refused).map(|field| field.name).collect();
    let named = all().filter(|field| field.name != ANY_NAME);
    let properties: Map<_, _> = named.map(|field| (field.name.to_owned(), property(field))).collect();
    let others = all().find(|field| field.name == ANY_NAME).map_or(json!(false), property);
    let mut schema = json!({ "type": "object", "properties": properties, "additionalProperties": others });
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    schema
}

fn property(field: &Field) -> Value {
    let mut schema = of_kind(&field.kind);
    if field.absent != Absent::Refused {
        schema = or_null(schema);
    }
    schema["description"] = json!(description(field));
    if let Absent::Is(default) = field.absent {
        schema["default"] = from_yaml(default);
    }
    if !field.example.is_empty() && field.name != ANY_NAME {
        schema["examples"] = json!([from_yaml(field.example)]);
    }
    schema
}

/// The sentences about a field, and about each of its words.
fn description(field: &Field) -> String {
    let mut text = format!("{}.", field.summary);
    let otherwise = match field.absent {
        Absent::Means(meaning) if !meaning.is_empty() => format!("Default: {meaning}."),
        _ => String::new(),
    };
    let rules = field.rules();
    let limits = if rules.is_empty() { String::new() } else { format!("Limits: {}.", rules.join("; ")) };
    for more in [field.details, &limits, &otherwise] {
        if !more.is_empty() {
            text.push(' ');
            text.push_str(more);
        }
    }
    if let Kind::Words(words) = &field.kind {
        for word in words().iter().filter(|word| !word.meaning.is_empty()) {
            text.push_str(&format!("\n- `{}`: {}", word.word, word.meaning));
        }
    }
    text
}

/// A field that is null counts as left out.
fn or_null(mut schema: Value) -> Value {
    if let Some(words) = schema.get_mut("enum").and_then(Value::as_array_mut) {
        words.push(Value::Null);
    }
    match schema.get_mut("type") {
        Some(Value::Array(types)) => types.push(json!("null")),
        Some(one) => *one = json!([one.take(), "null"]),
        None => {}
    }
    if let Some(choices) = schema.get_mut("anyOf").and_then(Value::as_array_mut) {
        choices.push(json!({ "type": "null" }));
    }
    schema
}

fn of_kind(kind: &Kind) -> Value {
    match kind {
        // A scalar in quotes is read as one without.
        Kind::Bool => json!({
            "type": ["boolean", "string"], "pattern": or_placeholder("^([Tt]rue|TRUE|[Ff]alse|FALSE)$"),
        }),
        Kind::Whole(range) => json!({
            "type": ["integer", "string"], "minimum": range.start(), "maximum": range.end(),
            "pattern": or_placeholder("^[+-]?(0[xob])?[0-9A-Fa-f_]+$"),
        }),
        Kind::Time(range) => {
            let seconds = |millis: u64| millis as f64 / 1000.0;
            let unit = r"(d|h|m|s|ms)\s*";
            let form = format!(r"({unit}({NUMBER}{unit})*)?");
            amount(seconds(range.start().as_millis()), seconds(range.end().as_millis()), &form)
        }
        Kind::Size(range) => {
            let unit = r"([kKMGTP]|([kKmMgGtTpP][iI]?)?[bB])?\s*";
            amount(range.start().get() as f64, range.end().get() as f64, unit)
        }
        Kind::Cpus(range) => amount(range.start().cores(), range.end().cores(), r"m?\s*"),
        Kind::Items => {
            let items =
                json!({ "type": "array", "minItems": 1, "maxItems": MAX_TASKS_PER_JOB, "items": text() });
            let lists = json!({
                "type": "object", "minProperties": 1, "maxProperties": MAX_AXES, "propertyNames": of_kind(&AXIS),
                "additionalProperties": items,
            });
            json!({ "anyOf": [items, lists, { "enum": [WORKER] }, { "type": "string", "pattern": PLACEHOLDER }] })
        }
        Kind::Words(words) => {
            let words = json!({ "enum": words().iter().map(|word| word.word).collect::<Vec<_>>() });
            json!({ "anyOf": [words, { "type": "string", "pattern": PLACEHOLDER }] })
        }
        Kind::Text { pattern, most, .. } => {
            let mut schema = text();
            if !pattern.is_empty() {
                schema["pattern"] = json!(or_placeholder(pattern));
            }
            // Nothing counts bytes there.
            if let Most::Chars(most) = most {
                schema["maxLength"] = json!(most);
            }
            schema
        }
        Kind::Name { max_len, others, .. } => {
            // Only the hyphen means something else among characters. Validators refuse an escape that is not needed.
            let others = others.replace('-', "\\-");
            let rest = max_len - 1;
            let pattern = format!("^[A-Za-z0-9][A-Za-z0-9{others}]{{0,{rest}}}$");
            merged(text(), json!({ "pattern": or_placeholder(&pattern) }))
        }
        Kind::AllOr(range) => {
            json!({ "anyOf": [{ "const": "all" }, of_kind(&Kind::Whole(range.clone()))] })
        }
        Kind::Arguments(_) => {
            let program = merged(text(), json!({ "minLength": 1 }));
            json!({ "type": "array", "prefixItems": [program], "items": text() })
        }
        Kind::List { max, item, .. } => {
            let mut schema = json!({ "type": "array", "items": of_kind(item) });
            if *max < usize::MAX {
                schema["maxItems"] = json!(max);
            }
            schema
        }
        Kind::Map { max, key, value, .. } => {
            let mut schema = json!({
                "type": "object", "additionalProperties": of_kind(value), "propertyNames": of_kind(key),
            });
            if *max < usize::MAX {
                schema["maxProperties"] = json!(max);
            }
            schema
        }
        Kind::Object(fields) => object(fields),
        Kind::WordOr { word, fields } => {
            let word = super::field::find(fields, word).map_or_else(text, |field| of_kind(&field.kind));
            json!({ "anyOf": [word, object(fields)] })
        }
    }
}

/// A field that is a text takes every scalar, as it was written.
fn text() -> Value {
    json!({ "type": ["string", "number", "boolean"] })
}

/// A text with the value of a parameter in it, of which a schema does not know what it will be.
const PLACEHOLDER: &str = r"\{\{";

fn or_placeholder(pattern: &str) -> String {
    format!("{pattern}|{PLACEHOLDER}")
}

/// A number in an amount.
const NUMBER: &str = r"[0-9.][0-9.eE+]*\s*";

/// Amounts are numbers, or texts with units, of which a schema sees no size.
fn amount(least: f64, most: f64, units: &str) -> Value {
    let pattern = or_placeholder(&format!(r"^\s*{NUMBER}{units}$"));
    json!({ "type": ["number", "string"], "minimum": least, "maximum": most, "pattern": pattern })
}

fn merged(mut schema: Value, more: Value) -> Value {
    if let (Value::Object(schema), Value::Object(more)) = (&mut schema, more) {
        schema.extend(more);
    }
    schema
}

/// The value of a text in YAML. A text that is none is itself.
fn from_yaml(text: &str) -> Value {
    let value = Language::Yaml.read(text).ok().map(|document| document.to_json());
    value.and_then(|json| serde_json::from_str(&json).ok()).unwrap_or_else(|| json!(text))
}
