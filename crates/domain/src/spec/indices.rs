//! The indices of a definition's tasks: `count`, `array`, and the number of items.

use std::ops::RangeInclusive;

use serde::{Serialize, Serializer};

use super::each::{self, Each, MAX_TASKS_PER_JOB};
use super::node::{Node, Object};
use crate::quantity::shown;

const MAX_ARRAY_INDEX: u32 = 1_000_000;

/// Which task indices a definition stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Indices {
    /// `count: n`: indices 0 to n-1. At least 1.
    Count(u32),
    /// `array: "first-last%at_once"`: both included.
    #[serde(serialize_with = "write_array")]
    Array {
        /// Lowest index.
        first: u32,
        /// Highest index.
        last: u32,
        /// The most of them that are live at once; none means any number. At least 1.
        at_once: Option<u32>,
    },
    /// One for each worker that the definition has, or had, an instance on. The specification does not say how many these are.
    Workers,
}

impl Indices {
    /// Whether there are as many as workers.
    pub fn follow_workers(&self) -> bool {
        *self == Indices::Workers
    }

    /// The indices in order, as far as the specification says them.
    pub fn iter(self) -> RangeInclusive<u32> {
        match self {
            Indices::Count(count) => 0..=count - 1,
            Indices::Array { first, last, .. } => first..=last,
            // None of them.
            Indices::Workers => RangeInclusive::new(1, 0),
        }
    }

    /// The lowest one.
    pub fn first(self) -> u32 {
        match self {
            Indices::Count(_) | Indices::Workers => 0,
            Indices::Array { first, .. } => first,
        }
    }

    /// How many tasks there are, as far as the specification says it.
    pub fn len(self) -> u32 {
        match self {
            Indices::Count(count) => count,
            Indices::Array { first, last, .. } => last - first + 1,
            Indices::Workers => 0,
        }
    }

    /// Whether the specification says of no task that there is one.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// The most tasks that may be live at once; none means any number.
    pub fn at_once(self) -> Option<u32> {
        match self {
            Indices::Count(_) | Indices::Workers => None,
            Indices::Array { at_once, .. } => at_once,
        }
    }

    /// Whether an address needs no index: there is only the task with index 0.
    pub fn is_single(self) -> bool {
        self == Indices::Count(1)
    }
}

/// Writes [`Indices::Array`] as it is read: `"first-last"`, or `"first-last%at_once"`.
fn write_array<S: Serializer>(
    first: &u32,
    last: &u32,
    at_once: &Option<u32>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match at_once {
        None => serializer.collect_str(&format_args!("{first}-{last}")),
        Some(at_once) => serializer.collect_str(&format_args!("{first}-{last}%{at_once}")),
    }
}

/// Reads `count`, `array` and `each`.
pub(super) fn indices(object: &Object<'_>) -> (Indices, Option<Each>) {
    let (count, array) = (object.field("count"), object.field("array"));
    if let Some(node) = array.as_ref().filter(|_| count.is_some()) {
        node.wrong::<()>("a task has a `count` or an `array`, not both");
    }
    if let Some(node) = object.field("each").filter(|_| count.is_some()) {
        node.wrong::<()>("a task has a `count` or `each`, not both");
    }
    let range = array.as_ref().filter(|_| count.is_none()).and_then(|node| Some((node, array_range(node)?)));
    if object.has("each") {
        let each = object.read("each", each::each);
        let tasks =
            each.as_ref().and_then(Each::tasks).and_then(|tasks| u32::try_from(tasks).ok()).unwrap_or(1);
        let Some((node, Range { indices, at_once })) = range else {
            return (Indices::Array { first: 0, last: tasks - 1, at_once: None }, each);
        };
        let (first, last) = indices.unwrap_or((0, tasks - 1));
        let len = last - first + 1;
        // How many workers there are is not known yet; a job that is submitted again says how many there were.
        if each.as_ref().is_some_and(|each| each.tasks().is_some()) && len != tasks {
            node.wrong::<()>(format!(
                "the array has {len} indices and `each` has {tasks} items: leave `array` out, or write `%N` for a limit"
            ));
        }
        return (Indices::Array { first, last, at_once }, each);
    }
    let indices = match range {
        Some((_, Range { indices: Some((first, last)), at_once })) => Indices::Array { first, last, at_once },
        Some((node, Range { indices: None, at_once: _ })) => {
            node.wrong::<()>("`%N` alone needs `each`: write the indices before it, such as `0-99%10`");
            Indices::Count(1)
        }
        None => Indices::Count(object.value("count")),
    };
    (indices, None)
}

/// Reads what a definition of `type: system` says of its tasks: nothing, or that there is one for each worker.
pub(super) fn of_workers(object: &Object<'_>) -> (Indices, Option<Each>) {
    for name in ["count", "array"] {
        if let Some(node) = object.field(name) {
            node.wrong::<()>(format!(
                "`{name}` is not for `type: system`: it has one task on every worker that matches"
            ));
        }
    }
    let each = object.read("each", each::each);
    if let Some(node) = object.field("each").filter(|_| each.is_some() && each != Some(Each::Workers)) {
        node.wrong::<()>(
            "a job of `type: system` has one task on every worker that matches: leave `each` out",
        );
    }
    (Indices::Workers, Some(Each::Workers))
}

/// What an `array` says.
struct Range {
    /// First and last index, if they are written.
    indices: Option<(u32, u32)>,
    at_once: Option<u32>,
}

fn array_range(node: &Node<'_>) -> Option<Range> {
    let what = node.what();
    if let Some(number) = node.value.as_u64().filter(|_| !node.value.is_text()) {
        // `array: 5` could mean five tasks or the index 5: the user knows which.
        return node.wrong_with(format!("expected {what}, found {number}"), || {
            Some(format!(
                r#"write `count: {number}` for {number} tasks, or `array: "{number}"` for that one index"#
            ))
        });
    }
    let text = node.text(&what)?;
    let (range, at_once) = match text.split_once('%') {
        Some((range, at_once)) => (range, Some(index(at_once))),
        None => (text, None),
    };
    let at_once = match at_once {
        Some(None | Some(0)) => {
            return node.wrong("expected a whole number from 1 after `%` (maximum number of live tasks)");
        }
        at_once => at_once.flatten(),
    };
    if range.trim().is_empty() && at_once.is_some() {
        return Some(Range { indices: None, at_once });
    }
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let (Some(first), Some(last)) = (index(first), index(last)) else {
        return node.wrong(format!("expected {what}, found {}", shown(text)));
    };
    if last > MAX_ARRAY_INDEX {
        node.wrong(format!("the last index is {last}, more than the {MAX_ARRAY_INDEX} that is allowed"))
    } else if first > last {
        node.wrong_with(format!("the range goes down, from {first} to {last}"), || {
            Some(format!(r#"did you mean "{last}-{first}"?"#))
        })
    } else if last - first >= MAX_TASKS_PER_JOB {
        let count = last - first + 1;
        node.wrong(format!("{count} tasks are more than the {MAX_TASKS_PER_JOB} that one job may have"))
    } else {
        Some(Range { indices: Some((first, last)), at_once })
    }
}

/// One end of a range: digits only.
fn index(text: &str) -> Option<u32> {
    let text = text.trim();
    if text.starts_with('+') { None } else { text.parse().ok() }
}
