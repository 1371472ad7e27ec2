//! The hooks around the execution of an attempt, one file per concern.
//!
//! | hook | before the start | after the start | on adoption | after the end |
//! |---|---|---|---|---|
//! | [`environment`] | gaffer's variables | | nothing to do | |
//! | [`ports`] | assigns ports, their variables | | kept | releases them |
//! | [`secrets`] | asks for them; their variables and files; hides them in output | hides them | likewise, from what it kept | removes the files |
//! | [`files`] | private directories, the script file; records the start | records the process id | recorded | records the end, removes the directories |
//! | [`health`] | | begins the checks | begins them | ends them; before a stop, too |
//! | [`input`] | | starts to write standard input | progress is unknown: writes nothing | stops |
//!
//! A hook that fetches something comes before [`files`], which is the last step before the start; a hook that observes
//! the running process comes after it. After a restart of the executor, everything a hook needs must follow from the
//! attempt itself; a hook that has to remember more stores it in the journal's start entry.

mod environment;
mod files;
mod health;
mod input;
mod ports;
mod secrets;

use std::time::Duration;

use futures::future::{BoxFuture, ready};
use gaffer_protocol::secrets::Secrets;
use gaffer_protocol::wire::{Ended, Input};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::Attempt;
use crate::blocking::{SLOW, tell_if_slow};
use crate::driver::{Assignment, StartError, Started};

/// One concern. A hook touches files on [blocking threads](crate::blocking) only.
pub(super) trait Hook: Send {
    /// What of the task it is about: "cannot prepare the task's …".
    fn concern(&self) -> &'static str;

    /// Adds its part to the assignment of the driver. After an error the attempt does not start. Must return soon
    /// once `cancelled`.
    fn before_start<'a>(
        &'a mut self,
        _attempt: &'a Attempt,
        _assignment: &'a mut Assignment,
        _cancelled: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<(), StartError>> {
        Box::pin(ready(Ok(())))
    }

    /// The attempt runs. It is not supervised until this returns, so it must return within a second.
    fn after_start<'a>(&'a mut self, _attempt: &'a Attempt, _started: &'a mut Started) -> BoxFuture<'a, ()> {
        Box::pin(ready(()))
    }

    /// In place of the two above: the attempt executes, and an executor before this one has started it.
    fn adopted<'a>(&'a mut self, attempt: &'a Attempt, started: &'a mut Started) -> BoxFuture<'a, ()>;

    /// The attempt is about to be asked to end; its grace has begun. Not called for one that is killed, and cut short if
    /// all hooks together take longer than [`BEFORE_STOP_LIMIT`].
    fn before_stop<'a>(&'a mut self, _attempt: &'a Attempt) -> BoxFuture<'a, ()> {
        Box::pin(ready(()))
    }

    /// No process of the attempt is left, or it never started; its end is reported after this returns. Called once in
    /// every case. Must be bounded in time.
    fn after_end<'a>(&'a mut self, _attempt: &'a Attempt, _ended: &'a Ended) -> BoxFuture<'a, ()> {
        Box::pin(ready(()))
    }
}

/// The most that hooks may take of an attempt's grace.
const BEFORE_STOP_LIMIT: Duration = Duration::from_secs(1);

/// The hooks of one attempt. What comes after its start they do in the opposite order.
pub(super) struct Hooks(pub(super) Vec<Box<dyn Hook>>);

impl Hooks {
    /// All there are, in their order.
    pub fn all(inputs: mpsc::Receiver<Input>, secrets: mpsc::Receiver<Secrets>) -> Hooks {
        Hooks(vec![
            Box::new(environment::Environment),
            Box::new(ports::Ports),
            Box::new(secrets::TaskSecrets::new(secrets)),
            Box::new(files::Files::default()),
            Box::new(health::HealthChecks::default()),
            Box::new(input::StandardInput::new(inputs)),
        ])
    }

    pub async fn before_start(
        &mut self,
        attempt: &Attempt,
        assignment: &mut Assignment,
        cancelled: &CancellationToken,
    ) -> Result<(), StartError> {
        for hook in &mut self.0 {
            let concern = hook.concern();
            let slow = || {
                let seconds = SLOW.as_secs();
                attempt
                    .note(format!("not started yet: the task's {concern} was not ready after {seconds} s"));
            };
            tell_if_slow(hook.before_start(attempt, assignment, cancelled), slow).await.map_err(|error| {
                let message = format!("cannot prepare the task's {concern}: {}", error.message);
                StartError { message, ..error }
            })?;
        }
        Ok(())
    }

    pub async fn after_start(&mut self, attempt: &Attempt, started: &mut Started) {
        for hook in &mut self.0 {
            hook.after_start(attempt, started).await;
        }
    }

    pub async fn adopted(&mut self, attempt: &Attempt, started: &mut Started) {
        for hook in &mut self.0 {
            hook.adopted(attempt, started).await;
        }
    }

    pub async fn before_stop(&mut self, attempt: &Attempt) {
        let all = async {
            for hook in self.0.iter_mut().rev() {
                hook.before_stop(attempt).await;
            }
        };
        if timeout(BEFORE_STOP_LIMIT, all).await.is_err() {
            tracing::warn!(attempt = %attempt.reference(), "hooks took too long before the stop; stopping without them");
        }
    }

    pub async fn after_end(&mut self, attempt: &Attempt, ended: &Ended) {
        for hook in self.0.iter_mut().rev() {
            hook.after_end(attempt, ended).await;
        }
    }
}
