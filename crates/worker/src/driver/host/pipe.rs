//! The reading ends of the pipes of a process.

use std::cell::RefCell;
use std::io;
use std::mem;
use std::os::fd::{AsFd, OwnedFd};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use gaffer_protocol::output::{Record, Stream};
use rustix::io::{Errno, ioctl_fionbio};
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::super::OutputSource;
use crate::clock::wall_micros;

/// What a pipe holds once there is much output; also the most that is read at once.
const WIDE_PIPE_BYTES: usize = 256 << 10;
/// The most pipes that are wide at the same time: where a user's pipes have more memory than the kernel grants them, by default
/// 64 MiB, all new ones of that user are tiny, in every program.
static WIDE_PIPES: Semaphore = Semaphore::const_new(64);

thread_local! {
    /// Shared read buffer of the attempts on this thread; data is copied out, so a waiting attempt needs no buffer.
    static READ_BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; WIDE_PIPE_BYTES].into());
}

/// Both streams of a process, read as they become readable.
pub(super) struct Pipes {
    stdout: Pipe,
    stderr: Pipe,
    /// Which is looked at first: after each read the other one, so that neither starves.
    turn: Stream,
    /// Held while one of them is wide.
    wide: Option<SemaphorePermit<'static>>,
}

impl Pipes {
    pub fn new(stdout: Pipe, stderr: Pipe) -> Pipes {
        Pipes { stdout, stderr, turn: Stream::Stdout, wide: None }
    }

    fn of(&mut self, stream: Stream) -> &mut Pipe {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }
}

impl OutputSource for Pipes {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Record>> {
        let turns = match self.turn {
            Stream::Stdout => [Stream::Stdout, Stream::Stderr],
            Stream::Stderr => [Stream::Stderr, Stream::Stdout],
        };
        for stream in turns {
            if let Poll::Ready(Some(bytes)) = self.of(stream).poll_read(cx) {
                self.turn = if stream == Stream::Stdout { Stream::Stderr } else { Stream::Stdout };
                return Poll::Ready(Some(Record { at_micros: wall_micros(), stream, bytes }));
            }
        }
        match (&self.stdout, &self.stderr) {
            (Pipe::Closed, Pipe::Closed) => Poll::Ready(None),
            _ => Poll::Pending,
        }
    }

    fn widen(&mut self, stream: Stream) -> Option<usize> {
        let permit = WIDE_PIPES.try_acquire().ok()?;
        let capacity = fcntl_setpipe_size(self.of(stream).descriptor()?, WIDE_PIPE_BYTES).ok()?;
        self.wide = Some(permit);
        Some(capacity)
    }

    fn rest(&mut self, stream: Stream) {
        self.of(stream).rest();
    }
}

/// The reading end of a pipe.
pub(super) enum Pipe {
    /// The runtime hears of everything that is written: each write wakes one of its threads.
    Watched(AsyncFd<OwnedFd>),
    /// It does not. There may be something to read.
    Resting(OwnedFd),
    New(OwnedFd),
    Closed,
}

impl Pipe {
    /// A pipe, and its end for a process.
    pub fn new() -> io::Result<(Pipe, OwnedFd)> {
        let (own, of_process) = pipe_with(PipeFlags::CLOEXEC)?;
        // Of this end alone: no program expects that a write does not wait.
        ioctl_fionbio(&own, true)?;
        Ok((Pipe::New(own), of_process))
    }

    /// What the pipe has; none at its end, where it is closed.
    pub fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let read = ready!(self.poll_bytes(cx));
        if let Ok(bytes) = &read
            && !bytes.is_empty()
        {
            return Poll::Ready(read.ok());
        }
        if let Err(error) = read {
            tracing::warn!(%error, "cannot read the output of a process");
        }
        *self = Pipe::Closed;
        Poll::Ready(None)
    }

    /// Nobody is to be woken by what is written before it is read the next time.
    fn rest(&mut self) {
        *self = match mem::replace(self, Pipe::Closed) {
            Pipe::Watched(watched) => Pipe::Resting(watched.into_inner()),
            other => other,
        };
    }

    fn descriptor(&self) -> Option<&OwnedFd> {
        match self {
            Pipe::Watched(watched) => Some(watched.get_ref()),
            Pipe::Resting(fd) | Pipe::New(fd) => Some(fd),
            Pipe::Closed => None,
        }
    }

    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        if let Pipe::Resting(fd) = self {
            match read(fd) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return Poll::Ready(read),
            }
        }
        *self = match mem::replace(self, Pipe::Closed) {
            Pipe::Resting(fd) | Pipe::New(fd) => Pipe::Watched(watched(fd)?),
            other => other,
        };
        let Pipe::Watched(watched) = self else { return Poll::Ready(Ok(Bytes::new())) };
        loop {
            let mut ready = ready!(watched.poll_read_ready(cx))?;
            if let Ok(read) = ready.try_io(|fd| read(fd.get_ref())) {
                return Poll::Ready(read);
            }
        }
    }
}

fn watched(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    #[expect(
        deprecated,
        reason = "the new way is unsafe; here the descriptor lives as long as its registration"
    )]
    AsyncFd::with_interest(fd, Interest::READABLE)
}

/// What is there; empty at the end.
fn read(fd: impl AsFd) -> io::Result<Bytes> {
    READ_BUFFER.with_borrow_mut(|buffer| {
        loop {
            match rustix::io::read(&fd, &mut buffer[..]) {
                Err(Errno::INTR) => {}
                read => return Ok(Bytes::copy_from_slice(&buffer[..read?])),
            }
        }
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::task::{Wake, Waker};

    use super::*;
    use crate::tests::master::until;

    #[derive(Default)]
    struct Alarm(AtomicBool);

    impl Wake for Alarm {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    /// A pipe from which nothing could be read, and who waits for it.
    fn waiting() -> (Pipe, OwnedFd, Arc<Alarm>) {
        let (mut pipe, of_process) = Pipe::new().unwrap();
        let alarm = Arc::new(Alarm::default());
        assert!(read_now(&mut pipe, &alarm).is_pending());
        (pipe, of_process, alarm)
    }

    fn read_now(pipe: &mut Pipe, alarm: &Arc<Alarm>) -> Poll<Option<Bytes>> {
        pipe.poll_read(&mut Context::from_waker(&Waker::from(alarm.clone())))
    }

    fn rang(alarm: &Alarm) -> bool {
        alarm.0.swap(false, Ordering::Relaxed)
    }

    #[tokio::test]
    async fn nobody_is_woken_by_what_is_written_while_a_pipe_rests() {
        let (mut rested, into_rested, of_rested) = waiting();
        let (_watched, into_watched, of_watched) = waiting();
        rested.rest();
        rustix::io::write(&into_rested, b"one").unwrap();
        rustix::io::write(&into_watched, b"x").unwrap();
        until("the other one to be heard of", || rang(&of_watched)).await;
        assert!(!rang(&of_rested));
        assert_eq!(read_now(&mut rested, &of_rested), Poll::Ready(Some(Bytes::from("one"))));
        // With nothing more to read it is watched again.
        assert!(read_now(&mut rested, &of_rested).is_pending());
        rustix::io::write(&into_rested, b"two").unwrap();
        until("it to be heard of", || rang(&of_rested)).await;
        assert_eq!(read_now(&mut rested, &of_rested), Poll::Ready(Some(Bytes::from("two"))));
        rested.rest();
        drop(into_rested);
        assert_eq!(read_now(&mut rested, &of_rested), Poll::Ready(None));
    }
}
