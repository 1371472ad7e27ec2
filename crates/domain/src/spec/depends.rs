//! Which task definition waits for which, and for what outcome: names that exist, and no circle.

use std::collections::{BTreeMap, HashSet};

use super::dependency::{DEPENDENCY, Dependency, IndexMatch, On, When};
use super::field::Words as _;
use super::node::Node;
use super::task::{Draft, TaskSpec};
use crate::quantity::shown;
use crate::spelling::did_you_mean;

/// The waits of one definition, as positions in the list of definitions.
struct Waits<'a> {
    /// Where they are written.
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
        let read = |node: &Node<'_>| dependencies(node, position, draft.spec.when, &position_of);
        let found = node.as_ref().map(read).unwrap_or_default();
        let positions = found.iter().map(|(position, _)| *position).collect();
        draft.spec.depends_on = found.into_iter().map(|(_, dependency)| dependency).collect();
        tasks.push(draft.spec);
        waits.push(Waits { node: node.or(draft.when.take()), positions });
    }
    report_other_indices(&tasks, &waits);
    wait_for_the_others(&tasks, &mut waits);
    report_circles(&tasks, &waits);
    tasks
}

/// Reports tasks that are to match indices that they do not have.
fn report_other_indices(tasks: &[TaskSpec], waits: &[Waits<'_>]) {
    for (task, waits) in tasks.iter().zip(waits) {
        for (dependency, position) in task.depends_on.iter().zip(&waits.positions) {
            let Some(other) = tasks.get(*position).filter(|_| dependency.index == IndexMatch::Same) else {
                continue;
            };
            let Some(node) = &waits.node else { continue };
            if let (Some(own), Some(others)) = (&task.each, &other.each)
                && own != others
            {
                node.wrong::<()>(format!(
                    "`index: same` needs equal items: {} and {} have different ones",
                    shown(&task.name),
                    shown(&other.name)
                ));
            } else if task.indices.iter() != other.indices.iter() {
                node.wrong::<()>(format!(
                    "`index: same` needs equal indices: {} has {}, {} has {}",
                    shown(&task.name),
                    range(task),
                    shown(&other.name),
                    range(other)
                ));
            }
        }
    }
}

/// `0-99`
fn range(task: &TaskSpec) -> String {
    let indices = task.indices.iter();
    format!("{}-{}", indices.start(), indices.end())
}

/// What waits for an outcome without saying whose waits for all definitions that do not.
fn wait_for_the_others(tasks: &[TaskSpec], waits: &mut [Waits<'_>]) {
    let others: Vec<usize> = (0..tasks.len()).filter(|other| tasks[*other].when.is_success()).collect();
    for (task, waits) in tasks.iter().zip(waits) {
        if task.when.is_success() || !task.depends_on.is_empty() {
            continue;
        }
        if let Some(node) = waits.node.as_ref().filter(|_| others.is_empty()) {
            node.wrong::<()>(format!(
                "`when: {}` needs other tasks to wait for, and no task of the job is without `when`",
                task.when.word()
            ));
        }
        waits.positions = others.clone();
    }
}

/// Reads one `depends_on` list.
fn dependencies(
    node: &Node<'_>,
    own_position: usize,
    when: When,
    position_of: &BTreeMap<String, usize>,
) -> Vec<(usize, Dependency)> {
    let mut positions = Vec::new();
    let mut seen = HashSet::new();
    let Some(nodes) = node.list() else { return positions };
    for node in nodes {
        let Some((node, name, on, index)) = dependency(&node, when) else { continue };
        let position = position_of.get(name).copied();
        if !seen.insert(name) {
            node.wrong::<()>(format!("{} is named twice", shown(name)));
        } else if position == Some(own_position) {
            node.wrong::<()>("a task cannot wait for itself");
        } else if let Some(position) = position {
            positions.push((position, Dependency { task: name.to_owned(), on, index }));
        } else {
            let known = position_of.keys().map(String::as_str);
            node.wrong_with::<()>(format!("there is no task {}", shown(name)), || did_you_mean(name, known));
        }
    }
    positions
}

/// Reads a member: a name, or an object that has one. Gives where the name is written, too.
fn dependency<'a>(node: &Node<'a>, when: When) -> Option<(Node<'a>, &'a str, On, IndexMatch)> {
    const WHAT: &str = "the name of a task";
    if node.value.as_text().is_some() || node.value.is_null() {
        return Some((node.clone(), node.text(WHAT)?, On::Completed, IndexMatch::All));
    }
    let object =
        node.object("the name of a task, or an object such as {task: prepare, on: ended}", &[DEPENDENCY])?;
    let (on, index) = (object.value("on"), object.value("index"));
    if let Some(node) = object.field("on").filter(|_| !when.is_success()) {
        node.wrong::<()>(format!(
            "`on` has no effect with `when: {}`: name the task only, or leave `when` out",
            when.word()
        ));
    }
    let name = match object.field("task") {
        Some(node) => node.text(WHAT).map(|name| (node.clone(), name)),
        None => node.wrong("a dependency needs a `task`: the name of another task"),
    };
    object.finish();
    let (node, name) = name?;
    Some((node, name, on, index))
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
