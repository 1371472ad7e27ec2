//! The OpenAPI 3.1 document.

use gaffer_domain::scopes::Scope;
use serde_json::{Map, Value, json};

use super::operation::Header;
use super::statuses::{STATUSES, Status};
use super::{Content, Description, Operation, Parameter, Values};
use crate::http::auth::SESSION_COOKIE;

/// Version of the API: the first number is raised with a change that breaks clients, and only then, see docs/api-changes.md.
pub const API_VERSION: &str = "2.0";

/// What there is to know beside the routes, in Markdown.
pub const INTRODUCTION: &str = include_str!("introduction.md");

/// All that is said of the API.
#[derive(Debug)]
pub struct Document {
    /// Every route, in the order of the reference.
    pub descriptions: Vec<Description>,
    /// The schemas that they refer to.
    pub schemas: Map<String, Value>,
}

/// What can stand in a path.
const PATH_PARAMETERS: [Parameter; 12] = [
    Parameter::new("job", NUMBER, "Job number."),
    Parameter::new(
        "task",
        Values::Text,
        "Address of the task: `name`, or `name.index` if the definition has several tasks.",
    ),
    Parameter::new(
        "service",
        Values::Text,
        "Name of a job of `type: service` or `type: system` that has not ended.",
    ),
    Parameter::new("worker", Values::Text, "Name or number of the worker."),
    Parameter::new("key", NUMBER, "Key number."),
    Parameter::new("secret", Values::Text, "Name of the secret."),
    Parameter::new("template", Values::Text, "Name of the template."),
    Parameter::new("project", Values::Text, "Name of the project."),
    Parameter::new("user", Values::Text, "Name of the user."),
    Parameter::new("invitation", NUMBER, "Number of the invitation."),
    Parameter::new("session", NUMBER, "Number of the browser session."),
    Parameter::new("letter", NUMBER, "Number of the dead letter."),
];

const NUMBER: Values = Values::Integer { least: 1, most: i64::MAX as u64, default: None };

/// The header that every answer has.
const REQUEST_ID: Header = Header {
    name: "x-request-id",
    description: "Id of the request in the master's log.",
    is_always_there: true,
};

impl Document {
    /// The document, for an API below this address.
    pub fn to_json(&self, server: &str) -> Value {
        let mut paths = Map::new();
        for description in &self.descriptions {
            let path = paths.entry(description.path).or_insert_with(|| json!({}));
            path[description.method] = operation(description);
        }
        let errors = STATUSES.iter().map(|status| (status.name.to_owned(), error(status)));
        json!({
            "openapi": "3.1.0",
            "jsonSchemaDialect": "https://json-schema.org/draft/2020-12/schema",
            "info": {
                "title": "gaffer REST API",
                "version": API_VERSION,
                "description": INTRODUCTION,
                "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
            },
            "servers": [{ "url": server }],
            "tags": self.sections().iter().map(|name| json!({ "name": name })).collect::<Vec<_>>(),
            "paths": paths,
            "components": {
                "schemas": self.schemas,
                "responses": errors.collect::<Map<_, _>>(),
                "securitySchemes": {
                    "key": {
                        "type": "http",
                        "scheme": "bearer",
                        "description": "A user key (`gfu_…`) with the scopes of the operation: `gaffer keys create NAME` creates one.",
                    },
                    "session": {
                        "type": "apiKey",
                        "in": "cookie",
                        "name": SESSION_COOKIE,
                        "description": "The session of a signed-in browser, on the dashboard port only.",
                    },
                },
            },
        })
    }

    /// The parts of the reference, in their order.
    pub fn sections(&self) -> Vec<&'static str> {
        let mut sections: Vec<_> = self.descriptions.iter().map(|description| description.section).collect();
        sections.dedup();
        sections
    }
}

impl Description {
    /// All its parameters with the place where each stands.
    pub fn parameters(&self) -> impl Iterator<Item = (&'static str, Parameter)> {
        let in_path = self.path_parameters().filter_map(path_parameter);
        let Operation { query, headers, .. } = self.operation;
        let parameters = in_path.map(|parameter| ("path", parameter));
        let parameters = parameters.chain(query.iter().map(|parameter| ("query", *parameter)));
        parameters.chain(headers.iter().map(|parameter| ("header", *parameter)))
    }
}

/// The parameter of a path with this name.
pub fn path_parameter(name: &str) -> Option<Parameter> {
    PATH_PARAMETERS.into_iter().find(|parameter| parameter.name == name).map(Parameter::required)
}

fn operation(description: &Description) -> Value {
    let Operation { id, summary, description: text, .. } = description.operation;
    let parameters: Vec<Value> =
        description.parameters().map(|(place, parameter)| parameter_of(place, &parameter)).collect();
    let successes = description.successes.iter().map(|(status, success)| {
        let mut response =
            json!({ "description": success.description, "headers": headers(&success.headers) });
        if !success.content.is_empty() {
            response["content"] = content(&success.content);
        }
        (status.to_string(), response)
    });
    let errors = description.errors.iter().filter_map(|(status, why)| {
        let name = STATUSES.iter().find(|known| known.status == *status)?.name;
        let mut response = json!({ "$ref": format!("#/components/responses/{name}") });
        if !why.is_empty() {
            response["description"] = json!(why);
        }
        Some((status.to_string(), response))
    });
    let mut operation = json!({
        "operationId": id,
        "tags": [description.section],
        "summary": summary,
        "responses": successes.chain(errors).collect::<Map<_, _>>(),
        "security": match description.operation.action {
            Some(action) => {
                let scopes: Vec<_> = action.scopes().iter().map(Scope::as_str).collect();
                json!([{ "key": scopes }, { "session": [] }])
            }
            None => json!([]),
        },
    });
    if let Some(action) = description.operation.action {
        let roles = action.roles().iter().map(|role| role.as_str());
        operation["x-roles"] = json!(roles.collect::<Vec<_>>());
    }
    if !text.is_empty() {
        operation["description"] = json!(text);
    }
    if !parameters.is_empty() {
        operation["parameters"] = json!(parameters);
    }
    if let Some(body) = &description.body {
        operation["requestBody"] = json!({ "required": body.is_required, "content": content(&body.content) });
    }
    operation
}

fn parameter_of(place: &str, parameter: &Parameter) -> Value {
    json!({
        "name": parameter.name,
        "in": place,
        "description": parameter.description,
        "required": parameter.is_required,
        "schema": parameter.schema(),
    })
}

fn content(content: &[Content]) -> Value {
    let forms = content.iter().map(|form| (form.media_type.to_owned(), json!({ "schema": form.schema })));
    Value::Object(forms.collect())
}

fn headers(headers: &[Header]) -> Value {
    let headers = headers.iter().chain([&REQUEST_ID]).map(|header| {
        let described = json!({
            "description": header.description,
            "required": header.is_always_there,
            "schema": { "type": "string" },
        });
        (header.name.to_owned(), described)
    });
    Value::Object(headers.collect())
}

fn error(status: &Status) -> Value {
    let problem = json!({
        "allOf": [{ "$ref": "#/components/schemas/Problem" }],
        "properties": { "status": { "const": status.status }, "code": { "enum": status.codes } },
    });
    let content = Content { media_type: "application/problem+json", schema: problem };
    json!({
        "description": status.meaning,
        "headers": headers(status.headers),
        "content": self::content(&[content]),
    })
}
