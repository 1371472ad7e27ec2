//! Thread pools for calls that may block on a disk or a file server.
//!
//! The runtime has about one thread per CPU. A thread that blocks on a hung mount would block a share of all heartbeats,
//! leases and attempts, so every access to a file by path runs here. Each concern has its own threads, so a hang in one
//! does not affect the others.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

/// How long an abandoned call may continue.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);
/// The same for one that stores what would else be lost with this process: a disk that is only busy gets its time.
pub(crate) const STORING_PATIENCE: Duration = Duration::from_secs(5);
/// A caller that waits longer is told what for.
pub(crate) const SLOW: Duration = Duration::from_secs(10);

/// The threads of one concern. Clones are the same.
#[derive(Clone)]
pub(crate) struct BlockingThreads(Arc<Owner>);

/// The threads end with this, once they have done what was queued.
struct Owner(Arc<Shared>);

struct Shared {
    name: &'static str,
    max: usize,
    patience: Duration,
    queue: Mutex<Queue>,
    has_work: Condvar,
    abandoned: AtomicUsize,
    /// Calls that came back.
    done: AtomicUsize,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
    is_closed: bool,
}

type Job = Box<dyn FnOnce() + Send>;

/// The call did not return in time. It continues, and its result is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NoAnswer;

impl BlockingThreads {
    /// At most `max` threads, made as they are needed and kept: a process belongs to the thread that started it.
    ///
    /// # Errors
    /// When not even the first can be made.
    pub fn new(name: &'static str, max: usize, patience: Duration) -> io::Result<BlockingThreads> {
        let (queue, has_work) = (Mutex::default(), Condvar::new());
        let shared = Arc::new(Shared {
            name,
            max,
            patience,
            queue,
            has_work,
            abandoned: AtomicUsize::new(0),
            done: AtomicUsize::new(0),
        });
        shared.queue().threads += 1;
        shared.clone().start_thread()?;
        Ok(BlockingThreads(Arc::new(Owner(shared))))
    }

    /// Does something, without anybody who waits for it. A single thread does everything in order.
    pub fn queue(&self, work: impl FnOnce() + Send + 'static) {
        self.0.0.push(Box::new(work));
    }

    /// Does something and waits for as long as it takes.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (answer, _) = self.begin(work);
        received(answer.await)
    }

    /// Runs a call and waits for it; after `hurry`, only for the patience of these threads, so quick calls always
    /// finish.
    pub async fn run_until<T: Send + 'static>(
        &self,
        hurry: impl Future<Output = ()>,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NoAnswer> {
        let (mut answer, call) = self.begin(work);
        let too_late = async {
            hurry.await;
            sleep(self.0.0.patience).await;
        };
        tokio::select! {
            biased;
            answer = &mut answer => return Ok(received(answer)),
            () = too_late => {}
        }
        // Before the channel closes: the call checks this only when nobody receives its result.
        call.is_abandoned.store(true, Ordering::Release);
        self.0.0.abandoned.fetch_add(1, Ordering::Relaxed);
        answer.close();
        let last = answer.try_recv();
        if last.is_ok() {
            call.came_back(&self.0.0);
        }
        last.map(|answer| received(Ok(answer))).map_err(|_| NoAnswer)
    }

    /// Waits until what was queued so far on a single thread is done, as long as any of it is done within [`PATIENCE`].
    pub async fn settled(&self) {
        let mut settling = std::pin::pin!(self.run(|| ()));
        loop {
            let done = self.0.0.done.load(Ordering::Relaxed);
            if timeout(PATIENCE, &mut settling).await.is_ok() || self.0.0.done.load(Ordering::Relaxed) == done
            {
                return;
            }
        }
    }

    /// How many calls were given up and have not come back.
    pub fn abandoned(&self) -> usize {
        self.0.0.abandoned.load(Ordering::Relaxed)
    }

    fn begin<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> (oneshot::Receiver<thread::Result<T>>, Arc<Call>) {
        let (sender, receiver) = oneshot::channel();
        let call = Arc::new(Call::default());
        let (shared, of_call) = (self.0.0.clone(), call.clone());
        self.queue(move || {
            if sender.send(catch_unwind(AssertUnwindSafe(work))).is_err() {
                of_call.came_back(&shared);
            }
        });
        (receiver, call)
    }
}

/// One call, for the one who made it and the thread that does it.
#[derive(Default)]
struct Call {
    is_abandoned: AtomicBool,
}

impl Call {
    fn came_back(&self, threads: &Shared) {
        if self.is_abandoned.swap(false, Ordering::AcqRel) {
            threads.abandoned.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

fn received<T>(answer: Result<thread::Result<T>, oneshot::error::RecvError>) -> T {
    match answer {
        Ok(Ok(answer)) => answer,
        Ok(Err(panic)) => resume_unwind(panic),
        // Every job that is queued is done, also when its threads are to end.
        Err(lost) => resume_unwind(Box::new(lost)),
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(self: &Arc<Self>, job: Job) {
        let mut queue = self.queue();
        queue.jobs.push_back(job);
        if queue.idle >= queue.jobs.len() {
            drop(queue);
            self.has_work.notify_one();
        } else if queue.threads < self.max {
            queue.threads += 1;
            drop(queue);
            if let Err(error) = self.clone().start_thread() {
                self.queue().threads -= 1;
                tracing::warn!(threads = self.name, %error, "cannot start a thread; its work waits");
            }
        }
    }

    fn start_thread(self: Arc<Self>) -> io::Result<()> {
        thread::Builder::new().name(self.name.to_owned()).spawn(move || self.work()).map(|_| ())
    }

    /// Runs queued calls in order until the queue closes.
    fn work(&self) {
        let mut queue = self.queue();
        loop {
            if let Some(job) = queue.jobs.pop_front() {
                drop(queue);
                // Who waits for an answer gets the panic as well; it has been printed.
                let _ = catch_unwind(AssertUnwindSafe(job));
                self.done.fetch_add(1, Ordering::Relaxed);
                queue = self.queue();
            } else if queue.is_closed {
                return;
            } else {
                queue.idle += 1;
                queue = self.has_work.wait(queue).unwrap_or_else(PoisonError::into_inner);
                queue.idle -= 1;
            }
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.queue().is_closed = true;
        self.0.has_work.notify_all();
    }
}

impl fmt::Debug for BlockingThreads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BlockingThreads").field(&self.0.0.name).finish()
    }
}

/// Waits for something; calls `tell` once it turns out to be [`SLOW`].
pub(crate) async fn tell_if_slow<T>(wanted: impl Future<Output = T>, tell: impl FnOnce()) -> T {
    let mut wanted = std::pin::pin!(wanted);
    tokio::select! {
        biased;
        done = &mut wanted => return done,
        () = sleep(SLOW) => tell(),
    }
    wanted.await
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use std::future::ready;
    use std::sync::mpsc;

    use super::*;
    use crate::tests::master::{soon, until};

    /// A call that hangs until its sender is dropped.
    fn hang(threads: &BlockingThreads) -> mpsc::Sender<()> {
        let (release, held) = mpsc::channel::<()>();
        threads.queue(move || {
            let _ = held.recv();
        });
        release
    }

    #[tokio::test]
    async fn what_hangs_holds_up_nobody_while_there_are_threads() {
        let threads = BlockingThreads::new("test", 3, PATIENCE).unwrap();
        let _hung = [hang(&threads), hang(&threads)];
        assert_eq!(soon("an answer", threads.run(|| 7)).await, 7);
    }

    #[tokio::test]
    async fn with_all_threads_taken_work_waits_and_is_done_in_order() {
        let threads = BlockingThreads::new("test", 1, PATIENCE).unwrap();
        let hung = hang(&threads);
        let (done, order) = mpsc::channel();
        for number in 0..5 {
            let done = done.clone();
            threads.queue(move || done.send(number).unwrap());
        }
        assert_eq!(order.try_recv(), Err(mpsc::TryRecvError::Empty));
        drop(hung);
        soon("all of it", threads.run(|| ())).await;
        assert_eq!(order.try_iter().collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    }

    #[tokio::test]
    async fn a_call_that_does_not_come_back_is_given_up_and_counted_until_it_does() {
        let threads = BlockingThreads::new("test", 2, PATIENCE).unwrap();
        let (release, held) = mpsc::channel::<()>();
        let dropped = Arc::new(());
        let kept = dropped.clone();
        let call = threads.run_until(ready(()), move || {
            let _ = held.recv();
            kept
        });
        assert_eq!(soon("giving up", call).await, Err(NoAnswer));
        assert_eq!(threads.abandoned(), 1);
        assert_eq!(threads.run_until(ready(()), || 3).await, Ok(3));
        drop(release);
        until("its return", || threads.abandoned() == 0).await;
        assert_eq!(Arc::strong_count(&dropped), 1, "what it gave is dropped");
    }

    #[tokio::test]
    async fn a_panic_is_passed_on_to_the_caller() {
        let threads = BlockingThreads::new("test", 1, PATIENCE).unwrap();
        let call = threads.clone();
        let asked = tokio::spawn(async move { call.run(|| -> () { panic!("on purpose") }).await });
        assert!(asked.await.unwrap_err().is_panic());
        assert_eq!(threads.run(|| 1).await, 1, "the thread goes on");
    }

    #[tokio::test]
    async fn what_was_queued_is_done_although_nobody_has_the_threads_any_more() {
        let threads = BlockingThreads::new("test", 1, PATIENCE).unwrap();
        let hung = hang(&threads);
        let (done, order) = mpsc::channel();
        threads.queue(move || done.send(()).unwrap());
        drop(threads);
        drop(hung);
        order.recv().unwrap();
    }
}
