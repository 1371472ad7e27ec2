//! What a worker may claim to be: the names, labels and datacenters that its key allows.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The most patterns in a list, labels, and characters of a pattern.
const MAX_PATTERNS: usize = 32;
const MAX_LABELS: usize = 64;
const MAX_PATTERN_CHARS: usize = 255;

/// What workers with a key may call themselves and claim. In patterns, `*` stands for any characters.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WorkerLimits {
    /// Patterns of names; without any, all names are allowed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// Labels that are allowed, each with patterns of its values; null allows all labels, `{}` none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, Vec<String>>>,
    /// Patterns of datacenters; without any, all are allowed. A worker need not name one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub datacenters: Vec<String>,
}

/// What a worker claims when it connects.
#[derive(Debug, Clone, Copy)]
pub struct Claims<'a> {
    /// Name that it would like to have.
    pub name: &'a str,
    /// Its labels.
    pub labels: &'a BTreeMap<String, String>,
    /// Empty if it names none.
    pub datacenter: &'a str,
}

/// A claim that is not allowed: the rest of a sentence about what is allowed, and which setting of the worker to change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("its key allows {allowed}, and not {claimed} ({setting})")]
pub struct ClaimsTooMuch {
    allowed: String,
    claimed: String,
    setting: &'static str,
}

/// Limits that cannot be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidLimits {
    /// Too many patterns or labels.
    #[error(
        "at most {MAX_PATTERNS} patterns of names, of datacenters and of each label, and at most {MAX_LABELS} labels"
    )]
    TooMany,
    /// A pattern or a label is empty, or too long.
    #[error(
        "a pattern has 1 to {MAX_PATTERN_CHARS} characters, and a label at least one pattern; `*` allows all its values"
    )]
    Pattern,
}

impl WorkerLimits {
    /// Whether everything is allowed.
    pub fn is_empty(&self) -> bool {
        *self == WorkerLimits::default()
    }

    /// Passes if limits from outside can be taken.
    ///
    /// # Errors
    /// When there are too many patterns, or one is empty or too long.
    pub fn check(&self) -> Result<(), InvalidLimits> {
        let of_labels = self.labels.iter().flat_map(BTreeMap::values);
        let mut lists = [&self.names, &self.datacenters].into_iter().chain(of_labels.clone());
        let labels = self.labels.as_ref().map_or(0, BTreeMap::len);
        if labels > MAX_LABELS || lists.any(|list| list.len() > MAX_PATTERNS) {
            return Err(InvalidLimits::TooMany);
        }
        let is_good = |text: &String| !text.is_empty() && text.chars().count() <= MAX_PATTERN_CHARS;
        let keys = self.labels.iter().flat_map(BTreeMap::keys);
        let mut patterns =
            self.names.iter().chain(&self.datacenters).chain(keys).chain(of_labels.clone().flatten());
        if !patterns.all(is_good) || of_labels.into_iter().any(Vec::is_empty) {
            return Err(InvalidLimits::Pattern);
        }
        Ok(())
    }

    /// Passes if a worker may claim this.
    ///
    /// # Errors
    /// The first claim that is not allowed.
    pub fn allow(&self, claims: Claims<'_>) -> Result<(), ClaimsTooMuch> {
        let is_one_of =
            |patterns: &[String], text: &str| patterns.iter().any(|pattern| matches(pattern, text));
        if !self.names.is_empty() && !is_one_of(&self.names, claims.name) {
            let (allowed, claimed) =
                (format!("the names {}", self.names.join(", ")), format!("`{}`", claims.name));
            return Err(ClaimsTooMuch { allowed, claimed, setting: "GAFFER_WORKER_NAME" });
        }
        if let Some(allowed) = &self.labels {
            let is_allowed =
                |key: &str, value: &str| allowed.get(key).is_some_and(|patterns| is_one_of(patterns, value));
            if let Some((key, value)) = claims.labels.iter().find(|(key, value)| !is_allowed(key, value)) {
                let (allowed, claimed) = (told(allowed), format!("the label {key}={value}"));
                return Err(ClaimsTooMuch { allowed, claimed, setting: "GAFFER_WORKER_LABELS" });
            }
        }
        if !self.datacenters.is_empty()
            && !claims.datacenter.is_empty()
            && !is_one_of(&self.datacenters, claims.datacenter)
        {
            let (allowed, claimed) = (
                format!("the datacenters {}", self.datacenters.join(", ")),
                format!("`{}`", claims.datacenter),
            );
            return Err(ClaimsTooMuch { allowed, claimed, setting: "GAFFER_DATACENTER" });
        }
        Ok(())
    }
}

impl std::fmt::Display for WorkerLimits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut parts = Vec::new();
        if !self.names.is_empty() {
            parts.push(format!("names {}", self.names.join(", ")));
        }
        parts.extend(self.labels.as_ref().map(told));
        if !self.datacenters.is_empty() {
            parts.push(format!("datacenters {}", self.datacenters.join(", ")));
        }
        f.write_str(&parts.join("; "))
    }
}

fn told(labels: &BTreeMap<String, Vec<String>>) -> String {
    let pairs =
        labels.iter().flat_map(|(key, values)| values.iter().map(move |value| format!("{key}={value}")));
    match labels.is_empty() {
        true => "no labels".to_owned(),
        false => format!("the labels {}", pairs.collect::<Vec<_>>().join(", ")),
    }
}

/// Whether a text fits a pattern, in which `*` stands for any characters.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(start) else { return false };
    let mut pieces: Vec<&str> = rest.split('*').collect();
    let end = pieces.pop().unwrap_or_default();
    // The first place of each piece leaves the most for those that follow.
    for piece in pieces {
        match text.find(piece) {
            Some(at) => text = &text[at + piece.len()..],
            None => return false,
        }
    }
    text.ends_with(end)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use serde_json::{Value, json};

    use super::*;

    fn limits(limits: Value) -> WorkerLimits {
        serde_json::from_value(limits).unwrap()
    }

    fn told(limits: &WorkerLimits, name: &str, labels: &[(&str, &str)], datacenter: &str) -> String {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let allowed = limits.allow(Claims { name, labels: &labels, datacenter });
        allowed.map_or_else(|refused| refused.to_string(), |()| "allowed".to_owned())
    }

    #[test]
    fn a_star_stands_for_any_characters() {
        for (pattern, text, fits) in [
            ("gpu-*", "gpu-1", true),
            ("gpu-*", "gpu-", true),
            ("gpu-*", "cpu-1", false),
            ("*", "", true),
            ("a", "a", true),
            ("a", "ab", false),
            ("a*", "ba", false),
            ("*a*b", "xaxb", true),
            ("*a*b", "xbxa", false),
            ("a*a", "a", false),
            ("a*ab*b", "aabab", true),
            ("a*ab*b", "abb", false),
            ("**", "x", true),
        ] {
            assert_eq!(matches(pattern, text), fits, "{pattern} {text}");
        }
    }

    #[test]
    fn a_claim_beyond_the_limits_is_refused_with_what_is_allowed() {
        let lab = limits(json!({
            "names": ["gpu-*", "lab"], "labels": {"rack": ["3", "4"], "gpu": ["*"]}, "datacenters": ["fra*"]
        }));
        assert_eq!(told(&lab, "gpu-1", &[("rack", "4"), ("gpu", "a100")], "fra1"), "allowed");
        // Less is allowed.
        assert_eq!(told(&lab, "lab", &[], ""), "allowed");
        for (refused, words) in [
            (told(&lab, "cpu-1", &[], ""), "the names gpu-*, lab, and not `cpu-1` (GAFFER_WORKER_NAME)"),
            (
                told(&lab, "lab", &[("rack", "5")], ""),
                "the labels gpu=*, rack=3, rack=4, and not the label rack=5",
            ),
            (told(&lab, "lab", &[("zone", "a")], ""), "and not the label zone=a (GAFFER_WORKER_LABELS)"),
            (told(&lab, "lab", &[], "nyc"), "the datacenters fra*, and not `nyc` (GAFFER_DATACENTER)"),
            (told(&limits(json!({"labels": {}})), "x", &[("a", "b")], ""), "allows no labels"),
        ] {
            assert!(refused.contains(words), "{refused}");
        }
        assert_eq!(told(&WorkerLimits::default(), "x", &[("a", "b")], "nyc"), "allowed");
        assert_eq!(lab.to_string(), "names gpu-*, lab; the labels gpu=*, rack=3, rack=4; datacenters fra*");
    }

    #[test]
    fn limits_that_say_nothing_or_too_much_are_refused() {
        let many = vec!["x"; MAX_PATTERNS + 1];
        for (wrong, error) in [
            (json!({"names": many}), InvalidLimits::TooMany),
            (json!({"names": [""]}), InvalidLimits::Pattern),
            (json!({"labels": {"rack": []}}), InvalidLimits::Pattern),
            (json!({"labels": {"": ["x"]}}), InvalidLimits::Pattern),
            (json!({"datacenters": ["x".repeat(MAX_PATTERN_CHARS + 1)]}), InvalidLimits::Pattern),
        ] {
            assert_eq!(limits(wrong).check(), Err(error));
        }
        assert_eq!(limits(json!({"labels": {"rack": ["*"]}})).check(), Ok(()));
        assert!(WorkerLimits::default().is_empty() && !limits(json!({"labels": {}})).is_empty());
    }
}
