//! How far a viewer is behind a job that writes lines at a rate, and how much the viewer slows the job down.

use futures::StreamExt as _;
use gaffer_domain::JobId;
use gaffer_protocol::boot_time::BootTime;
use serde_json::Value;

use super::figures::{Figures, MILLISECONDS, OF_LATENCY, PERCENT};
use super::installation::Installation;
use super::load::{LINE_BYTES, LoadArgs, TIME_DIGITS, boot_id};
use super::{Bench, in_turn, ingest};
use crate::failure::Failure;

/// Measures both. The clock of the lines is that of the worker's machine; if that is another one, the lag of the fastest line
/// counts as none.
///
/// # Errors
/// Errors of the API or the network; [`Failure::Local`] if the viewer missed something.
pub async fn measure(bench: &Bench<'_>, figures: &mut Figures) -> Result<(), Failure> {
    let (args, rate) = (bench.args, bench.args.lines_per_second);
    // The first line tells no time.
    let lines = (args.watch.to_std().as_secs_f64() * rate as f64) as u64 + 1;
    let load = LoadArgs::lines(lines, Some(rate));
    for round in bench.rounds() {
        bench.show("follow", round);
        let alone = ingest::run(bench.installation, "follow", &load);
        let (alone, viewed) = in_turn(round, alone, viewed(bench.installation, &load)).await;
        let (alone, Viewed { seconds, lags }) = (alone?, viewed?);
        figures.add_percentiles("lag of a viewer", MILLISECONDS, OF_LATENCY, &lags, None);
        figures.add("job slowed by a viewer", PERCENT, (seconds / alone.seconds - 1.0) * 100.0);
    }
    Ok(())
}

/// One round with a viewer.
struct Viewed {
    /// How long the job took.
    seconds: f64,
    /// Of each line, in milliseconds.
    lags: Vec<f64>,
}

async fn viewed(installation: &Installation, load: &LoadArgs) -> Result<Viewed, Failure> {
    let spec: Value = ingest::spec(installation, "follow", load)?;
    let job = installation.submit(&spec).await?.id;
    let lags = lags(installation, job, load).await?;
    let seconds = ingest::stored(installation, job, load).await?.seconds;
    Ok(Viewed { seconds, lags })
}

/// Follows the output to its end.
async fn lags(installation: &Installation, job: JobId, load: &LoadArgs) -> Result<Vec<f64>, Failure> {
    let number = job.to_string();
    let client = &installation.client;
    let follow = vec![("follow", "1".to_owned())];
    let response = client.open(&["jobs", &number, "output"], &follow, "text/plain", None).await?;
    let mut pieces = response.bytes_stream();
    let (mut lines, mut seen) = (Lines::default(), 0);
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|error| client.unreachable(&error))?;
        seen += piece.len() as u64;
        lines.take(&piece, BootTime::now().as_micros());
    }
    if seen != load.total_bytes() {
        return Err(Failure::Local(format!(
            "the viewer of job {job} saw {seen} of {} bytes",
            load.total_bytes()
        )));
    }
    Ok(lines.lags(&boot_id()))
}

/// Lines as they arrive: each has the same length, and its time in front.
#[derive(Debug, Default)]
struct Lines {
    /// The beginning of a line whose end has not arrived.
    rest: Vec<u8>,
    /// What the first line names.
    boot: Option<String>,
    /// By the clock of this machine, minus that of the lines, in microseconds.
    differences: Vec<i64>,
}

impl Lines {
    fn take(&mut self, piece: &[u8], now_micros: u64) {
        self.rest.extend_from_slice(piece);
        let whole = self.rest.len() / LINE_BYTES * LINE_BYTES;
        for line in self.rest[..whole].chunks(LINE_BYTES) {
            let text = String::from_utf8_lossy(line);
            match &self.boot {
                None => self.boot = Some(text.trim().to_owned()),
                Some(_) => {
                    let written: Option<u64> = text.get(..TIME_DIGITS).and_then(|digits| digits.parse().ok());
                    self.differences.extend(written.map(|written| now_micros as i64 - written as i64));
                }
            }
        }
        self.rest.drain(..whole);
    }

    /// In milliseconds. `boot`: that of this machine.
    fn lags(&self, boot: &str) -> Vec<f64> {
        let is_same_clock = self.boot.as_deref() == Some(boot) && !boot.is_empty();
        let fastest = self.differences.iter().min().copied().unwrap_or_default();
        let none = if is_same_clock { 0 } else { fastest };
        self.differences.iter().map(|difference| (difference - none) as f64 / 1e3).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Vec<u8> {
        let mut line = text.as_bytes().to_vec();
        line.resize(LINE_BYTES - 1, b' ');
        line.push(b'\n');
        line
    }

    #[test]
    fn a_lag_is_counted_from_the_time_in_the_line() {
        let mut lines = Lines::default();
        let text = [line("boot-1"), line("0000000000001000 x"), line("0000000000002000 x")].concat();
        // Cut anywhere.
        let (first, rest) = text.split_at(LINE_BYTES * 2 + 7);
        lines.take(first, 1_500);
        lines.take(rest, 5_000);
        assert_eq!(lines.lags("boot-1"), [0.5, 3.0]);
        assert_eq!(lines.lags("another machine"), [0.0, 2.5]);
    }
}
