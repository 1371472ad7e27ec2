//! Output and ends on disk until the master has stored them; survives a killed worker.

mod files;
pub mod journal;
mod limits;
mod output;
pub mod progress;
pub mod segment;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::{HashMap, VecDeque};
use std::fs;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use gaffer_domain::AttemptRef;
use gaffer_domain::reason::{AttemptEnd, LostCause};
use gaffer_protocol::boot_time::BootTime;
use gaffer_protocol::definitions::StartAttempt;
use gaffer_protocol::wire::{Ended, KillReceipt};

use crate::blocking::{BlockingThreads, STORING_PATIENCE};
use crate::clock::Began;
use crate::data_dir::create_private_dir;
use files::Files;
use journal::Journal;
use limits::Limits;

pub(crate) use journal::Remembered;
pub(crate) use output::Output;
use progress::Progress;
pub(crate) use progress::{Position, StreamPosition};
use segment::Segment;
pub(crate) use writer::OutputWriter;

/// The journal and the output files of one worker.
#[derive(Debug)]
pub(crate) struct Spool {
    files: Arc<Files>,
    limits: Arc<Limits>,
    journal: Arc<Mutex<Journal>>,
    /// For entries that nobody waits for.
    journal_thread: BlockingThreads,
}

/// An attempt of an earlier process of this worker. It has ended, and the master has not acknowledged that.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub ended: Ended,
    pub output: Arc<Output>,
}

/// An attempt of an earlier process of this worker that may still run and can be adopted.
#[derive(Debug)]
pub(crate) struct Resumed {
    pub start: StartAttempt,
    pub began: Began,
    /// It is known to have started.
    pub has_started: bool,
    pub output: Arc<Output>,
    pub writer: OutputWriter,
}

/// What an earlier process left in the spool.
#[derive(Debug, Default)]
pub(crate) struct FromBefore {
    pub over: Vec<Recovered>,
    pub resumed: Vec<Resumed>,
}

/// The content of the journal in `dir`, before anything there is changed.
pub(crate) fn remembered(dir: &Path, boot_id: &str) -> anyhow::Result<Vec<Remembered>> {
    let path = dir.join("journal");
    journal::read(&path, boot_id).with_context(|| format!("cannot read the journal {}", path.display()))
}

impl Spool {
    /// Opens the spool in `dir`. Of the `remembered` attempts, those that are [resumable](Remembered::resumable)
    /// go on. Of the others nothing may run any more; those whose end nobody saw are lost, with what had to be killed
    /// of them.
    ///
    /// `disk_limit` is in bytes.
    pub fn open(
        dir: &Path,
        boot_id: &str,
        disk_limit: u64,
        remembered: Vec<Remembered>,
        killed: &HashMap<AttemptRef, KillReceipt>,
    ) -> anyhow::Result<(Spool, FromBefore)> {
        create_private_dir(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let spool_files = Files::open(dir).with_context(|| format!("cannot open {}", dir.display()))?;
        let spool_files = Arc::new(spool_files);
        let limits = Arc::new(Limits::new(disk_limit));
        let mut files = segment_files(dir).with_context(|| format!("cannot list {}", dir.display()))?;
        let (mut from_before, mut going_on) = (FromBefore::default(), Vec::new());
        for remembered in remembered {
            let starts = files.remove(&remembered.attempt).unwrap_or_default();
            let found = scan(dir, &remembered, &starts).with_context(|| {
                format!("cannot read the spooled output of attempt {}", remembered.attempt)
            })?;
            let attempt = remembered.attempt;
            if let Some((start, starting)) = remembered.resumable() {
                let progress = found.progress.unwrap_or_default();
                let output = Output::recovered(
                    attempt,
                    spool_files.clone(),
                    limits.clone(),
                    found.segments,
                    found.end,
                );
                let output = Arc::new(output);
                from_before.resumed.push(Resumed {
                    start: start.clone(),
                    began: Began { at: starting.at, boot: starting.boot },
                    has_started: remembered.started.is_some(),
                    writer: OutputWriter::new(output.clone(), spool_files.clone(), limits.clone(), progress),
                    output,
                });
                going_on.push(remembered);
                continue;
            }
            let ended = end_of(remembered, &found, killed.get(&attempt).copied(), Utc::now());
            let output = Output::recovered(
                attempt,
                spool_files.clone(),
                limits.clone(),
                found.segments,
                ended.output_bytes,
            );
            from_before.over.push(Recovered { ended, output: Arc::new(output) });
        }
        let ends: Vec<Ended> = from_before.over.iter().map(|recovered| recovered.ended.clone()).collect();
        let path = dir.join("journal");
        let journal = Journal::create(&path, boot_id, &ends, &going_on)
            .with_context(|| format!("cannot write the journal {}", path.display()))?;
        // Leftovers belong to attempts that the master knows to have ended.
        for (attempt, starts) in files {
            for start in starts {
                let path = segment::path(dir, attempt, start);
                fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
            }
        }
        let journal_thread =
            BlockingThreads::new("journal", 1, STORING_PATIENCE).context("cannot start a thread")?;
        let journal = Arc::new(Mutex::new(journal));
        Ok((Spool { files: spool_files, limits, journal, journal_thread }, from_before))
    }

    /// The output of a new attempt, and its writer.
    pub fn new_output(&self, attempt: AttemptRef) -> (Arc<Output>, OutputWriter) {
        let output = Arc::new(Output::new(attempt, self.files.clone(), self.limits.clone()));
        let writer =
            OutputWriter::new(output.clone(), self.files.clone(), self.limits.clone(), Progress::default());
        (output, writer)
    }

    /// Notes that an attempt is about to start, unless nobody wants that any more once it is its turn. After an error the attempt
    /// must not start: nobody would look for its processes. Blocks.
    ///
    /// With `resume`, a later process of the worker may go on with it.
    pub fn starting(
        &self,
        attempt: AttemptRef,
        began: Began,
        resume: Option<&StartAttempt>,
        is_wanted: impl FnOnce() -> bool,
    ) -> io::Result<()> {
        let mut journal = self.journal();
        match is_wanted() {
            true => journal.starting(attempt, began.at, began.boot, resume),
            false => Err(io::Error::other("it was given up")),
        }
    }

    /// Records that it started. Blocks.
    pub fn started(&self, attempt: AttemptRef, pid: Option<i32>) {
        let boot = BootTime::now();
        warn_of(attempt, self.journal().started(attempt, pid, boot));
    }

    /// Notes how it ended. Remembered also when the disk refuses it for now. `was_noted`: its start was. Blocks.
    pub fn ended(&self, ended: &Ended, was_noted: bool) {
        warn_of(ended.attempt, self.journal().ended(ended, was_noted));
    }

    /// The same for an attempt that never started; nobody waits for the write.
    pub fn ended_unstarted(&self, ended: Ended) {
        self.note(ended.attempt, move |journal| journal.ended(&ended, false));
    }

    /// The master knows everything about the attempt.
    pub fn forget(&self, attempt: AttemptRef) {
        self.note(attempt, move |journal| journal.forget(attempt));
    }

    /// Waits until what has been noted and removed so far is on disk, unless the disk does not respond.
    pub async fn settled(&self) {
        tokio::join!(self.journal_thread.settled(), self.files.settled());
    }

    /// Appends an entry that nobody waits for.
    fn note(&self, attempt: AttemptRef, write: impl FnOnce(&mut Journal) -> io::Result<()> + Send + 'static) {
        let journal = self.journal.clone();
        self.journal_thread.queue(move || {
            warn_of(attempt, write(&mut journal.lock().unwrap_or_else(PoisonError::into_inner)));
        });
    }

    fn journal(&self) -> MutexGuard<'_, Journal> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn warn_of(attempt: AttemptRef, noted: io::Result<()>) {
    if let Err(error) = noted {
        tracing::warn!(%attempt, %error, "cannot write to the journal; it is tried again with the next entry");
    }
}

/// The offsets at which each attempt's segments start, in order.
fn segment_files(dir: &Path) -> io::Result<HashMap<AttemptRef, Vec<u64>>> {
    let mut files: HashMap<AttemptRef, Vec<u64>> = HashMap::new();
    for entry in fs::read_dir(dir)? {
        if let Some((attempt, start)) = entry?.file_name().to_str().and_then(segment::parse_name) {
            files.entry(attempt).or_default().push(start);
        }
    }
    files.values_mut().for_each(|starts| starts.sort_unstable());
    Ok(files)
}

/// What there is of an attempt's output.
#[derive(Debug, Default)]
struct Found {
    segments: VecDeque<Segment>,
    /// Offset after the last byte.
    end: u64,
    /// Something between the first byte and the last is missing.
    has_gap: bool,
    /// Up to the end; none if unknown.
    progress: Option<Progress>,
}

fn scan(dir: &Path, remembered: &Remembered, starts: &[u64]) -> io::Result<Found> {
    let mut found = Found::default();
    let mut progress = None;
    for (at, start) in starts.iter().copied().enumerate() {
        let path = segment::path(dir, remembered.attempt, start);
        let next_start = starts.get(at + 1).copied();
        // A process that is killed tears its last file only, and the checksum is known if the end is.
        let (payload, size) = match next_start {
            Some(next) if remembered.same_boot && remembered.ended.is_some() => {
                (next - start, fs::metadata(&path)?.len())
            }
            _ => {
                let scanned = segment::scan(&path, |_| ())?;
                progress = scanned.progress;
                (scanned.payload, scanned.size)
            }
        };
        found.has_gap |= at > 0 && start != found.end;
        found.end = start + payload;
        found.segments.push_back(Segment { start, end: found.end, size });
    }
    found.progress = progress.filter(|progress| progress.bytes() == found.end);
    Ok(found)
}

/// The end to report: the one that was seen, else that the attempt is lost.
fn end_of(remembered: Remembered, found: &Found, killed: Option<KillReceipt>, now: DateTime<Utc>) -> Ended {
    if let Some(mut ended) = remembered.ended {
        // No segment: the master has everything, or there was no output.
        if found.has_gap || (!found.segments.is_empty() && found.end < ended.output_bytes) {
            ended.output_sha256 = None;
        }
        return ended;
    }
    let cause = if remembered.same_boot { LostCause::WorkerRestarted } else { LostCause::Rebooted };
    let ran_micros = match &remembered.starting {
        Some(starting) if remembered.same_boot => {
            BootTime::now().as_micros().saturating_sub(starting.boot.as_micros())
        }
        _ => 0,
    };
    Ended {
        attempt: remembered.attempt,
        end: AttemptEnd::Lost { cause },
        started_at: remembered.started.and(remembered.starting.map(|starting| starting.at)),
        ended_at: now,
        ran_micros,
        output_bytes: found.end,
        output_sha256: found.progress.clone().map(Progress::sha256),
        killed,
        container: None,
        ports: Vec::new(),
    }
}
