//! `gaffer bench --clean`: removes what runs have left that were killed, or whose installation was away.

use super::args::BenchArgs;
use super::containers;
use super::directory::{self, Cleaned};
use super::installation::Installation;
use super::leftovers::Leftovers;
use crate::config;
use crate::exit;
use crate::failure::Failure;
use crate::out::Out;

/// Removes directories and containers that no run uses, and jobs of all runs from the installation that client commands use. What
/// cannot be removed is told, and does not keep the rest from being removed.
///
/// # Errors
/// [`Failure::Local`] if the directory of scratch data cannot be read; errors of the API or the network.
pub async fn run(args: &BenchArgs, out: &Out) -> Result<u8, Failure> {
    let parent = args.scratch_parent();
    let mut is_all_removed = true;
    let mut failed = |what: &str, error: &dyn std::fmt::Display| {
        is_all_removed = false;
        out.note(&format!("gaffer: cannot remove {what}: {error}"));
    };
    let found = directory::all_in(&parent)
        .map_err(|error| Failure::Local(format!("cannot look into {}: {error}", parent.display())))?;
    for dir in found {
        let name = dir.display().to_string();
        match directory::clean(&dir) {
            Ok(Cleaned::Removed) => out.line(&format!("{name} removed"))?,
            Ok(Cleaned::InUse) => out.line(&format!("{name} is in use"))?,
            Ok(Cleaned::Foreign) => out.line(&format!("{name} belongs to another user"))?,
            Err(error) => failed(&name, &error),
        }
    }
    match containers::remove_unused().await {
        Ok(Some(removed)) => out.line(&format!("{removed} containers removed"))?,
        Ok(None) => out.line("no Docker daemon answers: no containers were looked for")?,
        Err(failure) => failed("containers", &failure),
    }
    let clean = if is_all_removed { 0 } else { exit::GAFFER_FAILED };
    // Who only measures scratch installations has no other one.
    let Ok(access) = config::access() else {
        out.line("no server configured: no jobs were looked for")?;
        return Ok(clean);
    };
    let installation = Installation::new(access, None, Leftovers::default())?;
    let deleted = installation.delete_all_runs().await?;
    out.line(&format!("{deleted} jobs deleted from {}", installation.client.address()))?;
    Ok(clean)
}
