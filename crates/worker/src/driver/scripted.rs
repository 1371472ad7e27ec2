//! The scripted driver: acts out a script of the job without starting a process. It is the only fake, and lets
//! tests run tens of thousands of tasks.
//!
//! A play is a script with a step per line, or a command whose arguments are steps (joined and split at `;`):
//!
//! | step | what happens |
//! |---|---|
//! | `out TEXT`, `err TEXT` | the text and a line feed appear on that stream |
//! | `lines N [stdout\|stderr]` | `line 1` to `line N` appear |
//! | `bytes N [SEED] [stdout\|stderr]` | N bytes of [`PseudoRandom`] appear |
//! | `sleep 200ms` | time passes |
//! | `exit N`, `signal N`, `oom` | it ends so; at the end of the play it exits with 0 |
//! | `hang` | nothing happens any more |
//! | `ignore-stop` | from now on only a kill ends it |
//! | `fail-start MESSAGE` | (anywhere) it does not start at all |

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::{BoxFuture, ready};
use gaffer_domain::quantity::Span;
use gaffer_domain::reason::ProcessEnd;
use gaffer_domain::spec::{Action, DriverKind, StopSignal};
use gaffer_protocol::output::{Record, Stream};
use gaffer_protocol::wire::{DriverStatus, KillReceipt};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{Assignment, Capabilities, Driver, Exit, OutputSource, Process, StartError, Started};
use crate::clock::wall_micros;

const RECORD_BYTES: u64 = 64 << 10;
const SIGKILL: i32 = 9;

/// An endless stream of bytes that look random and depend on the seed only (SplitMix64, each number little-endian).
#[derive(Debug, Clone)]
pub struct PseudoRandom {
    state: u64,
    left: Vec<u8>,
}

impl PseudoRandom {
    /// The stream of this seed from its beginning.
    pub fn new(seed: u64) -> PseudoRandom {
        PseudoRandom { state: seed, left: Vec::new() }
    }

    /// The next bytes of the stream, however it is cut into pieces.
    pub fn take_bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = std::mem::take(&mut self.left);
        while bytes.len() < count {
            self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = self.state;
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            bytes.extend_from_slice(&(mixed ^ (mixed >> 31)).to_le_bytes());
        }
        self.left = bytes.split_off(count);
        bytes
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Text(Stream, String),
    Lines(u64, Stream),
    Bytes { count: u64, seed: u64, stream: Stream },
    Sleep(Span),
    End(Exit),
    Hang,
    IgnoreStop,
    FailStart(String),
}

/// Acts plays.
pub(super) struct ScriptedDriver;

impl Driver for ScriptedDriver {
    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }

    fn status(&self) -> Option<DriverStatus> {
        Some(DriverStatus { driver: DriverKind::Scripted, healthy: true, detail: None })
    }

    fn start<'a>(
        &'a self,
        assignment: Assignment,
        _note: &'a (dyn Fn(String) + Send + Sync),
        _cancelled: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<Started, StartError>> {
        Box::pin(ready(start(&assignment.start.definition.action)))
    }
}

/// Begins a play.
fn start(action: &Action) -> Result<Started, StartError> {
    let play = match action {
        Action::Script(text) => parse(text.lines()),
        Action::Command(arguments) => parse(arguments.join(";").split(';')),
    }?;
    if let Some(message) = play.iter().find_map(|step| match step {
        Step::FailStart(message) => Some(message.clone()),
        _ => None,
    }) {
        return Err(StartError::other(message));
    }
    let (records_in, records) = mpsc::channel(4);
    let (exit_in, exit) = oneshot::channel();
    let (orders, orders_out) = mpsc::channel(16);
    tokio::spawn(async move {
        // The receiver is gone if the attempt was abandoned.
        let _ = exit_in.send(act(play, records_in, orders_out).await);
    });
    let process = Actor { exit, orders, killed: false };
    Ok(Started {
        process: Box::new(process),
        output: Box::new(Output { records }),
        input: None,
        pid: None,
        container: None,
        exec: None,
    })
}

fn parse<'a>(lines: impl Iterator<Item = &'a str>) -> Result<Vec<Step>, StartError> {
    let lines = lines.map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| step(line).ok_or_else(|| StartError::other(format!("not a step of a play: {line}"))))
        .collect()
}

fn step(line: &str) -> Option<Step> {
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    let rest = rest.trim();
    let mut arguments = rest.split_ascii_whitespace();
    let stream = |name: Option<&str>| match name {
        None | Some("stdout") => Some(Stream::Stdout),
        Some("stderr") => Some(Stream::Stderr),
        Some(_) => None,
    };
    Some(match word {
        "out" => Step::Text(Stream::Stdout, rest.to_owned()),
        "err" => Step::Text(Stream::Stderr, rest.to_owned()),
        "lines" => Step::Lines(arguments.next()?.parse().ok()?, stream(arguments.next())?),
        "bytes" => {
            let count = arguments.next()?.parse().ok()?;
            let mut next = arguments.next();
            let seed = next.and_then(|text| text.parse().ok());
            if seed.is_some() {
                next = arguments.next();
            }
            Step::Bytes { count, seed: seed.unwrap_or(0), stream: stream(next)? }
        }
        "sleep" => Step::Sleep(rest.parse().ok()?),
        "exit" => Step::End(Exit::Process(ProcessEnd::Code(rest.parse().ok()?))),
        "signal" => Step::End(Exit::Process(ProcessEnd::Signal(rest.parse().ok()?))),
        "oom" => Step::End(Exit::OutOfMemory),
        "hang" => Step::Hang,
        "ignore-stop" => Step::IgnoreStop,
        "fail-start" => Step::FailStart(rest.to_owned()),
        _ => return None,
    })
}

async fn act(play: Vec<Step>, records: mpsc::Sender<Record>, mut orders: mpsc::Receiver<i32>) -> Exit {
    let ignores_stop = Arc::new(AtomicBool::new(false));
    let performance = perform(play, records, ignores_stop.clone());
    tokio::pin!(performance);
    loop {
        tokio::select! {
            biased;
            order = orders.recv() => match order {
                Some(signal) if signal != SIGKILL && ignores_stop.load(Ordering::Relaxed) => {}
                order => return Exit::Process(ProcessEnd::Signal(order.unwrap_or(SIGKILL))),
            },
            exit = &mut performance => return exit,
        }
    }
}

async fn perform(play: Vec<Step>, records: mpsc::Sender<Record>, ignores_stop: Arc<AtomicBool>) -> Exit {
    let write = async |stream: Stream, bytes: Vec<u8>| {
        let record = Record { at_micros: wall_micros(), stream, bytes: Bytes::from(bytes) };
        // The receiver is gone only after a kill.
        let _ = records.send(record).await;
    };
    for step in play {
        match step {
            Step::Text(stream, text) => write(stream, format!("{text}\n").into_bytes()).await,
            Step::Lines(count, stream) => {
                let mut text = Vec::new();
                for number in 1..=count {
                    text.extend_from_slice(format!("line {number}\n").as_bytes());
                    if text.len() as u64 >= RECORD_BYTES - 32 || number == count {
                        write(stream, std::mem::take(&mut text)).await;
                    }
                }
            }
            Step::Bytes { count, seed, stream } => {
                let mut random = PseudoRandom::new(seed);
                let mut left = count;
                while left > 0 {
                    let piece = left.min(RECORD_BYTES);
                    write(stream, random.take_bytes(usize::try_from(piece).unwrap_or_default())).await;
                    left -= piece;
                }
            }
            Step::Sleep(span) => tokio::time::sleep(span.to_std()).await,
            Step::End(exit) => return exit,
            Step::Hang => std::future::pending().await,
            Step::IgnoreStop => ignores_stop.store(true, Ordering::Relaxed),
            Step::FailStart(_) => {}
        }
    }
    Exit::Process(ProcessEnd::Code(0))
}

struct Actor {
    exit: oneshot::Receiver<Exit>,
    orders: mpsc::Sender<i32>,
    killed: bool,
}

impl Process for Actor {
    fn poll_exit(&mut self, cx: &mut Context<'_>) -> Poll<Exit> {
        let ended_with_runtime = Exit::Process(ProcessEnd::Signal(SIGKILL));
        self.exit.poll_unpin(cx).map(|exit| exit.unwrap_or(ended_with_runtime))
    }

    fn signal(&mut self, signal: StopSignal) -> BoxFuture<'_, bool> {
        async move { self.orders.send(signal.number()).await.is_ok() }.boxed()
    }

    fn kill(&mut self) -> BoxFuture<'_, bool> {
        async move {
            let was_there = self.orders.send(SIGKILL).await.is_ok();
            self.killed |= was_there;
            was_there
        }
        .boxed()
    }

    fn finish(&mut self) -> BoxFuture<'_, Option<KillReceipt>> {
        let receipt = self.killed.then_some(KillReceipt { killed: 1, left: 0 });
        std::future::ready(receipt).boxed()
    }
}

struct Output {
    records: mpsc::Receiver<Record>,
}

impl OutputSource for Output {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Record>> {
        self.records.poll_recv(cx)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use std::future::poll_fn;

    use super::*;

    async fn played(action: Action) -> (String, String, Exit) {
        let mut started = start(&action).unwrap();
        let (mut out, mut err) = (String::new(), String::new());
        while let Some(record) = poll_fn(|cx| started.output.poll_next(cx)).await {
            let text = std::str::from_utf8(&record.bytes).unwrap();
            if record.stream == Stream::Stdout { out.push_str(text) } else { err.push_str(text) }
        }
        (out, err, poll_fn(|cx| started.process.poll_exit(cx)).await)
    }

    #[tokio::test]
    async fn a_play_is_acted_step_by_step() {
        let play = "# comment\nout a; b\nerr c\n\nlines 2 stderr\nsleep 1ms\nexit 3\nout never\n";
        let (out, err, exit) = played(Action::Script(play.to_owned())).await;
        assert_eq!((out.as_str(), err.as_str()), ("a; b\n", "c\nline 1\nline 2\n"));
        assert_eq!(exit, Exit::Process(ProcessEnd::Code(3)));
        let command = Action::Command(vec!["out x".to_owned(), "out y;oom".to_owned()]);
        assert_eq!(played(command).await, ("x\ny\n".to_owned(), String::new(), Exit::OutOfMemory));
    }

    #[tokio::test]
    async fn only_a_kill_ends_what_ignores_a_stop() {
        let mut started = start(&Action::Script("ignore-stop\nout ready\nhang".to_owned())).unwrap();
        poll_fn(|cx| started.output.poll_next(cx)).await.unwrap();
        assert!(started.process.signal(StopSignal::Sigterm).await);
        assert!(started.process.kill().await);
        let exit = poll_fn(|cx| started.process.poll_exit(cx)).await;
        assert_eq!(exit, Exit::Process(ProcessEnd::Signal(9)));
        assert!(!started.process.signal(StopSignal::Sigterm).await, "it has ended");
        assert_eq!(started.process.finish().await, Some(KillReceipt { killed: 1, left: 0 }));
    }

    #[tokio::test]
    async fn a_play_that_makes_no_sense_or_is_to_fail_does_not_start() {
        let error = |text: &str| start(&Action::Script(text.to_owned())).err().unwrap().message;
        assert!(error("dance").contains("dance"));
        assert!(error("exit now").contains("exit now"));
        assert_eq!(error("out x\nfail-start no such image"), "no such image");
    }

    #[test]
    fn pseudo_random_bytes_do_not_depend_on_how_they_are_cut() {
        let whole = PseudoRandom::new(7).take_bytes(1000);
        let mut pieces = PseudoRandom::new(7);
        let mut joined = Vec::new();
        for size in [1, 2, 3, 494, 0, 500] {
            joined.extend(pieces.take_bytes(size));
        }
        assert_eq!(joined, whole);
        assert_ne!(PseudoRandom::new(8).take_bytes(1000), whole);
    }
}
