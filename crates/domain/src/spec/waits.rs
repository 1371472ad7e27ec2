//! Which task definition waits for which.

use std::collections::HashMap;

use super::dependency::{Dependency, IndexMatch, On, When};
use super::task::TaskSpec;

/// A definition that another one waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Awaited {
    /// Its place in the specification.
    pub position: usize,
    /// What its tasks have to come to.
    pub on: On,
    /// Which of its tasks each task waits for.
    pub index: IndexMatch,
}

/// For each definition, in their order: the definitions whose ends it waits for, those included that follow from its `when`. What a
/// stored specification names and does not have is passed over.
pub fn all_awaited(tasks: &[TaskSpec]) -> Vec<Vec<Awaited>> {
    let positions: HashMap<&str, usize> =
        tasks.iter().enumerate().map(|(position, task)| (task.name.as_str(), position)).collect();
    let awaited = |definition: &TaskSpec| -> Vec<Awaited> {
        let has_condition = definition.when != When::Success;
        if definition.depends_on.is_empty() && has_condition {
            let others = tasks.iter().enumerate().filter(|(_, task)| task.when == When::Success);
            let ended = |(position, _)| Awaited { position, on: On::Ended, index: IndexMatch::All };
            return others.map(ended).collect();
        }
        let known = |Dependency { task, on, index }: &Dependency| {
            let on = if has_condition { On::Ended } else { *on };
            Some(Awaited { position: *positions.get(task.as_str())?, on, index: *index })
        };
        definition.depends_on.iter().filter_map(known).collect()
    };
    tasks.iter().map(awaited).collect()
}

/// The definitions, each after those that it waits for. `on_circle` gets each circle that the walk comes upon, in the order of its
/// waits; only a specification that is not accepted has one.
pub fn in_order(awaited: &[Vec<Awaited>], on_circle: impl FnMut(&[usize])) -> Vec<usize> {
    let mut walk = Walk {
        awaited,
        on_circle,
        progress: vec![Progress::Unseen; awaited.len()],
        path: Vec::new(),
        order: Vec::with_capacity(awaited.len()),
    };
    for position in 0..awaited.len() {
        walk.visit(position);
    }
    walk.order
}

/// A depth-first walk; its depth is bounded by the number of definitions that a job may have.
struct Walk<'a, F> {
    awaited: &'a [Vec<Awaited>],
    on_circle: F,
    progress: Vec<Progress>,
    path: Vec<usize>,
    order: Vec<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    Unseen,
    OnPath,
    Done,
}

impl<F: FnMut(&[usize])> Walk<'_, F> {
    fn visit(&mut self, position: usize) {
        match self.progress[position] {
            Progress::Done => return,
            Progress::OnPath => {
                let start = self.path.iter().position(|on_path| *on_path == position).unwrap_or(0);
                return (self.on_circle)(&self.path[start..]);
            }
            Progress::Unseen => self.progress[position] = Progress::OnPath,
        }
        self.path.push(position);
        let awaited = self.awaited;
        for other in &awaited[position] {
            self.visit(other.position);
        }
        self.path.pop();
        self.progress[position] = Progress::Done;
        self.order.push(position);
    }
}
