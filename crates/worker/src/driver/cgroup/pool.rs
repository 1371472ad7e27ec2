//! A pool of cgroups (version 1), because creating one costs more than a short task.

use std::fmt::Display;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::{open_to_write, write};

/// Those that are kept for later.
const MAX_FREE: usize = 64;

/// The cgroups of this worker for one controller.
#[derive(Debug)]
pub(super) struct Pool {
    /// This worker's directory there.
    dir: PathBuf,
    /// Where a thread comes back to.
    home: File,
    /// The file that sets the limit; none for a controller that has no limit to set.
    limit_file: Option<&'static str>,
    /// What one has to be before it is used again.
    reuse: Reuse,
    free: Mutex<Vec<Room>>,
    next: AtomicU64,
}

/// Whether and how the cgroups of a controller are used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reuse {
    /// As they are: a limit that is set already stays.
    AsTheyAre,
    /// With a limit that is set again: a fresh quota starts unused.
    WithFreshLimit,
    /// Not: what was used stays accounted for.
    Never,
}

/// One cgroup.
#[derive(Debug)]
pub(super) struct Room {
    dir: PathBuf,
    /// Where a thread goes in.
    door: File,
    /// What its files were last set to: to open and write one takes longer than to remember it.
    settings: Vec<(&'static str, String)>,
}

impl Pool {
    /// `base`: the cgroup of this process.
    pub fn open(base: &Path, name: &str, limit_file: Option<&'static str>, reuse: Reuse) -> io::Result<Pool> {
        Ok(Pool {
            dir: base.join(name),
            home: open_to_write(&base.join("tasks"))?,
            limit_file,
            reuse,
            free: Mutex::default(),
            next: AtomicU64::new(1),
        })
    }

    /// An empty one with this limit.
    pub fn take(&self, limit: impl Display) -> io::Result<Room> {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut room = match free {
            Some(room) => room,
            None => {
                let dir = self.dir.join(self.next.fetch_add(1, Ordering::Relaxed).to_string());
                fs::create_dir(&dir)?;
                let door = open_to_write(&dir.join("tasks"));
                Room { dir, door: door?, settings: Vec::new() }
            }
        };
        let Some(file) = self.limit_file else { return Ok(room) };
        if self.reuse != Reuse::AsTheyAre {
            room.forget(file);
        }
        match room.set(file, limit) {
            Err(error) => {
                room.remove();
                Err(error)
            }
            Ok(()) => Ok(room),
        }
    }

    /// Takes one back, which is looked into unless it is known to be empty. One with something in it stays for the next process
    /// of this worker to look at.
    pub fn give_back(&self, room: Room, is_empty: bool) {
        let is_empty = is_empty || room.is_empty();
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        if self.reuse != Reuse::Never && free.len() < MAX_FREE && is_empty {
            free.push(room);
        } else {
            drop(free);
            room.remove();
        }
    }

    /// Lets this thread be at home again.
    pub fn go_home(&self) -> io::Result<()> {
        (&mut &self.home).write_all(b"0")
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let free = std::mem::take(&mut *self.free.lock().unwrap_or_else(PoisonError::into_inner));
        free.into_iter().for_each(Room::remove);
        // Stays while something is in it.
        let _ = fs::remove_dir(&self.dir);
    }
}

impl Room {
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Sets a file of it, unless that is what it was last set to.
    pub fn set(&mut self, file: &'static str, value: impl Display) -> io::Result<()> {
        let value = value.to_string();
        if self.settings.iter().any(|(name, set)| *name == file && *set == value) {
            return Ok(());
        }
        self.forget(file);
        write(&self.dir.join(file), &value)?;
        self.settings.push((file, value));
        Ok(())
    }

    /// Somebody else has set a file of it, or it must be set again.
    pub fn forget(&mut self, file: &'static str) {
        self.settings.retain(|(name, _)| *name != file);
    }

    /// Moves this thread in; processes that it starts are born there.
    pub fn enter(&self) -> io::Result<()> {
        (&mut &self.door).write_all(b"0")
    }

    fn is_empty(&self) -> bool {
        fs::read(self.dir.join("cgroup.procs")).is_ok_and(|procs| procs.is_empty())
    }

    fn remove(self) {
        let _ = fs::remove_dir(&self.dir);
    }
}
