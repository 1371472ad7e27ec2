//! A worker that is killed: what it had been running is ended, what it had to say is said by the next one.

use std::path::Path;
use std::process::Stdio;

use gaffer_domain::reason::{AttemptEnd, LostCause};
use gaffer_domain::worker::HeldPhase;
use gaffer_protocol::wire::{StoredOutput, ToMaster, ToWorker};
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

use super::master::{Books, Master, Said, attempt, play, script, soon};
use super::{config, eager, lives, pid_in};
use crate::config::VolumeRoots;
use crate::driver::scripted::PseudoRandom;
use crate::{ExecutorPlace, run_with};

const DIR: &str = "GAFFER_TEST_WORKER_DIR";
const URL: &str = "GAFFER_TEST_WORKER_URL";
const DOCKER: &str = "GAFFER_TEST_WORKER_DOCKER";
const VOLUMES: &str = "GAFFER_TEST_WORKER_VOLUMES";

/// A worker in a separate process: this test, run by another one.
#[test]
#[ignore = "is no test but the worker that others kill"]
fn worker_process() {
    let (Ok(dir), Ok(url)) = (std::env::var(DIR), std::env::var(URL)) else { return };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut config = config(&url, Path::new(&dir));
    if let Ok(address) = std::env::var(DOCKER) {
        config.drivers = Some("docker".to_owned());
        config.docker.docker_host = Some(address);
        config.docker.volume_roots = std::env::var_os(VOLUMES).map(|root| VolumeRoots(vec![root.into()]));
    }
    let ran = runtime.block_on(run_with(config, ExecutorPlace::Here, eager(), CancellationToken::new()));
    panic!("the worker ended: {ran:?}");
}

pub fn spawn_worker(dir: &Path, url: &str) -> Child {
    worker_command(dir, url).spawn().unwrap()
}

/// With the Docker daemon at that address, and that directory for volumes.
pub fn spawn_docker_worker(dir: &Path, url: &str, address: &str, volumes: &Path) -> Child {
    worker_command(dir, url).env(DOCKER, address).env(VOLUMES, volumes).spawn().unwrap()
}

fn worker_command(dir: &Path, url: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "tests::restart::worker_process", "--ignored", "--nocapture"])
        .env(DIR, dir)
        .env(URL, url)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true);
    command
}

#[tokio::test]
async fn what_a_killed_worker_ran_is_ended_and_reported_by_the_next() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let mut child = spawn_worker(dir.path(), &master.url);
    let mut session = master.accept_and_welcome().await;
    let first = session.hello.clone();
    let place = dir.path().display();
    // One with a daemon, one that is over, one that waits.
    let text = format!(
        "echo $$ > {place}/main; setsid -f sh -c 'echo $$ > {place}/daemon; exec sleep 1000'; \
         echo hello; trap '' TERM HUP PIPE; while :; do sleep 0.1; done"
    );
    session.start([script(1, &text), play(2, "bytes 3000000 5\nexit 4")]).await;
    // The second is stored in part only.
    let mut books = Books::default();
    let mut end_of_second = None;
    while end_of_second.is_none() || !books.output.contains_key(&attempt(1)) {
        match session.next().await {
            Said::Report(ToMaster::Ended(ended)) => end_of_second = Some(*ended),
            Said::Output(chunk) if chunk.attempt == attempt(2) => {
                // Acknowledged, so that all of it comes, but kept only up to here.
                session.send(&[ToWorker::OutputStored { attempt: attempt(2), offset: chunk.end() }]).await;
            }
            said => {
                let answers = books.take(said);
                session.send(&answers).await;
            }
        }
    }
    let (main, daemon) = (pid_in(&dir.path().join("main")).await, pid_in(&dir.path().join("daemon")).await);
    child.kill().await.unwrap();
    assert!(lives(main) && lives(daemon), "they outlive their worker");

    let _child = spawn_worker(dir.path(), &master.url);
    let mut session = master.accept().await;
    assert!(!lives(main) && !lives(daemon), "they are gone before the worker says hello");
    assert_eq!(session.hello.identity, first.identity);
    assert_ne!(session.hello.process, first.process);
    let mut held = session.hello.held.clone();
    held.sort_by_key(|held| held.attempt);
    let expected = [(attempt(1), HeldPhase::Finished), (attempt(2), HeldPhase::Finished)];
    assert_eq!(held.iter().map(|held| (held.attempt, held.phase)).collect::<Vec<_>>(), expected);

    let end_of_second = end_of_second.unwrap();
    books.output.insert(attempt(2), PseudoRandom::new(5).take_bytes(3_000_000));
    session.welcome(&books.stored()).await;
    while books.ended.len() < 2 {
        session.keep(&mut books).await;
    }
    let first = &books.ended[&attempt(1)];
    assert_eq!(first.end, AttemptEnd::Lost { cause: LostCause::WorkerRestarted });
    assert_eq!((first.output_bytes, books.stdout(attempt(1)).as_str()), (6, "hello\n"));
    assert!(
        first.started_at.is_some()
            && first.killed.is_some_and(|receipt| receipt.killed >= 2 && receipt.left == 0)
    );
    assert_eq!(books.ended[&attempt(2)], end_of_second);
}

#[tokio::test]
async fn spooled_output_outlives_the_worker() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let mut child = spawn_worker(dir.path(), &master.url);
    let mut session = master.accept_and_welcome().await;
    // More than a segment and than what is kept in memory; nothing of it is acknowledged.
    let text = format!("bytes 20000000 6\nbytes 1000000 7 stderr\nout {}", "end");
    session.start([play(1, &text)]).await;
    let spooled = || -> u64 {
        let spool = std::fs::read_dir(dir.path().join("spool")).unwrap();
        let sizes = spool.filter_map(|entry| entry.ok()?.metadata().ok()).map(|metadata| metadata.len());
        sizes.sum()
    };
    super::until("all output in the spool", || spooled() > 21_000_004).await;
    // And its end in the journal.
    let journal = dir.path().join("spool/journal");
    super::until("the end", || std::fs::read_to_string(&journal).unwrap().contains("\"entry\":\"ended\""))
        .await;
    drop(session);
    child.kill().await.unwrap();

    let _child = spawn_worker(dir.path(), &master.url);
    let mut session = master.accept().await;
    session.welcome(&[StoredOutput { attempt: attempt(1), offset: 12_345 }]).await;
    let mut books = Books::default();
    books.output.insert(attempt(1), PseudoRandom::new(6).take_bytes(12_345));
    while books.ended.is_empty() {
        soon("output", session.keep(&mut books)).await;
    }
    assert_eq!(books.ended[&attempt(1)].end, AttemptEnd::Exited { code: 0 });
    assert_eq!(books.stdout[&attempt(1)][..1000], PseudoRandom::new(6).take_bytes(13_345)[12_345..]);
    assert_eq!(books.stderr[&attempt(1)], PseudoRandom::new(7).take_bytes(1_000_000));
}
