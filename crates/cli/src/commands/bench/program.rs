//! This program as a child process: it talks to the measured installation as a user's command does.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Instant;

use tokio::process::Command;

use super::figures::millis_since;
use super::installation::Installation;
use super::local;
use crate::failure::Failure;

/// Where this program is.
///
/// # Errors
/// [`Failure::Local`] if the system does not say.
pub fn path() -> Result<PathBuf, Failure> {
    std::env::current_exe().map_err(local("cannot find this program"))
}

/// A client command of this program.
pub struct Program {
    command: Command,
    /// As a user would type it, for messages.
    shown: &'static str,
}

impl Program {
    /// A command for this installation, with these words behind `gaffer`.
    ///
    /// # Errors
    /// [`Failure::Local`] if the system does not say where this program is.
    pub fn new(installation: &Installation, shown: &'static str, words: &[&str]) -> Result<Program, Failure> {
        let mut command = Command::new(path()?);
        let access = &installation.access;
        command.args(words).env("GAFFER_URL", access.url.to_string()).env("GAFFER_KEY", access.key.reveal());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        Ok(Program { command, shown })
    }

    /// Runs it to its end; returns how long that took, in milliseconds.
    ///
    /// # Errors
    /// [`Failure::Local`] with what it said if it failed.
    pub async fn run(mut self) -> Result<f64, Failure> {
        let shown = self.shown;
        let begun = Instant::now();
        let ran = self.command.output().await;
        let millis = millis_since(begun);
        let ran = ran.map_err(|error| Failure::Local(format!("cannot run `{shown}`: {error}")))?;
        if ran.status.success() {
            return Ok(millis);
        }
        let said = String::from_utf8_lossy(&ran.stderr).trim().to_owned();
        Err(Failure::Local(format!("`{shown}` failed ({}): {said}", ran.status)))
    }
}
