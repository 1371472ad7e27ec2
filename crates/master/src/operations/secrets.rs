//! Secrets: set, list, delete. No operation gives a value away: only the attempts of tasks that name a secret get it.

use gaffer_domain::ProjectId;
use gaffer_domain::permissions::Action;
use gaffer_domain::quantity::shown;
use gaffer_domain::secrets::{self, MAX_SECRETS, SecretValue};
use gaffer_domain::spec::{JobSpec, UnknownSecret, unknown_secrets};
use gaffer_domain::spelling::{did_you_mean, with_suggestion};
use serde_json::json;

use super::context::Effects;
use super::{Actor, Context, OperationError};
use crate::records::Secret;
use crate::store::secrets::Stored;
use crate::vault::{Place, VaultError};

/// A value that was stored.
#[derive(Debug, Clone)]
pub struct SetSecret {
    pub secret: Secret,
    /// What its user should know.
    pub warning: Option<String>,
}

/// Stores the value of a secret, a new one or the next one of that name. Attempts that run keep the value that they have.
///
/// # Errors
/// When the name or the value is invalid, there is no master key, or the project has too many secrets.
pub async fn set(
    context: &Context,
    actor: &Actor,
    name: &str,
    value: &SecretValue,
) -> Result<SetSecret, OperationError> {
    let mut change = context.change(actor, Action::SetSecret, &format!("secret {name}")).await?;
    let set = store(change.effects, actor, name, value).await;
    if let Ok(SetSecret { secret, .. }) = &set {
        change.after(json!({ "version": secret.version }));
    }
    change.end(set).await
}

async fn store(
    effects: &Effects,
    actor: &Actor,
    name: &str,
    value: &SecretValue,
) -> Result<SetSecret, OperationError> {
    let invalid = |code, detail, field| OperationError::Invalid { code, detail, field };
    if let Some(why) = secrets::wrong_name(name) {
        return Err(invalid("invalid_name", why, None));
    }
    if let Some(why) = secrets::wrong_value(value.bytes()) {
        return Err(invalid("invalid_secret", why, Some("/value")));
    }
    // With one key after the other that is not the right one, nobody could tell any more which are needed.
    if let Some(problem) = effects.vault.problem(&effects.writes.secret_key_uses().await?) {
        return Err(OperationError::SecretsUnavailable(problem));
    }
    let project = actor.project;
    let seal = |version| effects.vault.seal(Place { project, name, version }, value.bytes());
    match effects.writes.secret_set(project, name, &actor.user, MAX_SECRETS, seal).await? {
        Stored::Secret(secret) => Ok(SetSecret { secret, warning: secrets::warning(value.bytes()) }),
        Stored::NotSealed(error) => Err(unavailable(&error)),
        Stored::TooMany => {
            let detail =
                format!("the project has {MAX_SECRETS} secrets, the most that are allowed; delete one");
            Err(invalid("too_many_secrets", detail, None))
        }
    }
}

/// Deletes a secret. Attempts that run keep its value; later ones of tasks that name it cannot start.
///
/// # Errors
/// When there is no such secret.
pub async fn delete(context: &Context, actor: &Actor, name: &str) -> Result<(), OperationError> {
    let change = context.change(actor, Action::DeleteSecret, &format!("secret {name}")).await?;
    let deleted = match change.effects.writes.secret_delete(actor.project, name).await {
        Ok(true) => Ok(()),
        Ok(false) => Err(OperationError::NotFound(format!("secret {}", shown(name)))),
        Err(error) => Err(error.into()),
    };
    change.end(deleted).await
}

/// The secrets of the actor's project by their names, without values.
///
/// # Errors
/// When the database does not answer.
pub async fn list(context: &Context, actor: &Actor) -> Result<Vec<Secret>, OperationError> {
    let views = context.permit_to_look(actor, Action::ListSecrets)?;
    Ok(views.reads.secret_list(actor.project).await?)
}

/// Refuses a specification that names secrets which do not exist: a mistake in a name is found before anything runs.
pub(super) async fn must_exist(
    effects: &Effects,
    project: ProjectId,
    spec: &JobSpec,
) -> Result<(), OperationError> {
    if spec.tasks.iter().all(|task| task.secrets.is_empty()) {
        return Ok(());
    }
    let names = effects.writes.secret_names(project).await?;
    let unknown = unknown_secrets(spec, |name| names.iter().any(|known| known == name));
    if unknown.is_empty() {
        return Ok(());
    }
    let sentence = |missing: &UnknownSecret| {
        let task = spec.tasks.get(missing.task).map_or("", |task| task.name.as_str());
        let detail = format!("task {}: the project has no secret {}", shown(task), shown(&missing.name));
        with_suggestion(&detail, did_you_mean(&missing.name, names.iter().map(String::as_str)).as_deref())
    };
    let sentences: Vec<String> = unknown.iter().map(sentence).collect();
    let advice = "an administrator of the project sets it with `gaffer secrets set NAME < FILE`";
    let detail = format!("{}; {advice}", sentences.join("; "));
    Err(OperationError::Invalid { code: "unknown_secret", detail, field: None })
}

fn unavailable(error: &VaultError) -> OperationError {
    OperationError::SecretsUnavailable(error.to_string())
}
