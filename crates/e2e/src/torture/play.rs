//! What a task of a torture run does: it tells the witness that it began, writes what its seed says, and tells that it
//! ends.

use std::io::Write as _;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

/// Exit code of an attempt that was to fail.
pub const FAILURE: u8 = 3;

/// All that one task does, from its seed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    /// What it writes, in order; true for standard error.
    pub pieces: Vec<(bool, Vec<u8>)>,
    /// How long it waits after each piece.
    pub pause: Duration,
    /// Its first attempt fails.
    pub fails_first: bool,
}

impl Script {
    /// Of the task with this index. Most are short, some run for seconds or half a minute, and some write much.
    ///
    /// With `percent` of the time that it would take.
    pub fn of(seed: u64, index: u32, percent: u64) -> Script {
        let mut rng = StdRng::seed_from_u64(seed ^ (u64::from(index) << 32 | u64::from(index)));
        let (millis, bytes) = match rng.random_range(0..40) {
            0 => (rng.random_range(15_000..40_000), rng.random_range(0..4_000)),
            1 => (rng.random_range(2_000..8_000), rng.random_range(0..4_000)),
            2..=7 => (rng.random_range(200..1_500), rng.random_range(0..200_000)),
            _ => (rng.random_range(0..50), rng.random_range(0..300)),
        };
        let count = rng.random_range(1..12_u32);
        let piece = |rng: &mut StdRng| {
            let length = rng.random_range(0..=bytes / count as usize * 2);
            let mut text: Vec<u8> = (0..length).map(|_| rng.random_range(b' '..=b'~')).collect();
            text.push(b'\n');
            (rng.random(), text)
        };
        let pieces = (0..count).map(|_| piece(&mut rng)).collect();
        Script {
            pieces,
            pause: Duration::from_micros(millis * 10 * percent / u64::from(count)),
            fails_first: rng.random_ratio(1, 25),
        }
    }

    /// What is to be on one of the streams in the end.
    pub fn expected(&self, is_stderr: bool) -> Vec<u8> {
        let of_stream = self.pieces.iter().filter(|(stream, _)| *stream == is_stderr);
        of_stream.flat_map(|(_, bytes)| bytes.iter().copied()).collect()
    }
}

/// The task itself. Gives its exit code.
pub fn play(witness: &Path, seed: u64, percent: u64) -> u8 {
    let number = |name: &str| std::env::var(name).unwrap().parse::<u32>().unwrap();
    let (index, attempt) = (number("GAFFER_TASK_INDEX"), number("GAFFER_ATTEMPT"));
    let socket = UnixDatagram::unbound().unwrap();
    let tell = |what: &str| {
        let text = format!("{what} {} {index} {attempt} {}", number("GAFFER_JOB_ID"), std::process::id());
        socket.send_to(text.as_bytes(), witness).unwrap();
    };
    tell("start");
    let script = Script::of(seed, index, percent);
    for (is_stderr, bytes) in &script.pieces {
        let written = match is_stderr {
            true => std::io::stderr().write_all(bytes),
            false => std::io::stdout().write_all(bytes).and_then(|()| std::io::stdout().flush()),
        };
        written.unwrap();
        std::thread::sleep(script.pause);
    }
    tell("end");
    if script.fails_first && attempt == 1 { FAILURE } else { 0 }
}
