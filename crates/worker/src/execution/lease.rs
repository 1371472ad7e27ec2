//! Enforces leases: kills an attempt before the master may replace it.

use std::fs::{File, OpenOptions};
use std::future::Future;
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gaffer_protocol::boot_time::BootTime;

use super::Core;
use crate::blocking::{BlockingThreads, PATIENCE};
use crate::clock::BootAlarm;

/// How long to wait after a timer failed, which no kernel does.
const TIMER_RETRY: Duration = Duration::from_secs(1);

/// The file with the time of the last contact with the master, for a later process of this worker: adopted attempts
/// keep their lease. It is not synced, because no attempt outlives its machine, and nobody waits for the write,
/// because an older lease is a shorter one.
pub(super) struct ContactFile {
    file: Arc<File>,
    boot_id: String,
    /// The next value to write; none if it is written.
    next: Arc<Mutex<Option<BootTime>>>,
    thread: BlockingThreads,
}

impl ContactFile {
    pub fn open(data_dir: &Path, boot_id: &str) -> io::Result<ContactFile> {
        let path = data_dir.join("contact");
        let file =
            OpenOptions::new().create(true).truncate(false).read(true).write(true).mode(0o600).open(path)?;
        Ok(ContactFile {
            file: Arc::new(file),
            boot_id: boot_id.to_owned(),
            next: Arc::default(),
            thread: BlockingThreads::new("contact", 1, PATIENCE)?,
        })
    }

    /// The stored time; none if it is from another boot.
    pub fn read(&self) -> Option<BootTime> {
        let mut bytes = [0; 100];
        let length = self.file.read_at(&mut bytes, 0).ok()?;
        let line = std::str::from_utf8(&bytes[..length]).ok()?.lines().next()?;
        let micros = line.strip_prefix(&self.boot_id)?.strip_prefix(' ')?;
        micros.trim().parse().ok().map(BootTime::from_micros)
    }

    pub fn write(&self, at: BootTime) {
        let is_waiting = lock(&self.next).replace(at).is_some();
        if is_waiting {
            return;
        }
        let (file, boot_id, next) = (self.file.clone(), self.boot_id.clone(), self.next.clone());
        self.thread.queue(move || {
            let Some(at) = lock(&next).take() else { return };
            // Of a fixed length, so that no write leaves something of an earlier one.
            let line = format!("{boot_id} {:020}\n", at.as_micros());
            if let Err(error) = file.write_all_at(line.as_bytes(), 0) {
                tracing::debug!(%error, "cannot store the time of the last contact with the master");
            }
        });
    }
}

fn lock(next: &Mutex<Option<BootTime>>) -> MutexGuard<'_, Option<BootTime>> {
    next.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Kills attempts as their leases run out. Never ends. Must be called inside a Tokio runtime.
pub(super) fn watch(core: Arc<Core>) -> io::Result<impl Future<Output = ()> + Send> {
    let alarm = BootAlarm::new()?;
    Ok(async move {
        loop {
            let next = core.expire(BootTime::now());
            let armed = alarm.set(next);
            let rung = async {
                armed?;
                alarm.ring().await
            };
            tokio::select! {
                rung = rung => if let Err(error) = rung {
                    tracing::error!(%error, "cannot wait for the end of a lease");
                    tokio::time::sleep(TIMER_RETRY).await;
                },
                () = core.lease_changed.notified() => {}
            }
        }
    })
}

impl Core {
    /// Ends what has lost its lease by `now`. Gives the moment at which the next lease runs out.
    pub(super) fn expire(self: &Arc<Self>, now: BootTime) -> Option<BootTime> {
        let (expired, next) = self.state().expire(now);
        self.lease_end.send_if_modified(|end| std::mem::replace(end, next) != next);
        if expired > 0 {
            tracing::warn!(attempts = expired, "no contact with the master for too long: stopping attempts");
            self.eventful.notify_one();
            self.launch_ready();
        }
        next
    }
}
