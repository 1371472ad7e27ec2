//! The executor: owns all that executes, in a process of its own, so that attempts outlive whatever talks to the master.
//!
//! A worker is up to four processes of one program:
//!
//! * the *supervisor* ([`crate::supervisor`]), which the operator starts, and which starts the agent again when it dies;
//! * the *agent*, which has the key and the connection to the master, and knows nothing that it could not ask for again;
//! * the *executor*, which has the attempts with their pipes and ends, the spool, the leases and the lock on the data
//!   directory. It is found again through a socket in the data directory;
//! * the executor's *watchdog*, which ends what an executor leaves that was killed.
//!
//! What agent and executor say to each other is in [`frame`]. Within one process (in tests, say) the same words go over a
//! pair of sockets.
//!
//! Each watches the other: an executor without an agent goes on until the leases of its attempts run out, and leaves when
//! nothing is left to run; an agent, and the watchdog, kill an executor that does not answer before its leases run out; what a
//! dead executor had started is ended by its watchdog or by the next executor, whoever comes first.

mod frame;
mod handle;
mod host;
mod log;
mod obtain;
mod process;
mod serve;
mod spawn;
mod watch;
mod watchdog;

pub(crate) use handle::{Executor, Gone};
pub(crate) use obtain::obtain;
pub use process::keep;
pub use watchdog::watchdog;

/// Where a worker's attempts execute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExecutorPlace {
    /// In this process: they end with it.
    Here,
    /// In a process of their own, which is this program with the argument [`EXECUTOR_COMMAND`]: they outlive this one.
    Process,
}

/// The argument that makes an executor of this program: it has to call [`keep`] then.
pub const EXECUTOR_COMMAND: &str = "executor";

/// The argument that makes an executor's watchdog of this program: it has to call [`watchdog()`] then.
pub const WATCHDOG_COMMAND: &str = "watchdog";
