//! Secrets on their way to the attempt that uses them.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use gaffer_domain::AttemptRef;
use gaffer_domain::secrets::SecretValue;
use serde::{Deserialize, Serialize};

/// Answers [`SecretsWanted`](crate::wire::ToMaster::SecretsWanted): the secrets of an attempt that is about to start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secrets {
    /// The attempt that uses them.
    pub attempt: AttemptRef,
    /// Each secret that its definition names, once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<SentSecret>,
    /// Why there are none, in one sentence: the attempt cannot start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// A secret with its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SentSecret {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: SentValue,
}

/// A value in a message: base64 there.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SentValue(pub SecretValue);

impl fmt::Debug for SentValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<SentValue> for String {
    fn from(value: SentValue) -> String {
        BASE64.encode(value.0.bytes())
    }
}

impl TryFrom<String> for SentValue {
    type Error = base64::DecodeError;

    fn try_from(text: String) -> Result<SentValue, base64::DecodeError> {
        BASE64.decode(text).map(|bytes| SentValue(SecretValue::new(bytes)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;
    use crate::wire::ToWorker;

    #[test]
    fn a_value_travels_whatever_its_bytes_and_is_not_in_what_is_logged() {
        let value = SentValue(SecretValue::new((0..=255).collect()));
        let values = vec![SentSecret { name: "A".to_owned(), value }];
        let attempt = AttemptRef { task: gaffer_domain::TaskId(1), attempt: 1 };
        let message = ToWorker::Secrets(Box::new(Secrets { attempt, values, problem: None }));
        let text = serde_json::to_string(&message).unwrap();
        assert_eq!(serde_json::from_str::<ToWorker>(&text).unwrap(), message);
        assert!(format!("{message:?}").contains("SecretValue(…)"));
        let problem = r#"{"type":"secrets","attempt":{"task":1,"attempt":1},"problem":"none"}"#;
        assert!(
            matches!(serde_json::from_str(problem).unwrap(), ToWorker::Secrets(secrets) if secrets.values.is_empty())
        );
    }
}
