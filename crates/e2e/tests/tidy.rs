//! What the compiler cannot enforce: the rules of the house that are about where things live.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// Every Rust file of the crates, as (path from the root, text).
fn sources() -> Vec<(String, String)> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&root().join("crates"), &mut found);
    found.sort();
    found
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(&path).unwrap();
            (path.strip_prefix(root()).unwrap().display().to_string(), text)
        })
        .collect()
}

fn is_test(path: &str) -> bool {
    path.starts_with("crates/e2e/")
        || path.ends_with("/tests.rs")
        || ["/tests/", "/benches/"].iter().any(|part| path.contains(part))
}

/// The text before the file's own tests.
fn production(text: &str) -> &str {
    text.split("#[cfg(test)]").next().unwrap_or_default()
}

fn offenders(allowed: impl Fn(&str) -> bool, needles: &[&str]) -> Vec<String> {
    sources()
        .into_iter()
        .filter(|(path, _)| !is_test(path) && !allowed(path))
        .filter(|(_, text)| needles.iter().any(|needle| production(text).contains(needle)))
        .map(|(path, _)| path)
        .collect()
}

#[test]
fn sql_lives_in_the_store() {
    let needles = ["sqlx::query", "query_as(", "query_scalar("];
    // The private server makes its one database before there is a store to ask.
    let allowed = |path: &str| {
        path.starts_with("crates/master/src/store") || path == "crates/master/src/embedded_postgres/server.rs"
    };
    assert_eq!(offenders(allowed, &needles), Vec::<String>::new());
}

#[test]
fn the_environment_is_read_in_config_files_only() {
    let needles = ["env::var", "env::vars"];
    assert_eq!(
        offenders(|path| path.ends_with("/config.rs") || path.contains("/config/"), &needles),
        Vec::<String>::new()
    );
}

#[test]
fn what_a_master_writes_is_in_a_transaction_that_checks_its_term() {
    // Who there is and who is signed in no leader decides; the leader's own row is what the check is about.
    let free = ["users.rs", "keys.rs", "leadership.rs"].map(|name| format!("crates/master/src/store/{name}"));
    let unchecked: Vec<String> = sources()
        .into_iter()
        .filter(|(path, _)| path.starts_with("crates/master/src/") && !is_test(path) && !free.contains(path))
        .filter(|(_, text)| {
            let text = production(text);
            let writes = ["INSERT INTO", "UPDATE ", "DELETE FROM"];
            let is_free_write = |statement: &str| {
                let statement = statement.split(".await").next().unwrap_or_default();
                statement.contains("&self.pool") && writes.iter().any(|verb| statement.contains(verb))
            };
            [".execute(&self.pool)", "pool.begin()"].iter().any(|needle| text.contains(needle))
                || text.split("sqlx::query").skip(1).any(is_free_write)
        })
        .map(|(path, _)| path)
        .collect();
    assert_eq!(unchecked, Vec::<String>::new());
}

#[test]
fn exactly_one_statement_changes_the_state_of_a_task() {
    let statements: Vec<String> = sources()
        .into_iter()
        .filter(|(path, _)| !is_test(path))
        .flat_map(|(path, text)| {
            let count = production(&text).matches("UPDATE tasks").count();
            std::iter::repeat_n(path, count).collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(statements, ["crates/master/src/store/transitions/write.rs"]);
}

#[test]
fn only_the_domain_decides_states() {
    // Whoever else makes a state by hand has found a way around `apply`; `store/transitions` reads them from rows.
    let allowed = |path: &str| {
        path.starts_with("crates/domain/") || path == "crates/master/src/store/transitions/load.rs"
    };
    let needles = ["TaskState::Completed {", "TaskState::Failed {", "TaskState::Cancelled {"];
    let makers: Vec<String> = offenders(allowed, &needles)
        .into_iter()
        // Reading one in a pattern is no decision.
        .filter(|path| {
            !["crates/master/src/store/transitions.rs", "crates/master/src/store/transitions/write.rs"]
                .contains(&path.as_str())
        })
        .collect();
    assert_eq!(makers, Vec::<String>::new());
}

#[test]
fn crates_know_only_what_they_may_know() {
    let forbidden = [
        (
            "domain",
            &[
                "gaffer_protocol",
                "gaffer_master",
                "gaffer_worker",
                "tokio",
                "sqlx",
                "std::fs",
                "std::net",
                "Utc::now",
                "Instant::now",
            ][..],
        ),
        ("protocol", &["gaffer_master", "gaffer_worker", "tokio", "sqlx"]),
        ("worker", &["gaffer_master", "sqlx"]),
        ("master", &["gaffer_worker"]),
    ];
    for (name, needles) in forbidden {
        let inside = format!("crates/{name}/src/");
        let found = offenders(|path| !path.starts_with(&inside), needles);
        assert_eq!(found, Vec::<String>::new(), "{name} must not know any of {needles:?}");
    }
    let store =
        offenders(|path| !path.starts_with("crates/master/src/store"), &["crate::http", "crate::hub"]);
    assert_eq!(store, Vec::<String>::new(), "the store must know neither http nor hub");
}

#[test]
fn doors_know_no_statement_that_moves_tasks_or_takes_connections_of_control() {
    // The workers' door hands over to the session, which is no door any more.
    let readers = ["explain.rs", "queue.rs", "output.rs", "snapshot.rs", "submit.rs"];
    let is_door = |path: &str| {
        path.strip_prefix("crates/master/src/")
            .is_some_and(|path| path.starts_with("http/") || readers.contains(&path))
    };
    let found = offenders(|path| !is_door(path), &["master.store", "self.store", ": Store,", "&Store,"]);
    assert_eq!(found, Vec::<String>::new(), "use Master::reads, or Master::writes for what users change");
}

#[test]
fn a_worker_touches_files_only_where_it_may_block() {
    // Called on blocking threads, or before there is anything to hold up; /proc and cgroups have no disk behind them.
    let may_block = [
        ("attempt/", &["scratch.rs", "short_path.rs"][..]),
        ("driver/", &["cgroup.rs", "cgroup/hierarchy.rs", "cgroup/pool.rs", "processes.rs", "program.rs"]),
        ("driver/docker/", &["image.rs", "request.rs"]),
        ("execution/", &["lease.rs", "recovery.rs"]),
        ("executor/", &["frame.rs", "obtain.rs", "process.rs"]),
        ("spool/", &["files.rs", "journal.rs", "segment.rs"]),
        (
            "",
            &["config.rs", "data_dir.rs", "execution.rs", "machine.rs", "spool.rs", "startup.rs", "stats.rs"],
        ),
    ];
    let allowed = |path: &str| {
        let Some(path) = path.strip_prefix("crates/worker/src/") else { return true };
        may_block.iter().any(|(dir, files)| path.strip_prefix(dir).is_some_and(|file| files.contains(&file)))
    };
    let needles = [
        "std::fs",
        "fs::read",
        "fs::write",
        "fs::rename",
        "File::open",
        "OpenOptions",
        ".canonicalize()",
        "statvfs(",
    ];
    assert_eq!(offenders(allowed, &needles), Vec::<String>::new(), "see worker/src/blocking.rs");
}

#[test]
fn every_module_says_in_its_first_line_what_it_is_for() {
    let silent: Vec<String> = sources()
        .into_iter()
        .filter(|(path, _)| !path.ends_with("/tests.rs"))
        .filter(|(_, text)| !text.starts_with("//! "))
        .map(|(path, _)| path)
        .collect();
    assert_eq!(silent, Vec::<String>::new());
}

#[test]
fn no_file_is_two_things() {
    let long: Vec<String> = sources()
        .into_iter()
        .filter(|(path, text)| !is_test(path) && production(text).lines().count() > 600)
        .map(|(path, text)| format!("{path} ({} lines)", production(&text).lines().count()))
        .collect();
    assert_eq!(long, Vec::<String>::new());
}

#[test]
fn nothing_is_named_by_what_it_is_not() {
    let vague = ["util", "utils", "common", "helpers", "helper", "manager", "misc"];
    let found: Vec<String> = sources()
        .into_iter()
        .map(|(path, _)| path)
        .filter(|path| path.split(['/', '.']).any(|part| vague.contains(&part)))
        .collect();
    assert_eq!(found, Vec::<String>::new());
}

/// The text of a file's tests.
fn tests_of<'a>(path: &str, text: &'a str) -> &'a str {
    match text.split_once("#[cfg(test)]\nmod tests {") {
        _ if is_test(path) => text,
        Some((_, tests)) => tests,
        None => "",
    }
}

/// How many calls of functions that are named exactly so are in a text.
fn calls(text: &str, name: &str) -> usize {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(&format!("{name}(")).filter(|(at, _)| !text[..*at].ends_with(is_part)).count()
}

#[test]
fn tests_wait_for_conditions_and_do_not_sleep() {
    // Each of these sleeps in one place, or in as many as have a reason, joined with ", and".
    let allowed = [
        ("crates/e2e/src/lib.rs", "looks at a condition again"),
        ("crates/worker/src/tests/master.rs", "looks at a condition again"),
        ("crates/worker/src/tests/docker_daemon.rs", "looks at a condition again, outside of any runtime"),
        ("crates/master/src/embedded_postgres/tests.rs", "looks at a condition again"),
        ("crates/master/src/background/driver/tests.rs", "looks at a condition again"),
        ("crates/worker/src/execution/tests.rs", "is a machine that sleeps"),
        ("crates/e2e/src/database_proxy.rs", "is a connection that stands still, and one that is slow"),
        ("crates/e2e/src/bin/seeded-bugs.rs", "looks at a build again"),
        ("crates/e2e/benches/viewers.rs", "measures for so long"),
    ];
    let sleepers: Vec<String> = sources()
        .into_iter()
        // What strikes at random times there is judged by a witness, and not by how long it took.
        .filter(|(path, _)| {
            !path.starts_with("crates/e2e/src/torture/") && path != "crates/e2e/tests/tidy.rs"
        })
        .filter(|(path, text)| {
            let reasons = allowed.iter().find(|(allowed, _)| allowed == path).map(|(_, reasons)| *reasons);
            calls(tests_of(path, text), "sleep")
                > reasons.map_or(0, |reasons| reasons.split(", and ").count())
        })
        .map(|(path, _)| path)
        .collect();
    assert_eq!(sleepers, Vec::<String>::new());
}

#[test]
fn tests_do_not_assume_how_fast_a_machine_is() {
    let allowed = [
        ("crates/worker/src/tests/docker.rs", "20 s instead of the usual 30 s of grace"),
        ("crates/e2e/tests/behaviour/sessions.rs", "20 s instead of half a minute until the next look"),
        ("crates/e2e/src/lib.rs", "as long as a test waits at all"),
    ];
    let hasty: Vec<String> = sources()
        .into_iter()
        .filter(|(path, _)| !path.starts_with("crates/e2e/src/torture/") && !path.contains("/benches/"))
        .filter(|(path, _)| path != "crates/e2e/tests/tidy.rs")
        .filter(|(path, text)| {
            let most = usize::from(allowed.iter().any(|(allowed, _)| allowed == path));
            let bounds = tests_of(path, text)
                .lines()
                .filter(|line| line.split_once("elapsed()").is_some_and(|(_, rest)| rest.contains('<')));
            bounds.count() > most
        })
        .map(|(path, _)| path)
        .collect();
    assert_eq!(hasty, Vec::<String>::new(), "measure it in a bench, or compare the work that is done");
}

#[test]
fn every_seeded_bug_still_applies() {
    let bugs = gaffer_e2e::seeded_bugs::read(&root()).unwrap();
    let stale: Vec<String> = bugs
        .iter()
        .filter_map(|bug| {
            let text = fs::read_to_string(root().join(&bug.file)).unwrap_or_default();
            bug.planted_in(&text).err()
        })
        .collect();
    assert_eq!(stale, Vec::<String>::new());
    let names: std::collections::BTreeSet<&str> = bugs.iter().map(|bug| bug.name.as_str()).collect();
    assert!(names.len() == bugs.len() && bugs.len() >= 30, "{names:?}");
}
