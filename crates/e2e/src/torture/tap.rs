//! Taps the frames between workers and master, and can duplicate, delay or cut them.
//!
//! What TCP and TLS rule out in the wild, a broken proxy may do: frames that come twice, in another order, cut in half,
//! or again in a later session.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gaffer_domain::AttemptRef;
use gaffer_protocol::wire::ToWorker;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// A frame that is held back to come after the next one comes after so long if there is none.
const HELD_BACK: Duration = Duration::from_millis(200);
/// So many frames of each direction are remembered for a replay.
const REMEMBERED: usize = 200;
const FRAMES_ON_THEIR_WAY: usize = 64;

/// One kind of trick.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Trick {
    Double,
    /// A frame comes after the next one.
    Reorder,
    /// A frame ends in the middle, and so does the connection.
    Cut,
    /// A frame comes again, later or in a later session.
    Replay,
}

impl Trick {
    /// Every kind, by the name that it is asked for with.
    pub const ALL: [(&'static str, Trick); 4] = [
        ("double", Trick::Double),
        ("reorder", Trick::Reorder),
        ("cut", Trick::Cut),
        ("replay", Trick::Replay),
    ];

    /// It is played on one of so many frames. Cut too often, sessions end before anything else happens in them.
    fn rarity(self) -> u32 {
        match self {
            Trick::Double | Trick::Reorder | Trick::Replay => 20,
            Trick::Cut => 500,
        }
    }
}

/// Listens, or more.
pub struct Tap {
    seed: u64,
    tricks: Vec<Trick>,
    state: Mutex<State>,
    behaves: AtomicBool,
}

#[derive(Default)]
struct State {
    connections: u64,
    heard: Heard,
    played: HashMap<Trick, u64>,
}

/// What the master told workers that it has stored.
#[derive(Debug, Default, Clone)]
pub struct Heard {
    pub outputs: HashMap<AttemptRef, u64>,
    pub ends: HashSet<AttemptRef>,
}

/// One worker's frames, over all its connections.
#[derive(Default)]
pub struct Line {
    past: [Mutex<Vec<Vec<u8>>>; 2],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    ToMaster,
    ToWorker,
}

impl Tap {
    /// Plays these tricks; none makes it listen only.
    pub fn new(seed: u64, tricks: &[Trick]) -> Tap {
        Tap { seed, tricks: tricks.to_vec(), state: Mutex::default(), behaves: AtomicBool::new(false) }
    }

    /// No more tricks from now on.
    pub fn behave(&self) {
        self.behaves.store(true, Ordering::Relaxed);
    }

    pub fn heard(&self) -> Heard {
        self.state().heard.clone()
    }

    /// How often which trick was played.
    pub fn played(&self) -> Vec<(&'static str, u64)> {
        let state = self.state();
        let count = |trick| state.played.get(&trick).copied().unwrap_or(0);
        Trick::ALL.into_iter().map(|(name, trick)| (name, count(trick))).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Carries one direction of a connection until it ends, or until a trick ends it.
    pub async fn carry(
        &self,
        line: &Line,
        way: Way,
        mut from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
    ) {
        let rng = {
            let mut state = self.state();
            state.connections += 1;
            StdRng::seed_from_u64(self.seed ^ state.connections)
        };
        let Ok(head) = read_head(&mut from).await else { return };
        if to.write_all(&head).await.is_err() {
            return;
        }
        // Read apart, for a frame half read must not be given up when the next one does not come.
        let (sender, frames) = mpsc::channel(FRAMES_ON_THEIR_WAY);
        let read = async {
            while let Ok(frame) = read_frame(&mut from).await {
                if sender.send(frame).await.is_err() {
                    return;
                }
            }
            drop(sender);
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = read => {}
            () = self.pass_on(&line.past[way as usize], way, frames, &mut to, rng) => {}
        }
    }

    async fn pass_on(
        &self,
        past: &Mutex<Vec<Vec<u8>>>,
        way: Way,
        mut frames: mpsc::Receiver<Frame>,
        to: &mut (impl AsyncWrite + Unpin),
        mut rng: StdRng,
    ) {
        let mut held: Option<Vec<u8>> = None;
        loop {
            let next = match held {
                None => frames.recv().await,
                Some(_) => match timeout(HELD_BACK, frames.recv()).await {
                    Ok(next) => next,
                    Err(_) => {
                        if to.write_all(&held.take().unwrap_or_default()).await.is_err() {
                            return;
                        }
                        continue;
                    }
                },
            };
            let Some(Frame { bytes, text }) = next else { return };
            if way == Way::ToWorker {
                self.listen(&text);
            }
            let mut out = Vec::new();
            match self.trick(&mut rng) {
                None => out.push(bytes.clone()),
                Some(Trick::Double) => out.extend([bytes.clone(), bytes.clone()]),
                Some(Trick::Cut) => {
                    let _ = to.write_all(&bytes[..bytes.len() / 2]).await;
                    return;
                }
                Some(Trick::Reorder) if held.is_none() => held = Some(bytes.clone()),
                Some(Trick::Reorder) => out.push(bytes.clone()),
                Some(Trick::Replay) => {
                    out.push(bytes.clone());
                    let past = past.lock().unwrap_or_else(PoisonError::into_inner);
                    if !past.is_empty() {
                        out.push(past[rng.random_range(0..past.len())].clone());
                    }
                }
            }
            if !out.is_empty() {
                out.extend(held.take());
            }
            {
                let mut past = past.lock().unwrap_or_else(PoisonError::into_inner);
                match past.len() < REMEMBERED {
                    true => past.push(bytes),
                    // Some are kept from long ago.
                    false => past[rng.random_range(0..REMEMBERED)] = bytes,
                }
            }
            for bytes in out {
                if to.write_all(&bytes).await.is_err() {
                    return;
                }
            }
        }
    }

    fn trick(&self, rng: &mut StdRng) -> Option<Trick> {
        if self.behaves.load(Ordering::Relaxed) {
            return None;
        }
        let trick = self.tricks.iter().copied().find(|trick| rng.random_ratio(1, trick.rarity()))?;
        *self.state().played.entry(trick).or_default() += 1;
        Some(trick)
    }

    fn listen(&self, text: &[u8]) {
        let Ok(messages) = serde_json::from_slice::<Vec<ToWorker>>(text) else { return };
        let mut state = self.state();
        for message in messages {
            match message {
                ToWorker::OutputStored { attempt, offset } => {
                    let stored = state.heard.outputs.entry(attempt).or_default();
                    *stored = offset.max(*stored);
                }
                ToWorker::EndStored { attempt } => {
                    state.heard.ends.insert(attempt);
                }
                _ => {}
            }
        }
    }
}

/// A WebSocket frame, whole.
struct Frame {
    bytes: Vec<u8>,
    /// What is in it, if it is text that is not masked: the master's.
    text: Vec<u8>,
}

/// The request or answer that the frames come after, to its empty line.
async fn read_head(from: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Vec<u8>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        // A byte at a time: what follows is not the head's any more.
        head.push(from.read_u8().await?);
    }
    Ok(head)
}

async fn read_frame(from: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Frame> {
    const TEXT: u8 = 1;
    let mut bytes = vec![0; 2];
    from.read_exact(&mut bytes).await?;
    let (kind, is_masked) = (bytes[0] & 0x0f, bytes[1] & 0x80 != 0);
    let long = match bytes[1] & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let mut length = usize::from(bytes[1] & 0x7f);
    if long > 0 {
        let mut more = vec![0; long];
        from.read_exact(&mut more).await?;
        length = more.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
        bytes.extend(more);
    }
    let head = bytes.len() + if is_masked { 4 } else { 0 };
    bytes.resize(head + length, 0);
    let read = bytes.len() - if is_masked { length + 4 } else { length };
    from.read_exact(&mut bytes[read..]).await?;
    let text = if kind == TEXT && !is_masked { bytes[head..].to_vec() } else { Vec::new() };
    Ok(Frame { bytes, text })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_are_told_apart_whatever_their_length() {
        for length in [0_usize, 5, 125, 126, 70_000] {
            for is_masked in [false, true] {
                let mut bytes = vec![0x81];
                let mask = if is_masked { 0x80 } else { 0 };
                match length {
                    0..=125 => bytes.push(mask | length as u8),
                    126..=65_535 => {
                        bytes.extend([&[mask | 126][..], &(length as u16).to_be_bytes()].concat())
                    }
                    _ => bytes.extend([&[mask | 127][..], &(length as u64).to_be_bytes()].concat()),
                }
                bytes.extend(is_masked.then_some([0; 4]).into_iter().flatten());
                bytes.extend(std::iter::repeat_n(b'x', length));
                let twice = [&bytes[..], &bytes[..]].concat();
                let mut from = &twice[..];
                for _ in 0..2 {
                    let frame = read_frame(&mut from).await.unwrap();
                    assert_eq!(frame.bytes, bytes);
                    assert_eq!(frame.text.len(), if is_masked { 0 } else { length });
                }
                assert!(from.is_empty());
            }
        }
    }
}
