//! Output or a report that the database refused.

use std::str::FromStr;

use gaffer_domain::{JobId, Time};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LetterKind {
    /// A piece of output, which can be put back.
    Output,
    /// A report, which is kept as evidence.
    Report,
}

impl LetterKind {
    pub fn as_str(self) -> &'static str {
        match self {
            LetterKind::Output => "output",
            LetterKind::Report => "report",
        }
    }
}

impl FromStr for LetterKind {
    type Err = ();

    fn from_str(text: &str) -> Result<LetterKind, ()> {
        [LetterKind::Output, LetterKind::Report].into_iter().find(|kind| kind.as_str() == text).ok_or(())
    }
}

/// Something that is set aside.
#[derive(Debug, Clone, PartialEq)]
pub struct DeadLetter {
    pub id: i64,
    /// When it was set aside.
    pub at: Time,
    /// When it was tried last.
    pub tried_at: Time,
    pub kind: LetterKind,
    /// About which job.
    pub job: Option<JobId>,
    /// About which task of it, by address.
    pub task: Option<String>,
    pub attempt: Option<u32>,
    pub worker: Option<String>,
    /// Of output: where it belongs in the attempt's output.
    pub offset: Option<u64>,
    /// Of output: how much it is.
    pub bytes: Option<u64>,
    pub reason: String,
}
