//! Versions of a service: what an update may change, and what it changes.

use serde_json::Value;

use crate::scale::{self, Instances};
use crate::spec::{JobSpec, MAX_TASKS_PER_JOB, TaskSpec};

/// Why a specification cannot become the next version of a service.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Only what is kept running is updated.
    #[error("only jobs of `type: service` or `type: system` can be updated")]
    NotAService,
    /// Its instances would be others.
    #[error(
        "the job is of `type: {present}`, and the new version of `type: {wanted}`: stop it and submit it again"
    )]
    OtherKind {
        /// The type of the job.
        present: &'static str,
        /// That of the new version.
        wanted: &'static str,
    },
    /// It would be another service.
    #[error("the service is called {present}, and the new version {wanted}: a service keeps its name")]
    OtherName {
        /// The name of the service.
        present: String,
        /// That of the new version.
        wanted: String,
    },
    /// Its instances would have nowhere to go.
    #[error(
        "the new version has no task {0}; to remove or rename a task, stop the service and submit it again"
    )]
    LacksTask(String),
    /// Its instances would have other meanings.
    #[error(
        "task {0} has other indices or items in the new version, or its `count` cannot change; stop the service and submit it again"
    )]
    OtherIndices(String),
    /// More tasks than a job may have.
    #[error(
        "with the instances that it was scaled to, the service would have {0} tasks, more than the {MAX_TASKS_PER_JOB} that one job \
         may have"
    )]
    TooMany(u64),
}

/// How many instances a definition has in the next version. `kept` is how many it has at present, as it is kept at, and `before`
/// as its specification says. A number that was scaled to stays until a version has another one. None where the specification alone
/// says it.
pub fn kept_at(wanted: &JobSpec, position: usize, before: Option<u32>, kept: Option<u32>) -> Option<u32> {
    let specified = wanted.tasks.get(position)?.indices.len();
    scale::can_scale(wanted, position).ok()?;
    Some(kept.filter(|_| before == Some(specified)).unwrap_or(specified))
}

/// Whether a job may have the tasks of the next version. `counts`: the numbers of [`kept_at`], by position.
///
/// # Errors
/// When there would be too many.
pub fn check_total(wanted: &JobSpec, counts: &[Option<u32>]) -> Result<(), Refused> {
    // How many workers there are is looked at when an instance joins.
    let has_count = |(task, _): &(&TaskSpec, &Option<u32>)| !task.indices.follow_workers();
    let count = |(task, count): (&TaskSpec, &Option<u32>)| u64::from(Instances::of(task, *count).count);
    match wanted.tasks.iter().zip(counts).filter(has_count).map(count).sum() {
        all if all > u64::from(MAX_TASKS_PER_JOB) => Err(Refused::TooMany(all)),
        _ => Ok(()),
    }
}

/// A version of the past.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Past {
    /// Its number.
    pub version: u32,
    /// The earlier version that it goes back to, if it does.
    pub goes_back_to: Option<u32>,
}

/// The version to go back to when none is named: the latest one before the present that was not taken back itself. A version that
/// goes back to an earlier one counts as that one.
pub fn previous(history: &[Past], present: u32) -> Option<u32> {
    let meant = |version: u32| {
        let mut meant = version;
        // Each goes back to a lower number.
        while let Some(earlier) = history
            .iter()
            .find(|past| past.version == meant)
            .and_then(|past| past.goes_back_to.filter(|earlier| *earlier < meant))
        {
            meant = earlier;
        }
        meant
    };
    let was_taken_back = |version: u32| {
        let takes_back =
            |past: &Past| past.goes_back_to.is_some_and(|to| to < version && version < past.version);
        history.iter().any(takes_back)
    };
    let before = meant(present);
    let candidates = history.iter().map(|past| past.version).filter(|version| *version < before);
    candidates.filter(|version| !was_taken_back(*version)).max().map(meant)
}

/// The new version with its definitions in the order of the present one, and those that are new behind them: the place of a
/// definition stays the same for as long as the job lives.
///
/// # Errors
/// When it cannot be the next version.
pub fn arrange(present: &JobSpec, wanted: &JobSpec) -> Result<JobSpec, Refused> {
    if !present.kind.is_kept_running() || !wanted.kind.is_kept_running() {
        return Err(Refused::NotAService);
    }
    if present.kind != wanted.kind {
        return Err(Refused::OtherKind { present: present.kind.as_str(), wanted: wanted.kind.as_str() });
    }
    if present.name != wanted.name {
        let (present, wanted) = (present.name.clone(), wanted.name.clone());
        return Err(Refused::OtherName { present, wanted });
    }
    let mut rest = wanted.tasks.clone();
    let mut tasks = Vec::with_capacity(rest.len());
    for (position, before) in present.tasks.iter().enumerate() {
        let Some(at) = rest.iter().position(|task| task.name == before.name) else {
            return Err(Refused::LacksTask(before.name.clone()));
        };
        let task = rest.remove(at);
        let is_as_many = task.indices == before.indices && task.each == before.each;
        let may_differ = || scale::can_scale(present, position).is_ok();
        tasks.push(task);
        let arranged = JobSpec { tasks: tasks.clone(), ..wanted.clone() };
        let may_be_as_many = is_as_many || (may_differ() && scale::can_scale(&arranged, position).is_ok());
        if !may_be_as_many {
            return Err(Refused::OtherIndices(before.name.clone()));
        }
    }
    tasks.append(&mut rest);
    Ok(JobSpec { tasks, ..wanted.clone() })
}

/// A field that differs between two versions.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// Such as `tasks.web.env.MODE`.
    pub field: String,
    /// Its value before; null if it was not there.
    pub before: Value,
    /// Its value after; null if it is not there.
    pub after: Value,
}

/// `tasks.web.env.MODE: "a" → "b"`. Of longer values, as many characters are shown as `most` says.
pub fn difference_line(field: &str, before: &Value, after: &Value, most: usize) -> String {
    let shown = |value: &Value| match value {
        Value::Null => "(none)".to_owned(),
        value => {
            let text = value.to_string();
            let short: String = text.chars().take(most).collect();
            if short.len() < text.len() { format!("{short}…") } else { short }
        }
    };
    format!("{field}: {} → {}", shown(before), shown(after))
}

/// What differs between two specifications in normal form. Tasks are matched by name.
pub fn differences(before: &Value, after: &Value) -> Vec<Difference> {
    let mut found = Vec::new();
    compare(String::new(), before, after, &mut found);
    found
}

fn compare(field: String, before: &Value, after: &Value, found: &mut Vec<Difference>) {
    if before == after {
        return;
    }
    let (Some(old), Some(new)) = (members(&field, before), members(&field, after)) else {
        found.push(Difference { field, before: before.clone(), after: after.clone() });
        return;
    };
    let mut names: Vec<&String> = old.iter().chain(&new).map(|(name, _)| name).collect();
    names.sort_unstable();
    names.dedup();
    let of = |all: &[(String, &Value)], wanted: &String| {
        let found = all.iter().find(|(name, _)| name == wanted);
        found.map_or(Value::Null, |(_, value)| (*value).clone())
    };
    for name in names {
        let below = if field.is_empty() { name.clone() } else { format!("{field}.{name}") };
        compare(below, &of(&old, name), &of(&new, name), found);
    }
}

/// The members of an object, or of the list of tasks, by name.
fn members<'a>(field: &str, value: &'a Value) -> Option<Vec<(String, &'a Value)>> {
    match value {
        Value::Object(fields) => Some(fields.iter().map(|(name, value)| (name.clone(), value)).collect()),
        Value::Array(tasks) if field == "tasks" => {
            let named = |task: &'a Value| Some((task.get("name")?.as_str()?.to_owned(), task));
            tasks.iter().map(named).collect()
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;
    use crate::spec::JobKind;

    fn service(tasks: Value) -> JobSpec {
        JobSpec::read(&json!({"name": "web", "type": "service", "tasks": tasks})).unwrap()
    }

    fn task(name: &str, script: &str) -> Value {
        json!({"name": name, "script": script})
    }

    #[test]
    fn definitions_keep_their_places_and_new_ones_come_behind_them() {
        let present = service(json!([task("app", "1"), task("proxy", "1")]));
        let wanted = service(json!([task("cache", "1"), task("proxy", "2"), task("app", "2")]));
        let arranged = arrange(&present, &wanted).unwrap();
        let names: Vec<&str> = arranged.tasks.iter().map(|task| task.name.as_str()).collect();
        assert_eq!(names, ["app", "proxy", "cache"]);
        assert_eq!(arrange(&arranged, &wanted).unwrap(), arranged);
    }

    #[test]
    fn a_version_is_of_the_same_service_and_has_all_its_tasks() {
        let present = service(json!([task("app", "1"), task("proxy", "1")]));
        let refused = |wanted: &JobSpec| arrange(&present, wanted).unwrap_err();
        let fewer = service(json!([task("app", "1")]));
        assert_eq!(refused(&fewer), Refused::LacksTask("proxy".to_owned()));
        let batch = JobSpec { kind: JobKind::Batch, ..present.clone() };
        assert_eq!(refused(&batch), Refused::NotAService);
        let system = JobSpec { kind: JobKind::System, ..present.clone() };
        assert_eq!(refused(&system), Refused::OtherKind { present: "service", wanted: "system" });
        let other = JobSpec { name: "shop".to_owned(), ..present.clone() };
        assert!(refused(&other).to_string().contains("called web"));
        let array = json!([{"name": "app", "script": "1", "array": "0-3"}, task("proxy", "1")]);
        assert_eq!(refused(&service(array)), Refused::OtherIndices("app".to_owned()));
        let more = json!([{"name": "app", "script": "1", "count": 3}, task("proxy", "1")]);
        assert!(arrange(&present, &service(more)).is_ok());
    }

    fn history(goes_back: &[(u32, u32)], present: u32) -> Vec<Past> {
        let to = |version| goes_back.iter().find(|(from, _)| *from == version).map(|(_, to)| *to);
        (1..=present).map(|version| Past { version, goes_back_to: to(version) }).collect()
    }

    #[test]
    fn the_version_to_go_back_to_is_one_that_was_not_taken_back() {
        assert_eq!(previous(&history(&[], 1), 1), None);
        assert_eq!(previous(&history(&[], 3), 3), Some(2));
        // 2 was taken back, so there is nothing before 1, which 3 is.
        assert_eq!(previous(&history(&[(3, 1)], 3), 3), None);
        assert_eq!(previous(&history(&[(4, 2)], 4), 4), Some(1));
        // 3 is 1; 2 was taken back.
        assert_eq!(previous(&history(&[(3, 1)], 4), 4), Some(1));
        assert_eq!(previous(&history(&[(3, 1), (5, 3)], 5), 5), None);
        // Not all are kept.
        assert_eq!(previous(&history(&[], 5)[2..], 5), Some(4));
    }

    #[test]
    fn a_number_that_was_scaled_to_stays_until_a_version_has_another_one_and_is_none_of_what_cannot_be_scaled()
     {
        let web = service(json!([{"name": "web", "script": "1", "count": 3}]));
        assert_eq!(kept_at(&web, 0, Some(3), Some(5)), Some(5));
        assert_eq!(kept_at(&web, 0, Some(2), Some(5)), Some(3));
        assert_eq!(kept_at(&web, 0, Some(3), None), Some(3));
        assert_eq!(kept_at(&web, 0, None, None), Some(3), "it is new");
        let array = service(json!([{"name": "web", "script": "1", "array": "4-6"}]));
        assert_eq!(kept_at(&array, 0, Some(3), Some(5)), None);
    }

    #[test]
    fn a_system_job_has_versions_whose_tasks_are_as_many_as_workers() {
        let system = |script: &str| {
            JobSpec::read(&json!({"name": "agent", "type": "system", "tasks": [task("app", script)]}))
                .unwrap()
        };
        assert_eq!(arrange(&system("1"), &system("2")), Ok(system("2")));
        assert_eq!(kept_at(&system("1"), 0, Some(0), None), None);
        assert_eq!(check_total(&system("1"), &[None]), Ok(()));
    }

    #[test]
    fn a_version_has_no_more_tasks_with_those_that_were_scaled_to_than_a_job_may_have() {
        let tasks = json!([task("app", "1"), {"name": "cache", "script": "1", "array": "1-10"}]);
        let wanted = service(tasks);
        assert_eq!(check_total(&wanted, &[Some(MAX_TASKS_PER_JOB - 10), None]), Ok(()));
        let refused = check_total(&wanted, &[Some(MAX_TASKS_PER_JOB), None]);
        assert_eq!(refused, Err(Refused::TooMany(100_010)));
    }

    #[test]
    fn differences_name_their_fields_by_task() {
        let before = json!({"name": "web", "priority": 50, "tasks": [{"name": "a", "env": {"X": "1"}}, {"name": "b"}]});
        let after = json!({"name": "web", "priority": 70, "tasks": [{"name": "b"}, {"name": "a", "env": {"X": "2", "Y": "3"}}]});
        let found = differences(&before, &after);
        let fields: Vec<&str> = found.iter().map(|found| found.field.as_str()).collect();
        assert_eq!(fields, ["priority", "tasks.a.env.X", "tasks.a.env.Y"]);
        assert_eq!((&found[2].before, &found[2].after), (&Value::Null, &json!("3")));
        assert!(differences(&before, &before).is_empty());
        let line = |most| difference_line("env.X", &json!("long"), &Value::Null, most);
        assert_eq!(
            (line(9), line(3)),
            ("env.X: \"long\" → (none)".to_owned(), "env.X: \"lo… → (none)".to_owned())
        );
    }
}
