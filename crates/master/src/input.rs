//! Standard input on its way to attempts. A request waits here for the worker's response. The bytes are only in the
//! request and in transit, limited per attempt, per worker and in total.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use gaffer_domain::{AttemptRef, WorkerId};
use gaffer_protocol::wire::{Input, InputBytes, InputTaken, ToWorker};
use tokio::sync::oneshot;
use tokio::time::timeout;
use uuid::Uuid;

use crate::hub::Hub;

/// How long a process may take to read. After that the writer asks again.
const PATIENCE: Duration = Duration::from_secs(5);
/// Concurrent requests per worker, each up to 64 KiB before its other messages.
const MAX_OF_A_WORKER: usize = 16;
/// Concurrent requests in total.
const MAX_IN_ALL: usize = 512;

/// All requests that wait for an answer.
#[derive(Debug, Clone, Default)]
pub struct Inputs(Arc<Mutex<Waiting>>);

#[derive(Debug, Default)]
struct Waiting {
    last_request: u64,
    by_request: HashMap<u64, Request>,
}

#[derive(Debug)]
struct Request {
    worker: WorkerId,
    attempt: AttemptRef,
    answer: oneshot::Sender<InputTaken>,
}

/// Too many concurrent requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Busy {
    /// For this attempt: its input has an order.
    #[error("another request is writing to this task; wait for its response")]
    Attempt,
    /// For its worker, or in all.
    #[error("too many writes to standard inputs; try again in a moment")]
    Others,
}

#[derive(Debug, Clone)]
pub struct Written {
    pub writer: Uuid,
    pub offset: u64,
    pub bytes: Bytes,
    /// Nothing comes after them.
    pub is_last: bool,
}

impl Inputs {
    /// Sends bytes to the worker of an attempt. None if it does not answer for a while: the same bytes may be sent again.
    ///
    /// # Errors
    /// [`Busy`]: nothing was sent.
    pub async fn pass_on(
        &self,
        hub: &Hub,
        worker: WorkerId,
        attempt: AttemptRef,
        written: Written,
    ) -> Result<Option<InputTaken>, Busy> {
        let (answer, answered) = oneshot::channel();
        let request = self.lock().begin(Request { worker, attempt, answer })?;
        // Also if the client has disconnected.
        let _forgotten_at_the_end = Forget { inputs: self, request };
        let Written { writer, offset, bytes, is_last } = written;
        let input = Input { attempt, request, writer, offset, bytes: InputBytes(bytes), is_last };
        hub.send(worker, ToWorker::Input(Box::new(input)));
        Ok(timeout(PATIENCE, answered).await.ok().and_then(Result::ok))
    }

    /// The answer of a worker; one that was not asked is not heard.
    pub fn taken(&self, worker: WorkerId, taken: InputTaken) {
        let mut waiting = self.lock();
        let is_its = |request: &Request| request.worker == worker && request.attempt == taken.attempt;
        if waiting.by_request.get(&taken.request).is_some_and(is_its)
            && let Some(request) = waiting.by_request.remove(&taken.request)
        {
            let _ = request.answer.send(taken);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn begin(&mut self, request: Request) -> Result<u64, Busy> {
        if self.by_request.values().any(|other| other.attempt == request.attempt) {
            return Err(Busy::Attempt);
        }
        let of_worker = self.by_request.values().filter(|other| other.worker == request.worker).count();
        if self.by_request.len() >= MAX_IN_ALL || of_worker >= MAX_OF_A_WORKER {
            return Err(Busy::Others);
        }
        self.last_request += 1;
        self.by_request.insert(self.last_request, request);
        Ok(self.last_request)
    }
}

struct Forget<'a> {
    inputs: &'a Inputs,
    request: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.inputs.lock().by_request.remove(&self.request);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use gaffer_domain::TaskId;
    use gaffer_protocol::wire::InputState;

    use super::*;

    fn request(worker: i64, task: i64) -> (Request, oneshot::Receiver<InputTaken>) {
        let (answer, answered) = oneshot::channel();
        let attempt = AttemptRef { task: TaskId(task), attempt: 1 };
        (Request { worker: WorkerId(worker), attempt, answer }, answered)
    }

    #[test]
    fn requests_are_bounded_for_an_attempt_a_worker_and_in_all() {
        let mut waiting = Waiting::default();
        waiting.begin(request(1, 0).0).unwrap();
        assert_eq!(waiting.begin(request(1, 0).0), Err(Busy::Attempt));
        let begun = (1..1000).filter(|task| waiting.begin(request(1, *task).0).is_ok()).count();
        assert_eq!(begun + 1, MAX_OF_A_WORKER);
        let begun = (1000..3000).filter(|task| waiting.begin(request(*task, *task).0).is_ok()).count();
        assert_eq!(begun + MAX_OF_A_WORKER, MAX_IN_ALL);
    }

    #[test]
    fn only_the_worker_of_the_attempt_can_answer() {
        let inputs = Inputs::default();
        let (request, mut answered) = request(1, 7);
        let attempt = request.attempt;
        let number = inputs.lock().begin(request).unwrap();
        let taken = InputTaken { attempt, request: number, offset: 3, state: InputState::Open };
        inputs.taken(WorkerId(2), taken);
        inputs.taken(WorkerId(1), InputTaken { request: number + 1, ..taken });
        inputs.taken(WorkerId(1), InputTaken { attempt: AttemptRef { attempt: 2, ..attempt }, ..taken });
        assert!(answered.try_recv().is_err());
        inputs.taken(WorkerId(1), taken);
        assert_eq!(answered.try_recv(), Ok(taken));
    }
}
