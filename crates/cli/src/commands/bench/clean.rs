//! `gaffer bench --clean`: removes what runs have left that were killed, or whose installation was away.

use std::fs;
use std::path::{Path, PathBuf};

use gaffer_master::embedded_postgres::url_of_running;

use super::args::BenchArgs;
use super::installation::Installation;
use super::local;
use super::scratch::{PREFIX, WORKER_DIR};
use crate::config;
use crate::failure::Failure;
use crate::out::Out;

/// Removes directories that no process uses, and jobs of all runs from the installation that client commands use.
///
/// # Errors
/// [`Failure::Local`] if a directory cannot be removed; errors of the API or the network.
pub async fn run(args: &BenchArgs, out: &Out) -> Result<(), Failure> {
    let parent = args.scratch_dir.clone().unwrap_or_else(std::env::temp_dir);
    for dir in directories(&parent)? {
        let name = dir.display();
        if is_used(&dir)? {
            out.line(&format!("{name} is in use"))?;
        } else {
            fs::remove_dir_all(&dir)
                .map_err(|error| Failure::Local(format!("cannot remove {name}: {error}")))?;
            out.line(&format!("{name} removed"))?;
        }
    }
    // Who only measures scratch installations has no other one.
    let Ok(access) = config::access() else {
        return out.line("no server configured: no jobs were looked for");
    };
    let installation = Installation::new(access, None)?;
    let deleted = installation.delete_all_runs().await?;
    out.line(&format!("{deleted} jobs deleted from {}", installation.client.address()))
}

/// Directories of runs, in order.
fn directories(parent: &Path) -> Result<Vec<PathBuf>, Failure> {
    let entries = fs::read_dir(parent)
        .map_err(|error| Failure::Local(format!("cannot look into {}: {error}", parent.display())))?;
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(local("cannot look for directories"))?;
        let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_directory && entry.file_name().to_string_lossy().starts_with(PREFIX) {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

/// Whether a database or a worker runs in it.
fn is_used(dir: &Path) -> Result<bool, Failure> {
    let worker = dir.join(WORKER_DIR);
    let has_worker =
        worker.exists() && gaffer_worker::is_running(&worker).map_err(local("cannot look for a worker"))?;
    Ok(has_worker || url_of_running(dir).is_some())
}
