//! The journal of attempts, for recovery after a crash.
//!
//! An append-only text file with one entry per line: a CRC-32 in hexadecimal, a space and a JSON object. Torn or damaged
//! lines are skipped. It is not synced: it must survive the worker process, and after a crash of the machine no attempt
//! runs any more.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use gaffer_domain::AttemptRef;
use gaffer_protocol::boot_time::BootTime;
use gaffer_protocol::definitions::StartAttempt;
use gaffer_protocol::wire::Ended;
use serde::{Deserialize, Serialize};

/// The file is written anew when it is so long and mostly about attempts that are forgotten.
const COMPACT_BYTES: u64 = 4 << 20;

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "entry", rename_all = "snake_case")]
enum Entry {
    /// The first line: everything after it happened since this boot of the machine.
    Opened { boot_id: String },
    /// The attempt is about to start.
    Starting {
        attempt: AttemptRef,
        at: DateTime<Utc>,
        boot_micros: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        resume: Option<Box<StartAttempt>>,
    },
    /// It started between the entry before and `boot_micros`, with this main process if it has one.
    Started { attempt: AttemptRef, pid: Option<i32>, boot_micros: u64 },
    /// It has ended.
    Ended(Box<Ended>),
    /// The master knows that it has ended.
    Forgotten { attempt: AttemptRef },
}

/// The journal's state of an attempt.
#[derive(Debug, Clone, PartialEq)]
pub struct Remembered {
    pub attempt: AttemptRef,
    pub starting: Option<Starting>,
    pub started: Option<Started>,
    pub ended: Option<Ended>,
    /// The machine has not been restarted since.
    pub same_boot: bool,
}

/// When an attempt began to start.
#[derive(Debug, Clone, PartialEq)]
pub struct Starting {
    pub at: DateTime<Utc>,
    pub boot: BootTime,
    /// What was to be started, if its driver finds it again in another process.
    pub resume: Option<Box<StartAttempt>>,
}

/// The start of an attempt.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Started {
    /// Its main process, if it has one.
    pub pid: Option<i32>,
    /// That was there by then.
    pub boot: BootTime,
}

#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    first_line: String,
    length: u64,
    /// The lines of each attempt that is not forgotten.
    live: HashMap<AttemptRef, String>,
    live_bytes: u64,
    /// The file lacks an entry, or ends with part of a line: rewrite it before appending.
    damaged: bool,
}

/// Reads a journal from before; a missing file is an empty one. Gives the attempts in no particular order.
pub fn read(path: &Path, boot_id: &str) -> io::Result<Vec<Remembered>> {
    let text = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut attempts: HashMap<AttemptRef, Remembered> = HashMap::new();
    let mut same_boot = false;
    for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let Some(entry) = parse(line) else {
            tracing::warn!(path = %path.display(), "skipping a damaged line of the journal");
            continue;
        };
        let attempt = match &entry {
            Entry::Opened { boot_id: of_file } => {
                same_boot = of_file == boot_id;
                continue;
            }
            Entry::Forgotten { attempt } => {
                attempts.remove(attempt);
                continue;
            }
            Entry::Starting { attempt, .. } | Entry::Started { attempt, .. } => *attempt,
            Entry::Ended(ended) => ended.attempt,
        };
        let remembered = attempts.entry(attempt).or_insert(Remembered {
            attempt,
            starting: None,
            started: None,
            ended: None,
            same_boot,
        });
        match entry {
            Entry::Opened { .. } | Entry::Forgotten { .. } => {}
            Entry::Starting { at, boot_micros, resume, .. } => {
                remembered.starting = Some(Starting { at, boot: BootTime::from_micros(boot_micros), resume });
            }
            Entry::Started { pid, boot_micros, .. } => {
                remembered.started = Some(Started { pid, boot: BootTime::from_micros(boot_micros) });
            }
            Entry::Ended(ended) => remembered.ended = Some(*ended),
        }
    }
    Ok(attempts.into_values().collect())
}

impl Journal {
    /// Starts a new file with the given ends and running attempts, in place of the old one.
    pub fn create(
        path: &Path,
        boot_id: &str,
        ended: &[Ended],
        going_on: &[Remembered],
    ) -> io::Result<Journal> {
        let first_line = line(&Entry::Opened { boot_id: boot_id.to_owned() })?;
        let mut live = HashMap::new();
        for ended in ended {
            live.insert(ended.attempt, line(&Entry::Ended(Box::new(ended.clone())))?);
        }
        for remembered in going_on {
            live.insert(remembered.attempt, remembered.lines()?);
        }
        let live_bytes = live.values().map(|lines| lines.len() as u64).sum();
        let (file, length) = write_anew(path, &first_line, &live)?;
        Ok(Journal { path: path.to_owned(), file, first_line, length, live, live_bytes, damaged: false })
    }

    /// The attempt is about to start. After an error it must not: nobody would look for its processes.
    ///
    /// With `resume`, a later process of the worker may go on with it.
    pub fn starting(
        &mut self,
        attempt: AttemptRef,
        at: DateTime<Utc>,
        boot: BootTime,
        resume: Option<&StartAttempt>,
    ) -> io::Result<()> {
        let resume = resume.map(|start| Box::new(start.clone()));
        let entry = Entry::Starting { attempt, at, boot_micros: boot.as_micros(), resume };
        let noted = self.append(attempt, &entry);
        if noted.is_err() {
            // It does not start, and is asked again and again while the disk is full.
            self.drop_lines(attempt);
        }
        noted
    }

    /// It started. Nothing is noted of one that was forgotten meanwhile.
    pub fn started(&mut self, attempt: AttemptRef, pid: Option<i32>, boot: BootTime) -> io::Result<()> {
        if !self.live.contains_key(&attempt) {
            return Ok(());
        }
        self.append(attempt, &Entry::Started { attempt, pid, boot_micros: boot.as_micros() })
    }

    /// It has ended. Remembered even after an error, and written as soon as the disk accepts it. `was_noted`: its start was, so
    /// if nothing is known of it now, it was forgotten meanwhile.
    pub fn ended(&mut self, ended: &Ended, was_noted: bool) -> io::Result<()> {
        if was_noted && !self.live.contains_key(&ended.attempt) {
            return Ok(());
        }
        self.append(ended.attempt, &Entry::Ended(Box::new(ended.clone())))
    }

    /// It matters no more.
    pub fn forget(&mut self, attempt: AttemptRef) -> io::Result<()> {
        match self.drop_lines(attempt) {
            true => self.write(&line(&Entry::Forgotten { attempt })?),
            false => Ok(()),
        }
    }

    /// Forgets the lines of an attempt; false if there were none.
    fn drop_lines(&mut self, attempt: AttemptRef) -> bool {
        let Some(lines) = self.live.remove(&attempt) else { return false };
        self.live_bytes -= lines.len() as u64;
        true
    }

    fn append(&mut self, attempt: AttemptRef, entry: &Entry) -> io::Result<()> {
        let line = line(entry)?;
        self.live.entry(attempt).or_default().push_str(&line);
        self.live_bytes += line.len() as u64;
        self.write(&line)
    }

    /// Appends a line that `live` reflects already.
    fn write(&mut self, line: &str) -> io::Result<()> {
        let is_mostly_dead = self.length >= COMPACT_BYTES && self.live_bytes < self.length / 4;
        if self.damaged || is_mostly_dead {
            let written = write_anew(&self.path, &self.first_line, &self.live);
            self.damaged |= written.is_err();
            (self.file, self.length) = written?;
            self.damaged = false;
            return Ok(());
        }
        match self.file.write_all(line.as_bytes()) {
            Ok(()) => self.length += line.len() as u64,
            Err(error) => {
                self.damaged = true;
                return Err(error);
            }
        }
        Ok(())
    }
}

impl Remembered {
    /// What was started and when, if it may still run and can be adopted.
    pub fn resumable(&self) -> Option<(&StartAttempt, &Starting)> {
        let starting = self.starting.as_ref().filter(|_| self.same_boot && self.ended.is_none())?;
        Some((starting.resume.as_deref()?, starting))
    }

    /// The entries that say of its beginning what this does.
    fn lines(&self) -> io::Result<String> {
        let attempt = self.attempt;
        let mut lines = String::new();
        if let Some(Starting { at, boot, resume }) = &self.starting {
            let (at, boot_micros, resume) = (*at, boot.as_micros(), resume.clone());
            lines.push_str(&line(&Entry::Starting { attempt, at, boot_micros, resume })?);
        }
        if let Some(Started { pid, boot }) = self.started {
            lines.push_str(&line(&Entry::Started { attempt, pid, boot_micros: boot.as_micros() })?);
        }
        Ok(lines)
    }
}

/// Replaces the file at once by one with these lines; gives it open for appending, and its length.
fn write_anew(path: &Path, first_line: &str, live: &HashMap<AttemptRef, String>) -> io::Result<(File, u64)> {
    let draft = path.with_extension("new");
    let mut file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&draft)?;
    let mut text = String::from(first_line);
    live.values().for_each(|lines| text.push_str(lines));
    file.write_all(text.as_bytes())?;
    fs::rename(&draft, path)?;
    Ok((file, text.len() as u64))
}

fn line(entry: &Entry) -> io::Result<String> {
    let json = serde_json::to_string(entry)?;
    Ok(format!("{:08x} {json}\n", crc32fast::hash(json.as_bytes())))
}

fn parse(line: &[u8]) -> Option<Entry> {
    let (check, json) = (line.get(..8)?, line.get(9..)?);
    let check = u32::from_str_radix(std::str::from_utf8(check).ok()?, 16).ok()?;
    if crc32fast::hash(json) != check {
        return None;
    }
    serde_json::from_slice(json).ok()
}

#[cfg(test)]
mod tests;
