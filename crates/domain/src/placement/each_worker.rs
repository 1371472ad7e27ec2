//! Which workers the tasks of a definition with `each: worker` are for.
//!
//! These are the workers that match when the job is accepted: all that could run a task if they did nothing else. A worker that is
//! away for a moment is one of them, so that a lost connection does not leave a machine out without a word. One that is lost, or
//! that takes nothing new, is not: its task would wait for something that may never come. Nor is one whose driver does not work or
//! whose program is too old. All of these are told.

use super::feasible::suitable;
use super::infeasible::Infeasible;
use super::requirements::Requirements;
use super::worker_snapshot::WorkerSnapshot;
use crate::ProjectId;
use crate::quantity::listed;
use crate::worker::WorkerState;

/// The workers of a definition.
#[derive(Debug, Clone, PartialEq)]
pub struct EachWorker<'a> {
    /// Those that its tasks are for, in the order of the indices: by name.
    pub chosen: Vec<&'a WorkerSnapshot>,
    /// Those that match but for their state, or for what is wrong with them: none, if it is the state.
    pub left_out: Vec<(&'a WorkerSnapshot, Option<Infeasible>)>,
}

/// Chooses the workers for a definition with these needs.
pub fn each_worker<'a>(
    needs: &Requirements,
    project: ProjectId,
    offers: &'a [WorkerSnapshot],
) -> EachWorker<'a> {
    let matches = |offer: &&WorkerSnapshot| suitable(needs, project, &as_it_should_be(needs, offer)).is_ok();
    let mut matching: Vec<&WorkerSnapshot> = offers.iter().filter(matches).collect();
    matching.sort_by(|one, other| (&one.name, one.worker).cmp(&(&other.name, other.worker)));
    let (mut chosen, mut left_out) = (Vec::new(), Vec::new());
    for offer in matching {
        match (is_open(offer.state), suitable(needs, project, &as_connected(offer))) {
            (true, Ok(())) => chosen.push(offer),
            (_, wrong) => left_out.push((offer, wrong.err())),
        }
    }
    EachWorker { chosen, left_out }
}

fn is_open(state: WorkerState) -> bool {
    matches!(state, WorkerState::Online | WorkerState::Offline)
}

fn as_connected(offer: &WorkerSnapshot) -> WorkerSnapshot {
    WorkerSnapshot { state: WorkerState::Online, ..offer.clone() }
}

/// With every driver that it has, and the latest program.
fn as_it_should_be(needs: &Requirements, offer: &WorkerSnapshot) -> WorkerSnapshot {
    let mut offer = as_connected(offer);
    offer.drivers.extend(offer.broken_drivers.iter().map(|(driver, _)| *driver));
    offer.features.extend(needs.features.iter().copied());
    offer
}

impl EachWorker<'_> {
    /// Who matches and gets no task: `pi is lost, old is cordoned`; none if there is no such worker.
    pub fn left_out(&self) -> Option<String> {
        let says = |(offer, wrong): &(&WorkerSnapshot, Option<Infeasible>)| match wrong {
            Some(wrong) => format!("{} {wrong}", offer.name),
            None => format!("{} is {}", offer.name, offer.state),
        };
        let all: Vec<String> = self.left_out.iter().map(says).collect();
        (!all.is_empty()).then(|| listed(&all))
    }
}

/// Why no worker is chosen, in one sentence without a full stop.
pub fn no_worker(needs: &Requirements, project: ProjectId, offers: &[WorkerSnapshot]) -> String {
    let found = each_worker(needs, project, offers);
    if found.left_out.iter().any(|(_, wrong)| wrong.is_none())
        && let Some(left_out) = found.left_out()
    {
        return format!("every worker that matches is lost or takes no new tasks: {left_out}");
    }
    let reason = |offer: &WorkerSnapshot| {
        let unfit = suitable(needs, project, &as_connected(offer)).err()?;
        Some(format!("{} {unfit}", offer.name))
    };
    let ours = offers.iter().filter(|offer| offer.project == project);
    let reasons: Vec<String> = ours.filter_map(reason).collect();
    match reasons.is_empty() {
        false => format!("no worker matches: {}", listed(&reasons)),
        true => "no worker has connected yet".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::placement::Feature;
    use crate::placement::tests::{OURS, needs, offer, resources};
    use crate::spec::DriverKind;

    fn named(worker: i64, name: &str, state: WorkerState) -> WorkerSnapshot {
        WorkerSnapshot { name: name.to_owned(), state, ..offer(worker) }
    }

    #[test]
    fn every_worker_that_matches_is_chosen_in_the_order_of_names_unless_it_takes_nothing() {
        let small =
            WorkerSnapshot { capacity: resources(500, 0, 0), ..named(6, "small", WorkerState::Online) };
        let stranger =
            WorkerSnapshot { project: ProjectId(OURS.0 + 1), ..named(7, "other", WorkerState::Online) };
        let offers = [
            named(1, "pi", WorkerState::Online),
            named(2, "nas", WorkerState::Offline),
            named(3, "old", WorkerState::Cordoned),
            named(4, "busy", WorkerState::Draining),
            named(5, "laptop", WorkerState::Lost),
            small,
            stranger,
        ];
        let found = each_worker(&needs(resources(1_000, 0, 0)), OURS, &offers);
        let names = |offers: &[&WorkerSnapshot]| -> Vec<String> {
            offers.iter().map(|offer| offer.name.clone()).collect()
        };
        assert_eq!(names(&found.chosen), ["nas", "pi"]);
        let left_out = found.left_out().unwrap();
        assert_eq!(left_out, "busy is draining, laptop is lost and old is cordoned");
        assert_eq!(each_worker(&needs(resources(500, 0, 0)), OURS, &offers[..1]).left_out(), None);
    }

    #[test]
    fn a_worker_that_matches_and_cannot_run_a_task_at_the_moment_is_told() {
        let broken = WorkerSnapshot {
            drivers: Vec::new(),
            broken_drivers: vec![(DriverKind::Host, "64 starts hang".to_owned())],
            ..named(1, "nas", WorkerState::Online)
        };
        let old = WorkerSnapshot { features: Vec::new(), ..named(2, "pi", WorkerState::Offline) };
        let none = WorkerSnapshot { drivers: Vec::new(), ..named(3, "other", WorkerState::Online) };
        let offers = [broken, old, none, named(4, "well", WorkerState::Online)];
        let wanted = Requirements { features: vec![Feature::Each], ..needs(resources(1_000, 0, 0)) };
        let found = each_worker(&wanted, OURS, &offers);
        assert_eq!(found.chosen, [&offers[3]]);
        let told = format!(
            "nas has no healthy host driver: 64 starts hang and pi runs gaffer {}, which does not support `{}`",
            offers[1].version,
            Feature::Each
        );
        assert_eq!(found.left_out(), Some(told.clone()));
        let all = "no worker matches: nas has no healthy host driver: 64 starts hang";
        assert_eq!(no_worker(&wanted, OURS, &offers[..1]), all);
    }

    #[test]
    fn it_is_said_why_no_worker_is_chosen() {
        let wanted = needs(resources(1_000, 0, 0));
        assert_eq!(no_worker(&wanted, OURS, &[]), "no worker has connected yet");
        let small = |worker: i64| WorkerSnapshot {
            capacity: resources(500, 0, 0),
            ..named(worker, &format!("w{worker}"), WorkerState::Lost)
        };
        let one = "w1 has 0.5 cpu in total, 1 requested";
        assert_eq!(no_worker(&wanted, OURS, &[small(1)]), format!("no worker matches: {one}"));
        let many: Vec<WorkerSnapshot> = (1..=6).map(small).collect();
        assert!(no_worker(&wanted, OURS, &many).ends_with(" and 2 others"));
        let cordoned = [small(1), named(2, "pi", WorkerState::Cordoned)];
        let expected = "every worker that matches is lost or takes no new tasks: pi is cordoned";
        assert_eq!(no_worker(&wanted, OURS, &cordoned), expected);
    }
}
