//! What jobs of `gaffer bench` run to write output: large writes, or one write per line, as fast as possible or at a rate.

use std::fs;
use std::io::Write as _;
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use gaffer_domain::quantity::Bytes;
use gaffer_protocol::boot_time::BootTime;
use gaffer_protocol::output::Stream;

use crate::failure::Failure;
use crate::out::Out;

/// Bytes of a line, with its end.
pub const LINE_BYTES: usize = 80;
/// Bytes of a large write.
pub const WRITE_BYTES: usize = 64 << 10;
/// Digits at the beginning of a line that tell when it was written.
pub const TIME_DIGITS: usize = 16;
/// Large writes repeat this many bytes: whole lines, and more than one chunk of output, of which each is compressed alone.
const BLOCK_BYTES: usize = 10 * WRITE_BYTES;
/// How often lines are written at a rate.
const TICK: Duration = Duration::from_millis(1);

/// What to write.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct LoadArgs {
    /// Write this many bytes, in large writes
    #[arg(long, value_name = "SIZE", required_unless_present = "lines", conflicts_with = "lines")]
    bytes: Option<Bytes>,
    /// Write this many lines, with one write each
    #[arg(long, value_name = "N")]
    lines: Option<u64>,
    /// Write that many lines each second
    #[arg(long, value_name = "N", requires = "lines")]
    rate: Option<u64>,
}

impl LoadArgs {
    /// A number of bytes in large writes.
    pub fn large_writes(bytes: u64) -> LoadArgs {
        LoadArgs { bytes: Some(Bytes(bytes)), lines: None, rate: None }
    }

    /// A number of lines with a write each; `rate`: per second.
    pub fn lines(lines: u64, rate: Option<u64>) -> LoadArgs {
        LoadArgs { bytes: None, lines: Some(lines), rate }
    }

    /// The words of the command line that mean this.
    pub fn words(&self) -> Vec<String> {
        let option = |name: &str, value: Option<u64>| value.map(|value| format!("--{name}={value}"));
        let bytes = option("bytes", self.bytes.map(|bytes| bytes.0));
        let options = [bytes, option("lines", self.lines), option("rate", self.rate)];
        std::iter::once("bench-load".to_owned()).chain(options.into_iter().flatten()).collect()
    }

    /// How much is written.
    pub fn total_bytes(&self) -> u64 {
        match (self.bytes, self.lines) {
            (Some(Bytes(bytes)), _) => bytes,
            (None, lines) => lines.unwrap_or_default().saturating_mul(LINE_BYTES as u64),
        }
    }
}

/// Writes it to standard output.
///
/// # Errors
/// [`Failure::Output`].
pub fn run(args: &LoadArgs, out: &Out) -> Result<u8, Failure> {
    let stdout = out.handle(Stream::Stdout);
    match (args.bytes, args.rate) {
        (Some(Bytes(bytes)), _) => large_writes(&stdout, bytes)?,
        (None, None) => lines(&stdout, args.lines.unwrap_or_default())?,
        (None, Some(rate)) => lines_at(&stdout, args.lines.unwrap_or_default(), rate.max(1))?,
    }
    Ok(0)
}

fn large_writes(mut stdout: &fs::File, bytes: u64) -> Result<(), Failure> {
    let block = text(BLOCK_BYTES);
    let mut left = bytes;
    for piece in block.chunks(WRITE_BYTES).cycle() {
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(piece.len());
        if length == 0 {
            break;
        }
        stdout.write_all(&piece[..length])?;
        left -= length as u64;
    }
    Ok(())
}

fn lines(mut stdout: &fs::File, lines: u64) -> Result<(), Failure> {
    let block = text(BLOCK_BYTES);
    let lines = usize::try_from(lines).unwrap_or(usize::MAX);
    for line in block.chunks(LINE_BYTES).cycle().take(lines) {
        stdout.write_all(line)?;
    }
    Ok(())
}

/// Each line begins with its time since the machine was started, the first one names the boot that this counts from.
fn lines_at(mut stdout: &fs::File, lines: u64, rate: u64) -> Result<(), Failure> {
    let mut boot = boot_id().into_bytes();
    boot.resize(LINE_BYTES - 1, b' ');
    boot.push(b'\n');
    stdout.write_all(&boot)?;
    let mut line = text(LINE_BYTES);
    let (begun, mut written) = (Instant::now(), 1);
    while written < lines {
        let due = (begun.elapsed().as_secs_f64() * rate as f64) as u64;
        while written < lines.min(due) {
            let time = format!("{:0TIME_DIGITS$} ", BootTime::now().as_micros());
            line[..=TIME_DIGITS].copy_from_slice(&time.as_bytes()[..=TIME_DIGITS]);
            stdout.write_all(&line)?;
            written += 1;
        }
        thread::sleep(TICK);
    }
    Ok(())
}

/// Names the time from one start of this machine's kernel to the next; empty where nothing does.
pub fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// Lines of hexadecimal digits: as compressible as many a log, and always the same.
fn text(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut text = Vec::with_capacity(bytes + 16);
    while text.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        text.extend((0..16).map(|digit| b"0123456789abcdef"[(state >> (4 * digit)) as usize & 15]));
    }
    text.truncate(bytes);
    text.iter_mut().skip(LINE_BYTES - 1).step_by(LINE_BYTES).for_each(|byte| *byte = b'\n');
    text
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        load: LoadArgs,
    }

    #[test]
    fn the_words_mean_what_they_were_made_of() {
        for load in [LoadArgs::large_writes(1 << 20), LoadArgs::lines(7, None), LoadArgs::lines(7, Some(100))]
        {
            let read = Line::try_parse_from(load.words()).map(|line| line.load);
            assert_eq!(read.ok(), Some(load));
        }
    }

    #[test]
    fn lines_are_of_one_length() {
        let text = text(BLOCK_BYTES);
        assert_eq!(text.len() % LINE_BYTES, 0);
        assert!(
            text.chunks(LINE_BYTES)
                .all(|line| line.iter().position(|byte| *byte == b'\n') == Some(LINE_BYTES - 1))
        );
    }
}
