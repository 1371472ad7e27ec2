//! The timing constants that prevent two concurrent attempts of a task, with the proof.
//!
//! # The lease
//!
//! Clocks here count time that a machine sleeps. Two of them run apart by at most [`CLOCK_DRIFT`], written δ.
//!
//! - A worker's lease on an attempt ends `lost_after` after it *sent* its last heartbeat (or hello) that was answered.
//! - What has lapsed is over, started or not, even if contact is back a moment later: a worker looks at its leases
//!   when it is given an attempt, before it starts one, and before it lets an answer renew them.
//! - What runs when its lease lapses is dead within less than [`LOST_MARGIN`], also while the worker's process is down.
//! - The master declares an attempt lost [`lost_due`] = `lost_after`·(1+δ) + [`LOST_MARGIN`] after it last *received*
//!   anything from the worker.
//!
//! Nothing is received before it is sent. So with one master the worker always comes first.
//!
//! # The leader
//!
//! Of several masters on one database, one leads. Its term is a number in the database, and each of its transactions
//! fails once the number is another one. That orders writes. Answers to heartbeats are no writes, so they need a proof in
//! time:
//!
//! - The leader confirms its term every [`LeaderTimes::renew_every`]. Let `p` be its time *before* it sent the last
//!   request that succeeded. It answers heartbeats and sends placements only before `p` + [`LeaderTimes::trust_window`].
//!   It compares clocks at each such act, so that it does not matter for how long its process stood still.
//! - Another master replaces the leader only if nothing was confirmed since it looked: the database compares and sets.
//!   Let `s` be the other's time *after* the answer to its first look that showed the last confirmation. As the
//!   confirmation was in the database by then, `p` ≤ `s`.
//! - The new leader counts absences of workers from `A` ≥ `s` + `trust_window`·(1+δ): see [`LeaderTimes::absence_grace`],
//!   which is what is left of that when it takes over.
//!
//! A worker that the old leader still answered sent its heartbeat before `p` + `trust_window`, that is before `A`. Its
//! lease ends before `A` + `lost_after`·(1+δ), and what it ran is dead [`LOST_MARGIN`] later. The new leader declares it
//! lost no earlier than `A` + [`lost_due`], which is the same. So the worker still comes first, whichever leader answered it.
//!
//! This needs neither the database's clock nor a lock that a server might keep for a dead connection, or drop under a
//! living one. A leader that is only silent is replaced after [`LeaderTimes::takeover_after`], when its window is over:
//! nothing is left of the grace then.

use crate::quantity::Span;

/// How often a worker sends a heartbeat.
pub const HEARTBEAT_INTERVAL: Span = Span::from_millis(5_000);
/// A connection on which nothing arrives for this time is closed.
pub const SILENCE_LIMIT: Span = Span::from_millis(15_000);
/// Extra time that the master waits after `lost_after` before it declares an attempt lost: the worker, which starts
/// counting no later, has killed the attempt by then. See [the lease](self#the-lease).
pub const LOST_MARGIN: Span = Span::from_millis(5_000);
/// Maximum relative drift of two clocks; the master waits this share of `lost_after` longer, beside
/// [`LOST_MARGIN`].
pub const CLOCK_DRIFT: f64 = 0.001;
/// The shortest `lost_after` that a job may ask for: one heartbeat and its answer may get lost.
pub const SHORTEST_LOST_AFTER: Span = Span::from_secs(10);
/// Default time without confirmation after which another master takes over.
pub const LEADER_LEASE: Span = Span::from_secs(20);
/// What operators may set as [`LEADER_LEASE`].
pub const LEADER_LEASES: std::ops::RangeInclusive<Span> = Span::from_secs(2)..=Span::from_secs(600);

const _: () = assert!(SHORTEST_LOST_AFTER.as_millis() >= 2 * HEARTBEAT_INTERVAL.as_millis());
const _: () = assert!(SILENCE_LIMIT.as_millis() >= 2 * HEARTBEAT_INTERVAL.as_millis());

/// How long after the last word of its worker an attempt is declared lost.
pub fn lost_due(lost_after: Span) -> Span {
    drifted(lost_after, LOST_MARGIN.as_millis())
}

/// The times of a leader, all of which follow from its lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaderTimes {
    lease: Span,
}

impl LeaderTimes {
    /// The times for a given lease.
    pub const fn of(lease: Span) -> LeaderTimes {
        LeaderTimes { lease }
    }

    /// The lease itself.
    pub const fn lease(self) -> Span {
        self.lease
    }

    /// How often it confirms its term.
    pub const fn renew_every(self) -> Span {
        self.part(1, 10)
    }

    /// How long it waits for the database to confirm that before it tries on another connection.
    pub const fn renew_timeout(self) -> Span {
        self.part(3, 20)
    }

    /// How long after it asked for the last confirmation it may act without another one.
    pub const fn trust_window(self) -> Span {
        self.part(3, 4)
    }

    /// Grace for a leader whose connection is known to be gone.
    pub const fn vacant_after(self) -> Span {
        self.part(1, 4)
    }

    /// Time without confirmation after which another master takes over.
    pub const fn takeover_after(self) -> Span {
        self.lease
    }

    /// How far in the future a new leader starts the absences of workers, given how long its predecessor has been
    /// silent, if it did not step down.
    pub fn absence_grace(self, silent_for: Span) -> Span {
        let window = drifted(self.trust_window(), 1);
        Span::from_millis(window.as_millis().saturating_sub(silent_for.as_millis()))
    }

    const fn part(self, numerator: u64, denominator: u64) -> Span {
        Span::from_millis(self.lease.as_millis() * numerator / denominator)
    }
}

/// What a master that does not lead knows of the one that does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaderSeen {
    /// The leader stepped down.
    pub released: bool,
    /// The leader's lock is free: its connection is gone.
    pub lock_is_free: bool,
    /// This is the first look that this process takes.
    pub is_first_look: bool,
    /// For how long nothing was confirmed, as far as this process has seen.
    pub silent_for: Span,
}

impl LeaderSeen {
    /// Whether to take over. This decides only how soon: that nothing runs twice follows from the term and the grace.
    pub fn may_take_over(&self, leader: LeaderTimes) -> bool {
        let is_vacant = self.is_first_look || self.silent_for >= leader.vacant_after();
        self.released || (self.lock_is_free && is_vacant) || self.silent_for >= leader.takeover_after()
    }
}

/// A time plus a duration, in milliseconds rounded up, by a clock that may be slow.
fn drifted(span: Span, more_millis: u64) -> Span {
    let drift = (span.as_millis() as f64 * CLOCK_DRIFT).ceil() as u64;
    Span::from_millis(span.as_millis().saturating_add(drift).saturating_add(more_millis))
}

#[cfg(test)]
mod tests;
