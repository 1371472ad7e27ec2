//! Standard input of `gaffer run`: passed to the task with `-i`, otherwise a warning.

use std::fs::File;
use std::io::{self, IsTerminal as _, Read as _, Seek as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileTypeExt as _;
use std::time::Duration;

use bytes::Bytes;
use gaffer_domain::JobId;
use gaffer_protocol::rest::{StdinPosition, StdinState};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use crate::attach;
use crate::backoff::Backoff;
use crate::client::Client;
use crate::failure::Failure;
use crate::status::Status;

/// The most bytes of one request.
const MAX_BYTES: usize = 64 << 10;
/// Interval of empty requests while there is nothing to write: they show that the writer is still there.
const SIGN_OF_LIFE: Duration = Duration::from_secs(20);
/// Before asking again whether the task has started: the first pause, which doubles, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Whether standard input has unread data: in a pipe, or in a file after the current position. Reads nothing.
pub fn is_piped_in() -> bool {
    let stdin = io::stdin();
    if stdin.is_terminal() {
        return false;
    }
    let Ok(file) = stdin.as_fd().try_clone_to_owned().map(File::from) else { return false };
    let Ok(metadata) = file.metadata() else { return false };
    if metadata.is_file() {
        return (&file).stream_position().is_ok_and(|position| position < metadata.len());
    }
    if !metadata.file_type().is_fifo() {
        return false;
    }
    let mut asked = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
    poll(&mut asked, PollTimeout::ZERO).is_ok()
        && asked.iter().any(|pipe| pipe.revents().is_some_and(|found| found.contains(PollFlags::POLLIN)))
}

/// Passes standard input to the only task of a job, to its end. Never returns: the caller drops it.
pub async fn pass_on(client: &Client, job: JobId, task: &str, status: &Status<'_>) {
    let passing = Passing { client, job, task, status, writer: Uuid::new_v4(), offset: 0 };
    if let Err(failure) = passing.run().await {
        status.note(&format!("standard input is no longer passed to the command: {failure}"));
    }
    std::future::pending().await
}

struct Passing<'a> {
    client: &'a Client,
    job: JobId,
    task: &'a str,
    status: &'a Status<'a>,
    writer: Uuid,
    /// What the task has taken.
    offset: u64,
}

impl Passing<'_> {
    async fn run(mut self) -> Result<(), Failure> {
        let mut pieces = read();
        loop {
            let (piece, is_last) = match timeout(SIGN_OF_LIFE, pieces.recv()).await {
                Ok(Some(Ok(piece))) => (piece, false),
                Ok(Some(Err(error))) => {
                    self.status.note(&format!("cannot read standard input: {error}; it ends here"));
                    (Bytes::new(), true)
                }
                Ok(None) => (Bytes::new(), true),
                Err(_silence) => (Bytes::new(), false),
            };
            if !self.write(piece, is_last).await? || is_last {
                return Ok(());
            }
        }
    }

    /// Writes a piece until it is taken. False once nothing is taken any more.
    async fn write(&mut self, piece: Bytes, is_last: bool) -> Result<bool, Failure> {
        let begin = self.offset;
        let end = begin + piece.len() as u64;
        let (mut patience, mut pause) = (Backoff::for_a_job(), FIRST_PAUSE);
        let tell = |failure: &Failure| {
            self.status.note(&format!("{failure}; standard input waits, reconnecting"));
        };
        loop {
            let taken =
                self.client.write_stdin(self.job, self.task, self.writer, begin, piece.clone(), is_last);
            let StdinPosition { offset, state } = match taken.await {
                Ok(position) => position,
                // The task has ended, or has another writer.
                Err(failure) if failure.is_conflict() => return self.after(failure).await,
                Err(failure) => {
                    patience.endure(failure, tell).await?;
                    continue;
                }
            };
            patience.relax();
            match state {
                StdinState::Waiting => {
                    sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                StdinState::Open if offset < begin => {
                    // Earlier bytes are no longer available here.
                    let told = attach::stop(self.client, self.job).await?;
                    self.status.note(&format!(
                        "the task was restarted, and its standard input cannot be repeated: {told}"
                    ));
                    return Ok(false);
                }
                StdinState::Open | StdinState::Closed => {
                    self.offset = offset.max(begin);
                    if state == StdinState::Closed || self.offset >= end {
                        return Ok(state == StdinState::Open);
                    }
                }
            }
        }
    }

    /// The output reports the end of the task; anything else needs a message.
    async fn after(&self, failure: Failure) -> Result<bool, Failure> {
        let job: gaffer_protocol::rest::Job =
            self.client.read(&["jobs", &self.job.to_string()], &Vec::new()).await?;
        if job.finished_at.is_some() { Ok(false) } else { Err(failure) }
    }
}

/// Reads standard input on a separate thread, at most two pieces ahead.
fn read() -> mpsc::Receiver<io::Result<Bytes>> {
    let (pieces, read) = mpsc::channel(1);
    std::thread::spawn(move || {
        let mut buffer = vec![0; MAX_BYTES];
        loop {
            let piece = match io::stdin().lock().read(&mut buffer) {
                Ok(0) => return,
                Ok(length) => Ok(Bytes::copy_from_slice(buffer.get(..length).unwrap_or_default())),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
            let is_over = piece.is_err();
            if pieces.blocking_send(piece).is_err() || is_over {
                return;
            }
        }
    });
    read
}
