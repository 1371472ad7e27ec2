//! What a provider says of somebody.

use std::collections::BTreeMap;

use gaffer_domain::groups::MAX_GROUPS;
use openidconnect::core::{
    CoreAuthDisplay, CoreAuthPrompt, CoreErrorResponseType, CoreGenderClaim, CoreJsonWebKey,
    CoreJweContentEncryptionAlgorithm, CoreJwsSigningAlgorithm, CoreRevocableToken,
    CoreRevocationErrorResponse, CoreTokenIntrospectionResponse, CoreTokenType,
};
use openidconnect::{
    AdditionalClaims, EmptyExtraTokenFields, EndpointMaybeSet, EndpointNotSet, EndpointSet, IdTokenFields,
    StandardErrorResponse, StandardTokenResponse,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::OidcSettings;

/// The longest name or group that counts.
const MAX_TEXT_CHARS: usize = 300;

/// All claims beyond the standard's.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AllClaims(BTreeMap<String, Value>);

impl AdditionalClaims for AllClaims {}

type Fields = IdTokenFields<
    AllClaims,
    EmptyExtraTokenFields,
    CoreGenderClaim,
    CoreJweContentEncryptionAlgorithm,
    CoreJwsSigningAlgorithm,
>;

/// A client that reads all claims.
pub type Client = openidconnect::Client<
    AllClaims,
    CoreAuthDisplay,
    CoreGenderClaim,
    CoreJweContentEncryptionAlgorithm,
    CoreJsonWebKey,
    CoreAuthPrompt,
    StandardErrorResponse<CoreErrorResponseType>,
    StandardTokenResponse<Fields, CoreTokenType>,
    CoreTokenIntrospectionResponse,
    CoreRevocableToken,
    CoreRevocationErrorResponse,
    EndpointSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointMaybeSet,
    EndpointMaybeSet,
>;

/// Name and groups, as far as they are told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Told {
    pub name: Option<String>,
    pub groups: Option<Vec<String>>,
}

impl Told {
    /// Whether something is missing.
    pub fn is_incomplete(&self) -> bool {
        self.name.is_none() || self.groups.is_none()
    }

    /// Adds what is missing.
    pub fn complete(&mut self, other: Told) {
        self.name = self.name.take().or(other.name);
        self.groups = self.groups.take().or(other.groups);
    }
}

/// Name and groups by the claims of the settings. `standard`: the user name and the address of the standard's own claims.
pub fn told(settings: &OidcSettings, all: &AllClaims, [user, email]: [Option<String>; 2]) -> Told {
    let own = all.0.get(&settings.user_claim).and_then(Value::as_str).map(str::to_owned);
    let name = match settings.user_claim.as_str() {
        "preferred_username" => user.or(own),
        "email" => email.clone().or(own),
        _ => own,
    };
    let cut = |text: &str| text.chars().take(MAX_TEXT_CHARS).collect();
    Told {
        name: name.or(email).filter(|name| !name.is_empty()).map(|name| cut(&name)),
        groups: all.0.get(&settings.groups_claim).map(groups),
    }
}

/// A list of groups, or one.
fn groups(claim: &Value) -> Vec<String> {
    let all = match claim {
        Value::Array(all) => all.iter().filter_map(Value::as_str).collect(),
        Value::String(one) => vec![one.as_str()],
        _ => Vec::new(),
    };
    let short = all.into_iter().filter(|group| group.chars().count() <= MAX_TEXT_CHARS);
    short.take(MAX_GROUPS).map(str::to_owned).collect()
}
