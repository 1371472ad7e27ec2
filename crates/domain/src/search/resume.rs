//! Where a search continues that stopped before the end.

use std::fmt;
use std::str::FromStr;

/// A place in a text where a search continues. As text it is the offset, or `offset.line.dropped.matched` inside a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ResumePoint {
    /// The first byte to read again.
    pub offset: u64,
    /// The line that begins before it and is too long to be read again from its beginning.
    pub inside: Option<InsideLine>,
}

/// How far a long line was searched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InsideLine {
    /// Offset of its first byte.
    pub line_offset: u64,
    /// How many of its bytes come before the place. What another stream wrote in between does not count.
    pub dropped: u64,
    /// It matches, so that the rest of it is passed over.
    pub has_matched: bool,
}

/// A text is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a place where a search can continue")]
pub struct NoResumePoint;

impl From<u64> for ResumePoint {
    fn from(offset: u64) -> ResumePoint {
        ResumePoint { offset, inside: None }
    }
}

impl fmt::Display for ResumePoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.offset)?;
        match self.inside {
            None => Ok(()),
            Some(InsideLine { line_offset, dropped, has_matched }) => {
                write!(f, ".{line_offset}.{dropped}.{}", u8::from(has_matched))
            }
        }
    }
}

impl FromStr for ResumePoint {
    type Err = NoResumePoint;

    fn from_str(text: &str) -> Result<ResumePoint, NoResumePoint> {
        let mut numbers =
            text.split('.').map(|number| match number.bytes().all(|byte| byte.is_ascii_digit()) {
                true => number.parse::<u64>().map_err(|_| NoResumePoint),
                false => Err(NoResumePoint),
            });
        let offset = numbers.next().ok_or(NoResumePoint)??;
        let inside = match (numbers.next(), numbers.next(), numbers.next(), numbers.next()) {
            (None, ..) => None,
            (Some(line_offset), Some(dropped), Some(has_matched), None) => {
                let inside = InsideLine {
                    line_offset: line_offset?,
                    dropped: dropped?,
                    has_matched: match has_matched? {
                        0 => false,
                        1 => true,
                        _ => return Err(NoResumePoint),
                    },
                };
                let has_room =
                    inside.line_offset.checked_add(inside.dropped).is_some_and(|end| end <= offset);
                Some(inside).filter(|_| has_room).ok_or(NoResumePoint).map(Some)?
            }
            _ => return Err(NoResumePoint),
        };
        Ok(ResumePoint { offset, inside })
    }
}
