//! What an earlier process of this worker left: its processes are killed, its attempts are over and wait for the
//! master's acknowledgement.

use std::collections::HashMap;
use std::path::Path;

use anyhow::Context as _;
use gaffer_domain::AttemptRef;
use gaffer_protocol::wire::KillReceipt;

use crate::driver::{self, Leftover};
use crate::spool::{self, FromBefore, Recovered, Remembered, Resumed, Spool};

/// Ends what is left of an earlier process and opens the spool. Blocks, for seconds if something will not die.
pub(super) fn recover(
    spool_dir: &Path,
    boot_id: &str,
    token: &str,
    spool_limit: u64,
) -> anyhow::Result<(Spool, FromBefore)> {
    let remembered = spool::remembered(spool_dir, boot_id)?;
    let killed = kill_leftovers(token, &remembered);
    let (spool, from_before) =
        Spool::open(spool_dir, boot_id, spool_limit, remembered, &killed).context("cannot open the spool")?;
    for Recovered { ended, .. } in &from_before.over {
        let (killed, left) = ended.killed.map_or((0, 0), |receipt| (receipt.killed, receipt.left));
        tracing::info!(attempt = %ended.attempt, end = ?ended.end, killed, left, "found an attempt of an earlier run");
    }
    for Resumed { start, .. } in &from_before.resumed {
        tracing::info!(attempt = %start.attempt, "going on with an attempt of an earlier run");
    }
    Ok((spool, from_before))
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
