//! JSON Schemas of the Rust types that bodies are made of.

use gaffer_protocol::rest::Problem;
use schemars::generate::{SchemaGenerator, SchemaSettings};
use schemars::transform::Transform;
use schemars::{JsonSchema, Schema};
use serde_json::{Map, Value, json};

/// Where the document has them.
const PLACE: &str = "#/components/schemas";
/// Name of the schema of a job's specification, in all languages that it is written in.
const JOB_SPECIFICATION: &str = "JobSpecification";

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

    /// All schemas by name.
    pub fn into_definitions(mut self) -> Map<String, Value> {
        // What errors are, no handler's type says.
        self.answered::<Problem>();
        let mut all = self.answered.take_definitions(true);
        all.extend(self.sent.take_definitions(true));
        all.insert(JOB_SPECIFICATION.to_owned(), job_specification());
        all
    }
}

/// The schema of a job's specification.
fn job_specification() -> Value {
    json!({
        "type": "object",
        "description": "Specification of a job: a list of tasks under `tasks`, or the fields of a single task. \
            docs/job-specification.md lists every field.",
        "examples": [{ "name": "hello", "command": ["echo", "hello"] }],
    })
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
