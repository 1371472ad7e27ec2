//! REST bodies about the parameters of specifications.

use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// A value of a parameter. It keeps how it is written: `1e-3` stays `1e-3`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum ParameterValue {
    /// `true` or `false`.
    Boolean(bool),
    /// A number.
    Number(serde_json::Number),
    /// A text.
    Text(String),
}

/// A job to submit, from a specification or a template, with values for the parameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SubmitRequest {
    /// Specification of the job; not with `template`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "job_specification")]
    pub spec: Option<serde_json::Value>,
    /// Name of a template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = ["train"]))]
    pub template: Option<String>,
    /// Number of the template's version; without it, the latest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2_147_483_647_u32))]
    pub version: Option<u32>,
    /// Values of its parameters by name; others have their defaults.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = [{"lr": 0.1}]))]
    pub parameters: Option<BTreeMap<String, ParameterValue>>,
}

/// It is described where the API describes itself.
fn job_specification(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "$ref": "#/components/schemas/JobSpecification" })
}

/// The specification of a job as it was submitted, and the values that its parameters have: the job can be submitted again with
/// these.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct JobSource {
    /// The specification, before the values were put in. Numbers that JSON would write otherwise are texts.
    #[schemars(with = "serde_json::Map<String, serde_json::Value>")]
    pub spec: serde_json::Value,
    /// Values of its parameters by name.
    pub parameters: BTreeMap<String, String>,
}
