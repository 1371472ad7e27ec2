//! What a handler takes, and how that describes itself.

use std::future::Future;
use std::marker::PhantomData;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, Path, Request, State};
use axum::http::HeaderMap;
use gaffer_domain::document;
use gaffer_domain::secrets::SecretValue;
use gaffer_domain::template::TemplateText;
use gaffer_protocol::rest::SecretText;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::super::auth::MetricsReader;
use super::super::error::Error;
use super::super::params::Params;
use super::super::peer::Peer;
use super::super::read_body::{body_as, body_document, body_secret, body_written};
use super::{Answer, Content, Description, RequestBody, Schemas};
use crate::operations::Actor;

/// Something that a handler takes.
pub trait Input {
    /// Adds to the description what follows from it.
    fn describe(description: &mut Description, schemas: &mut Schemas);
}

/// A handler whose inputs and answer describe themselves.
pub trait Described<Inputs> {
    /// Adds all that to the description.
    fn describe(description: &mut Description, schemas: &mut Schemas);
}

macro_rules! described {
    ($($input:ident),*) => {
        impl<F, A, Fut, $($input),*> Described<($($input,)*)> for F
        where
            F: Fn($($input),*) -> Fut,
            Fut: Future<Output = A>,
            A: Answer,
            $($input: Input,)*
        {
            fn describe(description: &mut Description, schemas: &mut Schemas) {
                $($input::describe(description, schemas);)*
                A::describe(description, schemas);
            }
        }
    };
}

described!();
described!(A1);
described!(A1, A2);
described!(A1, A2, A3);
described!(A1, A2, A3, A4);
described!(A1, A2, A3, A4, A5);
described!(A1, A2, A3, A4, A5, A6);
described!(A1, A2, A3, A4, A5, A6, A7);

impl<T> Input for State<T> {
    fn describe(_: &mut Description, _: &mut Schemas) {}
}

impl Input for Peer {
    fn describe(_: &mut Description, _: &mut Schemas) {}
}

impl Input for HeaderMap {
    fn describe(_: &mut Description, _: &mut Schemas) {}
}

/// What may be in it says the operation.
impl Input for Params {
    fn describe(_: &mut Description, _: &mut Schemas) {}
}

impl<T> Input for Path<T> {
    fn describe(description: &mut Description, _: &mut Schemas) {
        description.may_fail(404);
    }
}

/// The caller must authenticate.
impl Input for Actor {
    fn describe(description: &mut Description, _: &mut Schemas) {
        description.needs_key = true;
        for status in [401, 403, 429] {
            description.may_fail(status);
        }
    }
}

/// Likewise, or with the token for metrics.
impl Input for MetricsReader {
    fn describe(description: &mut Description, schemas: &mut Schemas) {
        Actor::describe(description, schemas);
    }
}

/// A body that has arrived and was not read: whether there is what the request is about comes first.
#[derive(Debug)]
struct Unread {
    headers: HeaderMap,
    bytes: Bytes,
}

impl<S: Send + Sync> FromRequest<S> for Unread {
    type Rejection = BytesRejection;

    async fn from_request(request: Request, state: &S) -> Result<Unread, BytesRejection> {
        let headers = request.headers().clone();
        Ok(Unread { headers, bytes: Bytes::from_request(request, state).await? })
    }
}

impl Unread {
    fn describe(description: &mut Description, is_required: bool, content: Vec<Content>) {
        description.may_fail(413);
        description.body = Some(RequestBody { is_required, content });
    }
}

/// A body in JSON, to be read as a type that refuses unknown fields.
#[derive(Debug)]
pub struct JsonBody<T>(Unread, PhantomData<T>);

/// The same, or nothing at all.
#[derive(Debug)]
pub struct OptionalJsonBody<T>(JsonBody<T>);

/// A job's specification, with values for its parameters or alone, in one of the languages for it.
#[derive(Debug)]
pub struct SpecBody(Unread);

/// A specification that is kept as it is written.
#[derive(Debug)]
pub struct TemplateBody(Unread);

impl<T: DeserializeOwned> JsonBody<T> {
    /// Reads it.
    pub fn read(&self) -> Result<T, Error> {
        body_as(&self.0.headers, &self.0.bytes)
    }
}

impl<T> OptionalJsonBody<T> {
    /// How long it is.
    pub fn len(&self) -> usize {
        self.0.0.bytes.len()
    }

    /// One of its members as it was written.
    pub fn member(&self, name: &str) -> Result<Option<document::Value>, Error> {
        if self.len() == 0 {
            return Ok(None);
        }
        let whole = body_document(&self.0.0.headers, &self.0.0.bytes)?;
        let document::Data::Object(fields) = whole.data else { return Ok(None) };
        Ok(fields.into_iter().find(|field| field.key == name).map(|field| field.value))
    }
}

impl<T: DeserializeOwned> OptionalJsonBody<T> {
    /// Reads it; none if it is empty.
    pub fn read(&self) -> Result<Option<T>, Error> {
        if self.0.0.bytes.is_empty() { Ok(None) } else { self.0.read().map(Some) }
    }
}

impl SpecBody {
    /// How long it is.
    pub fn len(&self) -> usize {
        self.0.bytes.len()
    }

    /// Reads it, as the language that its content type names.
    pub fn read(&self) -> Result<document::Value, Error> {
        body_document(&self.0.headers, &self.0.bytes)
    }
}

impl TemplateBody {
    /// How long it is.
    pub fn len(&self) -> usize {
        self.0.bytes.len()
    }

    /// The text, as it was written.
    pub fn read(&self) -> Result<TemplateText, Error> {
        body_written(&self.0.headers, &self.0.bytes)
    }
}

/// The value of a secret: its bytes, or JSON with a text.
#[derive(Debug)]
pub struct SecretBody(Unread);

impl SecretBody {
    /// The value.
    pub fn read(&self) -> Result<SecretValue, Error> {
        body_secret(&self.0.headers, &self.0.bytes)
    }
}

impl Input for SecretBody {
    fn describe(description: &mut Description, schemas: &mut Schemas) {
        description.may_fail(422);
        let bytes = |media_type| Content { media_type, schema: json!({}) };
        let json = Content::json(schemas.sent::<SecretText>());
        let content = vec![json, bytes("application/octet-stream"), bytes("text/plain")];
        Unread::describe(description, true, content);
    }
}

impl<S: Send + Sync> FromRequest<S> for SecretBody {
    type Rejection = BytesRejection;

    async fn from_request(request: Request, state: &S) -> Result<SecretBody, BytesRejection> {
        Ok(SecretBody(Unread::from_request(request, state).await?))
    }
}

impl Input for TemplateBody {
    fn describe(description: &mut Description, _: &mut Schemas) {
        describe_document(description, Schemas::job_specification());
    }
}

impl<S: Send + Sync> FromRequest<S> for TemplateBody {
    type Rejection = BytesRejection;

    async fn from_request(request: Request, state: &S) -> Result<TemplateBody, BytesRejection> {
        Ok(TemplateBody(Unread::from_request(request, state).await?))
    }
}

fn describe_json<T: JsonSchema>(description: &mut Description, schemas: &mut Schemas, is_required: bool) {
    description.may_fail(422);
    let content = Content::json(schemas.sent::<T>());
    Unread::describe(description, is_required, vec![content]);
}

impl<T: JsonSchema> Input for JsonBody<T> {
    fn describe(description: &mut Description, schemas: &mut Schemas) {
        describe_json::<T>(description, schemas, true);
    }
}

impl<T: JsonSchema> Input for OptionalJsonBody<T> {
    fn describe(description: &mut Description, schemas: &mut Schemas) {
        describe_json::<T>(description, schemas, false);
    }
}

impl Input for SpecBody {
    fn describe(description: &mut Description, schemas: &mut Schemas) {
        let submission = schemas.submission();
        describe_document(description, submission);
    }
}

/// A body in one of the languages for specifications.
fn describe_document(description: &mut Description, schema: Value) {
    description.may_fail(422);
    let languages = ["application/json", "application/yaml", "application/toml"];
    let content = languages.map(|media_type| Content { media_type, schema: schema.clone() });
    Unread::describe(description, true, content.into());
}

impl Input for Bytes {
    fn describe(description: &mut Description, _: &mut Schemas) {
        let content = Content { media_type: "application/octet-stream", schema: json!({}) };
        Unread::describe(description, false, vec![content]);
    }
}

impl<T, S: Send + Sync> FromRequest<S> for JsonBody<T> {
    type Rejection = BytesRejection;

    async fn from_request(request: Request, state: &S) -> Result<JsonBody<T>, BytesRejection> {
        Ok(JsonBody(Unread::from_request(request, state).await?, PhantomData))
    }
}

impl<T, S: Send + Sync> FromRequest<S> for OptionalJsonBody<T> {
    type Rejection = BytesRejection;

    async fn from_request(request: Request, state: &S) -> Result<OptionalJsonBody<T>, BytesRejection> {
        Ok(OptionalJsonBody(JsonBody::from_request(request, state).await?))
    }
}

impl<S: Send + Sync> FromRequest<S> for SpecBody {
    type Rejection = BytesRejection;

    async fn from_request(request: Request, state: &S) -> Result<SpecBody, BytesRejection> {
        Ok(SpecBody(Unread::from_request(request, state).await?))
    }
}
