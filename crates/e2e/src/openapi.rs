//! The description of the API as it is committed, and what may change in it.
//!
//! `docs/openapi.json` is what the program says of itself. A difference that breaks clients is refused, unless the first
//! number of the API's version is raised and docs/api-changes.md says what has changed.

pub mod changes;
pub mod conformance;
pub mod requests;

use std::fs;
use std::path::Path;

use anyhow::{Context, bail};
use serde_json::Value;

/// Where the description is committed.
pub const COMMITTED: &str = "docs/openapi.json";
/// What changed from version to version.
pub const NOTES: &str = "docs/api-changes.md";

/// The description as it is now.
pub fn present() -> Value {
    gaffer_master::http::openapi()
}

/// The description as it is committed.
///
/// # Errors
/// When there is none.
pub fn committed(root: &Path) -> anyhow::Result<Value> {
    let path = root.join(COMMITTED);
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    Ok(serde_json::from_str(&text)?)
}

/// Writes the description anew.
///
/// # Errors
/// When it has a difference that breaks clients and was not announced.
pub fn generate(root: &Path) -> anyhow::Result<()> {
    let path = root.join(COMMITTED);
    if path.exists() {
        let notes = fs::read_to_string(root.join(NOTES))?;
        if let Err(why) = acceptable(&committed(root)?, &present(), &notes) {
            bail!("{why}");
        }
    }
    fs::write(path, format!("{:#}\n", present()))?;
    Ok(())
}

/// Whether the description may change from one to the other.
///
/// # Errors
/// What would break clients, and how to announce that.
pub fn acceptable(committed: &Value, present: &Value, notes: &str) -> Result<(), String> {
    let breaking = changes::breaking(committed, present);
    let version = present["info"]["version"].as_str().unwrap_or_default();
    let has_note = notes.lines().any(|line| line == format!("## {version}"));
    if !has_note {
        return Err(format!("{NOTES} has no section \"## {version}\""));
    }
    if breaking.is_empty() || first_number(present) > first_number(committed) {
        return Ok(());
    }
    Err(format!(
        "these changes break clients of the API:\n  {}\nIf they are intended: raise the first number of API_VERSION \
         (crates/master/src/http/description/document.rs), describe them in {NOTES}, and run \
         `cargo run -p gaffer-e2e --bin generate-docs`.",
        breaking.join("\n  ")
    ))
}

fn first_number(document: &Value) -> u64 {
    let version = document["info"]["version"].as_str().unwrap_or_default();
    version.split('.').next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// What a reference in a document leads to; a value without one is itself.
fn resolved<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    let target = value["$ref"].as_str().and_then(|target| document.pointer(target.strip_prefix('#')?));
    target.unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn version(version: &str, paths: Value) -> Value {
        json!({ "info": { "version": version }, "paths": paths })
    }

    #[test]
    fn a_change_that_breaks_clients_is_accepted_only_once_it_is_announced() {
        let old = version("1.4", json!({ "/jobs": { "get": { "responses": {} } } }));
        let gone = json!({});
        let refused = acceptable(&old, &version("1.5", gone.clone()), "## 1.5").unwrap_err();
        assert!(refused.contains("/jobs is gone") && refused.contains("API_VERSION"), "{refused}");
        assert!(acceptable(&old, &version("2.0", gone.clone()), "## 1.4").is_err(), "without a note");
        assert_eq!(acceptable(&old, &version("2.0", gone), "# Changes\n\n## 2.0\n"), Ok(()));
        assert_eq!(acceptable(&old, &old, "## 1.4"), Ok(()));
    }
}
