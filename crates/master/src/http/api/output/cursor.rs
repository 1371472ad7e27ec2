//! Where reading and searching in the output of a job continue.

use gaffer_domain::search::ResumePoint;

use crate::output::ReadFrom;
use crate::records::Task;

/// A place in the output of a job: where a search continues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cursor {
    /// Of the task: its definition.
    pub position: i16,
    /// Of the task: which one of the definition.
    pub index: u32,
    pub attempt: u32,
    pub at: ResumePoint,
}

impl Cursor {
    pub fn read(text: &str) -> Option<Cursor> {
        let mut numbers = text.strip_prefix('c')?.splitn(4, '.');
        let mut next = || numbers.next();
        Some(Cursor {
            position: next()?.parse().ok().filter(|position| *position >= 0)?,
            index: next()?.parse().ok().filter(|index| *index <= i32::MAX as u32)?,
            attempt: next()?.parse().ok()?,
            at: next()?.parse().ok()?,
        })
    }

    pub fn text(self) -> String {
        let Cursor { position, index, attempt, at } = self;
        format!("c{position}.{index}.{attempt}.{at}")
    }

    pub fn is_of(self, task: &Task) -> bool {
        (self.position, self.index) == (task.position, task.index)
    }

    /// Reading from here on; without an attempt the cursor was made before the first one.
    pub fn place(self, from: ReadFrom) -> ReadFrom {
        from.continued(Some(self.attempt).filter(|attempt| *attempt > 0), self.at.offset)
    }
}
