//! Which output may be moved to object storage.

/// What is known of the output of an attempt that has some in the database. Its job has finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredOutput {
    /// Its length in bytes as its worker reported it with the end; none if there was no such report.
    pub reported_bytes: Option<u64>,
    /// Where the stored output ends, in bytes.
    pub stored_bytes: u64,
    /// Whether a part of it was refused by the database and is kept as a dead letter.
    pub has_dead_letters: bool,
}

/// Whether output may be moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Movable {
    /// All of it is stored and nothing follows.
    Now,
    /// A part of it may still be stored.
    Later,
    /// It stays in the database. Either its worker never reported its end and may come back with more, or less is stored than
    /// its worker reported, and the rest was lost.
    Never,
}

impl StoredOutput {
    /// Whether it may be moved.
    pub fn movable(self) -> Movable {
        match self.reported_bytes {
            None => Movable::Never,
            Some(_) if self.has_dead_letters => Movable::Later,
            Some(reported) if reported > self.stored_bytes => Movable::Never,
            Some(_) => Movable::Now,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_output_that_is_complete_is_moved() {
        let output = |reported_bytes, has_dead_letters| {
            StoredOutput { reported_bytes, stored_bytes: 10, has_dead_letters }.movable()
        };
        assert_eq!(output(Some(10), false), Movable::Now);
        assert_eq!(output(Some(10), true), Movable::Later);
        assert_eq!(output(Some(11), true), Movable::Later);
        assert_eq!(output(Some(11), false), Movable::Never);
        assert_eq!(output(None, false), Movable::Never);
        assert_eq!(output(None, true), Movable::Never);
    }
}
