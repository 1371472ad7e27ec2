//! The description of the API: each route is added together with what it is, and all of them become an OpenAPI document.
//!
//! What a route takes and answers follows from the types of its handler ([`Input`], [`Answer`]); words, parameters and the
//! its own errors are in an [`Operation`] beside it. Parameters that are not described are refused.

mod answers;
mod document;
mod inputs;
mod operation;
mod routes;
mod schemas;
mod statuses;

pub use answers::{Accepted, Answer, Created, Done, Listed, NEXT_PAGE, PassedOn};
pub use document::{API_VERSION, Document, INTRODUCTION};
pub use inputs::{Described, JsonBody, OptionalJsonBody, SecretBody, SpecBody, TemplateBody};
pub use operation::{
    CURSOR, Content, Description, Header, LIMIT, Operation, Parameter, RequestBody, SPAN, Success, Values,
};
pub use routes::Api;
pub use schemas::Schemas;
pub use statuses::STATUSES;
