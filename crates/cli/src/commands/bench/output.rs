//! A large output as its readers meet it: the end, some lines anywhere, and a search through all of it.

use std::time::Instant;

use futures::StreamExt as _;
use gaffer_domain::JobId;

use super::figures::{Figures, LINES, MEGABYTES_PER_SECOND, MILLISECONDS, OF_REQUESTS, millis_since};
use super::installation::Installation;
use super::load::{LINE_BYTES, LoadArgs};
use super::{Bench, ingest};
use crate::client::Query;
use crate::failure::Failure;
use crate::ndjson::{Lines, OutputLine};

/// Lines that a reader asks for.
const SHOWN_LINES: u64 = 200;
/// Found in about one of 200 lines, in which no fixed text leads to it.
const PATTERN: &str = "[0-9]{20}";

/// Measures it on the output of one job, which is written first.
///
/// # Errors
/// Errors of the API or the network; [`Failure::Local`] if something else than the asked lines came.
pub async fn measure(bench: &Bench<'_>, figures: &mut Figures) -> Result<(), Failure> {
    let lines = (bench.args.output_size.0 / LINE_BYTES as u64).max(1);
    let load = LoadArgs::large_writes(lines * LINE_BYTES as u64);
    bench.status.show("output: writing it");
    let job = ingest::run(bench.installation, "output", &load).await?.job;
    let reader = Reader { installation: bench.installation, job, lines };
    let megabytes = load.total_bytes() as f64 / 1e6;
    for round in bench.rounds() {
        bench.show("output", round);
        let mut ends = Vec::new();
        let mut anywhere = Vec::new();
        for sample in 0..bench.args.jobs {
            ends.push(reader.read("tail", SHOWN_LINES.to_string(), SHOWN_LINES.min(lines)).await?);
            anywhere.push(reader.lines_from(place(round, sample, lines)).await?);
        }
        figures.add_percentiles("last 200 lines", MILLISECONDS, OF_REQUESTS, &ends, None);
        figures.add_percentiles("any 200 lines", MILLISECONDS, OF_REQUESTS, &anywhere, None);
        let first = reader.search(Some(1)).await?;
        figures.add("search, first hit", MILLISECONDS, first.first_hit_ms);
        let all = reader.search(None).await?;
        if all.searched_bytes != load.total_bytes() {
            return Err(Failure::Local(format!(
                "searched {} of {} bytes of job {job}",
                all.searched_bytes,
                load.total_bytes()
            )));
        }
        figures.add("search, all hits", MILLISECONDS, all.ms);
        figures.add("search, rate", MEGABYTES_PER_SECOND, megabytes / all.ms * 1e3);
        figures.add("hits", LINES, all.found as f64);
    }
    Ok(())
}

/// The first of some lines: anywhere, and the same in every run.
fn place(round: u32, sample: u32, lines: u64) -> u64 {
    let mixed = (u64::from(round) << 32 | u64::from(sample)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed % lines + 1
}

/// Who reads the output of a job.
struct Reader<'a> {
    installation: &'a Installation,
    job: JobId,
    /// Of the whole output.
    lines: u64,
}

/// What a search found, and when.
#[derive(Debug, Default)]
struct Search {
    first_hit_ms: f64,
    ms: f64,
    found: u64,
    searched_bytes: u64,
}

impl Search {
    /// Takes a line of a response; returns where to continue after it, if it is the last one and not all was searched.
    fn take(&mut self, line: &[u8], begun: Instant) -> Result<Option<String>, Failure> {
        let line = OutputLine::read(line)?;
        if line.found.is_some() {
            if self.found == 0 {
                self.first_hit_ms = millis_since(begun);
            }
            self.found += 1;
        }
        let Some(searched) = line.searched else { return Ok(None) };
        self.searched_bytes += searched.searched_bytes;
        Ok(searched.next_cursor)
    }
}

impl Reader<'_> {
    /// Milliseconds that it takes to read some lines.
    async fn lines_from(&self, first: u64) -> Result<f64, Failure> {
        let last = (first + SHOWN_LINES - 1).min(self.lines);
        self.read("lines", format!("{first}-{last}"), last - first + 1).await
    }

    async fn read(&self, parameter: &'static str, value: String, lines: u64) -> Result<f64, Failure> {
        let (job, begun) = (self.job.to_string(), Instant::now());
        let query = vec![(parameter, value)];
        let answer = self.installation.client.get(&["jobs", &job, "output"], &query).await?;
        let expected = lines * LINE_BYTES as u64;
        if answer.body.len() as u64 != expected {
            let (found, asked) = (answer.body.len(), &query[0].1);
            return Err(Failure::Local(format!(
                "{parameter}={asked} of job {job} gave {found} bytes, not {expected}"
            )));
        }
        Ok(millis_since(begun))
    }

    /// Searches from the beginning, until there are as many hits as wanted or to the end.
    async fn search(&self, limit: Option<u64>) -> Result<Search, Failure> {
        let (client, job, begun) = (&self.installation.client, self.job.to_string(), Instant::now());
        let mut search = Search::default();
        let mut cursor: Option<String> = None;
        loop {
            let mut query: Query = vec![("q", PATTERN.to_owned())];
            query.extend(limit.map(|limit| ("limit", limit.to_string())));
            query.extend(cursor.take().map(|cursor| ("cursor", cursor)));
            let response =
                client.open(&["jobs", &job, "output"], &query, "application/x-ndjson", None).await?;
            let mut pieces = response.bytes_stream();
            let mut lines = Lines::default();
            while let Some(piece) = pieces.next().await {
                let piece = piece.map_err(|error| client.unreachable(&error))?;
                lines.feed(&piece, |line| {
                    cursor = search.take(line, begun)?.or(cursor.take());
                    Ok(())
                })?;
            }
            if cursor.is_none() || limit.is_some_and(|limit| search.found >= limit) {
                break;
            }
        }
        search.ms = millis_since(begun);
        Ok(search)
    }
}
