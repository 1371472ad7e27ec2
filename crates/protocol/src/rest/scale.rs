//! REST bodies about services that are scaled.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// At how many instances to keep a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ScaleRequest {
    /// Name of the task definition. It may be left out if the service has only one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = ["web"]))]
    pub task: Option<String>,
    /// Number of instances; 0 stops all of them and keeps the service.
    #[schemars(range(max = 100_000), extend("examples" = [5]))]
    pub count: u32,
}
