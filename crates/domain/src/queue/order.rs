//! Whose turn it is: projects by their share, in a project the highest priority, and in that the owners by their share.

use std::collections::{BTreeSet, VecDeque};

use super::Class;
use super::share::Share;
use crate::ProjectId;

/// When a project's turn comes. One that has had its part of the pass goes after the others.
pub(super) type ProjectShare = (bool, Share);

/// A project with waiting tasks.
pub(super) struct ProjectLine<'a> {
    pub project: ProjectId,
    pub share: ProjectShare,
    /// The highest priority first; none of them is empty.
    levels: VecDeque<Level<'a>>,
}

/// A project's owners of one priority.
pub(super) struct Level<'a> {
    priority: i16,
    pub owners: Vec<OwnerLine<'a>>,
    /// Those whose turn has not come, the next one first.
    pub waiting: BTreeSet<(Share, usize)>,
}

/// An owner's classes of one priority, in their order.
pub(super) struct OwnerLine<'a> {
    pub owner: &'a str,
    pub classes: VecDeque<usize>,
}

impl<'a> ProjectLine<'a> {
    /// The projects of these classes in the order of their numbers, with what they and their owners have in use.
    pub fn all(
        classes: &[Class<'a>],
        share: impl Fn(ProjectId) -> ProjectShare,
        share_of_owner: impl Fn(ProjectId, &str) -> Share,
    ) -> Vec<ProjectLine<'a>> {
        let mut waiting: Vec<usize> = (0..classes.len()).filter(|at| classes[*at].pending > 0).collect();
        let order = |at: usize| {
            let class = &classes[at];
            (class.project, std::cmp::Reverse(class.priority), class.owner, class.since, class.id)
        };
        waiting.sort_unstable_by(|a, b| order(*a).cmp(&order(*b)));
        let mut lines: Vec<ProjectLine<'a>> = Vec::new();
        for at in waiting {
            let Class { project, owner, priority, .. } = classes[at];
            if lines.last().is_none_or(|line| line.project != project) {
                lines.push(ProjectLine { project, share: share(project), levels: VecDeque::new() });
            }
            let Some(line) = lines.last_mut() else { continue };
            if line.levels.back().is_none_or(|level| level.priority != priority) {
                line.levels.push_back(Level { priority, owners: Vec::new(), waiting: BTreeSet::new() });
            }
            let Some(level) = line.levels.back_mut() else { continue };
            match level.owners.last_mut() {
                Some(known) if known.owner == owner => known.classes.push_back(at),
                _ => {
                    level.waiting.insert((share_of_owner(project, owner), level.owners.len()));
                    level.owners.push(OwnerLine { owner, classes: VecDeque::from([at]) });
                }
            }
        }
        lines
    }

    /// The priority whose turn it is; none if nothing of the project is left.
    pub fn level(&mut self) -> Option<&mut Level<'a>> {
        while self.levels.front().is_some_and(|level| level.waiting.is_empty()) {
            self.levels.pop_front();
        }
        self.levels.front_mut()
    }
}
