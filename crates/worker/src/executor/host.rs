//! What an executor runs in: its own process, or a task of this one.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::process::{Pid, PidfdFlags, Signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::JoinHandle;

/// What an executor runs in.
#[derive(Clone)]
pub(super) enum Host {
    Task(Arc<Mutex<Option<JoinHandle<()>>>>),
    Process(Arc<ExecutorProcess>),
}

impl Host {
    pub fn task(task: JoinHandle<()>) -> Host {
        Host::Task(Arc::new(Mutex::new(Some(task))))
    }

    pub fn process(process: ExecutorProcess) -> Host {
        Host::Process(Arc::new(process))
    }

    /// Ends it at once, and waits until it has ended.
    pub async fn kill(&self) {
        match self {
            Host::Task(task) => {
                if let Some(task) = &*task.lock().unwrap_or_else(PoisonError::into_inner) {
                    task.abort();
                }
            }
            Host::Process(process) => process.kill(),
        }
        self.ended().await;
    }

    /// Waits until it has ended.
    pub async fn ended(&self) {
        match self {
            Host::Task(task) => {
                let task = task.lock().unwrap_or_else(PoisonError::into_inner).take();
                if let Some(task) = task {
                    let _ = task.await;
                }
            }
            Host::Process(process) => process.ended().await,
        }
    }
}

/// An executor's process; the handle stays valid if another process gets its number.
pub(super) struct ExecutorProcess {
    handle: AsyncFd<OwnedFd>,
}

impl ExecutorProcess {
    pub fn open(pid: i32) -> io::Result<ExecutorProcess> {
        let pid = Pid::from_raw(pid).ok_or_else(|| io::Error::other("no process number"))?;
        let handle = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
        #[expect(
            deprecated,
            reason = "the new way is unsafe; here the descriptor lives as long as its registration"
        )]
        let handle = AsyncFd::with_interest(handle, Interest::READABLE)?;
        Ok(ExecutorProcess { handle })
    }

    pub fn kill(&self) {
        if let Err(errno) = rustix::process::pidfd_send_signal(self.handle.get_ref(), Signal::KILL) {
            tracing::debug!(%errno, "cannot kill the executor");
        }
    }

    /// Waits until it has ended.
    pub async fn ended(&self) {
        let _ = self.handle.readable().await;
    }
}
