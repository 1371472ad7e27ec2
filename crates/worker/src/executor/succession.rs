//! How a data directory passes from a dead executor to its watchdog or to the next executor.
//!
//! The lock belongs to an open file, and what an executor is just starting has copies of all its files until it is another program.
//! So if an executor is killed at that moment, its lock is still held, by something that is about to run without anybody who
//! supervises it. The watchdog, or the next executor, kills that first: it has executed nothing of its task yet.

use std::thread;
use std::time::{Duration, Instant};

use crate::data_dir::{DataDirLock, Holder, LockFile};
use crate::driver;

/// How long a killed process may take to let go of the lock: one that waits for a dead disk may never do.
const KILL_PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(2);

/// Who has the data directory after an executor.
pub(super) enum Succession {
    /// This process. What the executor was starting is dead.
    Taken(DataDirLock),
    /// Another one.
    Another,
    /// Nobody: something that cannot be killed keeps everybody out.
    Stuck,
}

/// Takes the lock of an executor that is dead, of which this is the process id. Blocks.
pub(super) fn take(dead: i32, file: &LockFile, holder: Holder) -> Succession {
    let deadline = Instant::now() + KILL_PATIENCE;
    let mut taken = None;
    loop {
        // A dead process starts nothing any more: where nothing is found, all is another program by now.
        let was_starting = driver::kill_what_was_being_started_by(dead);
        // Where it cannot be locked, no other process can lock it either.
        taken = taken.or_else(|| file.take(holder).ok().flatten());
        match taken {
            Some(lock) if !was_starting || Instant::now() >= deadline => return Succession::Taken(lock),
            None if file.holder() != Holder::Executor(dead) => return Succession::Another,
            None if Instant::now() >= deadline => return Succession::Stuck,
            _ => thread::sleep(PAUSE),
        }
    }
}
