//! Versions of a service: what an update may change, and what it changes.

use serde_json::Value;

use crate::scale;
use crate::spec::{JobKind, JobSpec};

/// Why a specification cannot become the next version of a service.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Only what is kept running is updated.
    #[error("only jobs of `type: service` can be updated")]
    NotAService,
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
}

/// The new version with its definitions in the order of the present one, and those that are new behind them: the place of a
/// definition stays the same for as long as the job lives.
///
/// # Errors
/// When it cannot be the next version.
pub fn arrange(present: &JobSpec, wanted: &JobSpec) -> Result<JobSpec, Refused> {
    if present.kind != JobKind::Service || wanted.kind != JobKind::Service {
        return Err(Refused::NotAService);
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
        let other = JobSpec { name: "shop".to_owned(), ..present.clone() };
        assert!(refused(&other).to_string().contains("called web"));
        let array = json!([{"name": "app", "script": "1", "array": "0-3"}, task("proxy", "1")]);
        assert_eq!(refused(&service(array)), Refused::OtherIndices("app".to_owned()));
        let more = json!([{"name": "app", "script": "1", "count": 3}, task("proxy", "1")]);
        assert!(arrange(&present, &service(more)).is_ok());
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
    }
}
