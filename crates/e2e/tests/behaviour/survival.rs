//! A running attempt outlives its worker: whichever process of that dies, stands still or is replaced.

use std::fs::{self, File, Permissions};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use gaffer_e2e::eventually;
use gaffer_e2e::gaffer::{Dev, bare_command, data_dir, kill_executor, program, watchdog};
use gaffer_protocol::rest::Task;
use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

/// A `gaffer dev` whose own worker takes nothing.
async fn master(dir: &Path) -> Dev {
    let dev = Dev::start_with(dir, &[("GAFFER_WORKER_NAME", "own")]).await;
    let drained = dev.client.post("/workers/own/drain", &json!({})).await;
    assert!(drained.status.is_success(), "{}", drained.text);
    dev
}

/// A job that says so when it runs, and ends once the file is there.
async fn begin(dev: &Dev, until: &Path) -> i64 {
    let script = format!(
        "echo up $GAFFER_ATTEMPT; while ! [ -e {} ]; do sleep 0.02; done; echo over",
        until.display()
    );
    let restart = json!({"policy": "on-failure", "limit": 5, "delay": "0s", "on_lost": "restart"});
    let job = dev.client.submit(json!({"script": script, "lost_after": "10s", "restart": restart})).await;
    eventually("the job runs", async || (dev.client.output(job).await == b"up 1\n").then_some(())).await;
    job
}

async fn only_task(dev: &Dev, job: i64) -> Task {
    dev.client.tasks(job).await.remove(0)
}

async fn completes_in_its_first_attempt(dev: &Dev, job: i64) {
    let done = dev.client.finished(job).await;
    assert_eq!(done.state.as_str(), "completed", "{:?}", done.reason);
    assert_eq!(dev.client.output(job).await, b"up 1\nover\n");
    assert_eq!(only_task(dev, job).await.attempt, 1);
}

#[tokio::test]
async fn a_link_that_is_killed_comes_back_by_itself_and_finds_everything() {
    let (dir, worker_dir) = (data_dir(), data_dir());
    let dev = master(dir.path()).await;
    let worker = dev.add_worker("w", worker_dir.path()).await;
    let (go, executor) = (worker_dir.path().join("go"), worker.executor().unwrap());
    let job = begin(&dev, &go).await;
    for _ in 0..3 {
        let agent = worker.agent().unwrap();
        kill(agent, Signal::SIGKILL).unwrap();
        eventually("another agent", async || worker.agent().filter(|now| *now != agent)).await;
    }
    fs::write(&go, "").unwrap();
    completes_in_its_first_attempt(&dev, job).await;
    assert_eq!(worker.executor(), Some(executor));
    assert_eq!(worker.end(Signal::SIGINT).await, Some(0));
    assert_eq!(gaffer_e2e::gaffer::executor(worker_dir.path()), None, "it leaves with its worker");
}

#[tokio::test]
async fn a_worker_that_is_killed_and_started_again_finds_its_jobs() {
    let (dir, worker_dir) = (data_dir(), data_dir());
    let dev = master(dir.path()).await;
    let worker = dev.add_worker("w", worker_dir.path()).await;
    let go = worker_dir.path().join("go");
    let job = begin(&dev, &go).await;
    worker.end(Signal::SIGKILL).await;
    // Ends while nobody but the executor is there to see it.
    fs::write(&go, "").unwrap();
    let _worker = dev.add_worker("w", worker_dir.path()).await;
    completes_in_its_first_attempt(&dev, job).await;
}

#[tokio::test]
async fn a_worker_set_to_leave_its_jobs_can_be_upgraded_under_them() {
    let (dir, worker_dir) = (data_dir(), data_dir());
    let dev = master(dir.path()).await;
    let worker = dev.add_worker_with("w", worker_dir.path(), &[("GAFFER_ON_STOP", "leave")]).await;
    let go = worker_dir.path().join("go");
    let job = begin(&dev, &go).await;
    let executor = worker.executor();
    assert_eq!(worker.end(Signal::SIGTERM).await, Some(0));
    // With other settings, which hold as soon as nothing of the old ones runs.
    let worker = dev.add_worker_with("w", worker_dir.path(), &[("GAFFER_SPOOL_LIMIT", "1MiB")]).await;
    assert_eq!(worker.executor(), executor);
    fs::write(&go, "").unwrap();
    completes_in_its_first_attempt(&dev, job).await;
    eventually("an executor with the new settings", async || {
        worker.executor().filter(|now| Some(*now) != executor)
    })
    .await;
}

#[tokio::test]
async fn a_executor_that_is_killed_is_replaced_and_what_it_ran_is_ended_and_begins_anew() {
    let (dir, worker_dir) = (data_dir(), data_dir());
    let dev = master(dir.path()).await;
    let _worker = dev.add_worker("w", worker_dir.path()).await;
    let go = worker_dir.path().join("go");
    let job = begin(&dev, &go).await;
    kill_executor(worker_dir.path()).await;
    eventually("another attempt", async || (only_task(&dev, job).await.attempt == 2).then_some(())).await;
    fs::write(&go, "").unwrap();
    assert_eq!(dev.client.finished(job).await.state.as_str(), "completed");
}

#[tokio::test]
async fn a_executor_that_stands_still_is_replaced_before_the_master_gives_its_jobs_to_another() {
    let (dir, worker_dir) = (data_dir(), data_dir());
    let dev = master(dir.path()).await;
    let worker = dev.add_worker("w", worker_dir.path()).await;
    let go = worker_dir.path().join("go");
    let job = begin(&dev, &go).await;
    let executor = worker.executor().unwrap();
    kill(executor, Signal::SIGSTOP).unwrap();
    eventually("another attempt", async || (only_task(&dev, job).await.attempt == 2).then_some(())).await;
    assert!(worker.executor().is_some_and(|now| now != executor), "the attempt before is still kept");
    fs::write(&go, "").unwrap();
    assert_eq!(dev.client.finished(job).await.state.as_str(), "completed");
}

/// A job whose process writes its number there, beside one that hides from it.
async fn begin_hiding(dev: &Dev, dir: &Path) -> (i64, Vec<Pid>) {
    let note = |name: &str| dir.join(name).display().to_string();
    let hidden = format!("(cd /; setsid env -i sh -c 'echo $$ > {}; exec sleep 1000' &)", note("hidden"));
    let script = format!("{hidden}; echo $$ > {}; echo up; exec sleep 1000", note("main"));
    let job = dev.client.submit(json!({"script": script, "lost_after": "10s"})).await;
    let mut pids = Vec::new();
    for name in ["hidden", "main"] {
        let path = dir.join(name);
        let pid = async || fs::read_to_string(&path).ok()?.trim().parse().ok().map(Pid::from_raw);
        pids.push(eventually("a process says its number", pid).await);
    }
    eventually("the job runs", async || (dev.client.output(job).await == b"up\n").then_some(())).await;
    (job, pids)
}

/// Not so of one that is dead and not waited for.
fn lives(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

fn are_gone(pids: &[Pid]) -> bool {
    pids.iter().all(|pid| !lives(*pid))
}

#[tokio::test]
async fn nothing_runs_on_when_all_of_a_worker_is_killed_and_its_next_life_says_what_had_to_be() {
    let (dir, worker_dir) = (data_dir(), data_dir());
    let dev = master(dir.path()).await;
    let worker = dev.add_worker("w", worker_dir.path()).await;
    let (job, pids) = begin_hiding(&dev, worker_dir.path()).await;
    let (agent, executor) = (worker.agent().unwrap(), worker.executor().unwrap());
    worker.end(Signal::SIGKILL).await;
    for part in [agent, executor] {
        // The agent may have gone with its supervisor.
        let _ = kill(part, Signal::SIGKILL);
    }
    eventually("everything that it ran is gone", async || are_gone(&pids).then_some(())).await;
    let _worker = dev.add_worker("w", worker_dir.path()).await;
    let done = dev.client.finished(job).await;
    assert_eq!(done.reason.unwrap().code.as_str(), "lost_worker");
    let task = dev.client.get(&format!("/jobs/{job}/tasks/main")).await.body;
    assert_eq!(task["attempts"][0]["killed"]["left"], 0, "{task}");
}

/// A program that the kernel does not get to load before this is dropped, or forty-five seconds have passed: a process that
/// opens it waits for the holder of a lease on it.
struct LeasedProgram {
    lease: File,
    path: PathBuf,
}

impl LeasedProgram {
    /// It makes a file.
    fn new(dir: &Path, made: &Path) -> LeasedProgram {
        let path = dir.join("program");
        fs::write(&path, format!("#!/bin/sh\necho x > {}\n", made.display())).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        let leased = LeasedProgram { lease: File::open(&path).unwrap(), path };
        assert_eq!(leased.control(libc::F_SETLEASE, libc::F_WRLCK), 0);
        // What tells that somebody waits is to be a signal that nobody minds.
        const F_SETSIG: i32 = 10;
        assert_eq!(leased.control(F_SETSIG, libc::SIGWINCH), 0);
        leased
    }

    #[allow(unsafe_code)]
    fn control(&self, command: i32, argument: i32) -> i32 {
        // SAFETY: the descriptor is open as long as `self` lives, and none of the commands above takes a pointer.
        unsafe { libc::fcntl(self.lease.as_raw_fd(), command, argument) }
    }

    /// A job that runs it, once the kernel waits for it.
    async fn begin(&self, dev: &Dev) {
        dev.client.submit(json!({"command": [self.path], "lost_after": "10s"})).await;
        eventually("the kernel waits for the program", async || {
            (self.control(libc::F_GETLEASE, 0) != libc::F_WRLCK).then_some(())
        })
        .await;
    }
}

/// Until nothing lives that works in the directory of an attempt.
async fn nothing_works_in(worker_dir: &Path) {
    let attempts = worker_dir.join("attempts");
    eventually("nothing of an attempt is left", async || {
        let processes = fs::read_dir("/proc").unwrap().flatten();
        let mut inside = processes.filter(|entry| {
            fs::read_link(entry.path().join("cwd")).is_ok_and(|path| path.starts_with(&attempts))
        });
        inside.next().is_none().then_some(())
    })
    .await;
}

/// Nobody has waited until the kernel gave the lease of a program up.
fn assert_in_time(begun: Instant) {
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn nothing_runs_on_when_all_of_a_worker_is_killed_while_it_starts_a_process() {
    let (dir, worker_dir) = (data_dir(), data_dir());
    let dev = master(dir.path()).await;
    let worker = dev.add_worker("w", worker_dir.path()).await;
    let (_, pids) = begin_hiding(&dev, worker_dir.path()).await;
    let ran = worker_dir.path().join("ran");
    let program = LeasedProgram::new(worker_dir.path(), &ran);
    program.begin(&dev).await;
    let (agent, executor) = (worker.agent().unwrap(), worker.executor().unwrap());
    let begun = Instant::now();
    worker.end(Signal::SIGKILL).await;
    for part in [agent, executor] {
        let _ = kill(part, Signal::SIGKILL);
    }
    eventually("everything that it ran is gone", async || are_gone(&pids).then_some(())).await;
    nothing_works_in(worker_dir.path()).await;
    assert_in_time(begun);
    drop(program);
    assert!(!ran.exists(), "it was started after its executor had died");
}

#[tokio::test]
async fn an_executor_that_is_killed_while_it_starts_a_process_is_replaced() {
    let (dir, worker_dir) = (data_dir(), data_dir());
    let dev = master(dir.path()).await;
    let _worker = dev.add_worker("w", worker_dir.path()).await;
    let go = worker_dir.path().join("go");
    let job = begin(&dev, &go).await;
    let ran = worker_dir.path().join("ran");
    let program = LeasedProgram::new(worker_dir.path(), &ran);
    program.begin(&dev).await;
    let begun = Instant::now();
    kill_executor(worker_dir.path()).await;
    eventually("another attempt", async || (only_task(&dev, job).await.attempt == 2).then_some(())).await;
    assert_in_time(begun);
    fs::write(&go, "").unwrap();
    assert_eq!(dev.client.finished(job).await.state.as_str(), "completed");
    drop(program);
    assert!(!ran.exists(), "it was started after its executor had died");
}

#[tokio::test]
async fn nothing_runs_on_when_a_worker_is_killed_and_its_directory_is_removed() {
    let (dir, worker_dir) = (data_dir(), data_dir());
    let dev = master(dir.path()).await;
    let worker = dev.add_worker("w", worker_dir.path()).await;
    let (_, pids) = begin_hiding(&dev, worker_dir.path()).await;
    let (agent, executor) = (worker.agent().unwrap(), worker.executor().unwrap());
    let watchdog = eventually("the executor has a watchdog", async || watchdog(executor)).await;
    // It comes too late for the directory.
    kill(watchdog, Signal::SIGSTOP).unwrap();
    worker.end(Signal::SIGKILL).await;
    let _ = kill(agent, Signal::SIGKILL);
    eventually("the agent is gone", async || are_gone(&[agent]).then_some(())).await;
    let _ = kill(executor, Signal::SIGKILL);
    eventually("the executor is gone", async || are_gone(&[executor]).then_some(())).await;
    worker_dir.close().unwrap();
    kill(watchdog, Signal::SIGCONT).unwrap();
    eventually("everything that it ran is gone", async || are_gone(&pids).then_some(())).await;
}

#[tokio::test]
async fn nothing_runs_on_beyond_its_lease_when_link_and_executor_stand_still() {
    let (dir, worker_dir) = (data_dir(), data_dir());
    let dev = master(dir.path()).await;
    let worker = dev.add_worker("w", worker_dir.path()).await;
    let (job, pids) = begin_hiding(&dev, worker_dir.path()).await;
    let parts = [worker.agent().unwrap(), worker.executor().unwrap()];
    parts.iter().for_each(|part| kill(*part, Signal::SIGSTOP).unwrap());
    let done = dev.client.finished(job).await;
    assert!(are_gone(&pids), "something runs on although the master may give it to another");
    assert_eq!(done.reason.unwrap().code.as_str(), "lost_worker");
    for part in parts {
        // The watchdog may have killed it.
        let _ = kill(part, Signal::SIGCONT);
    }
}

#[tokio::test]
async fn jobs_heed_signals_although_their_worker_was_started_deaf_to_them() {
    let (dir, worker_dir) = (data_dir(), data_dir());
    let dev = master(dir.path()).await;
    // As `nohup` does, and a shell for what it starts in the background.
    let deaf = r#"trap "" HUP INT QUIT; exec "$0" worker"#;
    let worker = bare_command(Path::new("sh"), &["-c", deaf, &program().display().to_string()]);
    let _worker = dev.add_worker_by(worker, "w", worker_dir.path()).await;
    let script = "trap 'echo caught; exit 6' INT; echo up; while :; do sleep 0.02; done";
    let job = dev.client.submit(json!({"script": script, "stop": {"signal": "SIGINT"}})).await;
    eventually("the job runs", async || (dev.client.output(job).await == b"up\n").then_some(())).await;
    dev.client.post(&format!("/jobs/{job}/stop"), &json!({})).await;
    dev.client.finished(job).await;
    assert_eq!(dev.client.output(job).await, b"up\ncaught\n");
}

#[tokio::test]
async fn a_second_worker_on_the_same_directory_is_refused() {
    let (dir, worker_dir) = (data_dir(), data_dir());
    let dev = master(dir.path()).await;
    let worker = dev.add_worker("w", worker_dir.path()).await;
    let second = gaffer_e2e::gaffer::command(&["worker"])
        .env("MASTER_URL", &dev.env["MASTER_URL"])
        .env("API_KEY", "any")
        .env("GAFFER_DATA_DIR", worker_dir.path())
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(1), "{said}");
    assert!(said.contains("another worker uses the data directory"), "{said}");
    assert!(worker.agent().is_some());
}
