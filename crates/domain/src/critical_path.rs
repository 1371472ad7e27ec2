//! The critical path of a job: the chain of parts that each waited for the one before, up to the last one that ended.
//!
//! See Kelley and Walker, *Critical-Path Planning and Scheduling* (1959), seen from behind: of what was waited
//! for, the last to end is what decided.

use crate::Time;

/// One part of a job: a task, or all tasks of a definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// When it ended; none if it has not.
    pub ended: Option<Time>,
    /// Whether it was ever placed on a worker. What never ran took no time.
    pub has_run: bool,
    /// The parts that it waited for.
    pub waited_for: Vec<usize>,
}

/// The parts that decided how long it took, in the order in which they ran. Parts that have not ended are later than all that have.
/// What waited for a part that never ran waited for what that part waited for.
pub fn critical_path(parts: &[Part]) -> Vec<usize> {
    let last_of = |among: Vec<usize>| {
        let known = among.into_iter().filter(|at| parts[*at].has_run);
        // Of several that are alike, the first.
        known.max_by_key(|at| (parts[*at].ended.is_none(), parts[*at].ended, std::cmp::Reverse(*at)))
    };
    let mut path = Vec::new();
    let mut next = last_of((0..parts.len()).collect());
    while let Some(at) = next {
        // Stored dependencies have no circle; should they, it ends here.
        if path.contains(&at) {
            break;
        }
        path.push(at);
        next = last_of(waited_for(parts, at));
    }
    path.reverse();
    path
}

/// The parts that ran and that a part waited for, directly or through parts that never ran.
fn waited_for(parts: &[Part], at: usize) -> Vec<usize> {
    let mut is_seen = vec![false; parts.len()];
    let mut rest = parts[at].waited_for.clone();
    let mut found = Vec::new();
    while let Some(next) = rest.pop() {
        let Some(part) = parts.get(next).filter(|_| !std::mem::replace(&mut is_seen[next], true)) else {
            continue;
        };
        match part.has_run {
            true => found.push(next),
            false => rest.extend(&part.waited_for),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn part(ended: Option<i64>, waited_for: &[usize]) -> Part {
        let ended = ended.map(|at| Time::from_timestamp(at, 0).unwrap());
        Part { ended, has_run: true, waited_for: waited_for.to_vec() }
    }

    #[test]
    fn of_what_was_waited_for_the_last_to_end_decided() {
        let parts = [part(Some(3), &[]), part(Some(5), &[]), part(Some(9), &[0, 1]), part(Some(8), &[0])];
        assert_eq!(critical_path(&parts), [1, 2]);
    }

    #[test]
    fn what_still_runs_is_later_than_all_that_ended() {
        let parts = [part(Some(3), &[]), part(None, &[0]), part(Some(9), &[])];
        assert_eq!(critical_path(&parts), [0, 1]);
    }

    #[test]
    fn what_never_ran_took_no_time() {
        let skipped = Part { has_run: false, ..part(Some(20), &[0]) };
        assert_eq!(critical_path(&[part(Some(3), &[]), skipped]), [0]);
        assert_eq!(critical_path(&[]), [0; 0]);
    }

    #[test]
    fn what_waited_for_a_part_that_never_ran_waited_for_what_is_behind_it() {
        let never = |waited_for: &[usize]| Part { has_run: false, ..part(Some(4), waited_for) };
        assert_eq!(critical_path(&[part(Some(3), &[]), never(&[0]), part(Some(9), &[1])]), [0, 2]);
        // Through several of them, which may wait for each other in a circle.
        let parts =
            [part(Some(3), &[]), never(&[0, 2]), never(&[1]), part(Some(2), &[]), part(Some(9), &[2, 3])];
        assert_eq!(critical_path(&parts), [0, 4]);
    }

    #[test]
    fn a_circle_ends() {
        assert_eq!(critical_path(&[part(Some(3), &[1]), part(Some(4), &[0])]), [0, 1]);
    }
}
