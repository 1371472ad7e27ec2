//! A worker without processes that does as it is told.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use gaffer_domain::AttemptRef;
use gaffer_domain::reason::{AttemptEnd, ProcessEnd};
use gaffer_domain::worker::HeldPhase;
use gaffer_protocol::wire::{HeldAttempt, Hello, ToWorker};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::raw_worker::{self, RawWorker};
use crate::stage::Stage;

/// A worker that runs what it gets until it is told to stop it. An attempt whose `VERSION` is `broken` ends at once.
pub struct Robot {
    hello: Hello,
    attempts: Arc<Mutex<Attempts>>,
    quit: oneshot::Sender<()>,
    session: JoinHandle<()>,
}

#[derive(Default)]
struct Attempts {
    running: BTreeSet<AttemptRef>,
    /// The most that ran at once.
    most: usize,
}

impl Robot {
    /// Connects.
    pub async fn join(stage: &Stage, hello: Hello) -> Robot {
        let mut worker = RawWorker::connect(&stage.worker_url(), &stage.worker_key, hello.clone()).await;
        let attempts = Arc::new(Mutex::new(Attempts::default()));
        for held in &hello.held {
            attempts.lock().unwrap().running.insert(held.attempt);
        }
        let (quit, mut quits) = oneshot::channel::<()>();
        let shared = attempts.clone();
        let session = tokio::spawn(async move {
            loop {
                let message = tokio::select! {
                    _ = &mut quits => return,
                    message = worker.hear() => message,
                };
                match message {
                    None => return,
                    Some(ToWorker::Start(start)) => {
                        let start = worker.resolve(&start);
                        {
                            let mut attempts = shared.lock().unwrap();
                            attempts.running.insert(start.attempt);
                            attempts.most = attempts.most.max(attempts.running.len());
                        }
                        worker.started(start.attempt).await;
                        let version = start.definition.env.get("VERSION").map(String::as_str);
                        let code = match version {
                            Some("broken") => 7,
                            Some("ends") => 0,
                            _ => continue,
                        };
                        shared.lock().unwrap().running.remove(&start.attempt);
                        worker.ended(start.attempt, AttemptEnd::Exited { code }, 0).await;
                    }
                    Some(ToWorker::Stop { attempt }) => {
                        shared.lock().unwrap().running.remove(&attempt);
                        let end = AttemptEnd::Stopped { process: Some(ProcessEnd::Signal(15)) };
                        worker.ended(attempt, end, 0).await;
                    }
                    Some(_) => {}
                }
            }
        });
        Robot { hello, attempts, quit, session }
    }

    /// The most attempts that it has run at once.
    pub fn most(&self) -> usize {
        self.attempts.lock().unwrap().most
    }

    /// Goes away without a word; returns its next hello, of the same process.
    pub async fn leave(self) -> Hello {
        let _ = self.quit.send(());
        self.session.await.unwrap();
        let running = std::mem::take(&mut self.attempts.lock().unwrap().running);
        let held = running.into_iter().map(|attempt| HeldAttempt { attempt, phase: HeldPhase::Running });
        Hello { held: held.collect(), ..self.hello }
    }
}

/// The hello of the same worker after its machine has restarted.
pub fn restarted(hello: Hello) -> Hello {
    let again = raw_worker::hello(&hello.name);
    Hello { process: again.process, held: Vec::new(), ..hello }
}
