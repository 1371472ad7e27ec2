//! Standard output and standard error of this process, and whether they are terminals.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::Arc;

use comfy_table::Table;
use gaffer_protocol::output::Stream;

use crate::config;
use crate::failure::Failure;
use crate::style::{self, Colour};

/// Where a command writes to.
///
/// The handles are files of their own, so that nothing of what is written waits in a buffer that nobody flushes.
pub struct Out {
    stdout: Arc<File>,
    stderr: Arc<File>,
    stdout_is_terminal: bool,
    stderr_is_terminal: bool,
    colours: bool,
}

impl Out {
    /// The process's own.
    ///
    /// # Errors
    /// [`Failure::Output`] when the handles can't be had.
    pub fn of_process() -> Result<Out, Failure> {
        Ok(Out {
            stdout: Arc::new(File::from(io::stdout().as_fd().try_clone_to_owned()?)),
            stderr: Arc::new(File::from(io::stderr().as_fd().try_clone_to_owned()?)),
            stdout_is_terminal: io::stdout().is_terminal(),
            stderr_is_terminal: io::stderr().is_terminal(),
            colours: !config::no_color(),
        })
    }

    /// The handle that a stream of a job goes to.
    pub fn handle(&self, stream: Stream) -> Arc<File> {
        Arc::clone(match stream {
            Stream::Stdout => &self.stdout,
            Stream::Stderr => &self.stderr,
        })
    }

    /// Whether a person looks at it.
    pub fn is_terminal(&self, stream: Stream) -> bool {
        match stream {
            Stream::Stdout => self.stdout_is_terminal,
            Stream::Stderr => self.stderr_is_terminal,
        }
    }

    /// Whether our own text on that stream may have colours.
    pub fn has_colours(&self, stream: Stream) -> bool {
        self.colours && self.is_terminal(stream)
    }

    /// Columns of the terminal, if there is one.
    pub fn columns(&self) -> Option<u16> {
        let mut probe = Table::new();
        if !self.stdout_is_terminal {
            probe.use_stderr();
        }
        // Some terminals report a width of 0.
        probe.width().filter(|columns| *columns > 0)
    }

    /// Writes to standard output.
    ///
    /// # Errors
    /// [`Failure::Output`], also when the reader went away.
    pub fn print(&self, bytes: &[u8]) -> Result<(), Failure> {
        Ok((&*self.stdout).write_all(bytes)?)
    }

    /// Writes a line to standard output.
    ///
    /// # Errors
    /// As [`Out::print`].
    pub fn line(&self, text: &str) -> Result<(), Failure> {
        self.print(format!("{text}\n").as_bytes())
    }

    /// Writes a line to standard error; failures are ignored.
    pub fn note(&self, text: &str) {
        self.note_raw(&format!("{text}\n"));
    }

    /// Writes to standard error as it is.
    pub fn note_raw(&self, text: &str) {
        // Who closed standard error does not want to know.
        let _ = (&*self.stderr).write_all(text.as_bytes());
    }

    /// Writes a line to standard error that only a person wants to see.
    pub fn remark(&self, text: &str) {
        if self.stderr_is_terminal {
            self.note(text);
        }
    }

    /// A state with its sign, for the given stream.
    pub fn state(&self, state: &str, stream: Stream) -> String {
        let text = format!("{} {}", style::glyph(state), style::visible(state));
        style::paint(&text, style::colour(state), self.has_colours(stream))
    }

    /// Dimmed text for standard output.
    pub fn dim(&self, text: &str) -> String {
        style::paint(text, Colour::Dim, self.has_colours(Stream::Stdout))
    }
}
