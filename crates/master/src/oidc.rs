//! Sign-in through an OpenID Connect provider: the way there and back. It decides nothing about users.
//!
//! The authorization code flow with PKCE. What has to be remembered in between (state, nonce, verifier) is in an encrypted cookie of
//! the browser that began: a master keeps nothing for those who never come back, and nobody else can end what they began.

mod claims;
mod http;
mod seal;

use std::sync::Arc;
use std::time::{Duration, Instant};

use openidconnect::core::{
    CoreAuthenticationFlow, CoreGenderClaim, CoreJwsSigningAlgorithm, CoreProviderMetadata,
};
use openidconnect::{
    AuthorizationCode, ClaimsVerificationError, ClientId, ClientSecret, CsrfToken, IssuerUrl, Nonce,
    OAuth2TokenResponse as _, PkceCodeChallenge, PkceCodeVerifier, RedirectUrl, RequestTokenError, Scope,
    TokenResponse as _, UserInfoClaims,
};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq as _;
use tokio::sync::{Mutex, Semaphore};
use url::Url;

use crate::config::{OidcSettings, is_protected};
use claims::{AllClaims, Client};
use http::Http;
use seal::Sealer;

/// How long what the provider says of itself is used without asking again.
const METADATA_FRESH: Duration = Duration::from_secs(600);
/// The least time between two requests for it.
const METADATA_PAUSE: Duration = Duration::from_secs(5);
/// How many talk to the provider at the same time.
const MAX_TOGETHER: usize = 8;
/// How long somebody may take at the provider.
pub const FLOW_SECS: u32 = 600;
/// The longest address to come back to.
const MAX_NEXT_BYTES: usize = 1_024;
/// The longest parameter of the provider's answer.
const MAX_CODE_BYTES: usize = 4_096;

/// Signatures that count: those with a key that the provider alone has.
const ALGORITHMS: [CoreJwsSigningAlgorithm; 9] = [
    CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha256,
    CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha384,
    CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha512,
    CoreJwsSigningAlgorithm::RsaSsaPssSha256,
    CoreJwsSigningAlgorithm::RsaSsaPssSha384,
    CoreJwsSigningAlgorithm::RsaSsaPssSha512,
    CoreJwsSigningAlgorithm::EcdsaP256Sha256,
    CoreJwsSigningAlgorithm::EcdsaP384Sha384,
    CoreJwsSigningAlgorithm::EdDsa,
];

/// A provider.
#[derive(Debug)]
pub struct Provider {
    settings: OidcSettings,
    redirect: RedirectUrl,
    http: Http,
    known: Mutex<Known>,
    together: Semaphore,
    sealer: Sealer,
}

#[derive(Debug, Default)]
struct Known {
    metadata: Option<Arc<CoreProviderMetadata>>,
    asked: Option<Instant>,
    read: Option<Instant>,
}

/// What a sign-in is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Purpose {
    /// To sign in, and to go to this address of the dashboard.
    SignIn {
        next: Option<String>,
        /// The sessions that the browser had, which end then. It does not send them on the way back from another site.
        replaces: Vec<String>,
    },
    /// To link the identity with this user, who is signed in.
    Link { user_id: i64, user: String },
}

/// A sign-in that has begun, as the browser keeps it.
#[derive(Serialize, Deserialize)]
struct Flow {
    state: String,
    nonce: String,
    verifier: String,
    purpose: Purpose,
    until: i64,
}

/// Somebody whose identity the provider has proven.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub issuer: String,
    pub subject: String,
    /// What the provider calls them, to suggest a name. It identifies nobody.
    pub name: String,
    pub groups: Vec<String>,
}

/// An identity that waits for a name, as the browser keeps it.
#[derive(Serialize, Deserialize)]
struct Waiting {
    identity: Identity,
    next: Option<String>,
    until: i64,
}

/// What came back from the provider.
#[derive(Debug, Clone, Copy, Default)]
pub struct Answer<'a> {
    pub code: Option<&'a str>,
    pub state: Option<&'a str>,
    /// The issuer, which some providers name (RFC 9207).
    pub issuer: Option<&'a str>,
    /// Why the provider refuses.
    pub error: Option<&'a str>,
}

/// Why nobody is signed in by the provider.
#[derive(Debug, thiserror::Error)]
pub enum OidcError {
    /// It does not answer, or not as a provider; the reason, for the log.
    #[error("the sign-in provider cannot be reached at present")]
    Away(String),
    /// The cookie is missing or of another sign-in.
    #[error("this sign-in took too long, or was begun in another window or browser")]
    Stale,
    /// The provider refuses, in its word.
    #[error("the sign-in provider refused: {0}")]
    Refused(String),
    /// Its answer proves nothing; the reason, for the log.
    #[error("the sign-in provider's answer is not valid")]
    NotValid(String),
}

impl Provider {
    /// The provider of these settings. `public_url`: of the dashboard.
    ///
    /// # Errors
    /// When no client for it can be set up.
    pub fn new(settings: OidcSettings, public_url: &str) -> anyhow::Result<Provider> {
        Ok(Provider {
            redirect: RedirectUrl::new(format!("{public_url}/login/oidc/callback"))?,
            http: Http::new()?,
            known: Mutex::default(),
            together: Semaphore::new(MAX_TOGETHER),
            sealer: Sealer::new(),
            settings,
        })
    }

    /// Its settings.
    pub fn settings(&self) -> &OidcSettings {
        &self.settings
    }

    /// Begins a sign-in: the address at the provider, and the text for the browser's cookie.
    ///
    /// # Errors
    /// When the provider cannot be reached.
    pub async fn begin(&self, purpose: Purpose, now: i64) -> Result<(Url, String), OidcError> {
        let client = self.client(&*self.metadata(false).await?);
        let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
        let code = CoreAuthenticationFlow::AuthorizationCode;
        let mut request = client
            .authorize_url(code, CsrfToken::new_random, Nonce::new_random)
            .set_pkce_challenge(challenge);
        for scope in &self.settings.scopes {
            request = request.add_scope(Scope::new(scope.clone()));
        }
        let (address, state, nonce) = request.url();
        let purpose = match purpose {
            Purpose::SignIn { next, replaces } => {
                Purpose::SignIn { next: next.filter(|next| next.len() <= MAX_NEXT_BYTES), replaces }
            }
            link @ Purpose::Link { .. } => link,
        };
        let flow = Flow {
            state: state.secret().clone(),
            nonce: nonce.secret().clone(),
            verifier: verifier.secret().clone(),
            purpose,
            until: now + i64::from(FLOW_SECS),
        };
        Ok((address, self.sealer.seal(&flow)))
    }

    /// Ends a sign-in: who it is, and what it was for. `cookie`: of the browser that comes back.
    ///
    /// # Errors
    /// When the answer does not prove who it is.
    pub async fn end(
        &self,
        cookie: Option<&str>,
        answer: Answer<'_>,
        now: i64,
    ) -> Result<(Identity, Purpose), OidcError> {
        let flow: Flow = cookie.and_then(|cookie| self.sealer.open(cookie)).ok_or(OidcError::Stale)?;
        let state = answer.state.unwrap_or_default();
        let is_same: bool = state.as_bytes().ct_eq(flow.state.as_bytes()).into();
        if !is_same || flow.until < now {
            return Err(OidcError::Stale);
        }
        if answer.issuer.is_some_and(|issuer| issuer != self.settings.issuer) {
            return Err(OidcError::NotValid("the answer names another issuer".to_owned()));
        }
        if let Some(error) = answer.error {
            let word = error.chars().filter(|c| c.is_ascii_graphic()).take(60).collect();
            return Err(OidcError::Refused(word));
        }
        let code = answer.code.filter(|code| !code.is_empty() && code.len() <= MAX_CODE_BYTES);
        let code = code.ok_or_else(|| OidcError::NotValid("the answer has no code".to_owned()))?;
        let identity = self.identity(code, &flow).await?;
        Ok((identity, flow.purpose))
    }

    async fn identity(&self, code: &str, flow: &Flow) -> Result<Identity, OidcError> {
        let _place = self.together.acquire().await.map_err(|error| OidcError::Away(error.to_string()))?;
        let client = self.client(&*self.metadata(false).await?);
        let not_valid = |error: &dyn std::error::Error| OidcError::NotValid(reason(error));
        let request = client
            .exchange_code(AuthorizationCode::new(code.to_owned()))
            .map_err(|error| not_valid(&error))?
            .set_pkce_verifier(PkceCodeVerifier::new(flow.verifier.clone()));
        let call = self.http.calls();
        let tokens = request.request_async(&call).await.map_err(|error| match &error {
            RequestTokenError::Request(_) => OidcError::Away(reason(&error)),
            _ => not_valid(&error),
        })?;
        let token =
            tokens.id_token().ok_or_else(|| OidcError::NotValid("there is no ID token".to_owned()))?;
        let nonce = Nonce::new(flow.nonce.clone());
        let verified = token.claims(&client.id_token_verifier().set_allowed_algs(ALGORITHMS), &nonce);
        let verified = match verified {
            // The key may be new: the provider is asked for its keys once more.
            Err(ClaimsVerificationError::SignatureVerification(_)) => {
                let client = self.client(&*self.metadata(true).await?);
                let verifier = client.id_token_verifier().set_allowed_algs(ALGORITHMS);
                token.claims(&verifier, &nonce).cloned()
            }
            verified => verified.cloned(),
        };
        let claims = verified.map_err(|error| not_valid(&error))?;
        let subject = claims.subject().clone();
        let standard = [
            claims.preferred_username().map(|name| name.to_string()),
            claims.email().map(|email| email.to_string()),
        ];
        let mut told = claims::told(&self.settings, claims.additional_claims(), standard);
        // Some providers tell groups and names there only.
        if told.is_incomplete()
            && let Ok(request) = client.user_info(tokens.access_token().clone(), Some(subject.clone()))
        {
            let info: Result<UserInfoClaims<AllClaims, CoreGenderClaim>, _> =
                request.request_async(&call).await;
            match info {
                Ok(info) => {
                    let standard = [
                        info.preferred_username().map(|name| name.to_string()),
                        info.email().map(|email| email.to_string()),
                    ];
                    told.complete(claims::told(&self.settings, info.additional_claims(), standard));
                }
                Err(error) => {
                    tracing::debug!(error = reason(&error), "the sign-in provider has no more claims")
                }
            }
        }
        let (name, groups) = (told.name.unwrap_or_default(), told.groups.unwrap_or_default());
        Ok(Identity { issuer: self.settings.issuer.clone(), subject: subject.to_string(), name, groups })
    }

    /// An identity that waits for a name, for the browser's cookie.
    pub fn wait(&self, identity: Identity, next: Option<String>, now: i64) -> String {
        self.sealer.seal(&Waiting { identity, next, until: now + i64::from(FLOW_SECS) })
    }

    /// The identity that waits in a browser's cookie, and where it goes then.
    ///
    /// # Errors
    /// When it waited for too long.
    pub fn waiting(&self, cookie: Option<&str>, now: i64) -> Result<(Identity, Option<String>), OidcError> {
        let waiting: Waiting = cookie.and_then(|cookie| self.sealer.open(cookie)).ok_or(OidcError::Stale)?;
        if waiting.until < now {
            return Err(OidcError::Stale);
        }
        Ok((waiting.identity, waiting.next))
    }

    fn client(&self, metadata: &CoreProviderMetadata) -> Client {
        let secret =
            self.settings.client_secret.as_ref().map(|secret| ClientSecret::new(secret.0.to_string()));
        let id = ClientId::new(self.settings.client_id.clone());
        Client::from_provider_metadata(metadata.clone(), id, secret).set_redirect_uri(self.redirect.clone())
    }

    /// What the provider says of itself, with its keys. `is_changed`: what is known has turned out to be old.
    async fn metadata(&self, is_changed: bool) -> Result<Arc<CoreProviderMetadata>, OidcError> {
        let mut known = self.known.lock().await;
        let is_fresh = known.read.is_some_and(|read| read.elapsed() < METADATA_FRESH) && !is_changed;
        let has_just_asked = known.asked.is_some_and(|asked| asked.elapsed() < METADATA_PAUSE);
        match &known.metadata {
            Some(metadata) if is_fresh || has_just_asked => return Ok(metadata.clone()),
            None if has_just_asked => {
                return Err(OidcError::Away("it did not answer a moment ago".to_owned()));
            }
            _ => {}
        }
        known.asked = Some(Instant::now());
        match self.discover().await {
            Ok(metadata) => {
                let metadata = Arc::new(metadata);
                (known.metadata, known.read) = (Some(metadata.clone()), Some(Instant::now()));
                Ok(metadata)
            }
            Err(error) => {
                tracing::warn!(
                    error,
                    issuer = self.settings.issuer,
                    "the sign-in provider does not say what it is"
                );
                known.metadata.clone().ok_or(OidcError::Away(error))
            }
        }
    }

    async fn discover(&self) -> Result<CoreProviderMetadata, String> {
        let issuer = IssuerUrl::new(self.settings.issuer.clone()).map_err(|error| error.to_string())?;
        let call = self.http.calls();
        let metadata =
            CoreProviderMetadata::discover_async(issuer, &call).await.map_err(|error| reason(&error))?;
        let others = [
            metadata.token_endpoint().map(|url| url.url()),
            metadata.userinfo_endpoint().map(|url| url.url()),
        ];
        let all = [Some(metadata.authorization_endpoint().url()), Some(metadata.jwks_uri().url())];
        let exposed = all.into_iter().chain(others).flatten().find(|url| !is_protected(url)).cloned();
        match exposed {
            Some(url) => Err(format!("its endpoint {url} is not an https address")),
            None => Ok(metadata),
        }
    }
}

/// An error with what caused it.
fn reason(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text.chars().take(500).collect()
}
