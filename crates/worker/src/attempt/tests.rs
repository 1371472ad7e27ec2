#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::future::{pending, ready};
use std::sync::Mutex;
use std::time::Duration;

use futures::future::BoxFuture;
use gaffer_domain::reason::ProcessEnd;
use tempfile::TempDir;

use super::hooks::Hook;
use super::*;
use crate::blocking::PATIENCE;
use crate::driver::DriverSettings;
use crate::ports::PortSettings;
use crate::tests::master::{play, soon, until};

/// What was called, in order.
#[derive(Default)]
struct Calls(Mutex<Vec<String>>);

impl Calls {
    fn note(&self, hook: &str, call: &str) {
        self.0.lock().unwrap().push(format!("{hook} {call}"));
    }

    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

impl Progress for Calls {
    fn noted(&self, _: AttemptRef, _: String) {}
    fn started(&self, _: AttemptRef, _: StartFacts) {
        self.note("it", "started");
    }
    fn wrote(&self, _: AttemptRef) {}
    fn took_input(&self, _: InputTaken) {}
    fn wants_secrets(&self, _: AttemptRef) {}
    fn checked(&self, _: Checked) {}
    fn released(&self, _: AttemptRef) {
        self.note("it", "is gone");
    }
}

/// A hook that notes what it is called for.
struct Noting {
    name: &'static str,
    calls: Arc<Calls>,
    is_in_the_way: bool,
}

impl Hook for Noting {
    fn concern(&self) -> &'static str {
        self.name
    }

    fn before_start<'a>(
        &'a mut self,
        _attempt: &'a Attempt,
        _assignment: &'a mut Assignment,
        _cancelled: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<(), StartError>> {
        self.calls.note(self.name, "before start");
        let is_refused = self.is_in_the_way && self.name == "files";
        Box::pin(ready(if is_refused { Err(StartError::other("there is no room")) } else { Ok(()) }))
    }

    fn after_start<'a>(&'a mut self, _attempt: &'a Attempt, _started: &'a mut Started) -> BoxFuture<'a, ()> {
        self.calls.note(self.name, "after start");
        Box::pin(ready(()))
    }

    fn adopted<'a>(&'a mut self, _attempt: &'a Attempt, _started: &'a mut Started) -> BoxFuture<'a, ()> {
        self.calls.note(self.name, "adopted");
        Box::pin(ready(()))
    }

    fn before_stop<'a>(&'a mut self, _attempt: &'a Attempt) -> BoxFuture<'a, ()> {
        self.calls.note(self.name, "before stop");
        if self.is_in_the_way { Box::pin(pending()) } else { Box::pin(ready(())) }
    }

    fn after_end<'a>(&'a mut self, _attempt: &'a Attempt, _ended: &'a Ended) -> BoxFuture<'a, ()> {
        self.calls.note(self.name, "after end");
        Box::pin(ready(()))
    }
}

/// Runs a play between two hooks, until it is stopped once it has started; gives its end.
async fn run_between(hooks: [(&'static str, bool); 2], text: &str, calls: &Arc<Calls>) -> Ended {
    let dir = TempDir::new().unwrap();
    let start = Arc::new(play(1, text).start());
    let spool_dir = dir.path().join("spool");
    let (spool, _) = Spool::open(&spool_dir, "boot", 1 << 30, Vec::new(), &Default::default()).unwrap();
    let (_, writer) = spool.new_output(start.attempt);
    let settings = DriverSettings {
        host: false,
        inherited: BTreeMap::new(),
        user: None,
        allow_setuid: true,
        docker: None,
        scripted: true,
    };
    let context = Arc::new(AttemptContext {
        drivers: Drivers::open(settings, "owner".to_owned(), std::iter::empty()).await.unwrap(),
        spool,
        scratch: ScratchSpace::open(dir.path(), None).unwrap(),
        secret_files: SecretFiles::open(dir.path(), &[], None),
        finders: Finders::default(),
        threads: BlockingThreads::new("test", 4, PATIENCE).unwrap(),
        ports: Ports::new(PortSettings::default(), "token"),
        checks: Semaphore::new(1),
        token: "token".to_owned(),
    });
    let (worker_name, progress) = ("tester".into(), calls.clone());
    let attempt = Attempt::new(context, start, worker_name, progress, Began::now());
    let noting = |(name, is_in_the_way)| -> Box<dyn Hook> {
        Box::new(Noting { name, calls: calls.clone(), is_in_the_way })
    };
    let (sender, controls) = channels();
    let hooks = Hooks(hooks.map(noting).into());
    let run = run_with(hooks, attempt, writer, controls.stops, controls.signals);
    let stop = async {
        until("the start, or the end", || {
            calls.all().iter().any(|call| call == "it started" || call.ends_with("after end"))
        })
        .await;
        sender.stop(StopRequests { stop: Some((Cause::Stopped, Duration::from_secs(600))), kill: None });
    };
    soon("the end", async { tokio::join!(run, stop).0 }).await
}

#[tokio::test]
async fn hooks_are_called_in_order_and_after_the_start_in_the_opposite_one() {
    let calls = Arc::new(Calls::default());
    let ended = run_between([("files", false), ("health", false)], "hang", &calls).await;
    assert_eq!(ended.end, AttemptEnd::Stopped { process: Some(ProcessEnd::Signal(15)) });
    let expected = [
        "files before start",
        "health before start",
        "files after start",
        "health after start",
        "it started",
        "health before stop",
        "files before stop",
        "it is gone",
        "health after end",
        "files after end",
    ];
    assert_eq!(calls.all(), expected);
}

#[tokio::test]
async fn a_hook_that_refuses_the_start_is_named_in_the_reason() {
    let calls = Arc::new(Calls::default());
    let ended = run_between([("files", true), ("health", false)], "hang", &calls).await;
    let message = "cannot prepare the task's files: there is no room".to_owned();
    assert_eq!(ended.end, AttemptEnd::StartFailed { exit_code: 125, message });
    assert_eq!(calls.all(), ["files before start", "health after end", "files after end"]);
}

#[tokio::test]
async fn a_hook_that_takes_too_long_does_not_keep_an_attempt_from_being_stopped() {
    let calls = Arc::new(Calls::default());
    let ended = run_between([("files", false), ("health", true)], "hang", &calls).await;
    assert_eq!(ended.end, AttemptEnd::Stopped { process: Some(ProcessEnd::Signal(15)) });
    assert!(!calls.all().contains(&"files before stop".to_owned()));
}
