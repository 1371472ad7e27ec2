//! When output comes in many small pieces, reading pauses for a moment, so that more of it is read at once.
//!
//! A program that writes each line by itself is read line by line if the reader is as fast as the program. Each piece
//! wakes threads and processes on its way to the master, which costs both processors more than the output itself. As long as what
//! was written does not fill the pipe, the program does not wait for its reader.

use std::time::Duration;

use gaffer_protocol::output::{Record, Stream};
use tokio::time::Instant;

/// How long reading pauses.
pub(super) const PAUSE: Duration = Duration::from_millis(1);
/// A burst begins with so many pieces …
const PIECES: u32 = 16;
/// … within this time.
const WITHIN: Duration = Duration::from_millis(4);
/// It is over when what comes together during a pause is less than this, in bytes, …
const LEAST_BYTES: usize = 1 << 10;
/// … or later than this.
const CALM: Duration = Duration::from_millis(20);

/// Recognises bursts of one stream. While two streams take turns there are no pauses: which came first would be lost.
#[derive(Debug)]
pub(super) struct Bursts {
    latest: Option<(Stream, Pieces)>,
    /// After a larger piece, the program may wait for its reader.
    full: usize,
}

#[derive(Debug, Clone, Copy)]
enum Pieces {
    /// So many since then.
    Few { since: Instant, count: u32 },
    /// A burst, and when its last one came.
    Burst { last: Instant },
}

impl Bursts {
    /// `pipe`: how many bytes may be written before the writer has to wait.
    pub fn new(pipe: usize) -> Bursts {
        let mut bursts = Bursts { latest: None, full: 0 };
        bursts.holds(pipe);
        bursts
    }

    /// So many bytes may be written from now on before the writer has to wait.
    pub fn holds(&mut self, pipe: usize) {
        // Small pieces do not fill all of its memory.
        self.full = pipe / 4 * 3;
    }

    /// Whether to pause before the next read, after this piece was read.
    pub fn pauses_after(&mut self, piece: &Record, now: Instant) -> bool {
        let is_within = |since: Instant, time| now.saturating_duration_since(since) <= time;
        let bytes = piece.bytes.len();
        let pieces = match self.latest {
            Some((stream, Pieces::Few { since, count }))
                if stream == piece.stream && is_within(since, WITHIN) =>
            {
                match count + 1 {
                    PIECES.. => Pieces::Burst { last: now },
                    count => Pieces::Few { since, count },
                }
            }
            Some((stream, Pieces::Burst { last }))
                if stream == piece.stream && is_within(last, CALM) && bytes >= LEAST_BYTES =>
            {
                Pieces::Burst { last: now }
            }
            _ => Pieces::Few { since: now, count: 1 },
        };
        self.latest = Some((piece.stream, pieces));
        matches!(pieces, Pieces::Burst { .. }) && bytes < self.full
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    const PIPE: usize = 256 << 10;

    /// For each piece, given as its stream, its bytes and the time since the one before, whether there is a pause after it.
    fn pauses(pieces: impl IntoIterator<Item = (Stream, usize, Duration)>) -> Vec<bool> {
        let (mut bursts, mut now) = (Bursts::new(PIPE), Instant::now());
        let read = |(stream, bytes, later)| {
            now += later;
            let piece = Record { at_micros: 0, stream, bytes: Bytes::from(vec![b'x'; bytes]) };
            bursts.pauses_after(&piece, now)
        };
        pieces.into_iter().map(read).collect()
    }

    const LINE: (Stream, usize, Duration) = (Stream::Stdout, 80, Duration::from_micros(50));

    #[test]
    fn a_burst_of_lines_is_read_with_pauses_until_little_comes() {
        let collected = (Stream::Stdout, 20_000, Duration::from_millis(2));
        let read = pauses([LINE; 16].into_iter().chain([collected, collected, LINE, LINE]));
        assert_eq!(read[..15], [false; 15]);
        assert_eq!(read[15..], [true, true, true, false, false]);
    }

    #[test]
    fn what_comes_slowly_is_read_at_once() {
        let slow = (Stream::Stdout, 80, Duration::from_millis(1));
        assert_eq!(pauses([slow; 100]), [false; 100]);
        let late = (Stream::Stdout, 20_000, CALM + Duration::from_micros(1));
        assert_eq!(pauses([LINE; 16].into_iter().chain([late])).last(), Some(&false));
    }

    #[test]
    fn two_streams_that_take_turns_are_read_without_pauses() {
        let turns = (0..100).map(|at| match at % 2 {
            0 => LINE,
            _ => (Stream::Stderr, LINE.1, LINE.2),
        });
        assert_eq!(pauses(turns), [false; 100]);
    }

    #[test]
    fn after_a_piece_that_filled_the_pipe_the_next_one_is_read_at_once_and_the_burst_goes_on() {
        let piece = |bytes| (Stream::Stdout, bytes, Duration::from_millis(2));
        let pieces = [piece(PIPE / 2), piece(PIPE - PIPE / 8), piece(5_000)];
        assert_eq!(pauses([LINE; 16].into_iter().chain(pieces))[16..], [true, false, true]);
    }
}
