//! Hook: writes the standard input of a process, each byte once and in order, at the speed of the process, from one
//! writer.

use std::future::ready;
use std::time::Duration;

use futures::future::BoxFuture;
use gaffer_domain::AttemptRef;
use gaffer_protocol::wire::{Ended, Input, InputState, InputTaken};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use super::super::Progress;
use super::{Attempt, Hook};
use crate::driver::{InputSink, Started};

/// A writer that is silent for this long counts as gone, and the input is closed. A writer without data sends
/// keepalives. The limit is `lost_after` if that is longer.
const SILENCE_LIMIT: Duration = Duration::from_secs(120);

pub(super) struct StandardInput {
    /// None once it is being written.
    inputs: Option<mpsc::Receiver<Input>>,
    writing: Option<AbortOnDropHandle<()>>,
}

impl StandardInput {
    pub fn new(inputs: mpsc::Receiver<Input>) -> StandardInput {
        StandardInput { inputs: Some(inputs), writing: None }
    }

    /// Every piece is answered, but for one that the process is taking at its end.
    fn write(&mut self, attempt: &Attempt, sink: Option<InputSink>) {
        let Some(inputs) = self.inputs.take_if(|_| attempt.start.definition.stdin) else { return };
        let silence_limit = SILENCE_LIMIT.max(attempt.start.definition.lost_after.to_std());
        let (progress, reference) = (attempt.progress.clone(), attempt.reference());
        let mut feed = Feed { sink, writer: None, offset: 0 };
        let writing = async move { feed.run(inputs, reference, silence_limit, &*progress).await };
        self.writing = Some(AbortOnDropHandle::new(tokio::spawn(writing)));
    }
}

impl Hook for StandardInput {
    fn concern(&self) -> &'static str {
        "standard input"
    }

    fn after_start<'a>(&'a mut self, attempt: &'a Attempt, started: &'a mut Started) -> BoxFuture<'a, ()> {
        self.write(attempt, started.input.take());
        Box::pin(ready(()))
    }

    /// How much was written before is not known, so nothing is.
    fn adopted<'a>(&'a mut self, attempt: &'a Attempt, _started: &'a mut Started) -> BoxFuture<'a, ()> {
        self.write(attempt, None);
        Box::pin(ready(()))
    }

    fn after_end<'a>(&'a mut self, _attempt: &'a Attempt, _ended: &'a Ended) -> BoxFuture<'a, ()> {
        self.writing = None;
        Box::pin(ready(()))
    }
}

struct Feed {
    /// None once nothing can be written any more.
    sink: Option<InputSink>,
    /// The only one who writes.
    writer: Option<Uuid>,
    offset: u64,
}

impl Feed {
    async fn run(
        &mut self,
        mut inputs: mpsc::Receiver<Input>,
        attempt: AttemptRef,
        silence_limit: Duration,
        progress: &dyn Progress,
    ) {
        let had_sink = self.sink.is_some();
        loop {
            let input = match timeout(silence_limit, inputs.recv()).await {
                Ok(Some(input)) => input,
                Ok(None) => return,
                Err(_) if self.sink.is_none() => continue,
                Err(_) => {
                    self.sink = None;
                    let seconds = silence_limit.as_secs();
                    let bytes = self.offset;
                    progress.noted(
                        attempt,
                        format!("closed the standard input after {bytes} bytes: no write for {seconds} s"),
                    );
                    continue;
                }
            };
            let request = input.request;
            let state = if had_sink { self.take(input).await } else { InputState::Absent };
            progress.took_input(InputTaken { attempt, request, offset: self.offset, state });
        }
    }

    async fn take(&mut self, input: Input) -> InputState {
        if *self.writer.get_or_insert(input.writer) != input.writer {
            return InputState::Foreign;
        }
        let Some(sink) = &mut self.sink else { return InputState::Closed };
        // Repeated bytes are skipped; bytes beyond the offset are answered with the expected offset.
        let skipped = self.offset.checked_sub(input.offset).and_then(|skipped| usize::try_from(skipped).ok());
        let Some(mut rest) = skipped.map(|skipped| input.bytes.0.get(skipped..).unwrap_or_default()) else {
            return InputState::Open;
        };
        while !rest.is_empty() {
            match sink.write(rest).await {
                Ok(written) if written > 0 => {
                    self.offset += written as u64;
                    rest = rest.get(written..).unwrap_or_default();
                }
                // It reads no more.
                _ => {
                    self.sink = None;
                    return InputState::Closed;
                }
            }
        }
        if input.is_last || sink.flush().await.is_err() {
            let _ = sink.shutdown().await;
            self.sink = None;
            return InputState::Closed;
        }
        InputState::Open
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use std::sync::Mutex;

    use gaffer_protocol::wire::InputBytes;
    use tokio::io::{AsyncReadExt as _, duplex};

    use super::*;
    use crate::attempt::StartFacts;
    use crate::tests::master::{command, soon, until};

    #[derive(Default)]
    struct Said {
        taken: Mutex<Vec<InputTaken>>,
        notes: Mutex<Vec<String>>,
    }

    impl Progress for Said {
        fn noted(&self, _: AttemptRef, message: String) {
            self.notes.lock().unwrap().push(message);
        }
        fn started(&self, _: AttemptRef, _: StartFacts) {}
        fn wrote(&self, _: AttemptRef) {}
        fn wants_secrets(&self, _: AttemptRef) {}
        fn took_input(&self, taken: InputTaken) {
            self.taken.lock().unwrap().push(taken);
        }
        fn checked(&self, _: gaffer_protocol::health::Checked) {}
        fn released(&self, _: AttemptRef) {}
    }

    fn input(request: u64, offset: u64, bytes: &'static [u8], is_last: bool) -> Input {
        let attempt = command(1, &["cat"]).attempt;
        let bytes = InputBytes(bytes::Bytes::from_static(bytes));
        Input { attempt, request, writer: Uuid::from_u128(1), offset, bytes, is_last }
    }

    #[tokio::test]
    async fn no_byte_is_written_twice_although_its_piece_comes_again_while_nobody_reads() {
        let attempt = command(1, &["cat"]).attempt;
        let (ours, mut theirs) = duplex(4);
        let mut feed = Feed { sink: Some(Box::pin(ours)), writer: None, offset: 0 };
        let (sender, inputs) = mpsc::channel(4);
        let said = Said::default();
        let fed = feed.run(inputs, attempt, Duration::from_secs(60), &said);
        let told = async {
            // Half of it fits; the writer loses patience and writes it again.
            sender.send(input(1, 0, b"hello wo", false)).await.unwrap();
            sender.send(input(2, 0, b"hello wo", false)).await.unwrap();
            sender.send(input(3, 8, b"rld", true)).await.unwrap();
            sender.send(input(4, 8, b"rld", true)).await.unwrap();
            let mut read = String::new();
            theirs.read_to_string(&mut read).await.unwrap();
            assert_eq!(read, "hello world");
            until("four answers", || said.taken.lock().unwrap().len() == 4).await;
            drop(sender);
        };
        soon("the end", async { tokio::join!(fed, told) }).await;
        let taken = said.taken.lock().unwrap();
        let taken: Vec<_> = taken.iter().map(|taken| (taken.request, taken.offset, taken.state)).collect();
        let (open, closed) = (InputState::Open, InputState::Closed);
        assert_eq!(taken, [(1, 8, open), (2, 8, open), (3, 11, closed), (4, 11, closed)]);
    }

    #[tokio::test]
    async fn input_whose_writer_is_gone_ends_and_that_is_told() {
        let attempt = command(1, &["cat"]).attempt;
        let (ours, mut theirs) = duplex(64);
        let mut feed = Feed { sink: Some(Box::pin(ours)), writer: None, offset: 0 };
        let (sender, inputs) = mpsc::channel(4);
        let said = Said::default();
        let fed = feed.run(inputs, attempt, Duration::from_millis(50), &said);
        let told = async {
            sender.send(input(1, 0, b"half", false)).await.unwrap();
            let mut read = String::new();
            theirs.read_to_string(&mut read).await.unwrap();
            assert_eq!(read, "half");
            sender.send(input(2, 4, b"late", false)).await.unwrap();
            until("both answers", || said.taken.lock().unwrap().len() == 2).await;
            drop(sender);
        };
        soon("the end", async { tokio::join!(fed, told) }).await;
        assert_eq!(said.taken.lock().unwrap()[1].state, InputState::Closed);
        assert!(said.notes.lock().unwrap()[0].contains("after 4 bytes: no write"));
    }
}
