//! That the numbers keep what their module proves, for any of them, in a small world of clocks.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::*;

fn leases() -> impl Iterator<Item = LeaderTimes> {
    [2_000, 2_500, 20_000, 60_000, 600_000]
        .into_iter()
        .map(|millis| LeaderTimes::of(Span::from_millis(millis)))
}

#[test]
fn a_leader_can_miss_a_confirmation_and_stops_before_it_is_replaced_for_its_silence() {
    for times in leases() {
        let millis = |span: Span| span.as_millis();
        let two_tries = 2 * (millis(times.renew_every()) + millis(times.renew_timeout()));
        assert!(two_tries < millis(times.trust_window()), "{times:?}");
        assert!(millis(times.vacant_after()) > 2 * millis(times.renew_every()), "{times:?}");
        assert_eq!(times.absence_grace(times.takeover_after()), Span::from_millis(0), "{times:?}");
        assert!(
            millis(times.absence_grace(Span::from_millis(0))) > millis(times.trust_window()),
            "{times:?}"
        );
    }
}

#[test]
fn a_standby_takes_over_at_once_only_where_somebody_is_gone() {
    let times = LeaderTimes::of(LEADER_LEASE);
    let seen = LeaderSeen {
        released: false,
        lock_is_free: false,
        is_first_look: true,
        silent_for: Span::from_millis(0),
    };
    assert!(!seen.may_take_over(times), "somebody leads");
    assert!(LeaderSeen { released: true, ..seen }.may_take_over(times));
    assert!(LeaderSeen { lock_is_free: true, ..seen }.may_take_over(times), "its predecessor was killed");
    let waiting = LeaderSeen { is_first_look: false, ..seen };
    assert!(!LeaderSeen { lock_is_free: true, ..waiting }.may_take_over(times), "a connection broke");
    let a_while = LeaderSeen { silent_for: times.vacant_after(), ..waiting };
    assert!(!a_while.may_take_over(times));
    assert!(LeaderSeen { lock_is_free: true, ..a_while }.may_take_over(times));
    assert!(LeaderSeen { silent_for: times.takeover_after(), ..waiting }.may_take_over(times));
}

/// Time by a clock that is fast or slow, in milliseconds.
struct Clock(f64);

impl Clock {
    fn at(&self, true_time: f64) -> f64 {
        true_time * self.0
    }

    /// When this clock shows so much more than at `true_time`.
    fn later(&self, true_time: f64, millis: f64) -> f64 {
        true_time + millis / self.0
    }
}

#[test]
fn whatever_stalls_a_worker_ends_its_attempts_before_any_leader_declares_them_lost() {
    for seed in 0..20_000 {
        let mut rng = StdRng::seed_from_u64(seed);
        // Any two of them are at most a drift apart.
        let mut clock = || Clock(1.0 + rng.random_range(-0.499..0.499) * CLOCK_DRIFT);
        let (worker, old, new) = (clock(), clock(), clock());
        let times = leases().nth(rng.random_range(0..5)).unwrap();
        let lost_after = Span::from_millis(rng.random_range(SHORTEST_LOST_AFTER.as_millis()..1_000_000));
        // The old leader asks, stands still, and its request reaches the database some time.
        let asked = rng.random_range(0.0..1e6);
        let confirmed = asked + rng.random_range(0.0..60_000.0);
        // The new one looks after that, stands still before it knows, and takes over as soon as it may.
        let looked = confirmed + rng.random_range(0.0..10_000.0);
        let knows = looked + rng.random_range(0.0..60_000.0);
        let takes_over = knows + rng.random_range(0.0..1.5 * times.lease().as_millis() as f64);
        let silent_for = Span::from_millis((new.at(takes_over) - new.at(knows)) as u64);
        let grace = times.absence_grace(silent_for).as_millis() as f64;
        let absent_from = new.later(takes_over, grace);
        // The last heartbeat that the old one may have answered was sent before it did.
        let last_answer = old.later(asked, times.trust_window().as_millis() as f64);
        let last_sent = last_answer - rng.random_range(0.0..10.0);
        let dead = worker.later(last_sent, lost_after.as_millis() as f64)
            + rng.random_range(0.0..LOST_MARGIN.as_millis() as f64 * 0.99);
        let lost = new.later(absent_from, lost_due(lost_after).as_millis() as f64);
        assert!(dead < lost, "seed {seed}: {dead} {lost}");
    }
}
