//! The executor: owns all attempts in its own process, so that they outlive the agent.
//!
//! A worker has up to four processes of one program:
//!
//! * the *supervisor* ([`crate::supervisor`]), which the operator starts, and which restarts the agent when it dies;
//! * the *agent*, which has the key and the connection to the master, and keeps no state that it could not request again;
//! * the *executor*, which has the attempts with their pipes and ends, the spool, the leases and the lock of the data
//!   directory. Agents find it through a socket in the data directory;
//! * the executor's *watchdog*, which kills what a dead executor left behind.
//!
//! [`frame`] has the messages between agent and executor. Within one process (in tests) the same messages use a socket
//! pair.
//!
//! Each watches the other: an executor without an agent continues until the leases of its attempts expire, and exits
//! without attempts; agent and watchdog kill an executor that does not respond before its leases expire; the watchdog or
//! the next executor, whichever is first, cleans up after a dead executor.

mod frame;
mod handle;
mod host;
mod log;
mod obtain;
mod process;
mod serve;
mod spawn;
mod succession;
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
    /// In their own process, which is this program with the argument [`EXECUTOR_COMMAND`]; it outlives this one.
    Process,
}

/// The argument that turns this program into an executor; it must then call [`keep`].
pub const EXECUTOR_COMMAND: &str = "executor";

/// The argument that turns this program into a watchdog; it must then call [`watchdog()`].
pub const WATCHDOG_COMMAND: &str = "watchdog";
