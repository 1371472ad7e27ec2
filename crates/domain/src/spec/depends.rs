//! Which task definition waits for which: names that exist, and no circle.

use std::collections::{BTreeMap, HashSet};

use super::node::Node;
use super::task::{Draft, TaskSpec};
use crate::quantity::shown;
use crate::spelling::did_you_mean;

/// The waits of one definition, as positions in the list of definitions.
struct Waits<'a> {
    node: Option<Node<'a>>,
    positions: Vec<usize>,
}

/// Fills in `depends_on`, for which all the names had to be known, and reports names that occur twice.
pub(super) fn resolve(drafts: Vec<Draft<'_>>) -> Vec<TaskSpec> {
    let mut position_of: BTreeMap<String, usize> = BTreeMap::new();
    for (position, draft) in drafts.iter().enumerate() {
        let name = &draft.spec.name;
        // An empty name stands for one that was wrong or missing, and reported.
        if name.is_empty() || position_of.insert(name.clone(), position).is_none() {
            continue;
        }
        if let Some(node) = &draft.name {
            node.wrong::<()>(format!("{} is the name of another task too", shown(name)));
        }
    }

    let mut tasks = Vec::with_capacity(drafts.len());
    let mut waits = Vec::with_capacity(drafts.len());
    for (position, mut draft) in drafts.into_iter().enumerate() {
        let node = draft.depends_on.take();
        let positions = node.as_ref().map(|node| positions(node, position, &position_of)).unwrap_or_default();
        tasks.push(draft.spec);
        waits.push(Waits { node, positions });
    }
    for (position, Waits { positions, .. }) in waits.iter().enumerate() {
        tasks[position].depends_on = positions.iter().map(|other| tasks[*other].name.clone()).collect();
    }
    report_circles(&tasks, &waits);
    tasks
}

/// Reads one `depends_on` list.
fn positions(node: &Node<'_>, own_position: usize, position_of: &BTreeMap<String, usize>) -> Vec<usize> {
    let mut positions = Vec::new();
    let mut seen = HashSet::new();
    let Some(nodes) = node.list() else { return positions };
    for node in nodes {
        let Some(name) = node.text("the name of a task") else { continue };
        let position = position_of.get(name).copied();
        if !seen.insert(name) {
            node.wrong::<()>(format!("{} is named twice", shown(name)));
        } else if position == Some(own_position) {
            node.wrong::<()>("a task cannot wait for itself");
        } else if let Some(position) = position {
            positions.push(position);
        } else {
            let known = position_of.keys().map(String::as_str);
            node.wrong_with::<()>(format!("there is no task {}", shown(name)), || did_you_mean(name, known));
        }
    }
    positions
}

/// Reports every circle that a walk along the waits comes upon.
fn report_circles(tasks: &[TaskSpec], waits: &[Waits]) {
    let mut walk = Walk { tasks, waits, path: Vec::new(), is_done: vec![false; tasks.len()] };
    for position in 0..tasks.len() {
        walk.visit(position);
    }
}

/// A depth-first walk; its depth is bounded by the number of definitions that a job may have.
struct Walk<'w, 'a> {
    tasks: &'w [TaskSpec],
    waits: &'w [Waits<'a>],
    path: Vec<usize>,
    is_done: Vec<bool>,
}

impl Walk<'_, '_> {
    fn visit(&mut self, position: usize) {
        if self.is_done[position] {
            return;
        }
        self.path.push(position);
        for next in &self.waits[position].positions {
            match self.path.iter().position(|on_path| on_path == next) {
                Some(start) => self.report(start),
                None => self.visit(*next),
            }
        }
        self.path.pop();
        self.is_done[position] = true;
    }

    /// Reports the circle from `start` to the end of the path, at the task that closes it.
    fn report(&self, start: usize) {
        let circle = self.path[start..].iter().chain(&self.path[start..=start]);
        let names: Vec<_> = circle.map(|position| format!("`{}`", self.tasks[*position].name)).collect();
        let closing = self.path.last().and_then(|last| self.waits[*last].node.as_ref());
        if let Some(node) = closing {
            node.wrong::<()>(format!("these tasks wait for each other in a circle: {}", names.join(" → ")));
        }
    }
}
