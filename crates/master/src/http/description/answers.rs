//! What a handler answers, and how that describes itself.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use gaffer_protocol::rest::Page;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::json;

use super::super::error::Error;
use super::super::params::Params;
use super::{Content, Description, Header, Schemas, Success};

/// Something that a handler answers.
pub trait Answer: IntoResponse {
    /// Adds to the description which statuses, headers and bodies that can be.
    fn describe(description: &mut Description, schemas: &mut Schemas);
}

/// 201 with what was made.
#[derive(Debug)]
pub struct Created<T>(pub T);

/// 202 with what is going to change.
#[derive(Debug)]
pub struct Accepted<T>(pub T);

/// 202 without a body: it was passed on.
#[derive(Debug)]
pub struct PassedOn;

/// 204: it is done, and there is nothing to say.
#[derive(Debug)]
pub struct Done;

/// A page of a list, with a link to the next one.
#[derive(Debug)]
pub struct Listed<T> {
    page: Page<T>,
    /// None on the last page.
    link: Option<HeaderValue>,
}

impl<T> Listed<T> {
    /// A page of the list that these parameters ask for.
    pub fn of(params: &Params, page: Page<T>) -> Listed<T> {
        let link = page.next_cursor.as_ref().map(|cursor| params.next_link(cursor));
        Listed { link: link.and_then(|link| HeaderValue::from_str(&link).ok()), page }
    }
}

/// The header that links to the next page.
pub const NEXT_PAGE: Header = Header {
    name: "Link",
    description: "Address of the next page: `<…>; rel=\"next\"`. Absent on the last page.",
    is_always_there: false,
};

impl<T: Serialize> IntoResponse for Created<T> {
    fn into_response(self) -> Response {
        (StatusCode::CREATED, Json(self.0)).into_response()
    }
}

impl<T: Serialize> IntoResponse for Accepted<T> {
    fn into_response(self) -> Response {
        (StatusCode::ACCEPTED, Json(self.0)).into_response()
    }
}

impl IntoResponse for PassedOn {
    fn into_response(self) -> Response {
        StatusCode::ACCEPTED.into_response()
    }
}

impl IntoResponse for Done {
    fn into_response(self) -> Response {
        StatusCode::NO_CONTENT.into_response()
    }
}

impl<T: Serialize> IntoResponse for Listed<T> {
    fn into_response(self) -> Response {
        let mut response = Json(self.page).into_response();
        response.headers_mut().extend(self.link.map(|link| (header::LINK, link)));
        response
    }
}

impl Description {
    /// Adds an answer.
    pub fn answers(&mut self, status: StatusCode, success: Success) {
        self.successes.insert(status.as_u16(), success);
    }

    /// Adds an answer in JSON.
    pub fn answers_json<T: JsonSchema>(
        &mut self,
        status: StatusCode,
        description: &'static str,
        headers: &[Header],
        schemas: &mut Schemas,
    ) {
        let content = vec![Content::json(schemas.answered::<T>())];
        self.answers(status, Success { description, headers: headers.to_vec(), content });
    }
}

impl<A: Answer> Answer for Result<A, Error> {
    fn describe(description: &mut Description, schemas: &mut Schemas) {
        A::describe(description, schemas);
        for status in [500, 503] {
            description.may_fail(status);
        }
    }
}

impl<T: Serialize + JsonSchema> Answer for Json<T> {
    fn describe(description: &mut Description, schemas: &mut Schemas) {
        description.answers_json::<T>(StatusCode::OK, "Success", &[], schemas);
    }
}

impl<T: Serialize + JsonSchema> Answer for Created<T> {
    fn describe(description: &mut Description, schemas: &mut Schemas) {
        description.answers_json::<T>(StatusCode::CREATED, "Created", &[], schemas);
    }
}

impl<T: Serialize + JsonSchema> Answer for Accepted<T> {
    fn describe(description: &mut Description, schemas: &mut Schemas) {
        description.answers_json::<T>(StatusCode::ACCEPTED, "Accepted: it will happen", &[], schemas);
    }
}

impl<T: Serialize + JsonSchema> Answer for Listed<T> {
    fn describe(description: &mut Description, schemas: &mut Schemas) {
        description.answers_json::<Page<T>>(StatusCode::OK, "A page of the list", &[NEXT_PAGE], schemas);
    }
}

impl Answer for PassedOn {
    fn describe(description: &mut Description, _: &mut Schemas) {
        let success = Success { description: "Passed on to the worker", ..Success::default() };
        description.answers(StatusCode::ACCEPTED, success);
    }
}

impl Answer for Done {
    fn describe(description: &mut Description, _: &mut Schemas) {
        description.answers(StatusCode::NO_CONTENT, Success { description: "Done", ..Success::default() });
    }
}

/// Plain text.
impl Answer for String {
    fn describe(description: &mut Description, _: &mut Schemas) {
        let content = vec![Content { media_type: "text/plain", schema: json!({ "type": "string" }) }];
        description.answers(StatusCode::OK, Success { description: "Success", headers: vec![], content });
    }
}
