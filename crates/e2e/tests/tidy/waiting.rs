//! Tests wait on conditions: they do not sleep, and do not assume how fast a machine is.

use super::{is_test, sources};

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
            !path.starts_with("crates/e2e/src/torture/") && path != "crates/e2e/tests/tidy/waiting.rs"
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
        ("crates/e2e/tests/behaviour/revoked.rs", "20 s instead of half a minute until the next look"),
        ("crates/e2e/src/lib.rs", "as long as a test waits at all"),
        (
            "crates/e2e/tests/behaviour/survival.rs",
            "30 s instead of the 45 s after which the kernel gives a lease up",
        ),
    ];
    let hasty: Vec<String> = sources()
        .into_iter()
        .filter(|(path, _)| !path.starts_with("crates/e2e/src/torture/") && !path.contains("/benches/"))
        .filter(|(path, _)| path != "crates/e2e/tests/tidy/waiting.rs")
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
