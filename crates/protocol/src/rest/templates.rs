//! REST bodies about templates.

use chrono::{DateTime, Utc};
use gaffer_domain::document::Language;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::problem::ProblemField;

/// A template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Template {
    /// Name of the template, unique in the project.
    pub name: String,
    /// Number of the latest version.
    pub version: u32,
    /// Number of versions that are kept.
    pub versions: u32,
    /// Name of the user who saved the latest version.
    pub saved_by: String,
    /// When the latest version was saved.
    pub saved_at: DateTime<Utc>,
}

/// One version of a template, without its specification.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TemplateVersionEntry {
    /// Number of the version.
    pub version: u32,
    /// Name of the user who saved it.
    pub saved_by: String,
    /// When it was saved.
    pub saved_at: DateTime<Utc>,
}

/// One version of a template.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TemplateVersion {
    /// Name of the template.
    pub name: String,
    /// Number of the version.
    pub version: u32,
    /// Name of the user who saved it.
    pub saved_by: String,
    /// When it was saved.
    pub saved_at: DateTime<Utc>,
    /// Format of `text`.
    #[schemars(extend("enum" = Language::ALL.map(Language::word)))]
    pub language: String,
    /// The specification as it was written, with its comments.
    pub text: String,
    /// The parameters of the specification, in its order.
    pub parameters: Vec<TemplateParameter>,
    /// What may be a mistake in the specification. Only in the answer to a request that saves it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hints: Vec<ProblemField>,
}

/// A parameter of a template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TemplateParameter {
    /// Name of the parameter.
    pub name: String,
    /// Type of its values.
    #[serde(rename = "type")]
    #[schemars(extend("enum" = ["string", "integer", "number", "boolean", "choice", "duration", "size"]))]
    pub kind: String,
    /// What it is for.
    pub description: Option<String>,
    /// Its value if none is given; null if a value has to be given.
    pub default: Option<String>,
    /// What values it takes, in words.
    pub takes: String,
}

/// The template that a job was made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JobTemplate {
    /// Name of the template.
    pub name: String,
    /// Number of the version.
    pub version: u32,
}
