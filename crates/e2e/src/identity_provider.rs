//! An OpenID Connect provider in the test's own process, which can be told to lie. It signs in everybody who asks.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use url::Url;

/// The name and the secret of gaffer there.
pub const CLIENT_ID: &str = "gaffer";
pub const CLIENT_SECRET: &str = "the client's secret";
const MAX_REQUEST_BYTES: usize = 64 << 10;

/// How a provider lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lie {
    None,
    /// The token is for another sign-in, another client, of another issuer, too old.
    Nonce,
    Audience,
    Issuer,
    Expired,
    /// It is not signed, signed with the public key as a shared secret, with the client's secret, or with another key.
    AlgNone,
    AlgHmacOfPublicKey,
    AlgHmacOfClientSecret,
    OtherKey,
    /// A claim was changed after it was signed.
    Changed,
    /// There is none, or it is no token.
    NoToken,
    Nonsense,
    /// The answer has no end, or leads elsewhere.
    Huge,
    Redirect,
    /// The page of more claims is about somebody else.
    OtherUserInfo,
}

/// All lies, each of which nobody must believe.
pub const LIES: [Lie; 13] = [
    Lie::Nonce,
    Lie::Audience,
    Lie::Issuer,
    Lie::Expired,
    Lie::AlgNone,
    Lie::AlgHmacOfPublicKey,
    Lie::AlgHmacOfClientSecret,
    Lie::OtherKey,
    Lie::Changed,
    Lie::NoToken,
    Lie::Nonsense,
    Lie::Huge,
    Lie::Redirect,
];

/// A running provider; it ends with this.
pub struct IdentityProvider {
    pub issuer: String,
    known: Arc<Mutex<Known>>,
    _running: JoinSet<()>,
}

struct Known {
    issuer: String,
    key: EcdsaKeyPair,
    /// Number of the key.
    generation: u32,
    lie: Lie,
    subject: String,
    claims: Value,
    /// Claims that are only on the page of more claims.
    more: Value,
    /// Nonce and challenge of each code that was not used yet.
    codes: BTreeMap<String, (String, String)>,
    next_code: u32,
}

fn new_key() -> EcdsaKeyPair {
    let random = SystemRandom::new();
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
    EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &random).unwrap()
}

impl IdentityProvider {
    /// Starts one.
    pub async fn start() -> IdentityProvider {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let issuer = format!("http://{}/realm", listener.local_addr().unwrap());
        let known = Arc::new(Mutex::new(Known {
            issuer: issuer.clone(),
            key: new_key(),
            generation: 1,
            lie: Lie::None,
            subject: String::new(),
            claims: json!({}),
            more: json!({}),
            codes: BTreeMap::new(),
            next_code: 0,
        }));
        let mut running = JoinSet::new();
        let shared = known.clone();
        running.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, shared.clone()));
            }
        });
        IdentityProvider { issuer, known, _running: running }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap()
    }

    /// Whom it signs in from now on.
    pub fn signs_in(&self, subject: &str, name: &str, groups: &[&str]) {
        let mut known = self.lock();
        known.subject = subject.to_owned();
        known.claims = json!({"preferred_username": name, "groups": groups});
        known.more = json!({});
    }

    /// The same, where the token has no groups and no name: they are on the page of more claims.
    pub fn signs_in_briefly(&self, subject: &str, name: &str, groups: &[&str]) {
        self.signs_in(subject, name, groups);
        let mut known = self.lock();
        known.more = std::mem::replace(&mut known.claims, json!({}));
    }

    pub fn lie(&self, lie: Lie) {
        self.lock().lie = lie;
    }

    /// Signs with a new key from now on; the old one counts no more.
    pub fn rotate(&self) {
        let mut known = self.lock();
        known.key = new_key();
        known.generation += 1;
    }
}

impl Known {
    fn kid(&self) -> String {
        format!("key-{}", self.generation)
    }

    /// The answer to a request: status, more headers, body.
    fn answer(&mut self, method: &str, target: &str, head: &str, body: &str) -> (u16, String, String) {
        let url = Url::parse(&format!("http://provider{target}")).unwrap();
        let base = self.issuer.clone();
        let found = |name: &str| {
            url.query_pairs().find(|(known, _)| known == name).map(|(_, value)| value.into_owned())
        };
        let form: BTreeMap<String, String> =
            url::form_urlencoded::parse(body.as_bytes()).into_owned().collect();
        match (method, url.path().trim_start_matches("/realm")) {
            ("GET", "/.well-known/openid-configuration") => ok(&json!({
                "issuer": base, "authorization_endpoint": format!("{base}/authorize"),
                "token_endpoint": format!("{base}/token"), "userinfo_endpoint": format!("{base}/userinfo"),
                "jwks_uri": format!("{base}/jwks"), "response_types_supported": ["code"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["ES256", "HS256", "none"],
            })),
            ("GET", "/jwks") => {
                let point = self.key.public_key().as_ref();
                let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
                ok(
                    &json!({"keys": [{"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": self.kid(),
                    "x": part(&point[1..33]), "y": part(&point[33..])}]}),
                )
            }
            ("GET", "/authorize") => {
                assert_eq!(found("code_challenge_method").as_deref(), Some("S256"));
                assert_eq!(found("response_type").as_deref(), Some("code"));
                assert_eq!(found("client_id").as_deref(), Some(CLIENT_ID));
                self.next_code += 1;
                let code = format!("code-{}", self.next_code);
                let kept = (found("nonce").unwrap(), found("code_challenge").unwrap());
                self.codes.insert(code.clone(), kept);
                let mut back = Url::parse(&found("redirect_uri").unwrap()).unwrap();
                back.query_pairs_mut()
                    .append_pair("code", &code)
                    .append_pair("state", &found("state").unwrap());
                (302, format!("location: {back}\r\n"), String::new())
            }
            ("POST", "/token") => {
                let secret =
                    url::form_urlencoded::byte_serialize(CLIENT_SECRET.as_bytes()).collect::<String>();
                let basic = STANDARD.encode(format!("{CLIENT_ID}:{secret}"));
                let verifier = URL_SAFE_NO_PAD.encode(Sha256::digest(form["code_verifier"].as_bytes()));
                match self.codes.remove(&form["code"]) {
                    Some((nonce, challenge)) if challenge == verifier && head.contains(&basic) => {
                        self.token(&nonce)
                    }
                    _ => (400, String::new(), json!({"error": "invalid_grant"}).to_string()),
                }
            }
            ("GET", "/userinfo") => {
                let mut claims = self.more.clone();
                claims["sub"] = match self.lie {
                    Lie::OtherUserInfo => json!("somebody else"),
                    _ => json!(self.subject),
                };
                ok(&claims)
            }
            _ => (404, String::new(), String::new()),
        }
    }

    fn token(&self, nonce: &str) -> (u16, String, String) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let mut claims = self.claims.clone();
        let is = |lie| self.lie == lie;
        claims["iss"] = json!(if is(Lie::Issuer) { "http://127.0.0.1:1/realm" } else { &self.issuer });
        claims["aud"] = json!(if is(Lie::Audience) { "another-client" } else { CLIENT_ID });
        claims["sub"] = json!(self.subject);
        claims["iat"] = json!(now - 7_200);
        claims["exp"] = json!(if is(Lie::Expired) { now - 3_600 } else { now + 300 });
        claims["nonce"] = json!(if is(Lie::Nonce) { "another" } else { nonce });
        let token = match self.lie {
            Lie::NoToken => return ok(&json!({"access_token": "a", "token_type": "Bearer"})),
            Lie::Nonsense => "a.b.c".to_owned(),
            Lie::Huge => return (200, "content-type: application/json\r\n".to_owned(), "{".repeat(3 << 20)),
            Lie::Redirect => return (307, format!("location: {}/token\r\n", self.issuer), String::new()),
            Lie::AlgNone => format!("{}.{}.", part(&json!({"alg": "none"})), part(&claims)),
            Lie::AlgHmacOfPublicKey => self.shared(self.key.public_key().as_ref(), &claims),
            Lie::AlgHmacOfClientSecret => self.shared(CLIENT_SECRET.as_bytes(), &claims),
            Lie::OtherKey => self.signed(&new_key(), &claims),
            Lie::Changed => {
                let token = self.signed(&self.key, &claims);
                let parts: Vec<&str> = token.split('.').collect();
                claims["sub"] = json!("root");
                format!("{}.{}.{}", parts[0], part(&claims), parts[2])
            }
            _ => self.signed(&self.key, &claims),
        };
        ok(&json!({"access_token": "a", "token_type": "Bearer", "id_token": token}))
    }

    fn signed(&self, key: &EcdsaKeyPair, claims: &Value) -> String {
        let text = format!("{}.{}", part(&json!({"alg": "ES256", "kid": self.kid()})), part(claims));
        let signature = key.sign(&SystemRandom::new(), text.as_bytes()).unwrap();
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
    }

    fn shared(&self, secret: &[u8], claims: &Value) -> String {
        let text = format!("{}.{}", part(&json!({"alg": "HS256", "kid": self.kid()})), part(claims));
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret);
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(ring::hmac::sign(&key, text.as_bytes()).as_ref()))
    }
}

fn part(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

fn ok(value: &Value) -> (u16, String, String) {
    (200, "content-type: application/json\r\n".to_owned(), value.to_string())
}

/// Answers one request.
async fn serve(mut stream: TcpStream, known: Arc<Mutex<Known>>) -> Option<()> {
    let mut request = Vec::new();
    let head_end = loop {
        if let Some(at) = request.windows(4).position(|end| end == b"\r\n\r\n") {
            break at + 4;
        }
        if request.len() > MAX_REQUEST_BYTES || stream.read_buf(&mut request).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(request[..head_end].to_vec()).ok()?;
    let length = head
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
    let length: usize = length.unwrap_or(0).min(MAX_REQUEST_BYTES);
    while request.len() < head_end + length {
        if stream.read_buf(&mut request).await.ok()? == 0 {
            return None;
        }
    }
    let body = String::from_utf8(request[head_end..].to_vec()).ok()?;
    let mut words = head.split(' ');
    let (method, target) = (words.next()?, words.next()?);
    let (status, headers, body) = known.lock().unwrap().answer(method, target, &head, &body);
    let answer = format!(
        "HTTP/1.1 {status} x\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(answer.as_bytes()).await.ok()?;
    stream.shutdown().await.ok()
}
