//! Ranks the workers for the tasks of one class while placements change their load.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use super::feasible::{suits, takes};
use super::receipt::{Candidate, Part, Receipt};
use super::requirements::Requirements;
use super::strategy::{Fleet, score, terms};
use super::worker_snapshot::WorkerSnapshot;
use crate::spec::Strategy;
use crate::{ProjectId, Time, WorkerId};

/// What to rank, and how.
#[derive(Clone, Copy)]
pub(crate) struct Question<'a> {
    /// Number of the class of the tasks; 0 if they are of none.
    pub class: i64,
    pub needs: &'a Requirements,
    pub project: ProjectId,
    pub strategy: Strategy,
    pub mean_run: Option<Duration>,
    pub now: Option<Time>,
    /// The workers that the project may use, in any state.
    pub workers: u32,
}

/// What the choice of one task changes for the next, beside the chosen worker itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Course {
    pub fleet: Fleet,
    /// The last worker chosen for the project.
    pub last: Option<WorkerId>,
}

/// A worker's place. The fields are compared in their order; the first differences count most.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Rank {
    /// Attempts of the class that became unhealthy there lately.
    unhealthy: u32,
    unmeasured: bool,
    waits: bool,
    /// Tasks of the definition among the workers with the same value of what they are spread over.
    siblings: u32,
    score: f64,
    /// For *round_robin*: whether it comes at or before the last one chosen.
    has_had_its_turn: bool,
    /// Attempts that wait there, so that tasks which need nothing are spread, too; 0 for *round_robin*.
    waiting: u32,
    worker: WorkerId,
    at: usize,
}

impl Eq for Rank {}

impl PartialOrd for Rank {
    fn partial_cmp(&self, other: &Rank) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Rank {
    fn cmp(&self, other: &Rank) -> Ordering {
        let first = |rank: &Rank| (rank.unhealthy, rank.unmeasured, rank.waits, rank.siblings);
        let then = |rank: &Rank| (rank.has_had_its_turn, rank.waiting, rank.worker, rank.at);
        first(self)
            .cmp(&first(other))
            .then_with(|| self.score.total_cmp(&other.score))
            .then_with(|| then(self).cmp(&then(other)))
    }
}

/// Where in `offers` the workers stand that could run the tasks if they did nothing else.
pub(crate) fn suitable_at(needs: &Requirements, project: ProjectId, offers: &[WorkerSnapshot]) -> Vec<usize> {
    (0..offers.len()).filter(|at| suits(needs, project, &offers[*at])).collect()
}

/// A ranking is valid while only its owner changes the offers.
pub(crate) struct Ranking<'a> {
    question: Question<'a>,
    suitable: &'a [usize],
    groups: Groups,
    heap: BinaryHeap<Reverse<Rank>>,
}

impl<'a> Ranking<'a> {
    /// Ranks the `suitable` workers.
    pub fn new(
        question: Question<'a>,
        suitable: &'a [usize],
        offers: &[WorkerSnapshot],
        course: &Course,
    ) -> Ranking<'a> {
        let groups = Groups::new(question.needs, question.project, offers);
        let mut ranking = Ranking { question, suitable, groups, heap: BinaryHeap::new() };
        ranking.rank_all(offers, course);
        ranking
    }

    /// Chooses the best worker for one more task and notes the task in its offer. None if no worker can take one.
    pub fn choose(&mut self, offers: &mut [WorkerSnapshot], course: &mut Course) -> Option<(usize, Receipt)> {
        let receipt = self.receipt(offers, course)?;
        let Reverse(best) = self.heap.pop()?;
        let offer = &mut offers[best.at];
        offer.take(self.question.needs);
        course.last = Some(offer.worker);
        let doubled = course.fleet.note(offer.jobs());
        self.groups.note(best.at);
        let others_change = match self.question.strategy {
            Strategy::RoundRobin => true,
            Strategy::Epvm => doubled,
            _ => false,
        };
        if others_change || !self.groups.is_empty() {
            self.rank_all(offers, course);
        } else {
            self.heap.extend(self.rank(best.at, offers, course).map(Reverse));
        }
        Some((best.at, receipt))
    }

    fn rank_all(&mut self, offers: &[WorkerSnapshot], course: &Course) {
        let mut ranks = std::mem::take(&mut self.heap).into_vec();
        ranks.clear();
        ranks.extend(self.suitable.iter().filter_map(|at| self.rank(*at, offers, course)).map(Reverse));
        self.heap = BinaryHeap::from(ranks);
    }

    fn rank(&self, at: usize, offers: &[WorkerSnapshot], course: &Course) -> Option<Rank> {
        let Question { class, needs, strategy, mean_run, .. } = self.question;
        let offer = &offers[at];
        let waits = takes(needs, offer, mean_run)?;
        let takes_turns = strategy == Strategy::RoundRobin;
        Some(Rank {
            unhealthy: offer.unhealthy.get(&class).copied().unwrap_or(0),
            unmeasured: strategy.needs_readings() && offer.fresh().is_none(),
            waits,
            siblings: self.groups.siblings(at),
            score: score(strategy, needs, offer, &course.fleet),
            has_had_its_turn: takes_turns && course.last.is_some_and(|last| offer.worker <= last),
            waiting: if takes_turns { 0 } else { offer.waiting },
            worker: offer.worker,
            at,
        })
    }

    /// How the choice that comes next is made; none if there is nothing to choose from.
    fn receipt(&mut self, offers: &[WorkerSnapshot], course: &Course) -> Option<Receipt> {
        self.heap.peek()?;
        let feasible = self.heap.len();
        let mut best = Vec::with_capacity(Receipt::MAX_CANDIDATES);
        while best.len() < Receipt::MAX_CANDIDATES
            && let Some(next) = self.heap.pop()
        {
            best.push(next);
        }
        let candidates = best.iter().enumerate();
        let candidates = candidates
            .map(|(position, Reverse(rank))| self.candidate(position, rank, offers, course))
            .collect();
        let needs_readings = self.question.strategy.needs_readings();
        self.heap.extend(best);
        let unmeasured = match needs_readings {
            true => self.heap.iter().filter(|Reverse(rank)| rank.unmeasured).count(),
            false => 0,
        };
        Some(Receipt {
            strategy: self.question.strategy.as_str().to_owned(),
            at: self.question.now,
            workers: self.question.workers,
            suitable: Some(self.suitable.len() as u32),
            feasible: feasible as u32,
            unmeasured: unmeasured as u32,
            candidates,
        })
    }

    fn candidate(
        &self,
        position: usize,
        rank: &Rank,
        offers: &[WorkerSnapshot],
        course: &Course,
    ) -> Candidate {
        let Question { needs, strategy, .. } = self.question;
        let offer = &offers[rank.at];
        let terms = terms(strategy, needs, offer, &course.fleet).named();
        let part = |(name, value): (&str, f64)| Part { name: name.to_owned(), value };
        let mut parts: Vec<Part> = terms.into_iter().filter(|(_, value)| *value != 0.0).map(part).collect();
        let mut score = rank.score;
        if strategy == Strategy::RoundRobin {
            // Whose turn it is next is 1.
            score = (position + 1) as f64;
            parts.insert(0, part(("turn", score)));
        }
        Candidate {
            worker: offer.worker,
            name: offer.name.clone(),
            score,
            parts,
            unmeasured: rank.unmeasured,
            waits: rank.waits,
            siblings: rank.siblings,
            unhealthy: rank.unhealthy,
        }
    }
}

/// Distribution of a definition's tasks over the values of its spread fact. Workers without the label form a group.
struct Groups {
    /// For each offer, its group; empty where nothing is spread.
    of: Vec<usize>,
    counts: Vec<u32>,
}

impl Groups {
    fn new(needs: &Requirements, project: ProjectId, offers: &[WorkerSnapshot]) -> Groups {
        let mut groups = Groups { of: Vec::new(), counts: Vec::new() };
        let Some(fact) = &needs.spread else { return groups };
        let mut known = BTreeMap::new();
        for offer in offers {
            let next = known.len();
            let group = *known.entry(offer.facts().get(fact)).or_insert(next);
            if group == next {
                groups.counts.push(0);
            }
            if offer.is_for(project) {
                groups.counts[group] += offer.siblings(needs);
            }
            groups.of.push(group);
        }
        groups
    }

    fn is_empty(&self) -> bool {
        self.of.is_empty()
    }

    fn siblings(&self, at: usize) -> u32 {
        self.of.get(at).map_or(0, |group| self.counts[*group])
    }

    /// One more task is at this worker.
    fn note(&mut self, at: usize) {
        if let Some(group) = self.of.get(at) {
            self.counts[*group] += 1;
        }
    }
}
