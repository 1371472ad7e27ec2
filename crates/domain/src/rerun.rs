//! What of a finished job runs again when a part of it is rerun, and which results the new job takes over.
//!
//! A task runs again because it is asked for (it failed, or is of the definition to start from), or because a task that it waits
//! for runs again. The results of all others are taken over as they are. The specification of the new job may differ from
//! that of the finished one: definitions are matched by their names, tasks by their indices and items. What the finished job does
//! not have runs; a change to a definition alone is no reason to run its tasks again.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use serde::Serialize;

use crate::job::JobState;
use crate::spec::{Awaited, IndexMatch, JobSpec, TaskSpec, all_awaited, in_order};

/// What is to run again. Both together mean everything that either of them says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Part<'a> {
    /// The tasks that failed, or were cancelled although they were needed.
    pub failed: bool,
    /// All tasks of the definition with this name.
    pub from: Option<&'a str>,
}

/// A task of the finished job that did not complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Uncompleted {
    /// The place of its definition in the finished job.
    pub position: usize,
    /// Its index.
    pub index: u32,
    /// It was not needed: its condition was not met.
    pub is_skipped: bool,
}

/// What becomes of each task of the new job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection(Vec<Share>);

/// What becomes of the tasks of one definition. Ranges are in order and do not touch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Share {
    /// Indices of the tasks that run.
    pub runs: Vec<RangeInclusive<u32>>,
    /// Indices of the tasks whose results are taken over.
    pub taken_over: Vec<RangeInclusive<u32>>,
    /// The place of the definition in the finished job; none if it is not there.
    pub earlier: Option<usize>,
    /// How many of the tasks that are taken over completed.
    pub completed: u32,
    /// How many of the tasks that are taken over were not needed.
    pub skipped: u32,
}

/// Why a part of a job cannot be rerun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// There is no definition with this name to start from.
    NoDefinition(String),
    /// Every task completed or was not needed.
    NothingFailed,
    /// A task did not complete, and nothing that was asked for runs it again.
    LeftOut(String),
    /// It has tasks on the workers that match at the time, whatever the finished job had.
    FollowsWorkers,
}

/// How a task of the new job ended in the finished one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Completed,
    Failed,
    /// It was not needed.
    Skipped,
    /// There was no such task, it waits for something else now, or has another item.
    New,
}

impl Selection {
    /// The definitions of the new job, in their order.
    pub fn definitions(&self) -> &[Share] {
        &self.0
    }

    /// How many tasks run.
    pub fn runs(&self) -> u32 {
        self.0.iter().flat_map(|share| &share.runs).map(|range| range.end() - range.start() + 1).sum()
    }

    /// How many tasks are taken over.
    pub fn taken_over(&self) -> u32 {
        self.0.iter().map(|share| share.completed + share.skipped).sum()
    }
}

/// Whether a job in this state, with so many tasks, is offered to be rerun without the tasks that completed: where something failed
/// and that may be less than all of it.
pub fn can_rerun_failed(state: JobState, tasks: i64) -> bool {
    matches!(state, JobState::Failed | JobState::Cancelled) && tasks > 1
}

/// Decides what becomes of each task of a new job with this specification.
///
/// # Errors
/// When nothing of it would run, or a task that did not complete would neither run nor be taken over.
pub fn select(
    earlier: &JobSpec,
    uncompleted: &[Uncompleted],
    spec: &JobSpec,
    part: Part<'_>,
) -> Result<Selection, Refused> {
    if earlier.kind.follows_workers() || spec.kind.follows_workers() {
        return Err(Refused::FollowsWorkers);
    }
    let fates = fates(earlier, uncompleted, spec);
    let asked_for = |fate: &Fate| match fate {
        Fate::New => true,
        Fate::Failed => part.failed,
        Fate::Completed | Fate::Skipped => false,
    };
    let mut runs: Vec<Vec<bool>> = fates.iter().map(|fates| fates.iter().map(asked_for).collect()).collect();
    if let Some(from) = part.from {
        let position = spec.tasks.iter().position(|definition| definition.name == from);
        let position = position.ok_or_else(|| Refused::NoDefinition(from.to_owned()))?;
        runs[position].fill(true);
    }
    add_dependants(spec, &mut runs);

    for ((definition, fates), runs) in spec.tasks.iter().zip(&fates).zip(&runs) {
        let is_left_out = |(fate, runs): (&Fate, &bool)| *fate == Fate::Failed && !runs;
        let mut tasks = definition.indices.iter().zip(fates.iter().zip(runs));
        if let Some((index, _)) = tasks.find(|(_, task)| is_left_out(*task)) {
            return Err(Refused::LeftOut(definition.address(index)));
        }
    }
    if !runs.iter().flatten().any(|runs| *runs) {
        return Err(Refused::NothingFailed);
    }
    let places = places(earlier);
    let share = |((definition, fates), runs): ((&TaskSpec, Vec<Fate>), &Vec<bool>)| {
        let count = |wanted: Fate| {
            fates.iter().zip(runs).filter(|(fate, runs)| **fate == wanted && !**runs).count() as u32
        };
        let first = definition.indices.first();
        Share {
            runs: ranges(first, runs.iter().copied()),
            taken_over: ranges(first, runs.iter().map(|runs| !runs)),
            earlier: places.get(definition.name.as_str()).copied(),
            completed: count(Fate::Completed),
            skipped: count(Fate::Skipped),
        }
    };
    Ok(Selection(spec.tasks.iter().zip(fates).zip(&runs).map(share).collect()))
}

/// Where each name stands in a job's list.
fn places(spec: &JobSpec) -> HashMap<&str, usize> {
    spec.tasks.iter().enumerate().map(|(place, definition)| (definition.name.as_str(), place)).collect()
}

/// How the tasks of the new job ended in the finished one, by definition and in the order of their indices.
fn fates(earlier: &JobSpec, uncompleted: &[Uncompleted], spec: &JobSpec) -> Vec<Vec<Fate>> {
    let mut before: Vec<Vec<Fate>> =
        earlier.tasks.iter().map(|task| vec![Fate::Completed; task.indices.len() as usize]).collect();
    for task in uncompleted {
        let first = earlier.tasks.get(task.position).map(|definition| definition.indices.first());
        let at = first.and_then(|first| task.index.checked_sub(first));
        let fate = at.and_then(|at| before.get_mut(task.position)?.get_mut(at as usize));
        if let Some(fate) = fate {
            *fate = if task.is_skipped { Fate::Skipped } else { Fate::Failed };
        }
    }
    let places = places(earlier);
    let of_definition = |definition: &TaskSpec| {
        let Some(place) = places.get(definition.name.as_str()) else {
            return vec![Fate::New; definition.indices.len() as usize];
        };
        let was = &earlier.tasks[*place];
        let waits_for_the_same = was.when == definition.when && was.depends_on == definition.depends_on;
        let has_other_items = was.each != definition.each;
        if was.is_for_each_worker() != definition.is_for_each_worker() {
            return vec![Fate::New; definition.indices.len() as usize];
        }
        let first = was.indices.first();
        let fate = |index: u32| {
            let fate = index.checked_sub(first).and_then(|at| before[*place].get(at as usize));
            match fate.copied().unwrap_or(Fate::New) {
                Fate::Skipped if !waits_for_the_same => Fate::New,
                _ if has_other_items && was.item(index) != definition.item(index) => Fate::New,
                fate => fate,
            }
        };
        definition.indices.iter().map(fate).collect()
    };
    spec.tasks.iter().map(of_definition).collect()
}

/// Adds the tasks that wait for tasks that run, directly or not.
fn add_dependants(spec: &JobSpec, runs: &mut [Vec<bool>]) {
    let awaited = all_awaited(&spec.tasks);
    // An accepted job has no circle.
    for position in in_order(&awaited, |_| {}) {
        let mut own = std::mem::take(&mut runs[position]);
        for Awaited { position: other, index, .. } in &awaited[position] {
            match index {
                IndexMatch::All if runs[*other].contains(&true) => own.fill(true),
                IndexMatch::All => {}
                // Both definitions have the same indices.
                IndexMatch::Same => {
                    own.iter_mut().zip(&runs[*other]).for_each(|(own, other)| *own |= other);
                }
            }
        }
        runs[position] = own;
    }
}

/// The indices from `first` on that are marked.
fn ranges(first: u32, marks: impl Iterator<Item = bool>) -> Vec<RangeInclusive<u32>> {
    let mut ranges: Vec<RangeInclusive<u32>> = Vec::new();
    for (index, _) in (first..).zip(marks).filter(|(_, is_marked)| *is_marked) {
        match ranges.last_mut() {
            Some(last) if *last.end() + 1 == index => *last = *last.start()..=index,
            _ => ranges.push(index..=index),
        }
    }
    ranges
}

#[cfg(test)]
mod tests;
