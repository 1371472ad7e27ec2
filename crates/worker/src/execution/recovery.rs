//! Recovery after a crash: kills processes of an earlier executor, and reports their attempts as ended.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use anyhow::Context as _;
use gaffer_domain::AttemptRef;
use gaffer_protocol::wire::KillReceipt;

use crate::driver::{self, Leftover};
use crate::spool::{self, FromBefore, Recovered, Remembered, Resumed, Spool};

/// The file in which a watchdog records what it killed.
const KILLED: &str = "killed";

/// Kills what is left of an earlier process and opens the spool. Blocks, for seconds if a process does not exit.
pub(super) fn recover(
    spool_dir: &Path,
    boot_id: &str,
    token: &str,
    spool_limit: u64,
) -> anyhow::Result<(Spool, FromBefore)> {
    let (remembered, killed) = end_remembered(spool_dir, boot_id, token);
    let remembered = remembered?;
    let (spool, from_before) =
        Spool::open(spool_dir, boot_id, spool_limit, remembered, &killed).context("cannot open the spool")?;
    // The journal has it by now.
    let _ = fs::remove_file(spool_dir.join(KILLED));
    for Recovered { ended, .. } in &from_before.over {
        let (killed, left) = ended.killed.map_or((0, 0), |receipt| (receipt.killed, receipt.left));
        tracing::info!(attempt = %ended.attempt, end = ?ended.end, killed, left, "found an attempt of an earlier run");
    }
    for Resumed { start, .. } in &from_before.resumed {
        tracing::info!(attempt = %start.attempt, "resuming an attempt of an earlier run");
    }
    Ok((spool, from_before))
}

/// Kills what is left of an earlier process, and records it for the executor that opens the spool. Returns whether
/// that has anything to adopt.
pub(super) fn end_leftovers(spool_dir: &Path, boot_id: &str, token: &str) -> anyhow::Result<bool> {
    let (remembered, killed) = end_remembered(spool_dir, boot_id, token);
    let remembered = remembered?;
    let killed: Vec<(AttemptRef, KillReceipt)> = killed.into_iter().collect();
    let path = spool_dir.join(KILLED);
    fs::write(&path, serde_json::to_vec(&killed)?)
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(remembered.iter().any(|remembered| remembered.resumable().is_some()))
}

/// Kills what is left of an earlier process; also where its journal cannot be read. Returns the journal, and what was killed since a
/// spool was last opened here.
fn end_remembered(
    spool_dir: &Path,
    boot_id: &str,
    token: &str,
) -> (anyhow::Result<Vec<Remembered>>, HashMap<AttemptRef, KillReceipt>) {
    let remembered = spool::remembered(spool_dir, boot_id);
    let mut killed = noted(spool_dir);
    add(&mut killed, kill_leftovers(token, remembered.as_deref().unwrap_or_default()));
    (remembered, killed)
}

/// What a watchdog noted down since a spool was last opened here.
fn noted(spool_dir: &Path) -> HashMap<AttemptRef, KillReceipt> {
    let text = fs::read(spool_dir.join(KILLED)).unwrap_or_default();
    serde_json::from_slice::<Vec<_>>(&text).unwrap_or_default().into_iter().collect()
}

fn add(killed: &mut HashMap<AttemptRef, KillReceipt>, more: HashMap<AttemptRef, KillReceipt>) {
    for (attempt, receipt) in more {
        let killed_before = killed.get(&attempt).map_or(0, |before| before.killed);
        killed.insert(attempt, KillReceipt { killed: killed_before + receipt.killed, ..receipt });
    }
}

fn kill_leftovers(token: &str, remembered: &[Remembered]) -> HashMap<AttemptRef, KillReceipt> {
    let marker = |attempt: AttemptRef| format!("{token}/{attempt}");
    let unfinished = remembered.iter().filter(|remembered| {
        remembered.same_boot && remembered.ended.is_none() && remembered.resumable().is_none()
    });
    let leftovers: Vec<Leftover> = unfinished
        .filter_map(|remembered| {
            let starting = remembered.starting.as_ref()?;
            Some(Leftover {
                pid: remembered.started.and_then(|started| started.pid),
                after: starting.boot,
                before: remembered.started.map_or(starting.boot, |started| started.boot),
                marker: marker(remembered.attempt),
            })
        })
        .collect();
    let mut receipts = driver::kill_leftovers(token, &leftovers);
    let of = |remembered: &Remembered| {
        let receipt = receipts.remove(&marker(remembered.attempt))?;
        Some((remembered.attempt, receipt))
    };
    remembered.iter().filter_map(of).collect()
}
