//! Remembers that a worker and the database agree on its attempts, so that an unchanged heartbeat needs no query.
//!
//! A comparison may be left out only if it would find what the last one found: nothing to repair, however much time goes
//! by. That is so if the worker holds the same, and nothing was committed about its attempts since. Now and then there is
//! one all the same.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gaffer_domain::worker::ReportedAttempt;

/// How long an agreement lasts.
const VALID: Duration = Duration::from_secs(60);

/// The known state of one session.
#[derive(Debug, Default)]
pub struct Agreement(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    held: Option<Arc<Vec<ReportedAttempt>>>,
    /// Counts the lists that differed from the one before.
    list: u64,
    /// Counts commits that change what is expected of the worker.
    expectation: u64,
    /// A comparison waits for the write batcher.
    is_waiting: bool,
    agreed: Option<Agreed>,
}

#[derive(Debug, Clone, Copy)]
struct Agreed {
    list: u64,
    expectation: u64,
    at: Instant,
}

/// A list that is to be compared.
#[derive(Debug, Clone)]
pub struct Listed {
    pub held: Arc<Vec<ReportedAttempt>>,
    number: u64,
}

impl Agreement {
    /// Receives the list of held attempts; none if it is unchanged. Returns the list if it must be compared; none
    /// also if there was never a list.
    pub fn heard(&self, held: Option<Vec<ReportedAttempt>>, now: Instant) -> Option<Listed> {
        let mut state = self.lock();
        if let Some(held) = held
            && state.held.as_deref() != Some(&held)
        {
            state.held = Some(Arc::new(held));
            state.list += 1;
        }
        let is_agreed = state.agreed.is_some_and(|agreed| {
            agreed.list == state.list
                && agreed.expectation == state.expectation
                && now.saturating_duration_since(agreed.at) < VALID
        });
        if state.is_waiting || is_agreed {
            return None;
        }
        let listed = Listed { held: state.held.clone()?, number: state.list };
        state.is_waiting = true;
        Some(listed)
    }

    /// A commit changed what is expected of the worker.
    pub fn expectation_changed(&self) {
        self.lock().expectation += 1;
    }

    /// A list was compared with what was expected just now; or could not be, which is no agreement.
    pub fn compared(&self, listed: &Listed, agrees: bool, now: Instant) {
        let mut state = self.lock();
        state.is_waiting = false;
        let (list, expectation) = (listed.number, state.expectation);
        state.agreed = agrees.then_some(Agreed { list, expectation, at: now });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use gaffer_domain::worker::HeldPhase;
    use gaffer_domain::{AttemptRef, TaskId};

    use super::*;

    fn held(tasks: &[i64]) -> Option<Vec<ReportedAttempt>> {
        let held = |task: &i64| ReportedAttempt {
            attempt: AttemptRef { task: TaskId(*task), attempt: 1 },
            phase: HeldPhase::Running,
        };
        Some(tasks.iter().map(held).collect())
    }

    #[test]
    fn only_what_cannot_differ_from_the_last_comparison_is_left_out() {
        let (agreement, now) = (Agreement::default(), Instant::now());
        assert!(agreement.heard(None, now).is_none(), "nothing was ever said");
        let listed = agreement.heard(held(&[1]), now).unwrap();
        assert!(agreement.heard(held(&[1]), now).is_none(), "one comparison waits");
        agreement.compared(&listed, false, now);
        let listed = agreement.heard(None, now).expect("they differed");
        agreement.compared(&listed, true, now);
        assert!(agreement.heard(None, now).is_none() && agreement.heard(held(&[1]), now).is_none());

        agreement.expectation_changed();
        let listed = agreement.heard(None, now).expect("something was committed");
        agreement.compared(&listed, true, now);
        let listed = agreement.heard(held(&[1, 2]), now).expect("it holds something else");
        assert!(agreement.heard(held(&[1, 2, 3]), now).is_none());
        agreement.compared(&listed, true, now);
        let listed = agreement.heard(None, now).expect("it held something else meanwhile");
        assert_eq!(listed.held.len(), 3);
        agreement.compared(&listed, true, now);
        assert!(agreement.heard(None, now).is_none());
        assert!(agreement.heard(None, now + VALID).is_some(), "now and then in any case");
    }
}
