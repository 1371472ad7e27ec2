//! Which definitions of a service can be scaled while it runs, and to how many instances.

use crate::spec::{
    Awaited, IndexMatch, Indices, JobSpec, MAX_TASKS_PER_JOB, On, TaskSpec, When, all_awaited,
};

/// Why a definition is not scaled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The job ends by itself.
    #[error("only jobs of `type: service` can be scaled; run a batch job again with another `count`")]
    NotAService,
    /// There is no such definition.
    #[error("the service has no task {name}; it has {known}")]
    NoDefinition {
        /// As it was asked for.
        name: String,
        /// What it has.
        known: String,
    },
    /// It was not said which.
    #[error("the service has several tasks, {known}: name the one to scale")]
    WhichDefinition {
        /// What it has.
        known: String,
    },
    /// Its number of tasks follows from something else.
    #[error(
        "task {name} has `{field}`, which says how many instances it has; only tasks with a `count` can be scaled"
    )]
    HasIndices {
        /// Its name.
        name: String,
        /// `array` or `each`.
        field: &'static str,
    },
    /// It has an instance on each worker that matches.
    #[error(
        "task {0} is of a job of `type: system`, which has one instance on every worker that matches: to have fewer, change \
         its constraints"
    )]
    FollowsWorkers(String),
    /// Its tasks run after the others.
    #[error("task {0} runs after the others: it cannot be scaled")]
    RunsAfterOthers(String),
    /// Others wait for all of its tasks to complete.
    #[error("task {name} cannot be scaled, because {by} waits for its tasks to complete")]
    IsAwaited {
        /// Its name.
        name: String,
        /// What waits.
        by: String,
    },
    /// More tasks than a job may have.
    #[error("the service would have {0} instances, more than the {MAX_TASKS_PER_JOB} that one job may have")]
    TooMany(u64),
}

/// The definition that is to be scaled, by its position. Without a name it is the only one.
///
/// # Errors
/// When there is none of that name, or several to choose from.
pub fn find(spec: &JobSpec, name: Option<&str>) -> Result<usize, Refused> {
    let known = || {
        let names: Vec<&str> = spec.tasks.iter().map(|task| task.name.as_str()).collect();
        names.join(", ")
    };
    match name {
        Some(name) => {
            let found = spec.tasks.iter().position(|task| task.name == name);
            found.ok_or_else(|| Refused::NoDefinition { name: name.to_owned(), known: known() })
        }
        None if spec.tasks.len() == 1 => Ok(0),
        None => Err(Refused::WhichDefinition { known: known() }),
    }
}

/// Whether a definition can be scaled at all.
///
/// # Errors
/// Why it cannot.
pub fn can_scale(spec: &JobSpec, position: usize) -> Result<(), Refused> {
    if !spec.kind.is_kept_running() {
        return Err(Refused::NotAService);
    }
    let Some(task) = spec.tasks.get(position) else { return Ok(()) };
    let name = || task.name.clone();
    if task.indices.follow_workers() {
        return Err(Refused::FollowsWorkers(name()));
    }
    let field = match (&task.each, task.indices) {
        (Some(_), _) => Some("each"),
        (None, Indices::Array { .. }) => Some("array"),
        (None, Indices::Count(_) | Indices::Workers) => None,
    };
    if let Some(field) = field {
        return Err(Refused::HasIndices { name: name(), field });
    }
    if task.when != When::Success {
        return Err(Refused::RunsAfterOthers(name()));
    }
    let awaited = all_awaited(&spec.tasks);
    match spec.tasks.iter().zip(&awaited).find(|(_, awaited)| awaits_completion(awaited, position)) {
        Some((by, _)) => Err(Refused::IsAwaited { name: name(), by: by.name.clone() }),
        None => Ok(()),
    }
}

/// Whether tasks that wait for this wait for those of a definition to complete, or for the ones with their indices: an
/// instance that is scaled down does neither.
fn awaits_completion(awaited: &[Awaited], position: usize) -> bool {
    let mut of_it = awaited.iter().filter(|awaited| awaited.position == position);
    of_it.any(|awaited| awaited.on == On::Completed || awaited.index == IndexMatch::Same)
}

/// Whether a definition can be kept at this number of instances. `others`: how many tasks all other definitions of the job have.
///
/// # Errors
/// Why it cannot.
pub fn check(spec: &JobSpec, position: usize, count: u32, others: u64) -> Result<(), Refused> {
    can_scale(spec, position)?;
    match others + u64::from(count) {
        all if all > u64::from(MAX_TASKS_PER_JOB) => Err(Refused::TooMany(all)),
        _ => Ok(()),
    }
}

/// Which indices the instances of a definition have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instances {
    /// The lowest one.
    pub first: u32,
    /// How many there are.
    pub count: u32,
}

impl Instances {
    /// As the specification says, or as many as the definition was scaled to. Where the indices have a meaning of their own,
    /// only the specification counts. Where they follow the workers, no index is too high.
    pub fn of(task: &TaskSpec, scaled_to: Option<u32>) -> Instances {
        match task.indices {
            Indices::Count(count) => Instances { first: 0, count: scaled_to.unwrap_or(count) },
            Indices::Array { first, .. } => Instances { first, count: task.indices.len() },
            Indices::Workers => Instances { first: 0, count: u32::MAX },
        }
    }

    /// The first index behind them.
    pub fn end(self) -> u32 {
        self.first.saturating_add(self.count)
    }
}

/// What is said of a task that scaling starts or stops: `scaled down to 2 by ana`.
pub fn message(is_up: bool, count: u32, actor: &str) -> String {
    format!("scaled {} to {count} by {actor}", if is_up { "up" } else { "down" })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::{Value, json};

    use super::*;

    fn spec(value: &Value) -> JobSpec {
        JobSpec::read(value).unwrap()
    }

    fn service(tasks: &Value) -> JobSpec {
        spec(&json!({"type": "service", "tasks": tasks}))
    }

    #[test]
    fn the_only_task_needs_no_name_and_one_of_several_does() {
        let one = service(&json!([{"name": "web", "command": ["x"]}]));
        assert_eq!((find(&one, None), find(&one, Some("web"))), (Ok(0), Ok(0)));
        let two = service(&json!([{"name": "web", "command": ["x"]}, {"name": "proxy", "command": ["x"]}]));
        assert_eq!(find(&two, Some("proxy")), Ok(1));
        let refused = find(&two, None).unwrap_err().to_string();
        assert_eq!(refused, "the service has several tasks, web, proxy: name the one to scale");
        let refused = find(&two, Some("db")).unwrap_err().to_string();
        assert_eq!(refused, "the service has no task db; it has web, proxy");
    }

    #[test]
    fn a_batch_job_is_not_scaled() {
        let batch = spec(&json!({"command": ["x"], "count": 3}));
        assert_eq!(can_scale(&batch, 0), Err(Refused::NotAService));
    }

    #[test]
    fn a_system_job_is_not_scaled_and_no_index_of_it_is_too_high() {
        let system = spec(&json!({"type": "system", "command": ["x"]}));
        let refused = check(&system, 0, 3, 0).unwrap_err();
        assert_eq!(refused, Refused::FollowsWorkers("main".to_owned()));
        assert!(
            refused
                .to_string()
                .ends_with("on every worker that matches: to have fewer, change its constraints")
        );
        assert_eq!(Instances::of(&system.tasks[0], None), Instances { first: 0, count: u32::MAX });
    }

    #[test]
    fn what_is_told_apart_by_more_than_a_number_is_not_scaled() {
        let tasks = json!([
            {"name": "array", "command": ["x"], "array": "0-3"},
            {"name": "each", "command": ["x"], "each": ["a", "b"]},
            {"name": "tidy", "command": ["x"], "when": "always"},
        ]);
        let refused: Vec<String> =
            (0..3).map(|at| can_scale(&service(&tasks), at).unwrap_err().to_string()).collect();
        assert!(refused[0].contains("`array`") && refused[1].contains("`each`"), "{refused:?}");
        assert_eq!(refused[2], "task tidy runs after the others: it cannot be scaled");
    }

    #[test]
    fn a_task_that_others_wait_for_is_scaled_only_if_they_wait_for_its_end() {
        let with = |dependency: Value| {
            let depends_on = json!([dependency]);
            service(&json!([
                {"name": "web", "command": ["x"]},
                {"name": "after", "command": ["x"], "depends_on": depends_on},
            ]))
        };
        let awaited = Err(Refused::IsAwaited { name: "web".to_owned(), by: "after".to_owned() });
        assert_eq!(can_scale(&with(json!("web")), 0), awaited);
        assert_eq!(can_scale(&with(json!({"task": "web", "on": "ended", "index": "same"})), 0), awaited);
        assert_eq!(can_scale(&with(json!({"task": "web", "on": "ended"})), 0), Ok(()));
        assert_eq!(can_scale(&with(json!("web")), 1), Ok(()));
    }

    #[test]
    fn indices_with_a_meaning_of_their_own_stay_as_they_were_specified() {
        let tasks = json!([
            {"name": "web", "command": ["x"], "count": 3},
            {"name": "array", "command": ["x"], "array": "5-7"},
            {"name": "each", "command": ["x"], "each": ["a", "b"]},
        ]);
        let spec = service(&tasks);
        let of = |position: usize, scaled_to| {
            let Instances { first, count } = Instances::of(&spec.tasks[position], scaled_to);
            (first, count)
        };
        assert_eq!((of(0, None), of(0, Some(5)), of(0, Some(0))), ((0, 3), (0, 5), (0, 0)));
        assert_eq!((of(1, None), of(1, Some(2))), ((5, 3), (5, 3)));
        assert_eq!((of(2, None), of(2, Some(7))), ((0, 2), (0, 2)));
        assert_eq!(Instances::of(&spec.tasks[1], None).end(), 8);
    }

    #[test]
    fn a_job_has_no_more_tasks_for_being_scaled_than_it_may_have() {
        let web = service(&json!([{"name": "web", "command": ["x"]}]));
        assert_eq!(check(&web, 0, MAX_TASKS_PER_JOB, 0), Ok(()));
        assert_eq!(check(&web, 0, MAX_TASKS_PER_JOB, 1), Err(Refused::TooMany(100_001)));
        assert_eq!(check(&web, 0, 0, 7), Ok(()));
    }
}
