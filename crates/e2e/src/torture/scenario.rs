//! The tasks of torture runs: they report their start to the witness, write predictable output, and report their
//! end.

use std::io::Write as _;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::witness::born_at;

/// Exit code of an attempt that was to fail.
pub const FAILURE: u8 = 3;

/// All that one task does, from its seed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    /// What it writes, in order; true for standard error.
    pub pieces: Vec<(bool, Vec<u8>)>,
    /// How long it waits after each piece.
    pub pause: Duration,
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

/// Does what the arguments of a task say, if they say anything; gives its exit code.
pub fn act(arguments: &[String]) -> Option<u8> {
    let [what, witness, rest @ ..] = arguments else { return None };
    let witness = Path::new(witness);
    match (what.as_str(), rest) {
        ("play", [seed, percent]) => Some(play(witness, seed.parse().ok()?, percent.parse().ok()?)),
        ("chat", [file]) => Some(chat(witness, Path::new(file))),
        ("say", []) => Some(say(witness)),
        ("serve", [version]) => serve(witness, version),
        ("flood", [what, bytes]) => Some(flood(witness, &Flood::read(what, bytes)?)),
        ("linger", []) => loop {
            rest_for(Duration::from_secs(3600));
        },
        _ => None,
    }
}

/// The task that this process is, to the witness.
struct Teller<'a> {
    witness: &'a Path,
    socket: UnixDatagram,
    index: u32,
    attempt: u32,
}

impl Teller<'_> {
    fn new(witness: &Path) -> Teller<'_> {
        let (index, attempt) = (number("GAFFER_TASK_INDEX"), number("GAFFER_ATTEMPT"));
        Teller { witness, socket: UnixDatagram::unbound().unwrap(), index, attempt }
    }

    fn tell(&self, what: &str) {
        let (job, pid) = (number("GAFFER_JOB_ID"), std::process::id());
        let born = born_at(pid.cast_signed()).unwrap();
        let text = format!("{what} {job} {} {} {pid} {born}", self.index, self.attempt);
        self.socket.send_to(text.as_bytes(), self.witness).unwrap();
    }
}

fn number(name: &str) -> u32 {
    std::env::var(name).unwrap().parse().unwrap()
}

fn rest_for(duration: Duration) {
    std::thread::sleep(duration);
}

/// A task of the mix.
fn play(witness: &Path, seed: u64, percent: u64) -> u8 {
    let teller = Teller::new(witness);
    teller.tell("start");
    let script = Script::of(seed, teller.index, percent);
    for (is_stderr, bytes) in &script.pieces {
        let written = match is_stderr {
            true => std::io::stderr().write_all(bytes),
            false => std::io::stdout().write_all(bytes).and_then(|()| std::io::stdout().flush()),
        };
        written.unwrap();
        rest_for(script.pause);
    }
    teller.tell("end");
    if script.fails_first && teller.attempt == 1 { FAILURE } else { 0 }
}

/// An instance of a service: says its version, and lives until it is stopped.
fn serve(witness: &Path, version: &str) -> ! {
    let teller = Teller::new(witness);
    teller.tell("start");
    std::io::stdout().write_all(format!("version {version}\n").as_bytes()).unwrap();
    loop {
        rest_for(Duration::from_secs(3600));
    }
}

/// How often a task that chats says something.
const CHAT: Duration = Duration::from_millis(20);

/// What begins each line of a task that chats, and that is to be in no log.
pub const CHATTER: &str = "chatter of a task:";

/// A line of a task that chats.
pub fn chat_line(count: u64) -> String {
    format!("{CHATTER} {count}\n")
}

/// Whether this is all that a task has said that chats: it counts from zero, and there is something.
pub fn is_chat(output: &[u8]) -> bool {
    let text = String::from_utf8_lossy(output);
    let lines = text.split_inclusive('\n').zip(0..);
    !text.is_empty() && lines.into_iter().all(|(line, count)| line == chat_line(count))
}

/// Says one line.
fn say(witness: &Path) -> u8 {
    let teller = Teller::new(witness);
    teller.tell("start");
    std::io::stdout().write_all(chat_line(0).as_bytes()).unwrap();
    teller.tell("end");
    0
}

/// Counts aloud until the file is there.
fn chat(witness: &Path, until: &Path) -> u8 {
    let teller = Teller::new(witness);
    teller.tell("start");
    for count in 0_u64.. {
        std::io::stdout().write_all(chat_line(count).as_bytes()).unwrap();
        if until.exists() {
            break;
        }
        rest_for(CHAT);
    }
    teller.tell("end");
    0
}

/// Much output, as fast as it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flood {
    /// None means `y`, again and again.
    seed: Option<u64>,
    length: u64,
}

impl Flood {
    pub fn yes(length: u64) -> Flood {
        Flood { seed: None, length }
    }

    pub fn random(seed: u64, length: u64) -> Flood {
        Flood { seed: Some(seed), length }
    }

    /// The arguments of its task.
    pub fn act(&self) -> [String; 3] {
        let what = self.seed.map_or("yes".to_owned(), |seed| seed.to_string());
        ["flood".to_owned(), what, self.length.to_string()]
    }

    fn read(what: &str, length: &str) -> Option<Flood> {
        let seed = if what == "yes" { None } else { Some(what.parse().ok()?) };
        Some(Flood { seed, length: length.parse().ok()? })
    }

    /// All of it.
    pub fn bytes(&self) -> Vec<u8> {
        const LINE: usize = 80;
        let length = usize::try_from(self.length).unwrap();
        let Some(seed) = self.seed else { return b"y\n".repeat(length / 2) };
        let mut bytes = vec![0; length];
        StdRng::seed_from_u64(seed).fill(&mut bytes[..]);
        for (place, byte) in bytes.iter_mut().enumerate() {
            *byte = if place % LINE == LINE - 1 { b'\n' } else { b' ' + *byte % 95 };
        }
        bytes
    }
}

fn flood(witness: &Path, flood: &Flood) -> u8 {
    let teller = Teller::new(witness);
    teller.tell("start");
    for piece in flood.bytes().chunks(64 << 10) {
        std::io::stdout().write_all(piece).unwrap();
    }
    std::io::stdout().flush().unwrap();
    teller.tell("end");
    0
}
