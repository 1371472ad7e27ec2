//! What is remembered, as the master's parts hand it to each other: states are enums, and nothing is written for a reader
//! yet. `http` makes bodies and pages of these.

mod dead_letter;
mod event;
mod job;
mod key;
mod task;
mod waiting;
mod worker;

pub use dead_letter::{DeadLetter, LetterKind};
pub use event::Event;
pub use job::Job;
pub use key::{Key, KeyKind, UnknownKeyKind};
pub use task::{Attempt, Task};
pub use waiting::{Explanation, QueueClass, QueuePosition, WaitingTasks, WorkerVerdict};
pub use worker::Worker;
