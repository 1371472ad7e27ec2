//! Writes a job's output: unchanged, or filtered for a terminal.

use std::fs::File;
use std::io::{self, Write};
use std::mem;
use std::sync::Arc;

use gaffer_protocol::output::Stream;

use crate::failure::Failure;
use crate::line_times::LineTimes;
use crate::matches::{MatchManner, Matches};
use crate::ndjson::Match;
use crate::out::Out;
use crate::sgr::SgrFilter;
use crate::status::Status;
use crate::style;

/// As much is collected before it is written, unless the stream pauses.
const FULL_BYTES: usize = 256 << 10;

/// How the output is shown.
#[derive(Debug, Clone, Copy, Default)]
pub struct Manner {
    /// Both streams go to standard output.
    pub merged: bool,
    /// As it is, also to a terminal.
    pub raw: bool,
    /// Each line begins with the time at which it was read.
    pub timestamps: bool,
    /// How lines are shown that a search found.
    pub matches: MatchManner,
}

/// Takes pieces of output in order and writes them in order.
pub struct Sink<'a> {
    status: &'a Status<'a>,
    merged: bool,
    timestamps: bool,
    /// What each line begins with, behind its time.
    prefix: Option<String>,
    stdout: Lane,
    stderr: Lane,
    /// Lines as they are seen: of standard output and of standard error, or of both in the first.
    lines: [LineTimes; 2],
    waiting: Batch,
    /// What a filter lets pass of the present piece.
    shown: Vec<u8>,
    matches: Matches,
}

/// One stream of the job on its way to one handle.
struct Lane {
    handle: Arc<File>,
    is_terminal: bool,
    filter: Option<SgrFilter>,
    /// Which lines it writes into.
    lines: usize,
}

/// What to write next.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    /// Runs of one handle each: the handle, and where its run ends.
    runs: Vec<(Stream, usize)>,
}

impl<'a> Sink<'a> {
    /// A sink into this process's output.
    pub fn new(out: &Out, status: &'a Status<'a>, manner: Manner) -> Sink<'a> {
        // Two handles of a terminal write on one screen.
        let is_one_screen =
            manner.merged || (out.is_terminal(Stream::Stdout) && out.is_terminal(Stream::Stderr));
        let lane = |stream| {
            let to = if manner.merged { Stream::Stdout } else { stream };
            let is_terminal = out.is_terminal(to);
            let filter = (is_terminal && !manner.raw).then(SgrFilter::default);
            let lines = usize::from(!is_one_screen && stream == Stream::Stderr);
            Lane { handle: out.handle(to), is_terminal, filter, lines }
        };
        let (stdout, stderr) = (lane(Stream::Stdout), lane(Stream::Stderr));
        let lines = [LineTimes::new(stdout.is_terminal), LineTimes::new(stderr.is_terminal)];
        Sink {
            status,
            merged: manner.merged,
            timestamps: manner.timestamps,
            prefix: None,
            stdout,
            stderr,
            lines,
            waiting: Batch::default(),
            shown: Vec::new(),
            matches: Matches::new(manner.matches, out.has_colours(Stream::Stdout)),
        }
    }

    /// Takes the next piece of a stream, read at the given time.
    pub fn take(&mut self, stream: Stream, at: &str, bytes: &[u8]) {
        let lane = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        let lines = &mut self.lines[lane.lines];
        let shown = match &mut lane.filter {
            Some(filter) => {
                self.shown.clear();
                filter.pass(bytes, &mut self.shown);
                &self.shown[..]
            }
            None => bytes,
        };
        let into = &mut self.waiting.bytes;
        match (self.timestamps, &self.prefix) {
            (false, None) => {
                lines.note(shown);
                into.extend_from_slice(shown);
            }
            (true, None) => lines.pass(at, shown, into),
            (false, Some(prefix)) => lines.pass(prefix, shown, into),
            (true, Some(prefix)) => lines.pass(&format!("{at} {prefix}"), shown, into),
        }
        self.waiting.end_run(if self.merged { Stream::Stdout } else { stream });
    }

    /// What follows is of another task: each line of it begins with this name. A line of the task before that has no end gets one.
    pub fn begin_task(&mut self, name: &str) {
        self.prefix = Some(format!("{}:", style::visible(name)));
        for (at, stream) in [(0, Stream::Stdout), (1, Stream::Stderr)] {
            if self.lines[at].is_inside_line() {
                self.lines[at].note(b"\n");
                self.waiting.bytes.push(b'\n');
                self.waiting.end_run(stream);
            }
        }
    }

    /// Takes a line that a search found. Lines are apart in the output, so none inherits colours of another.
    ///
    /// # Errors
    /// [`Failure::Garbled`] if its bytes cannot be read.
    pub fn take_match(&mut self, found: &Match<'_>) -> Result<(), Failure> {
        let mut scratch = Vec::new();
        let bytes = found.bytes(&mut scratch)?;
        if self.matches.begins_group(found) {
            self.waiting.bytes.extend_from_slice(b"--\n");
        }
        let mut line = Vec::new();
        self.matches.write(found, bytes, &mut line);
        self.shown.clear();
        let shown = match &self.stdout.filter {
            Some(_) => {
                let mut filter = SgrFilter::default();
                let content = line.strip_suffix(b"\n").unwrap_or(&line);
                filter.pass(content, &mut self.shown);
                if filter.is_coloured() {
                    self.shown.extend_from_slice(b"\x1b[0m");
                }
                self.shown.push(b'\n');
                &self.shown[..]
            }
            None => &line,
        };
        let (lines, into) = (&mut self.lines[self.stdout.lines], &mut self.waiting.bytes);
        if self.timestamps {
            lines.pass(&found.at, shown, into);
        } else {
            into.extend_from_slice(shown);
        }
        self.waiting.end_run(Stream::Stdout);
        Ok(())
    }

    /// Whether it is time to write.
    pub fn is_full(&self) -> bool {
        self.waiting.bytes.len() >= FULL_BYTES
    }

    /// Writes what was taken. It is done by another thread: who reads our output may be slow, and a signal must be heard
    /// all the same.
    ///
    /// # Errors
    /// [`Failure::Output`].
    pub async fn flush(&mut self) -> Result<(), Failure> {
        if self.waiting.runs.is_empty() {
            return Ok(());
        }
        self.status.retire();
        let batch = mem::take(&mut self.waiting);
        let (stdout, stderr) = (Arc::clone(&self.stdout.handle), Arc::clone(&self.stderr.handle));
        let written = tokio::task::spawn_blocking(move || batch.write(&stdout, &stderr)).await;
        self.waiting = written.map_err(io::Error::other)??;
        Ok(())
    }

    /// Gives a terminal back as it was: colours off, and a new line if a line of our own is to follow.
    pub fn close(&self, line_follows: bool) {
        let on_terminal = || [&self.stdout, &self.stderr].into_iter().filter(|lane| lane.is_terminal);
        // The output itself has been written; errors of a closed terminal are ignored.
        for lane in on_terminal().filter(|lane| lane.filter.as_ref().is_some_and(SgrFilter::is_coloured)) {
            let _ = (&*lane.handle).write_all(b"\x1b[0m");
        }
        let is_inside_line = |lane: &&Lane| self.lines[lane.lines].is_inside_line();
        if let Some(lane) = on_terminal().find(is_inside_line).filter(|_| line_follows) {
            let _ = (&*lane.handle).write_all(b"\n");
        }
    }
}

impl Batch {
    fn end_run(&mut self, stream: Stream) {
        let end = self.bytes.len();
        match self.runs.last_mut() {
            Some((last, last_end)) if *last == stream => *last_end = end,
            _ => self.runs.push((stream, end)),
        }
    }

    /// Writes everything and gives the emptied batch back, for its memory.
    fn write(mut self, stdout: &File, stderr: &File) -> io::Result<Batch> {
        let mut from = 0;
        for (stream, to) in self.runs.drain(..) {
            let mut handle = match stream {
                Stream::Stdout => stdout,
                Stream::Stderr => stderr,
            };
            handle.write_all(&self.bytes[from..to])?;
            from = to;
        }
        self.bytes.clear();
        Ok(self)
    }
}
