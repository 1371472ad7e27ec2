//! Finds and starts `pg_dump` and `pg_restore`, for a private server that this or another process runs.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

use super::Settings;
use super::binaries::{candidates, is_program, version_in};
use super::data_dir::major;
use super::program::LOCALE;

/// The client programs of one version of Postgres.
#[derive(Debug, Clone)]
pub struct Tools {
    dir: PathBuf,
    /// Like `15.18`.
    pub version: String,
}

impl Tools {
    /// Those of the same major version as a server. An older `pg_dump` does not read a newer server, and a newer `pg_restore`
    /// uses settings that an older server does not have.
    ///
    /// # Errors
    /// When there are none, in a sentence with what to do.
    pub async fn find(settings: &Settings, server: u32) -> Result<Tools, String> {
        for dir in candidates(settings) {
            if !["pg_dump", "pg_restore"].iter().all(|name| is_program(&dir.join(name))) {
                continue;
            }
            let output = plain(&dir.join("pg_dump")).arg("--version").output().await;
            let version = output.and_then(|output| version_in(&String::from_utf8_lossy(&output.stdout)));
            if let Ok(version) = version
                && major(&version) == Some(server)
            {
                return Ok(Tools { dir, version });
            }
        }
        Err(format!(
            "pg_dump and pg_restore of PostgreSQL {server} are not installed on this machine. Install the client programs of \
             PostgreSQL {server} (package postgresql-client), or name the directory of all its programs in GAFFER_PG_BIN."
        ))
    }

    /// Writes the database to its standard output, as it is at one moment, in the format that `pg_restore` reads.
    pub fn dump(&self, url: &str) -> Command {
        let mut command = self.client("pg_dump", url);
        // Output is compressed already, so more effort would only cost time.
        command.args(["--format=custom", "--compress=1", "--no-owner", "--no-privileges"]);
        command.arg("--lock-wait-timeout=60000").stdin(Stdio::null()).stdout(Stdio::piped());
        command
    }

    /// Reads that from its standard input into an empty database.
    pub fn restore(&self, url: &str) -> Command {
        let mut command = self.client("pg_restore", url);
        command.args(["--exit-on-error", "--no-owner", "--no-privileges"]);
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        command
    }

    fn client(&self, program: &str, url: &str) -> Command {
        let mut command = plain(&self.dir.join(program));
        command.args(["--no-password", "--dbname", url]).stderr(Stdio::piped());
        command
    }
}

/// A program with nothing of this process's surroundings, such as `PGOPTIONS`. Killed when dropped.
fn plain(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", "/usr/bin:/bin").env("LANG", LOCALE).env("TZ", "UTC").current_dir("/");
    command.process_group(0).kill_on_drop(true);
    command
}
