//! Periodic checks, and reactions to a failing driver.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use gaffer_protocol::wire::ToMaster;
use tokio::time::{Instant, MissedTickBehavior};

use super::Core;
use crate::blocking::NoAnswer;
use crate::driver;
use crate::stats::{self, Disk, DiskWatch};

/// Default maximum of the spool; on a small disk half of the free space.
const DEFAULT_SPOOL_LIMIT: u64 = 4 << 30;
/// With less free disk than this, or than this share of it, nothing new starts: journal and spool come first.
const LOW_DISK_BYTES: u64 = 64 << 20;
const LOW_DISK_DIVISOR: u64 = 20;
/// How often to check the disk, and to reap orphans.
const INTERVAL: Duration = Duration::from_secs(5);

/// Tells the master when a driver fails or works again. Never ends.
pub(super) async fn report_drivers(core: Arc<Core>) {
    let mut told = core.context.drivers.status();
    loop {
        let changes = core.context.drivers.changes();
        let drivers = core.context.drivers.status();
        if drivers != told {
            told.clone_from(&drivers);
            core.state().report(ToMaster::Drivers { drivers });
            core.eventful.notify_one();
        }
        changes.await;
    }
}

/// Looks after what drivers could not bring to an end. Never ends.
pub(super) async fn look_after_drivers(core: Arc<Core>) {
    let mut interval = tokio::time::interval(INTERVAL);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        driver::reap_forsaken_orphans();
        let drivers = core.context.drivers.clone();
        // Inspecting a hanging process may block.
        let _ = tokio::task::spawn_blocking(move || drivers.look_again()).await;
    }
}

/// Lets nothing start while the disk is nearly full, or does not answer. Never ends.
pub(super) async fn watch_disk(core: Arc<Core>, data_dir: PathBuf) {
    let mut disk = DiskWatch::new(&data_dir);
    let mut interval = tokio::time::interval_at(Instant::now() + INTERVAL, INTERVAL);
    loop {
        interval.tick().await;
        match disk.look(INTERVAL).await {
            Ok(Some(disk)) => core.note_disk(&data_dir, disk),
            Ok(None) => {}
            Err(NoAnswer) => {
                if core.state().set_disk_is_low(true) {
                    let path = data_dir.display();
                    tracing::warn!(%path, "the disk of the data directory does not respond; starting no new tasks");
                }
            }
        }
    }
}

impl Core {
    /// The disk of the data directory is in this state.
    pub(super) fn note_disk(self: &Arc<Self>, data_dir: &Path, disk: Disk) {
        let is_low = disk.available < LOW_DISK_BYTES.min(disk.total / LOW_DISK_DIVISOR);
        let has_changed = self.state().set_disk_is_low(is_low);
        match (has_changed, is_low) {
            (false, _) => {}
            (true, true) => tracing::warn!(
                free_bytes = disk.available,
                "the disk of {} is almost full; starting no new tasks",
                data_dir.display()
            ),
            (true, false) => {
                tracing::info!("the disk of {} has free space again", data_dir.display());
                self.launch_ready();
            }
        }
    }
}

pub(super) fn default_spool_limit(data_dir: &Path) -> u64 {
    let free = stats::disk(data_dir).map_or(u64::MAX, |disk| disk.available);
    DEFAULT_SPOOL_LIMIT.min(free / 2)
}
