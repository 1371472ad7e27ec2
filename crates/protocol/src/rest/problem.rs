//! REST bodies of errors.

use gaffer_domain::spelling::with_suggestion;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What went wrong (RFC 9457).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Problem {
    /// `about:blank`: `code` has the details.
    #[serde(rename = "type", default)]
    pub kind: String,
    /// The HTTP status in words.
    pub title: String,
    /// The HTTP status code.
    pub status: u16,
    /// Stable code for programs.
    pub code: String,
    /// Message for people.
    pub detail: String,
    /// Id of the request in the master's log; also in the header `x-request-id`.
    #[serde(default)]
    pub request_id: String,
    /// For conflicts: the present state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// The fields at fault.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<ProblemField>,
}

/// One field at fault.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ProblemField {
    /// JSON pointer into the body, or `query:NAME`, `header:NAME`, `path:NAME`.
    pub pointer: String,
    /// What is wrong with the field.
    pub detail: String,
    /// What may have been meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suggestion: Option<String>,
}

impl ProblemField {
    /// What is wrong and what may have been meant, without the place.
    pub fn message(&self) -> String {
        with_suggestion(&self.detail, self.suggestion.as_deref())
    }
}
