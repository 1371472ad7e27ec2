//! What workers of some versions cannot do.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Something that a task may need and that workers did not have from the beginning. A worker names its features when it connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Feature {
    /// Tasks with an item: `each`.
    Each,
    /// Tasks with secrets.
    Secrets,
}

impl Feature {
    /// All of them: what this version can do.
    pub const ALL: [Feature; 2] = [Feature::Each, Feature::Secrets];

    /// Name in the API, the database and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Feature::Each => "each",
            Feature::Secrets => "secrets",
        }
    }
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Feature {
    type Err = UnknownFeature;

    fn from_str(text: &str) -> Result<Self, UnknownFeature> {
        Feature::ALL.into_iter().find(|feature| feature.as_str() == text).ok_or(UnknownFeature)
    }
}

/// The text is not one of [`Feature::ALL`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a feature of workers")]
pub struct UnknownFeature;
