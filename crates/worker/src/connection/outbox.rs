//! Chooses the next output to send: a window of bytes, shared fairly by all attempts. Plain data.
//!
//! Output of an attempt with nothing in flight is sent at once. Otherwise more output waits until it fills a good frame
//! or the acknowledgement arrives, so that a job that writes byte by byte does not cause a frame per byte. The window of
//! all attempts grows while acknowledgements are fast and shrinks when they are slow, because data queued in the network
//! delays the heartbeats behind it.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use gaffer_domain::AttemptRef;
use gaffer_protocol::output::MAX_CHUNK_PAYLOAD;
use gaffer_protocol::wire::{Ended, ToMaster};

/// The most bytes of one attempt on their way.
const ATTEMPT_WINDOW: u64 = 1 << 20;
/// Bounds and start of the window for all attempts.
const MIN_WINDOW: u64 = 32 << 10;
const MAX_WINDOW: u64 = 8 << 20;
const FIRST_WINDOW: u64 = 64 << 10;
/// A faster acknowledgement enlarges the window; a slower one shrinks it.
const SOON: Duration = Duration::from_secs(1);
const LATE: Duration = Duration::from_secs(3);
/// What makes a frame worth sending while another is on its way.
const GOOD_FRAME: u64 = 64 << 10;

/// What goes out in one session.
#[derive(Debug)]
pub(super) struct Outbox {
    flows: HashMap<AttemptRef, Flow>,
    /// Attempts that may have something to send, each once; the next one in front.
    turns: VecDeque<AttemptRef>,
    /// Ends whose output is out.
    due_ends: Vec<AttemptRef>,
    /// Ends of attempts that wrote nothing.
    bare_ends: Vec<ToMaster>,
    in_flight: u64,
    window: u64,
    /// What the master lets be on its way.
    granted: u64,
    shrunk_at: Option<Instant>,
}

/// The output of one attempt: stored ≤ sent ≤ end.
#[derive(Debug, Default)]
struct Flow {
    stored: u64,
    sent: u64,
    end: u64,
    ended: Option<Box<Ended>>,
    end_is_out: bool,
    has_turn: bool,
    /// Frames on their way: where each ends and when it was sent.
    frames: VecDeque<(u64, Instant)>,
}

/// A piece of output to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    pub attempt: AttemptRef,
    pub offset: u64,
    /// Limit in bytes.
    pub max: usize,
}

impl Flow {
    fn in_flight(&self) -> u64 {
        self.sent - self.stored
    }

    /// How much may be sent now.
    fn sendable(&self) -> u64 {
        let ready = self.end.saturating_sub(self.sent);
        let room = ATTEMPT_WINDOW.saturating_sub(self.in_flight());
        let is_worth_it = self.in_flight() == 0 || ready >= GOOD_FRAME || self.ended.is_some();
        if is_worth_it { ready.min(room) } else { 0 }
    }

    fn end_is_due(&self) -> bool {
        !self.end_is_out && self.ended.as_ref().is_some_and(|ended| self.sent >= ended.output_bytes)
    }
}

impl Outbox {
    pub fn new() -> Outbox {
        Outbox {
            flows: HashMap::new(),
            turns: VecDeque::new(),
            due_ends: Vec::new(),
            bare_ends: Vec::new(),
            in_flight: 0,
            window: FIRST_WINDOW,
            granted: MAX_WINDOW,
            shrunk_at: None,
        }
    }

    /// The attempt has output up to `end`.
    pub fn grown(&mut self, attempt: AttemptRef, end: u64) {
        let flow = self.flows.entry(attempt).or_default();
        flow.end = flow.end.max(end);
        self.take_turn(attempt);
    }

    /// The attempt has ended. Its report is sent after its output.
    pub fn ended(&mut self, ended: Box<Ended>) {
        let attempt = ended.attempt;
        if ended.output_bytes == 0 && !self.flows.contains_key(&attempt) {
            self.bare_ends.push(ToMaster::Ended(ended));
            return;
        }
        let flow = self.flows.entry(attempt).or_default();
        flow.end = flow.end.max(ended.output_bytes);
        flow.ended = Some(ended);
        flow.end_is_out = false;
        self.take_turn(attempt);
        self.note_end(attempt);
    }

    /// The session begins with everything before `offset` stored.
    pub fn resume(&mut self, attempt: AttemptRef, offset: u64) {
        let flow = Flow { stored: offset, sent: offset, end: offset, ..Flow::default() };
        self.flows.insert(attempt, flow);
    }

    /// Everything before `offset` is stored.
    pub fn stored(&mut self, attempt: AttemptRef, offset: u64, now: Instant) {
        let Some(flow) = self.flows.get_mut(&attempt) else { return };
        if offset <= flow.stored {
            return;
        }
        let before = flow.in_flight();
        flow.stored = offset;
        // What an earlier session had sent may arrive in this one.
        flow.sent = flow.sent.max(offset);
        let mut latency = None;
        while let Some((end, sent_at)) = flow.frames.front()
            && *end <= offset
        {
            latency = Some(now.saturating_duration_since(*sent_at));
            flow.frames.pop_front();
        }
        let acknowledged = before - flow.in_flight();
        self.in_flight -= acknowledged;
        if let Some(latency) = latency {
            self.adapt(latency, acknowledged, now);
        }
        self.take_turn(attempt);
        self.note_end(attempt);
    }

    /// The master misses everything from `offset` on: send it again, and the end after it.
    pub fn wanted(&mut self, attempt: AttemptRef, offset: u64) {
        let Some(flow) = self.flows.get_mut(&attempt) else { return };
        let before = flow.in_flight();
        let offset = offset.min(flow.sent);
        flow.sent = offset;
        flow.stored = offset;
        flow.frames.clear();
        flow.end_is_out = false;
        self.in_flight -= before;
        self.take_turn(attempt);
        self.note_end(attempt);
    }

    /// The attempt is finished and acknowledged.
    pub fn forget(&mut self, attempt: AttemptRef) {
        if let Some(flow) = self.flows.remove(&attempt) {
            self.in_flight -= flow.in_flight();
        }
    }

    /// Sets the master's limit on bytes in flight.
    pub fn grant(&mut self, bytes: u64) {
        self.granted = bytes;
    }

    /// The next piece to send, if the window allows one. Tell how much it was with [`Self::sent`].
    pub fn next(&mut self) -> Option<Piece> {
        let window = self.window.min(self.granted);
        let room = window.saturating_sub(self.in_flight);
        // What does not fit waits for more room rather than to go out in crumbs.
        let least = GOOD_FRAME.min(window / 2);
        for _ in 0..self.turns.len() {
            let attempt = self.turns.pop_front()?;
            let Some(flow) = self.flows.get_mut(&attempt) else { continue };
            let sendable = flow.sendable();
            if sendable == 0 {
                flow.has_turn = false;
                continue;
            }
            self.turns.push_back(attempt);
            if room > 0 && (sendable <= room || room >= least) {
                let max = usize::try_from(sendable.min(room)).unwrap_or(usize::MAX).min(MAX_CHUNK_PAYLOAD);
                return Some(Piece { attempt, offset: flow.sent, max });
            }
        }
        None
    }

    /// This many bytes of the attempt were sent from `offset`; 0 if none were available.
    pub fn sent(&mut self, attempt: AttemptRef, offset: u64, bytes: u64, now: Instant) {
        let Some(flow) = self.flows.get_mut(&attempt).filter(|flow| flow.sent == offset) else { return };
        if bytes == 0 {
            // Output was announced but is gone; without this, it would be requested again at once.
            flow.end = flow.sent;
            return;
        }
        flow.sent += bytes;
        flow.frames.push_back((flow.sent, now));
        self.in_flight += bytes;
        self.note_end(attempt);
    }

    /// The ends that may go out now.
    pub fn take_ends(&mut self) -> Vec<ToMaster> {
        let due = std::mem::take(&mut self.due_ends);
        let mut ends = std::mem::take(&mut self.bare_ends);
        for attempt in due {
            if let Some(flow) = self.flows.get_mut(&attempt)
                && flow.end_is_due()
                && let Some(ended) = &flow.ended
            {
                flow.end_is_out = true;
                ends.push(ToMaster::Ended(ended.clone()));
            }
        }
        ends
    }

    fn take_turn(&mut self, attempt: AttemptRef) {
        if let Some(flow) = self.flows.get_mut(&attempt)
            && !flow.has_turn
            && flow.end > flow.sent
        {
            flow.has_turn = true;
            self.turns.push_back(attempt);
        }
    }

    fn note_end(&mut self, attempt: AttemptRef) {
        if self.flows.get(&attempt).is_some_and(Flow::end_is_due) {
            self.due_ends.push(attempt);
        }
    }

    fn adapt(&mut self, latency: Duration, acknowledged: u64, now: Instant) {
        if latency <= SOON {
            self.window = (self.window + acknowledged).min(MAX_WINDOW);
        } else if latency >= LATE && self.shrunk_at.is_none_or(|at| now.saturating_duration_since(at) >= LATE)
        {
            self.window = (self.window / 2).max(MIN_WINDOW);
            self.shrunk_at = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use gaffer_domain::TaskId;
    use gaffer_domain::reason::AttemptEnd;

    use super::*;

    const KIB: u64 = 1 << 10;

    fn attempt(task: i64) -> AttemptRef {
        AttemptRef { task: TaskId(task), attempt: 1 }
    }

    fn ended(task: i64, output_bytes: u64) -> Box<Ended> {
        let end = AttemptEnd::Exited { code: 0 };
        Box::new(Ended { output_bytes, ..crate::attempt::unstarted(attempt(task), end) })
    }

    /// Sends the next piece whole; gives its task and size.
    fn send(outbox: &mut Outbox, now: Instant) -> Option<(i64, u64)> {
        let piece = outbox.next()?;
        outbox.sent(piece.attempt, piece.offset, piece.max as u64, now);
        Some((piece.attempt.task.0, piece.max as u64))
    }

    #[test]
    fn the_first_bytes_go_at_once_and_more_waits_for_a_good_frame_or_the_acknowledgement() {
        let (mut outbox, now) = (Outbox::new(), Instant::now());
        outbox.grown(attempt(1), 10);
        assert_eq!(send(&mut outbox, now), Some((1, 10)));
        outbox.grown(attempt(1), 20);
        assert_eq!(send(&mut outbox, now), None);
        outbox.stored(attempt(1), 10, now);
        assert_eq!(send(&mut outbox, now), Some((1, 10)));
        outbox.grown(attempt(1), 20 + GOOD_FRAME);
        assert_eq!(send(&mut outbox, now), Some((1, GOOD_FRAME)));
    }

    #[test]
    fn an_end_goes_out_right_after_its_output_without_waiting_for_acknowledgements() {
        let (mut outbox, now) = (Outbox::new(), Instant::now());
        outbox.grown(attempt(1), 10);
        assert_eq!(send(&mut outbox, now), Some((1, 10)));
        outbox.ended(ended(1, 15));
        assert_eq!(outbox.take_ends(), []);
        assert_eq!(send(&mut outbox, now), Some((1, 5)));
        assert_eq!(outbox.take_ends().len(), 1);
        assert_eq!(outbox.take_ends(), [], "once");
        outbox.ended(ended(2, 0));
        assert_eq!(outbox.take_ends().len(), 1, "nothing to wait for");
    }

    #[test]
    fn the_windows_of_an_attempt_and_of_all_are_kept() {
        let (mut outbox, now) = (Outbox::new(), Instant::now());
        outbox.window = MAX_WINDOW;
        for task in 1..=20 {
            outbox.grown(attempt(task), 100 << 20);
        }
        let mut sent: HashMap<i64, u64> = HashMap::new();
        while let Some((task, bytes)) = send(&mut outbox, now) {
            *sent.entry(task).or_default() += bytes;
        }
        assert_eq!(sent.values().sum::<u64>(), MAX_WINDOW);
        assert_eq!(sent.len(), 20, "all had their turn");
        assert!(sent.values().all(|bytes| *bytes <= ATTEMPT_WINDOW));

        let mut alone = Outbox { window: MAX_WINDOW, ..Outbox::new() };
        alone.grown(attempt(1), 100 << 20);
        let bytes: u64 = std::iter::from_fn(|| send(&mut alone, now)).map(|(_, bytes)| bytes).sum();
        assert_eq!(bytes, ATTEMPT_WINDOW);
        alone.stored(attempt(1), 256 * KIB, now);
        assert_eq!(send(&mut alone, now), Some((1, 256 * KIB)));
    }

    #[test]
    fn the_little_that_one_attempt_has_fits_beside_the_flood_of_another() {
        let (mut outbox, now) = (Outbox::new(), Instant::now());
        outbox.grown(attempt(1), 10);
        assert_eq!(send(&mut outbox, now), Some((1, 10)));
        outbox.grown(attempt(2), 100 << 20);
        assert_eq!(send(&mut outbox, now), Some((2, FIRST_WINDOW - 10)));
        outbox.stored(attempt(1), 10, now);
        outbox.grown(attempt(3), 10);
        assert_eq!(send(&mut outbox, now), Some((3, 10)), "10 more than the first window were stored");
        assert_eq!(send(&mut outbox, now), None);
    }

    #[test]
    fn the_window_grows_with_quick_acknowledgements_and_shrinks_with_late_ones() {
        let (mut outbox, start) = (Outbox::new(), Instant::now());
        outbox.grown(attempt(1), 100 << 20);
        let mut now = start;
        for _ in 0..100 {
            while send(&mut outbox, now).is_some() {}
            now += Duration::from_millis(10);
            let sent = outbox.flows[&attempt(1)].sent;
            outbox.stored(attempt(1), sent, now);
        }
        assert_eq!(outbox.window, MAX_WINDOW);
        outbox.grown(attempt(1), 1000 << 20);
        for _ in 0..20 {
            while send(&mut outbox, now).is_some() {}
            now += Duration::from_secs(3);
            let sent = outbox.flows[&attempt(1)].sent;
            outbox.stored(attempt(1), sent, now);
        }
        assert_eq!(outbox.window, MIN_WINDOW);
        assert_eq!(outbox.in_flight, 0);
    }

    #[test]
    fn no_more_is_on_its_way_than_the_master_grants() {
        let (mut outbox, now) = (Outbox::new(), Instant::now());
        outbox.grown(attempt(1), 100 << 20);
        outbox.grant(16 * KIB);
        assert_eq!(send(&mut outbox, now), Some((1, 16 * KIB)));
        assert_eq!(send(&mut outbox, now), None);
        outbox.stored(attempt(1), 16 * KIB, now);
        assert_eq!(send(&mut outbox, now), Some((1, 16 * KIB)));
        outbox.grant(32 * KIB);
        assert_eq!(send(&mut outbox, now), Some((1, 16 * KIB)));
        outbox.grant(0);
        outbox.stored(attempt(1), 48 * KIB, now);
        assert_eq!(send(&mut outbox, now), None);
    }

    #[test]
    fn a_gap_is_sent_again_with_the_end_after_it() {
        let (mut outbox, now) = (Outbox::new(), Instant::now());
        outbox.grown(attempt(1), 100);
        outbox.ended(ended(1, 100));
        assert_eq!(send(&mut outbox, now), Some((1, 100)));
        assert_eq!(outbox.take_ends().len(), 1);
        outbox.wanted(attempt(1), 40);
        assert_eq!(outbox.take_ends(), []);
        assert_eq!(outbox.next().unwrap().offset, 40);
        assert_eq!(send(&mut outbox, now), Some((1, 60)));
        assert_eq!(outbox.take_ends().len(), 1);
        outbox.forget(attempt(1));
        assert_eq!((outbox.in_flight, outbox.next()), (0, None));
    }

    #[test]
    fn what_was_stored_without_having_been_sent_is_not_sent_any_more() {
        let (mut outbox, now) = (Outbox::new(), Instant::now());
        outbox.resume(attempt(1), 10);
        outbox.ended(ended(1, 30));
        outbox.stored(attempt(1), 25, now);
        assert_eq!(outbox.next(), Some(Piece { attempt: attempt(1), offset: 25, max: 5 }));
        outbox.stored(attempt(1), 30, now);
        assert_eq!((outbox.next(), outbox.in_flight), (None, 0));
        assert_eq!(outbox.take_ends().len(), 1);
    }

    #[test]
    fn a_new_session_goes_on_where_the_master_is() {
        let (mut outbox, now) = (Outbox::new(), Instant::now());
        outbox.resume(attempt(1), 70);
        outbox.grown(attempt(1), 100);
        assert_eq!(outbox.next(), Some(Piece { attempt: attempt(1), offset: 70, max: 30 }));
        // Output that is not there any more is not asked for again and again.
        outbox.sent(attempt(1), 70, 0, now);
        assert_eq!(outbox.next(), None);
    }
}
