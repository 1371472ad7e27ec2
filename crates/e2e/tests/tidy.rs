//! What the compiler cannot enforce: the rules of the house that are about where things live.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "tidy/description.rs"]
mod description;
#[path = "tidy/metrics.rs"]
mod metrics;
#[path = "tidy/modules.rs"]
mod modules;
#[path = "tidy/waiting.rs"]
mod waiting;
#[path = "tidy/wording.rs"]
mod wording;

use std::fs;
use std::path::{Path, PathBuf};

use gaffer_domain::job::JobState;
use gaffer_domain::permissions::{Action, matrix};
use gaffer_domain::task::StateName;
use gaffer_domain::worker::WorkerState;

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

/// The text before the file's own tests. Where these are in a file of their own, all of it is.
fn production(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default()
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
    let free = ["users.rs", "accounts.rs", "web_sessions.rs", "keys.rs", "leadership.rs"]
        .map(|name| format!("crates/master/src/store/{name}"));
    let unchecked: Vec<String> = sources()
        .into_iter()
        .filter(|(path, _)| path.starts_with("crates/master/src/") && !is_test(path) && !free.contains(path))
        .filter(|(_, text)| {
            let text = production(text);
            let writes = ["INSERT INTO", "UPDATE ", "DELETE FROM"];
            let is_free_write = |statement: &str| {
                let statement = statement.split(".await").next().unwrap_or_default();
                let writes = statement.contains(".execute(&self.pool)")
                    || statement.contains("&self.pool") && writes.iter().any(|verb| statement.contains(verb));
                // A single statement may check it itself.
                writes && !statement.contains("(SELECT leader_check(")
            };
            text.contains("pool.begin()") || text.split("sqlx::query").skip(1).any(is_free_write)
        })
        .map(|(path, _)| path)
        .collect();
    assert_eq!(unchecked, Vec::<String>::new());
}

#[test]
fn one_statement_changes_the_state_of_a_task_and_one_makes_it_final() {
    let transitions = "crates/master/src/store/transitions/task_columns.rs";
    // What a backup leaves open is marked before there is a master: numbers and times, and no state.
    let restored = "crates/master/src/store/restored.rs";
    // Results that a new job takes over were final before it.
    let taken_over = "crates/master/src/store/reruns.rs";
    let cases = [
        ("UPDATE live_tasks", [restored, transitions]),
        ("INSERT INTO finished_tasks", [taken_over, transitions]),
    ];
    for (statement, places) in cases {
        let statements: Vec<String> = sources()
            .into_iter()
            .filter(|(path, _)| !is_test(path))
            .flat_map(|(path, text)| {
                let count = production(&text).matches(statement).count();
                std::iter::repeat_n(path, count).collect::<Vec<_>>()
            })
            .collect();
        assert_eq!(statements, places, "{statement}");
    }
    let text = fs::read_to_string(root().join(restored)).unwrap();
    let marking = text.split("UPDATE live_tasks t SET ").nth(1).unwrap().split(" FROM (").next().unwrap();
    let set =
        marking.split(',').filter_map(|part| Some(part.split_once(" = ")?.0.trim_matches([' ', '\\', '\n'])));
    let set: Vec<&str> =
        set.filter(|name| name.chars().all(|c| c.is_ascii_lowercase() || c == '_')).collect();
    assert_eq!(set, ["since", "unseen_until", "unseen_attempts", "not_before"]);
}

#[test]
fn only_the_domain_decides_states() {
    // Other code that makes a state by hand has found a way around `apply`; `store/transitions` reads them from rows.
    let allowed = |path: &str| {
        path.starts_with("crates/domain/") || path == "crates/master/src/store/transitions/load.rs"
    };
    let needles = ["TaskState::Completed {", "TaskState::Failed {", "TaskState::Cancelled {"];
    let makers: Vec<String> = offenders(allowed, &needles)
        .into_iter()
        // Reading one in a pattern is no decision.
        .filter(|path| {
            !["crates/master/src/store/transitions.rs", "crates/master/src/store/transitions/task_columns.rs"]
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
fn no_modules_use_each_other_in_a_circle() {
    let sources = sources();
    let crates = ["domain", "protocol", "simulator", "master", "worker", "cli", "e2e"];
    let circles: Vec<String> = crates
        .iter()
        .flat_map(|name| {
            let inside = format!("crates/{name}/src/");
            let is_part = |path: &str| {
                !path.starts_with("bin/")
                    && !path.ends_with("tests.rs")
                    && !format!("/{path}").contains("/tests/")
            };
            let sources = sources.iter().filter_map(|(path, text)| {
                let path = path.strip_prefix(&inside).filter(|path| is_part(path))?;
                Some((path, production(text)))
            });
            let circles = modules::Modules::of(sources).circles();
            circles.into_iter().map(move |tie| format!("{name}: {tie}"))
        })
        .collect();
    assert_eq!(circles, Vec::<String>::new(), "move what both need to where neither has to ask the other");
}

/// The walkthroughs of ARCHITECTURE.md that are lists of rooms: each by its name, with its rooms.
fn walks() -> Vec<(String, Vec<String>)> {
    let architecture = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let section = architecture.split("\n## Walkthroughs\n").nth(1).unwrap().split("\n## ").next().unwrap();
    section
        .split("\n**")
        .skip(1)
        .map(|walk| {
            let (name, text) = walk.split_once(".**").unwrap();
            let is_room = |line: &&str| line.starts_with(|c: char| c.is_ascii_digit());
            let room = |line: &str| line.split('`').nth(1).unwrap_or(line).to_owned();
            (name.to_owned(), text.lines().filter(is_room).map(room).collect())
        })
        .filter(|(_, rooms): &(String, Vec<String>)| !rooms.is_empty())
        .collect()
}

#[test]
fn the_walks_pass_rooms_that_there_are_and_each_once() {
    let most = [
        ("Submitting a job", 16),
        ("A line of output", 12),
        ("A secret reaches its attempt", 15),
        ("A service instance turns unhealthy", 13),
        ("A worker dies", 10),
    ];
    let walks = walks();
    assert_eq!(walks.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), most.map(|(name, _)| name));
    for ((name, rooms), (_, most)) in walks.iter().zip(most) {
        for room in rooms {
            assert!(root().join("crates").join(room).is_file(), "{name}: there is no {room}");
        }
        let once: std::collections::BTreeSet<&String> = rooms.iter().collect();
        assert_eq!(once.len(), rooms.len(), "{name} enters a room twice");
        assert!(rooms.len() <= most, "{name} passes {} rooms", rooms.len());
    }
}

/// The files below these of the master, without their own tests, that have one of the needles in them.
fn in_master(is_meant: impl Fn(&str) -> bool, needles: &[&str]) -> Vec<String> {
    let is_other = |path: &str| path.strip_prefix("crates/master/src/").is_none_or(|path| !is_meant(path));
    offenders(is_other, needles)
}

#[test]
fn doors_call_operations_and_look_through_views() {
    let writers = [
        "store::Store;",
        "WriteStore",
        "WriteBatcher",
        "write_batcher",
        ".writes",
        ".store",
        "crate::hub",
        "crate::control",
        "crate::secret",
        // Not everybody may list these.
        "key_list(",
        "dead_letter_list(",
    ];
    // Behind the workers' door is the session, which is no door any more.
    let is_door = |path: &str| {
        path.starts_with("http/") && path != "http/worker_door.rs" && !path.ends_with("/tests.rs")
    };
    assert_eq!(in_master(is_door, &writers), Vec::<String>::new(), "make an operation of it");
    // What is looked at cannot be changed from there.
    let readers = ["explain.rs", "queue.rs", "output.rs", "snapshot.rs", "views.rs"];
    let needles = ["WriteStore", ": Store,", "&Store,", "WriteBatcher"];
    assert_eq!(in_master(|path| readers.contains(&path), &needles), Vec::<String>::new());
}

#[test]
fn what_an_operation_changes_things_with_is_given_to_whom_the_list_allows_it() {
    // These find out who somebody is and whether the master can serve, and note what was refused.
    let of_nobody = [
        "operations/audit.rs",
        "operations/context.rs",
        "operations/refusals.rs",
        "operations/sign_in.rs",
        "operations/provider.rs",
        "operations/device.rs",
        "operations/registration.rs",
        "operations/readiness.rs",
    ];
    let is_operation = |path: &str| path.starts_with("operations/") && !of_nobody.contains(&path);
    let around = ["for_nobody", "Effects {", "WriteStore"];
    assert_eq!(in_master(is_operation, &around), Vec::<String>::new(), "use Context::permit");

    let master: String = sources()
        .into_iter()
        .filter(|(path, _)| path.starts_with("crates/master/src/"))
        .map(|(_, text)| production(&text).to_owned())
        .collect();
    let unasked: Vec<String> = Action::ALL
        .iter()
        .map(|action| format!("{action:?}"))
        .filter(|action| !master.contains(&format!("Action::{action})")))
        .collect();
    assert_eq!(unasked, Vec::<String>::new(), "nobody asks the list about these");
    let security = fs::read_to_string(root().join("SECURITY.md")).unwrap();
    assert!(security.contains(&matrix()), "SECURITY.md does not have this table:\n{}", matrix());
}

#[test]
fn tests_that_the_list_of_threats_names_are_there() {
    let threats = fs::read_to_string(root().join("docs/threats.md")).unwrap();
    let rows = threats.lines().filter(|line| line.starts_with("| ")).skip(1);
    let named: Vec<&str> = rows
        .flat_map(|row| {
            let last = row.trim_end_matches('|').rsplit('|').next().unwrap_or_default();
            let names: Vec<&str> = last.split('`').skip(1).step_by(2).collect();
            assert!(!names.is_empty(), "no test is named: {row}");
            names
        })
        .collect();
    assert!(named.len() > 20, "{named:?}");
    for name in named {
        let (module, test) = name.split_once("::").unwrap_or((name, ""));
        let path = root().join(format!("crates/e2e/tests/behaviour/{module}.rs"));
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(test.is_empty() || text.contains(&format!("fn {test}()")), "there is no test {name}");
    }
}

#[test]
fn bodies_and_words_for_states_are_made_at_the_edge() {
    let inside = |path: &str| !path.starts_with("http/") && !path.starts_with("http.rs");
    assert_eq!(in_master(inside, &["protocol::rest", "rest::"]), Vec::<String>::new(), "use a record");

    let names = StateName::ALL.map(StateName::as_str).into_iter().chain(JobState::ALL.map(JobState::as_str));
    let names = names.chain(WorkerState::ALL.map(WorkerState::as_str));
    let words: Vec<String> = names.map(|name| format!("\"{name}\"")).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let allowed = |path: &str| {
        path.starts_with("crates/domain/")
            || ["http", "store"].iter().any(|edge| path.starts_with(&format!("crates/master/src/{edge}/")))
            // The command `stop` says what it does.
            || path == "crates/cli/src/commands/stop.rs"
            // The end of an attempt, and of a change: no states.
            || path == "crates/worker/src/execution.rs"
            || path == "crates/protocol/src/audit.rs"
    };
    assert_eq!(offenders(allowed, &words), Vec::<String>::new(), "compare with the enum");
    // Where pages and store may name states, they do not decide by their names.
    let compares: Vec<String> = sources()
        .into_iter()
        .filter(|(path, _)| path.starts_with("crates/master/src/") && !is_test(path))
        .flat_map(|(path, text)| {
            let is_decision = |line: &&str| {
                let operators = ["== ", "!= ", "=> ", "matches!(", ") if "];
                words.iter().any(|word| {
                    operators.iter().any(|operator| line.contains(&format!("{operator}{word}")))
                        || line.trim_start().starts_with(&format!("{word} =>"))
                        || line.trim_start().starts_with(&format!("{word} |"))
                })
            };
            production(&text)
                .lines()
                .filter(is_decision)
                .map(|line| format!("{path}: {line}"))
                .collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(compares, Vec::<String>::new());
}

#[test]
fn a_worker_touches_files_only_where_it_may_block() {
    // Called on blocking threads, or before there is anything to hold up; /proc and cgroups have no disk behind them.
    let may_block = [
        ("attempt/", &["scratch.rs", "secret_files.rs", "short_path.rs"][..]),
        ("driver/", &["cgroup.rs", "cgroup/hierarchy.rs", "cgroup/pool.rs", "processes.rs", "program.rs"]),
        ("driver/docker/", &["image.rs", "request.rs"]),
        ("execution/", &["lease.rs", "recovery.rs"]),
        ("executor/", &["frame.rs", "process.rs", "spawn.rs"]),
        ("spool/", &["files.rs", "journal.rs", "segment.rs"]),
        (
            "",
            &[
                "config.rs",
                "data_dir.rs",
                "directory.rs",
                "execution.rs",
                "job_user.rs",
                "machine.rs",
                "private_place.rs",
                "spool.rs",
                "startup.rs",
                "stats.rs",
            ],
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
fn no_release_has_the_scripted_driver_unless_somebody_asks_for_it() {
    // What `cargo build -p gaffer` builds; tests, benches and torture ask for it themselves.
    for name in ["cli", "master", "simulator", "protocol", "domain"] {
        let manifest = fs::read_to_string(root().join(format!("crates/{name}/Cargo.toml"))).unwrap();
        assert!(!manifest.contains("scripted"), "{name} asks for it");
    }
    let worker = fs::read_to_string(root().join("crates/worker/Cargo.toml")).unwrap();
    assert!(worker.contains("\nscripted = []\n") && !worker.contains("\ndefault ="), "{worker}");
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

#[test]
fn the_documentation_has_the_fields_of_the_specification() {
    use gaffer_e2e::spec_reference::{PAGES, with_tables};
    let is_stale = |page: &&str| {
        let text = fs::read_to_string(root().join(page)).unwrap();
        with_tables(&text) != text
    };
    let stale: Vec<&str> = PAGES.into_iter().filter(is_stale).collect();
    assert!(stale.is_empty(), "run `cargo run -p gaffer-e2e --bin generate-docs`: {stale:?}");
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
