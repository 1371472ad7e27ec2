//! The state of the master, as far as a project may see it.

use chrono::Utc;
use gaffer_domain::permissions::Action;
use gaffer_domain::{JobId, Time};

use super::{Actor, Context, OperationError};
use crate::background::driver::Status;
use crate::certificate::CertificateState;
use crate::store::output::objects::MovedOutput;
use crate::troubles::Trouble;

/// How the master is doing.
#[derive(Debug, Clone)]
pub struct System {
    /// What keeps it from recording anything, if something does.
    pub database_trouble: Option<Trouble>,
    /// What single changes wait for, if any did lately.
    pub change_trouble: Option<Trouble>,
    /// Jobs of the project that another transaction has locked, and since when.
    pub locked_jobs: Vec<(JobId, Time)>,
    /// Whether the database refused anything of the project that is kept as a dead letter.
    pub has_dead_letters: bool,
    /// Whether secrets can be used.
    pub secrets: SecretsState,
    /// How the certificate of the ports is doing; none without TLS.
    pub tls: Option<CertificateState>,
    pub loops: Vec<(&'static str, Status)>,
}

/// Whether secrets can be used.
#[derive(Debug, Clone)]
pub struct SecretsState {
    /// What keeps them from being used, and what to do.
    pub problem: Option<String>,
    /// The name of the master key that encrypts new values; none if there is none.
    pub key: Option<String>,
    /// How many are still encrypted with an old key of the list.
    pub on_old_keys: u64,
}

/// Whether the object storage with output works.
#[derive(Debug, Clone)]
pub struct OutputStoreCheck {
    /// None if this master has none.
    pub address: Option<String>,
    /// What was moved there.
    pub moved: MovedOutput,
    /// Why it does not work.
    pub problem: Option<String>,
}

/// Writes a small object to the object storage, reads it and deletes it.
///
/// # Errors
/// When the database does not answer.
pub async fn check_output_store(
    context: &Context,
    actor: &Actor,
) -> Result<OutputStoreCheck, OperationError> {
    let views = context.permit_to_look(actor, Action::LookAtSystem)?;
    let moved = views.reads.output_in_objects().await?;
    let Some(objects) = views.output.objects() else {
        let missing = "output was moved to object storage, and GAFFER_OUTPUT_STORE is not set on the master";
        let problem = (moved.objects > 0).then(|| missing.to_owned());
        return Ok(OutputStoreCheck { address: None, moved, problem });
    };
    let problem = objects.check(moved.objects > 0).await.err().map(|error| error.to_string());
    Ok(OutputStoreCheck { address: Some(objects.address().to_string()), moved, problem })
}

/// Looks at it.
///
/// # Errors
/// When the database does not answer.
pub async fn show(context: &Context, actor: &Actor) -> Result<System, OperationError> {
    let views = context.permit_to_look(actor, Action::LookAtSystem)?;
    let (troubles, reads) = (&views.status.troubles, &views.reads);
    let locked = troubles.locked();
    let jobs: Vec<JobId> = locked.iter().map(|(job, _)| *job).collect();
    let own = reads.jobs_of_project(actor.project, &jobs).await?;
    let (vault, uses) = (&views.status.vault, reads.secret_key_uses().await?);
    let (key, on_old_keys) = vault.present_use(&uses).unzip();
    let secrets = SecretsState { problem: vault.problem(&uses), key, on_old_keys: on_old_keys.unwrap_or(0) };
    let letters = reads.dead_letter_list(actor.project, None, 0, 1).await?;
    Ok(System {
        database_trouble: troubles.database(),
        change_trouble: troubles.change(),
        locked_jobs: locked.into_iter().filter(|(job, _)| own.contains(job)).collect(),
        has_dead_letters: !letters.is_empty(),
        secrets,
        tls: views.status.certificate.as_ref().map(|certificate| certificate.state(Utc::now())),
        loops: views.status.loops.all(),
    })
}
