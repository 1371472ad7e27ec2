//! Hook: the secrets of a task. It asks the master for their values, gives them to the task as variables and files, and has
//! the output hide them. No value is in the journal, in the definition, or in any message but that answer.

use std::collections::BTreeMap;
use std::future::ready;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use gaffer_domain::redact::Masks;
use gaffer_domain::secrets::SecretValue;
use gaffer_protocol::output::Record;
use gaffer_protocol::secrets::Secrets;
use gaffer_protocol::wire::Ended;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::super::redacted::Redacted;
use super::super::secret_files::{AttemptSecrets, Readers};
use super::{Attempt, Hook};
use crate::blocking::NoAnswer;
use crate::driver::{Assignment, OutputSource, StartError, Started};

/// Names the directory with the files.
const DIRECTORY_VARIABLE: &str = "GAFFER_SECRETS_DIR";
/// Where a container has files whose paths are relative.
const IN_CONTAINER: &str = "/run/secrets";
/// After this time without an answer it asks again: there may be no session, or the question or its answer was lost.
const ASK_AGAIN: Duration = Duration::from_secs(1);

pub(super) struct TaskSecrets {
    /// Dropped with the first answer.
    answers: Option<mpsc::Receiver<Secrets>>,
    files: Option<AttemptSecrets>,
}

impl TaskSecrets {
    pub fn new(answers: mpsc::Receiver<Secrets>) -> TaskSecrets {
        TaskSecrets { answers: Some(answers), files: None }
    }

    /// Asks until there is an answer.
    async fn ask(
        &mut self,
        attempt: &Attempt,
        cancelled: &CancellationToken,
    ) -> Result<BTreeMap<String, SecretValue>, StartError> {
        let Some(mut answers) = self.answers.take() else {
            return Err(StartError::other("they were asked for before"));
        };
        loop {
            attempt.progress.wants_secrets(attempt.reference());
            let answer = tokio::select! {
                answer = timeout(ASK_AGAIN, answers.recv()) => answer,
                () = cancelled.cancelled() => return Err(StartError::cancelled()),
            };
            match answer {
                Err(_) => {}
                Ok(None) => return Err(StartError::other("nobody can answer any more")),
                Ok(Some(Secrets { problem: Some(problem), .. })) => return Err(StartError::other(problem)),
                Ok(Some(Secrets { values, .. })) => {
                    return Ok(values.into_iter().map(|sent| (sent.name, sent.value.0)).collect());
                }
            }
        }
    }
}

impl Hook for TaskSecrets {
    fn concern(&self) -> &'static str {
        "secrets"
    }

    fn before_start<'a>(
        &'a mut self,
        attempt: &'a Attempt,
        assignment: &'a mut Assignment,
        cancelled: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<(), StartError>> {
        if attempt.start.definition.secrets.is_empty() {
            self.answers = None;
            return Box::pin(ready(Ok(())));
        }
        Box::pin(async move {
            let values = Arc::new(self.ask(attempt, cancelled).await?);
            let (context, of_masks) = (attempt.context.clone(), values.clone());
            let build = move || context.finders.masks(of_masks.values());
            let built = attempt.context.threads.run_until(cancelled.cancelled(), build).await;
            let masks = built.map_err(|NoAnswer| StartError::cancelled())?;
            // Before anything else can show them.
            let _ = attempt.masks.set(Mutex::new(masks));
            let mut files = Vec::new();
            for used in &attempt.start.definition.secrets {
                let Some(value) = values.get(&used.name) else {
                    return Err(StartError::other(format!("the master sent no value of {}", used.name)));
                };
                match &used.file {
                    Some(file) => files.push((file.clone(), value.clone())),
                    None => {
                        let text = value.as_variable().map_err(|why| {
                            let name = &used.name;
                            StartError::other(format!(
                                "{name} cannot be a variable: {why}; write {{name: {name}, file: PATH}}"
                            ))
                        })?;
                        assignment.environment.insert(used.name.clone(), text.to_owned());
                    }
                }
            }
            let capabilities = attempt.capabilities();
            let is_on_host = capabilities.uses_host_files;
            if files.is_empty() && !capabilities.outlives_executor {
                return Ok(());
            }
            let (context, reference, kept) =
                (attempt.context.clone(), attempt.reference(), capabilities.outlives_executor);
            let names: Vec<String> = files.iter().map(|(file, _)| file.clone()).collect();
            let has_files = !files.is_empty();
            let write = move || {
                let readers = if is_on_host { Readers::Owner } else { Readers::Container };
                let (secrets, root, paths) = context.secret_files.create(reference, &files, readers)?;
                if kept {
                    context.secret_files.keep(&secrets, &values.values().collect::<Vec<_>>())?;
                }
                Ok((secrets, root, paths))
            };
            let written = attempt.context.threads.run_until(cancelled.cancelled(), write).await;
            let written = written.map_err(|NoAnswer| StartError::other("their files cannot be written"))?;
            let (secrets, root, paths) = written.map_err(|error: std::io::Error| {
                StartError::other(format!("cannot write their files: {error}"))
            })?;
            self.files = Some(secrets);
            if has_files {
                let directory = match is_on_host {
                    true => root.display().to_string(),
                    false => IN_CONTAINER.to_owned(),
                };
                assignment.environment.insert(DIRECTORY_VARIABLE.to_owned(), directory);
            }
            if !is_on_host {
                let target = |file: String| match file.starts_with('/') {
                    true => file,
                    false => format!("{IN_CONTAINER}/{file}"),
                };
                assignment.secret_files = paths.into_iter().zip(names.into_iter().map(target)).collect();
            }
            Ok(())
        })
    }

    fn after_start<'a>(&'a mut self, attempt: &'a Attempt, started: &'a mut Started) -> BoxFuture<'a, ()> {
        if attempt.masks.get().is_some() {
            hide(started, |output| Redacted::new(output, attempt.masks.clone(), None));
        }
        Box::pin(ready(()))
    }

    /// What was kept says what to hide. Without it nothing is shown any more.
    fn adopted<'a>(&'a mut self, attempt: &'a Attempt, started: &'a mut Started) -> BoxFuture<'a, ()> {
        self.answers = None;
        if attempt.start.definition.secrets.is_empty() {
            return Box::pin(ready(()));
        }
        Box::pin(async move {
            let (context, reference) = (attempt.context.clone(), attempt.reference());
            let find = move || {
                let (secrets, values) = context.secret_files.kept(reference)?;
                Some((secrets, context.finders.masks(&values)))
            };
            let found = attempt.context.threads.run_until(ready(()), find).await.ok().flatten();
            let (masks, stored) = match found {
                Some((secrets, masks)) => {
                    self.files = Some(secrets);
                    (masks, attempt.stored.clone())
                }
                None => (Masks::unknown(), None),
            };
            let _ = attempt.masks.set(Mutex::new(masks));
            hide(started, |output| Redacted::new(output, attempt.masks.clone(), stored));
        })
    }

    fn after_end<'a>(&'a mut self, attempt: &'a Attempt, _ended: &'a Ended) -> BoxFuture<'a, ()> {
        self.answers = None;
        let Some(files) = self.files.take() else { return Box::pin(ready(())) };
        Box::pin(async move {
            let removed = attempt.context.threads.run_until(ready(()), move || drop(files)).await;
            if removed == Err(NoAnswer) {
                let attempt = attempt.reference();
                tracing::warn!(%attempt, "files with secrets of an ended attempt are removed later");
            }
        })
    }
}

/// Puts something between the output and its reader.
fn hide(started: &mut Started, wrap: impl FnOnce(Box<dyn OutputSource>) -> Redacted) {
    let output = std::mem::replace(&mut started.output, Box::new(Nothing));
    started.output = Box::new(wrap(output));
}

/// No output.
struct Nothing;

impl OutputSource for Nothing {
    fn poll_next(&mut self, _cx: &mut Context<'_>) -> Poll<Option<Record>> {
        Poll::Ready(None)
    }
}
