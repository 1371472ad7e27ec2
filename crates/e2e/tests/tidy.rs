//! What the compiler cannot enforce: the rules of the house that are about where things live.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "tidy/modules.rs"]
mod modules;

use std::fs;
use std::path::{Path, PathBuf};

use gaffer_domain::job::JobState;
use gaffer_domain::permissions::{Action, matrix};
use gaffer_domain::task::StateName;
use gaffer_domain::worker::WorkerState;
use gaffer_e2e::openapi;

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
    let most = [("Submitting a job", 16), ("A line of output", 12), ("A worker dies", 10)];
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

#[test]
fn no_route_of_the_api_exists_without_its_description() {
    // `Api` takes a route together with its description. Pages and the workers' door are no part of the API; a master that
    // stands by answers nothing but its state.
    let allowed = ["http/description/routes.rs", "http/pages.rs", "http/worker_door.rs"];
    let is_other = |path: &str| path.starts_with("http") && !allowed.contains(&path);
    let with_routes = in_master(is_other, &[".route(\"", ".route_service(", ".nest_service("]);
    assert_eq!(with_routes, ["crates/master/src/http.rs"]);
    let http = fs::read_to_string(root().join("crates/master/src/http.rs")).unwrap();
    let routes: Vec<&str> = http.lines().filter(|line| line.contains(".route(\"")).map(str::trim).collect();
    assert_eq!(
        routes,
        [
            ".route(\"/livez\", get(health::livez))",
            ".route(\"/readyz\", get(health::standby))",
            ".route(\"/version\", get(health::version));",
        ]
    );
}

#[test]
fn the_committed_description_of_the_api_is_the_present_one() {
    let (committed, present) = (openapi::committed(&root()).unwrap(), openapi::present());
    let notes = fs::read_to_string(root().join(openapi::NOTES)).unwrap();
    // Said first: what is only new needs nothing but the command below.
    assert_eq!(openapi::acceptable(&committed, &present, &notes), Ok(()));
    assert!(committed == present, "run: cargo run -p gaffer-e2e --bin generate-docs");
}

#[test]
fn everything_in_the_description_of_the_api_is_explained() {
    let document = openapi::present();
    let mut silent = Vec::new();
    let mut ids = std::collections::BTreeSet::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let at = format!("{method} {path}");
            let is_silent = |value: &serde_json::Value| value.as_str().is_none_or(str::is_empty);
            if is_silent(&operation["summary"])
                || operation["summary"].as_str().is_some_and(|text| text.len() > 60)
            {
                silent.push(format!("{at}: summary"));
            }
            assert!(ids.insert(operation["operationId"].to_string()), "{at}: {}", operation["operationId"]);
            let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
            for parameter in &parameters {
                if is_silent(&parameter["description"])
                    || parameter["schema"].as_object().is_none_or(|schema| schema.is_empty())
                {
                    silent.push(format!("{at}: {}", parameter["name"]));
                }
            }
            let in_path = parameters.iter().filter(|parameter| parameter["in"] == "path").count();
            if in_path != path.matches('{').count() {
                silent.push(format!("{at}: parameters of the path"));
            }
            let responses = operation["responses"].as_object().unwrap();
            let is_open = operation["security"].as_array().unwrap().is_empty();
            let expected: &[&str] =
                if is_open { &["400"] } else { &["400", "401", "403", "429", "500", "503"] };
            silent.extend(
                expected
                    .iter()
                    .filter(|status| !responses.contains_key(**status))
                    .map(|status| format!("{at}: {status}")),
            );
            if !responses.keys().any(|status| status.starts_with('2')) {
                silent.push(format!("{at}: success"));
            }
        }
    }
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        let fields = schema["properties"].as_object().into_iter().flatten();
        let described = |field: &serde_json::Value| {
            // A field that is one of another object is described there.
            let target = field["$ref"].as_str().filter(|target| target.contains("/properties/"));
            let target = target.and_then(|target| document.pointer(target.strip_prefix('#')?));
            let of = |field: &serde_json::Value| {
                field["description"].as_str().is_some_and(|text| !text.is_empty())
            };
            of(field) || target.is_some_and(of)
        };
        let undescribed = fields.filter(|(_, field)| !described(field));
        silent.extend(undescribed.map(|(field, _)| format!("{name}.{field}")));
    }
    assert_eq!(silent, Vec::<String>::new());

    let text = document.to_string();
    let references = text.split("\"$ref\":\"#").skip(1).map(|rest| rest.split('"').next().unwrap());
    let dangling: Vec<&str> = references.filter(|target| document.pointer(target).is_none()).collect();
    assert_eq!(dangling, Vec::<&str>::new());

    let page = fs::read_to_string(root().join("docs/api.md")).unwrap();
    let statuses = document["components"]["responses"].as_object().unwrap().values();
    let codes = statuses.flat_map(|status| {
        status["content"]["application/problem+json"]["schema"]["properties"]["code"]["enum"]
            .as_array()
            .unwrap()
    });
    let missing: Vec<&str> =
        codes.filter_map(|code| code.as_str()).filter(|code| !page.contains(&format!("`{code}`"))).collect();
    assert_eq!(missing, Vec::<&str>::new(), "docs/api.md has all codes");
    for name in ["Job", "Task", "Attempt", "Worker", "Key", "Event"] {
        let fields = document["components"]["schemas"][name]["properties"].as_object().unwrap().keys();
        let missing: Vec<&String> = fields.filter(|field| !page.contains(&format!("`{field}`"))).collect();
        assert_eq!(missing, Vec::<&String>::new(), "docs/api.md has all fields of {name}");
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
    // These find out who somebody is, and whether the master can serve.
    let of_nobody = ["operations/context.rs", "operations/sign_in.rs", "operations/readiness.rs"];
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
            // The end of an attempt, not a state.
            || path == "crates/worker/src/execution.rs"
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
        ("attempt/", &["scratch.rs", "short_path.rs"][..]),
        ("driver/", &["cgroup.rs", "cgroup/hierarchy.rs", "cgroup/pool.rs", "processes.rs", "program.rs"]),
        ("driver/docker/", &["image.rs", "request.rs"]),
        ("execution/", &["lease.rs", "recovery.rs"]),
        ("executor/", &["frame.rs", "process.rs", "spawn.rs"]),
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

/// Phrases that describe what the field has a word for, as this project's texts once did.
const DIALECT: [&str; 29] = [
    "makes no sense",
    "said nothing",
    "flew by",
    "good until",
    "whoever",
    "nobody's",
    "as mighty as",
    "vouch",
    "for want of",
    "inside of",
    "what is wanted",
    "is wanted here",
    "goes on",
    "is over",
    "are over",
    "so many",
    "so long",
    "of its own",
    "takes nothing",
    "take nothing",
    "heard of",
    "under way",
    "worker by worker",
    "in the world",
    "which gaffer",
    "what stands",
    "hung up",
    "to be mended",
    "dial in",
];

/// The string literals of a Rust file without its comments and tests, continued lines joined.
fn literals(text: &str) -> Vec<String> {
    let code: Vec<&str> =
        production(text).lines().map(str::trim_start).filter(|line| !line.starts_with("//")).collect();
    let joined = code.join("\n").replace("\\\n", "").replace("'\"'", "").replace("\\\"", "'");
    joined.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

/// All that users read: documentation, pages, settings, and what the program prints.
fn texts_for_people() -> Vec<(String, String)> {
    let root = root();
    let named = ["README.md", "ARCHITECTURE.md", "SECURITY.md", ".env.master.example", ".env.worker.example"];
    let mut paths: Vec<PathBuf> = named.iter().map(|name| root.join(name)).collect();
    for dir in ["docs", "templates", "static"] {
        let files = fs::read_dir(root.join(dir)).unwrap().map(|entry| entry.unwrap().path());
        paths.extend(files.filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "md" || extension == "html" || extension == "js")
        }));
    }
    let mut texts: Vec<(String, String)> = paths
        .into_iter()
        .map(|path| (path.display().to_string(), fs::read_to_string(&path).unwrap()))
        .collect();
    let printed = sources().into_iter().filter(|(path, _)| {
        // The reader of specifications has its texts beside the fields.
        !is_test(path) && !path.starts_with("crates/domain/src/spec")
    });
    texts.extend(printed.map(|(path, text)| (path, literals(&text).join("\n"))));
    texts
}

#[test]
fn texts_for_people_are_in_plain_english() {
    let found: Vec<String> = texts_for_people()
        .into_iter()
        .flat_map(|(path, text)| {
            let lower = text.to_lowercase();
            let said = DIALECT.iter().filter(|phrase| lower.contains(**phrase));
            said.map(|phrase| format!("{path}: {phrase:?}")).collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(found, Vec::<String>::new(), "use the field's word");
}
