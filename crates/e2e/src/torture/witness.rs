//! Records every start and end of a task independently of gaffer: tasks report to its socket.

use std::collections::{BTreeMap, HashMap};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A task: job and index.
pub type TaskKey = (i64, u32);

#[derive(Debug, Default)]
pub struct Seen {
    /// The attempts of each task that began, with their processes, and whether they told of their end.
    pub attempts: HashMap<TaskKey, BTreeMap<u32, Seat>>,
    /// Attempts that began twice.
    pub double_starts: Vec<(TaskKey, u32)>,
    /// Attempts that began while an earlier one of the same task was alive.
    pub overlaps: Vec<(TaskKey, u32)>,
}

/// One attempt's process.
#[derive(Debug, Clone, Copy)]
pub struct Seat {
    pid: i32,
    /// When it was started, in ticks since the machine was.
    born: u64,
    has_ended: bool,
}

/// Listens.
pub struct Witness {
    dir: tempfile::TempDir,
    seen: Arc<Mutex<Seen>>,
}

impl Witness {
    /// Begins to listen.
    pub fn start() -> Witness {
        let dir = tempfile::Builder::new().prefix("gaffer-witness-").tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let path = dir.path().join("socket");
        let socket = UnixDatagram::bind(&path).unwrap();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (noted, path) = (seen.clone(), path.clone());
        std::thread::spawn(move || {
            let mut buffer = [0; 200];
            // Ends with the process.
            while let Ok(length) = socket.recv(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
                noted.lock().unwrap_or_else(PoisonError::into_inner).note(&text, &path);
            }
        });
        Witness { dir, seen }
    }

    pub fn path(&self) -> PathBuf {
        self.dir.path().join("socket")
    }

    pub fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Processes of tasks that are alive.
    pub fn survivors(&self) -> Vec<i32> {
        let pids = std::fs::read_dir("/proc").unwrap().flatten();
        let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        pids.filter(|pid| plays(*pid, &self.path())).collect()
    }
}

impl Seen {
    /// Takes in `start|end job index attempt pid born`.
    fn note(&mut self, text: &str, witness: &Path) {
        let mut words = text.split(' ');
        let what = words.next().unwrap_or_default();
        let numbers: Vec<i64> = words.filter_map(|word| word.parse().ok()).collect();
        let [job, index, attempt, pid, born] = numbers[..] else { panic!("nobody says {text:?}") };
        let (key, attempt) = ((job, u32::try_from(index).unwrap()), u32::try_from(attempt).unwrap());
        let (pid, born) = (i32::try_from(pid).unwrap(), born.unsigned_abs());
        let attempts = self.attempts.entry(key).or_default();
        if what == "end" {
            if let Some(seat) = attempts.get_mut(&attempt) {
                seat.has_ended = true;
            }
            return;
        }
        let others = attempts.iter().filter(|(number, seat)| **number != attempt && !seat.has_ended);
        // A number that is another process's by now is no sign of life.
        if others
            .into_iter()
            .any(|(_, seat)| plays(seat.pid, witness) && born_at(seat.pid) == Some(seat.born))
        {
            self.overlaps.push((key, attempt));
        }
        if attempts.insert(attempt, Seat { pid, born, has_ended: false }).is_some() {
            self.double_starts.push((key, attempt));
        }
    }
}

/// When a process was started, in ticks since the machine was; none if it is gone.
pub fn born_at(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Behind the name, which may have anything in it, 20 fields further on.
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// Whether a process is a living task of this witness.
fn plays(pid: i32, witness: &Path) -> bool {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.split(|byte| *byte == 0).any(|word| word == witness.as_os_str().as_encoded_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_sees_what_begins_twice_and_what_overlaps() {
        let mut seen = Seen::default();
        // This process has no such argument, so it is no living task; `/proc/self/cmdline` has its own name.
        let own_name = std::env::args().next().unwrap();
        let pid = std::process::id();
        let own = format!("{pid} {}", born_at(pid.cast_signed()).unwrap());
        let alive = Path::new(&own_name);
        seen.note(&format!("start 1 0 1 {own}"), alive);
        seen.note(&format!("start 1 0 2 {own}"), alive);
        assert_eq!(seen.overlaps, [((1, 0), 2)]);
        seen.note(&format!("start 1 1 1 {own}"), alive);
        seen.note(&format!("end 1 1 1 {own}"), alive);
        seen.note(&format!("start 1 1 2 {own}"), alive);
        assert_eq!(seen.overlaps.len(), 1, "the first was over");
        seen.note(&format!("start 1 1 2 {own}"), alive);
        assert_eq!(seen.double_starts, [((1, 1), 2)]);
        seen.note("start 1 2 1 1 1", Path::new("/nobody"));
        seen.note("start 1 2 2 1 1", Path::new("/nobody"));
        assert_eq!(seen.overlaps.len(), 1, "the first was dead");
        seen.note(&format!("start 1 3 1 {pid} 1"), alive);
        seen.note(&format!("start 1 3 2 {own}"), alive);
        assert_eq!(seen.overlaps.len(), 1, "its number is another's by now");
    }
}
