//! REST bodies about the audit log.

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Who changed what, or tried to. Lines of the export have these members in this order, and their hash as the last.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AuditEntry {
    /// Place in the chain of its project, without gaps; null until it has one, a few seconds after its end.
    pub number: Option<u64>,
    /// SHA-256 of the line before it in the chain; null as long as `number`.
    pub previous: Option<String>,
    /// Number of the entry, unique in the installation.
    pub id: i64,
    /// Project; null if it concerns the installation.
    pub project: Option<String>,
    /// When it was asked for.
    pub at: DateTime<Utc>,
    /// Name of the user.
    pub user: String,
    /// Key or browser session that was used; null if the master itself did it.
    pub credential: Option<String>,
    /// Address that it came from: of the client, or of the reverse proxy before the master.
    pub address: Option<String>,
    /// What was done.
    pub action: String,
    /// What it was done to.
    pub target: String,
    /// How it ended: `done`, `refused` (not allowed, invalid, or not possible), `failed` (the database did not do its part), `unknown`
    /// (the master ended meanwhile); null while it is under way.
    #[schemars(extend("enum" = json!(["done", "refused", "failed", "unknown", null])))]
    pub outcome: Option<String>,
    /// Why it was refused or failed.
    pub detail: Option<String>,
    /// What it was before, as far as it was changed.
    pub before: Option<Value>,
    /// What it is since then.
    pub after: Option<Value>,
}
