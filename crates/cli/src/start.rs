//! First step of each process, before it opens anything.

use gaffer_worker::Hangup;
use gaffer_worker::config::ApiKey;

use crate::args::Command;
use crate::commands::server::WorkerArgs;
use crate::commands::worker_key;
use crate::config::{self, WorkerPart};
use crate::failure::Failure;

/// A server drops inherited state. Returns the key that the supervisor passes to its agents.
///
/// # Errors
/// [`Failure::Local`] when the key cannot be read.
pub fn begin(command: &Command) -> Result<Option<ApiKey>, Failure> {
    let (hangup, key) = match command {
        Command::Worker(WorkerArgs::Serve(worker)) if config::worker_part() == WorkerPart::Supervisor => {
            (Hangup::Inherited, worker_key::take(worker)?)
        }
        Command::Worker(WorkerArgs::Serve(_)) | Command::Dev(_) | Command::Master(_) => {
            (Hangup::Inherited, None)
        }
        Command::Executor | Command::Watchdog => (Hangup::Default, None),
        _ => return Ok(None),
    };
    gaffer_worker::begin(hangup);
    Ok(key)
}
