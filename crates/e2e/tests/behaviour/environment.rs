//! What a job finds when it starts, whatever its worker was started from; and what it does not find.

use std::fs::{self, File};
use std::os::unix::fs::chown;
use std::path::Path;

use gaffer_e2e::eventually;
use gaffer_e2e::gaffer::{Dev, WorkerProcess, bare_command, command, data_dir, program, watchdog};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::{Value, json};
use tokio::process::Command;

/// Somebody who is not root, as far as root can be that.
const NOBODY: u32 = 65534;

/// A `gaffer dev` whose own worker takes nothing.
async fn master(dir: &Path) -> Dev {
    let dev = Dev::start_with(dir, &[("GAFFER_WORKER_NAME", "own")]).await;
    let drained = dev.client.post("/workers/own/drain", &json!({})).await;
    assert!(drained.status.is_success(), "{}", drained.text);
    dev
}

/// Runs a script to its end; gives its output.
async fn run(dev: &Dev, mut spec: Value, script: &str) -> String {
    spec["script"] = json!(script);
    let job = dev.client.submit(spec).await;
    let done = dev.client.finished(job).await;
    let output = String::from_utf8(dev.client.output(job).await).unwrap();
    assert_eq!(done.state.as_str(), "completed", "{:?}\n{output}", done.reason);
    output
}

/// `gaffer worker`, started by a shell that prepares what it inherits.
fn worker_after(preparation: &str) -> Command {
    let mut shell = bare_command(Path::new("/bin/bash"), &["-c"]);
    shell.arg(format!("{preparation}; exec {} worker", program().display()));
    shell
}

/// All processes of a worker, by name.
async fn processes(worker: &WorkerProcess) -> Vec<(&'static str, Pid)> {
    let executor = worker.executor().unwrap();
    let agent = eventually("an agent", async || worker.agent()).await;
    let watchdog = eventually("the executor has a watchdog", async || watchdog(executor)).await;
    vec![("supervisor", worker.pid()), ("agent", agent), ("executor", executor), ("watchdog", watchdog)]
}

/// The signals that a process ignores or blocks, from its status.
fn signals(status: &str, field: &str) -> u64 {
    /// Those that the C library uses itself; it lets what it starts ignore them.
    const INTERNAL: u64 = 1 << 31 | 1 << 32;
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    u64::from_str_radix(line.trim_start_matches(':').trim(), 16).unwrap() & !INTERNAL
}

fn bit(signal: Signal) -> u64 {
    1 << (signal as i32 - 1)
}

#[tokio::test]
async fn jobs_have_default_signals_whatever_their_worker_was_started_with() {
    let (dir, worker_dir) = (data_dir(), data_dir());
    let dev = master(dir.path()).await;
    // As `nohup` does, a shell in the background, and who knows what.
    let starter = worker_after("trap '' HUP INT QUIT TERM USR1 CHLD ALRM RTMIN+3");
    let worker = dev.add_worker_by(starter, "w", worker_dir.path()).await;

    let status = run(&dev, json!({}), "exec cat /proc/self/status").await;
    assert_eq!((signals(&status, "SigIgn"), signals(&status, "SigBlk")), (0, 0), "{status}");
    for (name, pid) in processes(&worker).await {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let kept = match name {
            "supervisor" | "agent" => bit(Signal::SIGHUP),
            _ => 0,
        };
        let ignored = signals(&status, "SigIgn") & !bit(Signal::SIGPIPE);
        assert_eq!(
            ignored, kept,
            "{name}: who starts it with nohup wants it to outlive the terminal\n{status}"
        );
    }

    for signal in ["SIGHUP", "SIGINT"] {
        let job = dev.client.submit(json!({"command": ["sleep", "1000"]})).await;
        dev.client.in_state(job, "running").await;
        dev.client.post(&format!("/jobs/{job}/tasks/main/signal"), &json!({"signal": signal})).await;
        let done = dev.client.finished(job).await;
        assert_eq!(done.reason.unwrap().code.as_str(), "signal", "{signal}");
    }
    assert_eq!(worker.end(Signal::SIGTERM).await, Some(0));
}

#[tokio::test]
async fn no_process_of_a_worker_and_no_job_has_a_descriptor_of_its_starter() {
    let (dir, worker_dir) = (data_dir(), data_dir());
    let dev = master(dir.path()).await;
    let lock = worker_dir.path().join("starter.lock");
    let take = || Flock::lock(File::create(&lock).unwrap(), FlockArg::LockExclusiveNonblock);
    let starter = worker_after(&format!("exec 7>>{0} 9>>{0} && flock -n 9", lock.display()));
    let worker = dev.add_worker_by(starter, "w", worker_dir.path()).await;

    let job = dev.client.submit(json!({"script": "ls -l /proc/$$/fd; echo listed; exec sleep 1000"})).await;
    let listed = eventually("the job has listed its descriptors", async || {
        let output = String::from_utf8(dev.client.output(job).await).unwrap();
        output.ends_with("listed\n").then_some(output)
    })
    .await;
    let numbers = listed.lines().filter_map(|line| line.split_once(" -> ")?.0.split_whitespace().last());
    let script_file = |number: &&str| {
        listed.lines().any(|line| line.contains(&format!(" {number} -> ")) && line.ends_with("/script"))
    };
    let numbers: Vec<&str> = numbers.filter(|number| !script_file(number)).collect();
    assert_eq!(numbers, ["0", "1", "2"], "{listed}");
    for (name, pid) in processes(&worker).await {
        for entry in fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten() {
            assert_ne!(fs::read_link(entry.path()).ok(), Some(lock.clone()), "{name}");
        }
    }
    drop(take().expect("nobody holds the starter's lock any more"));

    // `flock -n L gaffer worker` is over when flock is: its job goes on, and the next one takes both up.
    worker.end(Signal::SIGKILL).await;
    drop(take().expect("nor does the job"));
    let worker = dev.add_worker("w", worker_dir.path()).await;
    assert_eq!(dev.client.job(job).await.state.as_str(), "running");
    assert_eq!(worker.end(Signal::SIGTERM).await, Some(0));
}

#[tokio::test]
async fn the_worker_key_shows_in_no_process_of_its_worker() {
    let (dir, worker_dir) = (data_dir(), data_dir());
    let dev = master(dir.path()).await;
    let key = dev.client.post("/keys", &json!({"kind": "worker", "name": "second"})).await;
    let key = key.body["key"].as_str().unwrap().to_owned();
    let by_argument = command(&["worker", "--api-key", &key]);
    let by_equals = command(&["worker", &format!("--api-key={key}")]);
    // Each with another key in its environment, which is the one that shows there.
    let pipe = worker_after(&format!(
        "KEY=$API_KEY; unset API_KEY; exec {} worker --api-key-file <(echo $KEY)",
        program().display()
    ));
    let starts = [by_argument, by_equals, command(&["worker"]), pipe];
    for (number, starter) in starts.into_iter().enumerate() {
        let worker = dev.add_worker_by(starter, "w", worker_dir.path()).await;
        let agent = eventually("an agent", async || worker.agent()).await;
        nix::sys::signal::kill(agent, Signal::SIGKILL).unwrap();
        eventually("another agent", async || worker.agent().filter(|now| *now != agent)).await;
        // Of these and the job alone: what other tests start has its key in its environment for a moment.
        let pids: Vec<String> = processes(&worker).await.iter().map(|(_, pid)| pid.to_string()).collect();
        let script = format!(
            "for pid in {} $$; do cat /proc/$pid/environ /proc/$pid/cmdline; done 2>/dev/null | tr '\\0' '\\n' \
             | grep -a 'gfw[_]' || echo none",
            pids.join(" ")
        );
        let output = run(&dev, json!({}), &script).await;
        assert_eq!(output, "none\n", "started in way {number}");
        for (name, pid) in processes(&worker).await {
            let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
            assert!(
                name == "executor" || name == "watchdog" || comm == "gaffer\n",
                "{name} is called {comm}"
            );
        }
        assert_eq!(worker.end(Signal::SIGINT).await, Some(0));
    }
}

#[tokio::test]
async fn a_job_of_the_same_user_cannot_look_into_the_processes_of_its_worker() {
    let (dir, worker_dir) = (data_dir(), data_dir());
    let dev = master(dir.path()).await;
    let mut starter = command(&["worker"]);
    if nix::unistd::geteuid().is_root() {
        chown(worker_dir.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        starter.uid(NOBODY).gid(NOBODY).env_remove("HOME");
    }
    let worker = dev.add_worker_by(starter, "w", worker_dir.path()).await;
    let pids: Vec<String> = processes(&worker).await.iter().map(|(_, pid)| pid.to_string()).collect();
    let script = format!(
        "for pid in {}; do for file in environ mem maps fd/0; do cat /proc/$pid/$file >/dev/null 2>&1 && echo $pid/$file; done; done; echo tried; cat /proc/$$/environ | tr '\\0' '\\n' | grep -c ^GAFFER_JOB_ID=",
        pids.join(" ")
    );
    assert_eq!(run(&dev, json!({}), &script).await, "tried\n1\n");
    // And its worker knows its own processes all the same.
    let output = run(&dev, json!({}), "setsid sleep 1000 >/dev/null 2>&1 & echo $!").await;
    let pid: i32 = output.trim().parse().unwrap();
    let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    assert!(state.is_empty() || state.contains(") Z "), "what it left is dead: {state}");
    assert_eq!(worker.end(Signal::SIGINT).await, Some(0));
}

#[tokio::test]
async fn a_worker_without_any_environment_gives_its_jobs_that_of_a_login() {
    let (dir, worker_dir) = (data_dir(), data_dir());
    let dev = master(dir.path()).await;
    let mut starter = command(&["worker"]);
    starter.env_clear();
    let _worker = dev.add_worker_by(starter, "w", worker_dir.path()).await;
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap().unwrap();
    let expected = format!("{} {} {} {}\n", user.dir.display(), user.name, user.name, user.shell.display());
    assert_eq!(run(&dev, json!({}), "echo $HOME $USER $LOGNAME $SHELL").await, expected);
}

#[tokio::test]
async fn sockets_find_room_in_a_temporary_directory_however_long_the_data_directory_is() {
    let (dir, base) = (data_dir(), data_dir());
    let dev = master(dir.path()).await;
    let worker_dir = base.path().join("a-data-directory-with-a-name-of-its-own".repeat(4));
    fs::create_dir(&worker_dir).unwrap();
    let worker = dev.add_worker("w", &worker_dir).await;

    let job = dev
        .client
        .submit(json!({"script": "echo $TMPDIR; cd $TMPDIR; pwd -P; echo x > file; exec sleep 1000"}))
        .await;
    let output = eventually("the job has said where it is", async || {
        let output = String::from_utf8(dev.client.output(job).await).unwrap();
        (output.lines().count() == 2).then_some(output)
    })
    .await;
    let (short, real) = output.trim_end().split_once('\n').unwrap();
    assert!(short.len() + 40 < 107, "{short}");
    assert!(Path::new(real).starts_with(&worker_dir), "what it keeps there is in the data directory: {real}");
    eventually("the file is there", async || Path::new(short).join("file").exists().then_some(())).await;

    // All of it is killed, and goes with the attempt all the same.
    let executor = worker.executor().unwrap();
    worker.end(Signal::SIGKILL).await;
    nix::sys::signal::kill(executor, Signal::SIGKILL).unwrap();
    let link = Path::new(short).ancestors().nth(2).unwrap().to_owned();
    eventually("the watchdog has removed the short path", async || {
        fs::read_link(&link).is_err().then_some(())
    })
    .await;
    let worker = dev.add_worker("w", &worker_dir).await;
    eventually("its files are gone", async || (!Path::new(real).exists()).then_some(())).await;
    assert_eq!(run(&dev, json!({}), "cd $TMPDIR && ls -A && touch x").await, "");
    assert_eq!(worker.end(Signal::SIGINT).await, Some(0));
    assert!(fs::read_link(&link).is_err(), "a worker that ends removes it");
}

#[tokio::test]
async fn a_task_on_the_host_runs_in_the_directory_that_it_names() {
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    let place = dir.path().join("a place, with: signs");
    fs::create_dir(&place).unwrap();
    fs::write(place.join("tool"), "#!/bin/sh\npwd; ls\n").unwrap();
    fs::set_permissions(place.join("tool"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let place = place.to_str().unwrap();

    let ran = dev.cli(&["run", "--workdir", place, "--", "./tool"]).output().await.unwrap();
    let expected = format!("{place}\ntool\n");
    assert_eq!((ran.status.code(), String::from_utf8(ran.stdout).unwrap()), (Some(0), expected));
    let output = run(&dev, json!({"workdir": place}), "pwd; cd $GAFFER_SCRATCH_DIR; ls -A; pwd").await;
    let (first, scratch) = output.trim_end().split_once('\n').unwrap();
    assert_eq!(first, place);
    assert!(scratch.ends_with("/work") && !Path::new(scratch).exists(), "{scratch}");
    assert!(Path::new(place).join("tool").exists(), "only the scratch directory goes");

    for (workdir, why) in [("/no/such/place", "it does not exist"), ("/etc/passwd", "it is not a directory")]
    {
        let job = dev.client.submit(json!({"command": ["true"], "workdir": workdir})).await;
        let reason = dev.client.finished(job).await.reason.unwrap();
        assert_eq!(reason.code.as_str(), "start_failed");
        let expected = format!("cannot run in the working directory {workdir}: {why} on this worker");
        assert!(reason.message.contains(&expected), "{}", reason.message);
        let stored = dev.client.job(job).await;
        assert_eq!(stored.spec["tasks"][0]["workdir"], workdir, "it is in the normal form");
    }
}

#[tokio::test]
async fn a_nice_task_yields_with_all_that_it_starts() {
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    let plain = run(&dev, json!({}), "nice").await;
    let ran = dev.cli(&["run", "--nice", "19", "--", "sh", "-c", "nice; (nice)"]).output().await.unwrap();
    assert_eq!((ran.status.code(), String::from_utf8(ran.stdout).unwrap()), (Some(0), "19\n19\n".to_owned()));
    assert_eq!(run(&dev, json!({"nice": 0}), "nice").await, plain, "what starts others has not become nicer");

    for (words, why) in [
        (["run", "--nice", "20", "--", "true"].as_slice(), "20 is not in 0..=19"),
        (
            ["run", "--nice", "5", "--image", "busybox", "--", "true"].as_slice(),
            "--nice: `nice` is for tasks on the host only: leave it out, or leave out the `image`",
        ),
    ] {
        let refused = dev.cli(words).output().await.unwrap();
        let told = String::from_utf8(refused.stderr).unwrap();
        assert_eq!(refused.status.code(), Some(2), "{told}");
        assert!(told.contains(why), "{told}");
    }
    let refused = dev.client.post("/jobs", &json!({"command": ["true"], "nice": 20})).await;
    let mistake = &refused.body["errors"][0];
    assert_eq!(mistake["pointer"], "/nice");
    assert_eq!(mistake["detail"], "expected a whole number from 0 to 19, found 20");
}
