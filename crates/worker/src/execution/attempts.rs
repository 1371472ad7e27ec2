//! Launches attempts and receives their reports.

use std::future::ready;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt as _;
use gaffer_domain::AttemptRef;
use gaffer_domain::reason::{AttemptEnd, LostCause};
use gaffer_protocol::boot_time::BootTime;
use gaffer_protocol::health::Checked;
use gaffer_protocol::wire::{Ended, InputTaken, ToMaster};

use super::Core;
use super::state::Launch;
use crate::attempt::{self, Attempt, Controls, Progress, StartFacts};
use crate::clock::Began;
use crate::driver;
use crate::spool::OutputWriter;

impl Core {
    /// Starts what there is room for.
    pub(super) fn launch_ready(self: &Arc<Self>) {
        loop {
            let Some(launch) =
                self.state().next_launch(BootTime::now(), |attempt| self.context.spool.new_output(attempt))
            else {
                return;
            };
            tokio::spawn(self.clone().execute(launch));
        }
    }

    async fn execute(self: Arc<Self>, launch: Launch) {
        let (attempt, writer, controls) = self.attempt(launch, Began::now());
        let reference = attempt.reference();
        self.see_to_its_end(reference, attempt::run(attempt, writer, controls)).await;
    }

    /// Adopts an attempt of an earlier executor.
    pub(super) async fn adopt(self: Arc<Self>, launch: Launch, began: Began, has_started: bool) {
        let (attempt, writer, controls) = self.attempt(launch, began);
        let reference = attempt.reference();
        let run = attempt::adopt(attempt, has_started, writer, controls);
        self.see_to_its_end(reference, run).await;
    }

    fn attempt(self: &Arc<Self>, launch: Launch, began: Began) -> (Attempt, OutputWriter, Controls) {
        let Launch { start, worker_name, writer, controls } = launch;
        let (context, progress) = (self.context.clone(), Arc::new(self.clone()));
        (Attempt::new(context, start, worker_name, progress, began), writer, controls)
    }

    async fn see_to_its_end(self: &Arc<Self>, attempt: AttemptRef, run: impl Future<Output = Ended>) {
        let ended = match AssertUnwindSafe(run).catch_unwind().await {
            Ok(ended) => ended,
            Err(_) => self.after_panic(attempt).await,
        };
        self.released(attempt);
        self.finish(ended);
    }

    /// A mistake in this program must not leave an attempt running for ever.
    async fn after_panic(&self, attempt: AttemptRef) -> Ended {
        tracing::error!(%attempt, "internal error: the attempt was abandoned");
        let marker = self.context.marker(attempt);
        let kill = move || driver::kill_marked(&marker);
        let killed = tokio::task::spawn_blocking(kill).await.ok();
        let mut ended = attempt::unstarted(attempt, AttemptEnd::Lost { cause: LostCause::NotHeld });
        ended.killed = killed.filter(|receipt| receipt.killed + receipt.left > 0);
        ended.output_bytes = self.state().output(attempt).map_or(0, |output| output.end());
        let (context, end) = (self.context.clone(), ended.clone());
        let noted = self.context.threads.run_until(ready(()), move || context.spool.ended(&end, false));
        if noted.await.is_err() {
            tracing::warn!(%attempt, "the disk of the data directory does not respond; the end is recorded later");
        }
        ended
    }
}

impl Progress for Arc<Core> {
    fn noted(&self, attempt: AttemptRef, message: String) {
        self.state().report(ToMaster::Noted { attempt, message });
        self.eventful.notify_one();
    }

    fn started(&self, attempt: AttemptRef, start: StartFacts) {
        self.state().started(attempt, start);
        self.eventful.notify_one();
    }

    fn took_input(&self, taken: InputTaken) {
        self.state().report(ToMaster::InputTaken(taken));
        self.eventful.notify_one();
    }

    fn wants_secrets(&self, attempt: AttemptRef) {
        self.state().report(ToMaster::SecretsWanted { attempt });
        self.eventful.notify_one();
    }

    fn wrote(&self, attempt: AttemptRef) {
        self.state().wrote(attempt);
        self.eventful.notify_one();
    }

    fn checked(&self, checked: Checked) {
        self.state().checked(checked);
        self.eventful.notify_one();
    }

    fn released(&self, attempt: AttemptRef) {
        self.state().release(attempt);
        self.launch_ready();
    }
}
