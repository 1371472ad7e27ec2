//! `/secrets`: values that only the attempts of tasks get.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use gaffer_domain::permissions::Action;
use gaffer_protocol::rest::{Page, Secret};

use super::super::bodies;
use super::super::description::{Answer, Description, Done, Operation, Schemas, SecretBody};
use super::super::error::Error;
use crate::operations::secrets::{self, SetSecret};
use crate::operations::{Actor, Context};

pub const LIST: Operation = Operation {
    description: "By name, all in one page, without their values: no route gives a value.",
    ..Operation::new("list_secrets", "List secrets", Action::ListSecrets)
};

/// `GET /secrets`
pub async fn list(State(context): State<Arc<Context>>, actor: Actor) -> Result<Json<Page<Secret>>, Error> {
    let items = secrets::list(&context, &actor).await?;
    Ok(Json(Page { items: items.into_iter().map(bodies::secret).collect(), next_cursor: None }))
}

pub const SET: Operation = Operation {
    description: "The body is the value as `application/octet-stream` or `text/plain`, with every byte of it, or JSON with a \
        `value`. At most 64 KiB. Attempts that run keep the value that they have. 503 with the code `secrets_unavailable` means \
        that the master has no master key, or not the right one.",
    ..Operation::new("set_secret", "Set a secret", Action::SetSecret)
};

/// `PUT /secrets/{secret}`
pub async fn set(
    State(context): State<Arc<Context>>,
    actor: Actor,
    Path(secret): Path<String>,
    body: SecretBody,
) -> Result<StoredSecret, Error> {
    let SetSecret { secret, warning } = secrets::set(&context, &actor, &secret, &body.read()?).await?;
    let is_new = secret.version == 1;
    Ok(StoredSecret { secret: Secret { warning, ..bodies::secret(secret) }, is_new })
}

/// A secret that was set.
#[derive(Debug)]
pub struct StoredSecret {
    secret: Secret,
    is_new: bool,
}

impl IntoResponse for StoredSecret {
    fn into_response(self) -> Response {
        let status = if self.is_new { StatusCode::CREATED } else { StatusCode::OK };
        (status, Json(self.secret)).into_response()
    }
}

impl Answer for StoredSecret {
    fn describe(description: &mut Description, schemas: &mut Schemas) {
        description.answers_json::<Secret>(StatusCode::CREATED, "The new secret", &[], schemas);
        description.answers_json::<Secret>(StatusCode::OK, "The secret with its new value", &[], schemas);
    }
}

pub const DELETE: Operation = Operation {
    description: "Attempts that run keep its value. Later attempts of tasks that name it cannot start.",
    ..Operation::new("delete_secret", "Delete a secret", Action::DeleteSecret)
};

/// `DELETE /secrets/{secret}`
pub async fn delete(
    State(context): State<Arc<Context>>,
    actor: Actor,
    Path(secret): Path<String>,
) -> Result<Done, Error> {
    secrets::delete(&context, &actor, &secret).await?;
    Ok(Done)
}
