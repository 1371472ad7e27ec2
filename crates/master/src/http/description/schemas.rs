//! JSON Schemas of the Rust types that bodies are made of.

use gaffer_domain::spec::schema;
use gaffer_protocol::rest::{Problem, SubmitRequest};
use schemars::generate::{SchemaGenerator, SchemaSettings};
use schemars::transform::Transform;
use schemars::{JsonSchema, Schema};
use serde_json::{Map, Value, json};

/// Where the document has them.
const PLACE: &str = "#/components/schemas";
/// Name of the schema of a job specification, in all languages that it is written in.
const JOB_SPECIFICATION: &str = "JobSpecification";
/// Names of the schemas inside the one of a job specification: there, and here.
const PARTS: [(&str, &str); 2] = [("task", "TaskSpecification"), ("work", "TaskConditions")];

/// The schemas that descriptions refer to.
#[derive(Debug)]
pub struct Schemas {
    sent: SchemaGenerator,
    answered: SchemaGenerator,
}

impl Default for Schemas {
    fn default() -> Schemas {
        let settings = SchemaSettings::draft2020_12().with(|settings| {
            settings.definitions_path = PLACE.trim_start_matches('#').into();
            settings.meta_schema = None;
        });
        let settings = settings.with_transform(ForReaders);
        Schemas {
            sent: settings.clone().for_deserialize().into_generator(),
            answered: settings.for_serialize().into_generator(),
        }
    }
}

impl Schemas {
    /// Of what clients send: fields with a default may be left out.
    pub fn sent<T: JsonSchema>(&mut self) -> Value {
        self.sent.subschema_for::<T>().to_value()
    }

    /// Of what the API answers: fields that are always there are required.
    pub fn answered<T: JsonSchema>(&mut self) -> Value {
        self.answered.subschema_for::<T>().to_value()
    }

    /// A reference to the specification of a job.
    pub fn job_specification() -> Value {
        json!({ "$ref": format!("{PLACE}/{JOB_SPECIFICATION}") })
    }

    /// What submits a job: a specification, or an object around one.
    pub fn submission(&mut self) -> Value {
        json!({ "anyOf": [Schemas::job_specification(), self.sent::<SubmitRequest>()] })
    }

    /// All schemas by name.
    pub fn into_definitions(mut self) -> Map<String, Value> {
        // What errors are, no handler's type says.
        self.answered::<Problem>();
        let mut all = self.answered.take_definitions(true);
        all.extend(self.sent.take_definitions(true));
        all.extend(job_specification());
        all
    }
}

/// The schemas of a job specification and of its parts: those of `/schema/job.json`, with references that hold here.
fn job_specification() -> Map<String, Value> {
    let mut job = schema::of_job();
    refer_to_components(&mut job);
    let mut all = Map::new();
    if let Some(job) = job.as_object_mut() {
        job.remove("$schema");
        let parts = job.remove("$defs").unwrap_or_default();
        for (inside, name) in PARTS {
            all.insert(name.to_owned(), parts[inside].clone());
        }
    }
    all.insert(JOB_SPECIFICATION.to_owned(), job);
    all
}

fn refer_to_components(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            if let Some(Value::String(target)) = fields.get_mut("$ref") {
                for (inside, name) in PARTS {
                    *target = target.replace(&format!("#/$defs/{inside}"), &format!("{PLACE}/{name}"));
                }
            }
            fields.values_mut().for_each(refer_to_components);
        }
        Value::Array(values) => values.iter_mut().for_each(refer_to_components),
        _ => {}
    }
}

/// Joins the lines of doc comments, which are broken where the source is; and takes out what readers of an older answer
/// assume of a field that was not there yet.
#[derive(Debug, Clone)]
struct ForReaders;

impl Transform for ForReaders {
    fn transform(&mut self, schema: &mut Schema) {
        schema.remove("default");
        if let Some(Value::String(text)) = schema.get_mut("description") {
            let paragraphs: Vec<String> = text
                .split("\n\n")
                .map(|paragraph| paragraph.split_whitespace().collect::<Vec<_>>().join(" "))
                .collect();
            *text = paragraphs.join("\n\n");
        }
        schemars::transform::transform_subschemas(self, schema);
    }
}
