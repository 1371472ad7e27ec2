//! What a job on the host sees, and what is left of it.

use std::collections::BTreeMap;

use gaffer_domain::quantity::Bytes;
use gaffer_domain::reason::{AttemptEnd, ProcessEnd, ReasonCode};
use gaffer_domain::spec::{OnLimit, OutputLimit};
use gaffer_protocol::wire::{Ended, Input, InputBytes, InputState, ToWorker};

use super::docker_daemon::skip;
use super::master::{Books, Order, Session, attempt, command, script, until};
use super::{Worker, lives, marked, pid_in};

/// Runs one attempt; gives its books and its end.
async fn run(session: &mut Session, start: Order) -> (Books, Ended) {
    let attempt = start.attempt;
    let mut books = session.see_through(vec![start]).await;
    let ended = books.ended.remove(&attempt).unwrap();
    (books, ended)
}

fn exited(code: i32) -> AttemptEnd {
    AttemptEnd::Exited { code }
}

#[tokio::test]
async fn both_streams_and_the_exit_code_arrive() {
    let (worker, mut session) = Worker::start_and_welcome().await;
    let (books, ended) = run(&mut session, script(1, "echo out; echo err >&2; exit 3")).await;
    assert_eq!(
        (books.stdout(attempt(1)), books.stderr(attempt(1))),
        ("out\n".to_owned(), "err\n".to_owned())
    );
    assert_eq!(ended.end, exited(3));
    assert_eq!(books.started[&attempt(1)], 1);
    assert!(ended.started_at.unwrap() <= ended.ended_at && ended.ran_micros > 0);
    assert_eq!(ended.killed, None);
    worker.stop().await;
}

#[tokio::test]
async fn what_is_beyond_the_limit_is_left_out_and_counted() {
    let (worker, mut session) = Worker::start_and_welcome().await;
    let limited = |task, bytes, on_limit, text: &str| Order {
        output: Some(OutputLimit { limit: Bytes(bytes), on_limit }),
        ..script(task, text)
    };
    let text = "seq 1 100000; echo err >&2; exit 3";
    let (books, ended) = run(&mut session, limited(1, 10_000, OnLimit::Truncate, text)).await;
    let all: String = (1..=100_000).map(|number| format!("{number}\n")).collect();
    assert_eq!(
        books.stdout(attempt(1)),
        all[..10_000],
        "it went on to its end, and what came first is there"
    );
    let left_out = all.len() - 10_000 + 4;
    let marker = format!("\n[gaffer: {left_out} bytes of output dropped: output limit 10kB]\n");
    assert_eq!((books.stderr(attempt(1)), ended.end), (marker, exited(3)));

    let text = "yes 0123456789abcde";
    let (books, ended) = run(&mut session, limited(2, 1 << 20, OnLimit::Kill, text)).await;
    let process = ProcessEnd::Signal(9);
    assert_eq!(ended.end, AttemptEnd::OutputLimit { limit: Bytes(1 << 20), process });
    assert_eq!(books.stdout(attempt(2)), "0123456789abcde\n".repeat(1 << 16));
    assert!(books.stderr(attempt(2)).contains("bytes of output dropped"));

    // It was over before that was seen.
    let (_, ended) = run(&mut session, limited(3, 2, OnLimit::Kill, "echo abc")).await;
    assert_eq!(ended.end.reason().unwrap().code, ReasonCode::OutputLimit);
    // As much as may be is not too much.
    let (books, ended) = run(&mut session, limited(4, 4, OnLimit::Kill, "echo abc")).await;
    assert_eq!(
        (ended.end, books.stdout(attempt(4)), books.stderr(attempt(4))),
        (exited(0), "abc\n".into(), "".into())
    );
    worker.stop().await;
}

#[tokio::test]
async fn a_signal_from_elsewhere_is_told() {
    let (worker, mut session) = Worker::start_and_welcome().await;
    let (_, ended) = run(&mut session, script(1, "kill -SEGV $$")).await;
    assert_eq!(ended.end, AttemptEnd::Signalled { signal: 11 });
    worker.stop().await;
}

#[tokio::test]
async fn what_cannot_start_says_why() {
    let (worker, mut session) = Worker::start_and_welcome().await;
    let failure = async |session: &mut Session, start| match run(session, start).await.1.end {
        AttemptEnd::StartFailed { exit_code, message } => (exit_code, message),
        end => panic!("{end:?}"),
    };
    let (code, message) = failure(&mut session, command(1, &["no-such-tool"])).await;
    assert_eq!(code, 127);
    assert!(message.starts_with("command not found: no-such-tool (looked in PATH /"), "{message}");
    assert_eq!(failure(&mut session, command(2, &["/etc/passwd"])).await.0, 126);
    assert_eq!(failure(&mut session, script(3, "#!/no/such/thing\n")).await.0, 127);
    let docker = Order { driver: gaffer_domain::spec::DriverKind::Docker, ..command(4, &["true"]) };
    assert_eq!(failure(&mut session, docker).await, (125, "this worker has no docker driver".to_owned()));
    let large = Order {
        resources: gaffer_domain::spec::Resources {
            cpu: gaffer_domain::quantity::Cpu::from_millis(9000),
            ..command(5, &[]).resources
        },
        ..command(5, &["true"])
    };
    assert!(failure(&mut session, large).await.1.contains("9 CPUs"));
    worker.stop().await;
}

#[tokio::test]
async fn the_environment_is_what_was_promised_and_nothing_else() {
    let (worker, mut session) = Worker::start_and_welcome().await;
    let start = Order {
        index: 7,
        env: BTreeMap::from([("MODE".to_owned(), "full".to_owned()), ("LANG".to_owned(), "xx".to_owned())]),
        ..command(42, &["env"])
    };
    let (books, _) = run(&mut session, start).await;
    let text = books.stdout(attempt(42));
    let variables: BTreeMap<&str, &str> = text.lines().map(|line| line.split_once('=').unwrap()).collect();
    for (name, value) in [
        ("GAFFER_JOB_ID", "1"),
        ("GAFFER_TASK", "main"),
        ("GAFFER_TASK_INDEX", "7"),
        ("GAFFER_ATTEMPT", "1"),
        ("GAFFER_WORKER", "tester"),
        ("MODE", "full"),
        ("LANG", "xx"),
    ] {
        assert_eq!(variables.get(name), Some(&value), "{name}");
    }
    // This process has dozens of variables, of cargo's alone.
    let allowed = [
        "PATH",
        "HOME",
        "USER",
        "LOGNAME",
        "SHELL",
        "TZ",
        "TMPDIR",
        "GAFFER_SCRATCH_DIR",
        "GAFFER_ATTEMPT_TOKEN",
    ];
    let said = [
        "GAFFER_JOB_ID",
        "GAFFER_TASK",
        "GAFFER_TASK_INDEX",
        "GAFFER_ATTEMPT",
        "GAFFER_WORKER",
        "MODE",
        "LANG",
    ];
    for name in variables.keys() {
        assert!(allowed.contains(name) || said.contains(name) || name.starts_with("LC_"), "{name} leaked");
    }
    worker.stop().await;
}

#[tokio::test]
async fn a_job_has_a_directory_of_its_own_which_goes_with_it() {
    let (worker, mut session) = Worker::start_and_welcome().await;
    let text = "pwd; (cd $TMPDIR && pwd -P); echo $GAFFER_SCRATCH_DIR; ls -A; stat -c %a .; mktemp >/dev/null; mkdir -p a/b; echo x > a/b/c; chmod 0 a/b a";
    let (books, _) = run(&mut session, script(1, text)).await;
    let attempts = worker.dir.path().canonicalize().unwrap().join("attempts");
    let expected = format!("{0}/1.1/work\n{0}/1.1/tmp\n{0}/1.1/work\n700\n", attempts.display());
    assert_eq!(books.stdout(attempt(1)), expected);
    assert_eq!(std::fs::read_dir(&attempts).unwrap().count(), 0);
    let trash = worker.dir.path().join("trash");
    until("an empty trash", || std::fs::read_dir(&trash).unwrap().count() == 0).await;
    worker.stop().await;
}

#[tokio::test]
async fn a_directory_that_a_job_names_is_neither_removed_nor_emptied_of_others() {
    let (worker, mut session) = Worker::start_and_welcome().await;
    let place = tempfile::tempdir().unwrap();
    let path = place.path().canonicalize().unwrap();
    std::fs::write(path.join("kept"), "x").unwrap();
    let start = Order {
        workdir: Some(path.display().to_string()),
        ..script(1, "pwd; ls; sleep 1000 & echo $! > own; until [ -e go ]; do sleep 0.01; done")
    };
    // Somebody else begins to work there meanwhile, as another attempt may, and is no process of this one.
    let other = async {
        pid_in(&path.join("own")).await;
        let other = std::process::Command::new("sleep").arg("1000").current_dir(&path).spawn().unwrap();
        std::fs::write(path.join("go"), "").unwrap();
        other
    };
    let ((books, ended), mut other) = tokio::join!(run(&mut session, start), other);
    assert_eq!(books.stdout(attempt(1)), format!("{}\nkept\n", path.display()));
    assert_eq!(ended.killed.map(|receipt| (receipt.killed, receipt.left)), Some((1, 0)), "its own");
    assert!(!lives(pid_in(&path.join("own")).await));
    assert_eq!(other.try_wait().unwrap(), None, "and nobody else's");
    other.kill().unwrap();
    other.wait().unwrap();
    assert!(path.join("kept").exists());
    worker.stop().await;
}

#[tokio::test]
async fn a_nice_task_is_nice_with_all_that_it_starts_and_its_worker_is_not() {
    let (worker, mut session) = Worker::start_and_welcome().await;
    let own = rustix::process::getpriority_process(None).unwrap();
    let nice = Order { nice: 19, ..script(1, "nice; sh -c nice") };
    let (books, _) = run(&mut session, nice).await;
    assert_eq!(books.stdout(attempt(1)), "19\n19\n");
    let (books, _) = run(&mut session, script(2, "nice")).await;
    assert_eq!(books.stdout(attempt(2)), format!("{own}\n"), "no thread that starts others has become nicer");
    worker.stop().await;
}

#[tokio::test]
async fn a_script_is_run_by_its_interpreter_with_its_own_path_as_name() {
    let (worker, mut session) = Worker::start_and_welcome().await;
    let (books, _) = run(&mut session, script(1, "#!/usr/bin/env sh\necho $0")).await;
    assert!(books.stdout(attempt(1)).ends_with("/attempts/1.1/script\n"));
    worker.stop().await;
}

#[tokio::test]
async fn a_child_that_keeps_the_streams_open_blocks_nothing_and_goes() {
    let (worker, mut session) = Worker::start_and_welcome().await;
    let pid_file = worker.dir.path().join("pid");
    let text = format!("sleep 1000 & echo $! > {}; echo done", pid_file.display());
    let (books, ended) = run(&mut session, script(1, &text)).await;
    assert_eq!(books.stdout(attempt(1)), "done\n");
    assert_eq!(ended.end, exited(0));
    assert_eq!(ended.killed.map(|receipt| (receipt.killed, receipt.left)), Some((1, 0)));
    assert!(!lives(pid_in(&pid_file).await));
    worker.stop().await;
}

#[tokio::test]
async fn daemons_go_with_the_attempt_that_started_them() {
    let (worker, mut session) = Worker::start_and_welcome().await;
    let dir = worker.dir.path().display().to_string();
    // In a separate session and forked twice; one even without its environment.
    let text = format!(
        "setsid -f sh -c 'echo $$ > {dir}/one; exec sleep 1000'\n\
         setsid -f env -i sh -c 'echo $$ > {dir}/two; exec sleep 1000'\n\
         while ! test -s {dir}/one || ! test -s {dir}/two; do sleep 0.01; done"
    );
    let (_, ended) = run(&mut session, script(1, &text)).await;
    assert_eq!(ended.end, exited(0));
    assert_eq!(ended.killed.map(|receipt| (receipt.killed, receipt.left)), Some((2, 0)));
    for name in ["one", "two"] {
        assert!(!lives(pid_in(&worker.dir.path().join(name)).await), "{name}");
    }
    worker.stop().await;
}

#[tokio::test]
async fn what_hides_from_everything_else_is_found_by_its_cgroup() {
    if crate::driver::cgroup_shortcoming().is_some() {
        skip("what_hides_from_everything_else_is_found_by_its_cgroup", "cgroups cannot be made here");
        return;
    }
    let (worker, mut session) = Worker::start_and_welcome().await;
    let dir = worker.dir.path().display().to_string();
    // In a separate session, forked twice, without its environment, and elsewhere.
    let hide = |name: &str| {
        format!("(cd /; exec setsid -f env -i sh -c 'echo $$ > {dir}/{name}; exec sleep 1000')\n")
    };
    let wait = |name: &str| format!("while ! test -s {dir}/{name}; do sleep 0.01; done\n");
    let (_, ended) = run(&mut session, script(1, &format!("{}{}", hide("one"), wait("one")))).await;
    assert_eq!(ended.killed.map(|receipt| (receipt.killed, receipt.left)), Some((1, 0)));
    assert!(!lives(pid_in(&worker.dir.path().join("one")).await));

    let text = format!("{}{}sleep 1000", hide("two"), wait("two"));
    session.start([script(2, &text)]).await;
    let hidden = pid_in(&worker.dir.path().join("two")).await;
    session.send(&[ToWorker::Kill { attempt: attempt(2) }]).await;
    assert_eq!(session.ended().await.killed.map(|receipt| receipt.left), Some(0));
    assert!(!lives(hidden));
    worker.stop().await;
}

#[tokio::test]
async fn the_daemons_of_one_attempt_survive_the_end_of_another() {
    let (worker, mut session) = Worker::start_and_welcome().await;
    let pid_file = worker.dir.path().join("pid");
    let text = format!("setsid -f sh -c 'echo $$ > {}; exec sleep 1000'; sleep 1000", pid_file.display());
    session.start([script(1, &text)]).await;
    let daemon = pid_in(&pid_file).await;
    for task in 2..=5 {
        run(&mut session, command(task, &["true"])).await;
    }
    assert!(lives(daemon));
    session.send(&[ToWorker::Kill { attempt: attempt(1) }]).await;
    let ended = session.ended().await;
    assert!(ended.killed.is_some_and(|receipt| receipt.killed >= 2 && receipt.left == 0));
    assert!(!lives(daemon));
    worker.stop().await;
}

#[tokio::test]
async fn a_fork_bomb_is_defused() {
    let (worker, mut session) = Worker::start_and_welcome().await;
    let ready = worker.dir.path().join("ready");
    // Bounded, in case it is not; each member starts others for as long as it lives.
    let text = format!(
        "b() {{ n=0; while test $n -lt 40; do n=$((n+1)); setsid sleep 1000 & sleep 0.01; done; }}\n\
         b & b & setsid sh -c 'while :; do sleep 0.01 & wait; done' & echo $$ > {}; wait",
        ready.display()
    );
    session.start([script(1, &text)]).await;
    pid_in(&ready).await;
    session.send(&[ToWorker::Kill { attempt: attempt(1) }]).await;
    let ended = session.ended().await;
    assert_eq!(ended.killed.unwrap().left, 0);
    let token = crate::process_token(session.hello.identity);
    assert_eq!(marked(&token), [] as [i32; 0]);
    worker.stop().await;
}

#[tokio::test]
async fn ten_million_lines_arrive_exactly() {
    let (worker, mut session) = Worker::start_and_welcome().await;
    let (books, ended) = run(&mut session, command(1, &["seq", "10000000"])).await;
    assert_eq!(ended.end, exited(0));
    let text = &books.stdout[&attempt(1)];
    assert_eq!(text.len(), 78_888_897);
    let mut lines = text.split(|byte| *byte == b'\n');
    assert!((1..=10_000_000_u32).zip(&mut lines).all(|(number, line)| number.to_string().as_bytes() == line));
    worker.stop().await;
}

/// Writes all that an attempt reads; gives the answer.
async fn write_input(session: &mut Session, books: &mut Books, request: u64) -> InputState {
    let (attempt, writer) = (attempt(1), uuid::Uuid::from_u128(1));
    let bytes = InputBytes(b"hello".to_vec().into());
    let input = Input { attempt, request, writer, offset: 0, bytes, is_last: true };
    session.send(&[ToWorker::Input(Box::new(input))]).await;
    loop {
        match books.taken.last() {
            Some(taken) if taken.request == request => return taken.state,
            _ => session.keep(books).await,
        };
    }
}

#[tokio::test]
async fn input_that_overtakes_its_attempt_is_asked_for_again() {
    let (worker, mut session) = Worker::start_and_welcome().await;
    let mut books = Books::default();
    assert_eq!(write_input(&mut session, &mut books, 1).await, InputState::Waiting);
    session.start([Order { stdin: true, ..command(1, &["cat"]) }]).await;
    let mut request = 2;
    while write_input(&mut session, &mut books, request).await == InputState::Waiting {
        request += 1;
    }
    while books.ended.is_empty() {
        session.keep(&mut books).await;
    }
    assert_eq!(
        (books.taken[request as usize - 1].state, books.stdout(attempt(1))),
        (InputState::Closed, "hello".to_owned())
    );
    worker.stop().await;
}
