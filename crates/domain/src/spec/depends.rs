//! Which task definition waits for which, and for what outcome: names that exist, and no circle.

use std::collections::{BTreeMap, HashSet};

use super::dependency::{DEPENDENCY, Dependency, IndexMatch, On, When};
use super::field::Words as _;
use super::node::Node;
use super::task::{Draft, TaskSpec};
use super::waits::{Awaited, all_awaited, in_order};
use crate::quantity::shown;
use crate::spelling::did_you_mean;

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
    // Where the waits of each definition are written.
    let mut nodes = Vec::with_capacity(drafts.len());
    for (position, mut draft) in drafts.into_iter().enumerate() {
        let node = draft.depends_on.take();
        let read = |node: &Node<'_>| dependencies(node, position, draft.spec.when, &position_of);
        draft.spec.depends_on = node.as_ref().map(read).unwrap_or_default();
        tasks.push(draft.spec);
        nodes.push(node.or(draft.when.take()));
    }
    let awaited = all_awaited(&tasks);
    report_other_indices(&tasks, &awaited, &nodes);
    report_nobody_to_wait_for(&tasks, &awaited, &nodes);
    report_circles(&tasks, &awaited, &nodes);
    tasks
}

/// Reports tasks that are to match indices that they do not have.
fn report_other_indices(tasks: &[TaskSpec], awaited: &[Vec<Awaited>], nodes: &[Option<Node<'_>>]) {
    for ((task, awaited), node) in tasks.iter().zip(awaited).zip(nodes) {
        let Some(node) = node else { continue };
        for other in awaited.iter().filter(|awaited| awaited.index == IndexMatch::Same) {
            let other = &tasks[other.position];
            if task.is_for_each_worker() && other.is_for_each_worker() {
                // Whether these are the same workers turns out when the job is accepted.
            } else if task.is_for_each_worker() || other.is_for_each_worker() {
                node.wrong::<()>(format!(
                    "`index: same` needs `each: worker` in both tasks: {} and {} differ",
                    shown(&task.name),
                    shown(&other.name)
                ));
            } else if let (Some(own), Some(others)) = (&task.each, &other.each)
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

/// Reports tasks that wait for an outcome without saying whose, where there is no other task to wait for.
fn report_nobody_to_wait_for(tasks: &[TaskSpec], awaited: &[Vec<Awaited>], nodes: &[Option<Node<'_>>]) {
    for ((task, awaited), node) in tasks.iter().zip(awaited).zip(nodes) {
        if task.when.is_success() || !awaited.is_empty() {
            continue;
        }
        if let Some(node) = node {
            node.wrong::<()>(format!(
                "`when: {}` needs other tasks to wait for, and no task of the job is without `when`",
                task.when.word()
            ));
        }
    }
}

/// Reads one `depends_on` list.
fn dependencies(
    node: &Node<'_>,
    own_position: usize,
    when: When,
    position_of: &BTreeMap<String, usize>,
) -> Vec<Dependency> {
    let mut found = Vec::new();
    let mut seen = HashSet::new();
    let Some(nodes) = node.list() else { return found };
    for node in nodes {
        let Some((node, name, on, index)) = dependency(&node, when) else { continue };
        let position = position_of.get(name).copied();
        if !seen.insert(name) {
            node.wrong::<()>(format!("{} is named twice", shown(name)));
        } else if position == Some(own_position) {
            node.wrong::<()>("a task cannot wait for itself");
        } else if position.is_some() {
            found.push(Dependency { task: name.to_owned(), on, index });
        } else {
            let known = position_of.keys().map(String::as_str);
            node.wrong_with::<()>(format!("there is no task {}", shown(name)), || did_you_mean(name, known));
        }
    }
    found
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

/// Reports every circle that a walk along the waits comes upon, at the task that closes it.
fn report_circles(tasks: &[TaskSpec], awaited: &[Vec<Awaited>], nodes: &[Option<Node<'_>>]) {
    in_order(awaited, |circle| {
        let names: Vec<_> = circle
            .iter()
            .chain(circle.first())
            .map(|position| format!("`{}`", tasks[*position].name))
            .collect();
        let closing = circle.last().and_then(|last| nodes[*last].as_ref());
        if let Some(node) = closing {
            node.wrong::<()>(format!("these tasks wait for each other in a circle: {}", names.join(" → ")));
        }
    });
}
