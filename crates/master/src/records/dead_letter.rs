//! Something that a worker sent and the database refused: kept, and not recorded.

use std::str::FromStr;

use gaffer_domain::{JobId, Time};

/// What was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LetterKind {
    /// A piece of output, which can be put back.
    Output,
    /// A report, which is kept as evidence.
    Report,
}

impl LetterKind {
    /// Its name.
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
    /// Its number.
    pub id: i64,
    /// When it was set aside.
    pub at: Time,
    /// When it was tried last.
    pub tried_at: Time,
    /// What was refused.
    pub kind: LetterKind,
    /// About which job.
    pub job: Option<JobId>,
    /// About which task of it, by address.
    pub task: Option<String>,
    /// Which attempt.
    pub attempt: Option<u32>,
    /// Who sent it.
    pub worker: Option<String>,
    /// Of output: where it belongs in the attempt's output.
    pub offset: Option<u64>,
    /// Of output: how much it is.
    pub bytes: Option<u64>,
    /// What the database said.
    pub reason: String,
}
