//! The keeper: owns all that executes, in a process of its own, so that attempts outlive whatever talks to the master.
//!
//! A worker is up to four processes of one program:
//!
//! * the *supervisor* ([`crate::supervisor`]), which the operator starts, and which starts the link again when it dies;
//! * the *link*, which has the key and the connection to the master, and knows nothing that it could not ask for again;
//! * the *keeper*, which has the attempts with their pipes and ends, the spool, the leases and the lock on the data
//!   directory. It is found again through a socket in the data directory;
//! * the keeper's *guard*, which ends what a keeper leaves that was killed.
//!
//! What link and keeper say to each other is in [`frame`]. Within one process (in tests, say) the same words go over a
//! pair of sockets.
//!
//! Each watches the other: a keeper without a link goes on until the leases of its attempts run out, and leaves when
//! nothing is left to run; a link, and the guard, kill a keeper that does not answer before its leases run out; what a
//! dead keeper had started is ended by its guard or by the next keeper, whoever comes first.

mod frame;
mod guard;
mod handle;
mod log;
mod obtain;
mod process;
mod serve;
mod watch;

pub use guard::guard;
pub(crate) use handle::{Gone, Keeper};
pub(crate) use obtain::obtain;
pub use process::keep;

/// Where a worker's attempts execute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeeperPlace {
    /// In this process: they end with it.
    Here,
    /// In a process of their own, which is this program with the argument [`KEEPER_COMMAND`]: they outlive this one.
    Process,
}

/// The argument that makes a keeper of this program: it has to call [`keep`] then.
pub const KEEPER_COMMAND: &str = "keeper";

/// The argument that makes a keeper's guard of this program: it has to call [`guard()`] then.
pub const GUARD_COMMAND: &str = "guard";
