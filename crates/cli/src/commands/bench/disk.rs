//! How much disk the scratch data of a run takes, and whether there is room for it.

use std::path::Path;

use nix::sys::statfs::statfs;

use super::args::{BenchArgs, Measurement};
use super::load::LINE_BYTES;
use super::local;
use super::report::count;
use crate::failure::Failure;

/// An empty installation.
const EMPTY_BYTES: u64 = 100 << 20;
/// A finished job with its events, and a finished task with its output; with all indexes.
const JOB_BYTES: u64 = 2_000;
const TASK_BYTES: u64 = 1_500;
/// The log of the database grows with what is written, up to this.
const LARGEST_LOG_BYTES: u64 = 2 << 30;
/// Output is stored compressed: this share of it, in percent, of what jobs of measurements write.
const STORED_PERCENT: u64 = 65;

/// Refuses a run that would fill the disk. Scratch installations come one after the other, so the largest one counts.
///
/// # Errors
/// [`Failure::Usage`] with both numbers.
pub fn check(args: &BenchArgs, chosen: &[Measurement]) -> Result<(), Failure> {
    let dir = args.scratch_parent();
    let (needed, free) = (needed_bytes(args, chosen), free_bytes(&dir)?);
    if needed <= free {
        return Ok(());
    }
    let gigabytes = |bytes: u64| count(bytes / 1_000_000_000);
    Err(Failure::Usage(format!(
        "no room in {}: a history of {} tasks and the measurements need about {} GB, and {} GB are free; choose another disk \
         with --scratch-dir, or measure less",
        dir.display(),
        count(largest_history(args)),
        gigabytes(needed.next_multiple_of(1_000_000_000)),
        gigabytes(free),
    )))
}

fn largest_history(args: &BenchArgs) -> u64 {
    args.history.iter().copied().max().unwrap_or(0)
}

/// What the largest installation of a run takes, at most.
fn needed_bytes(args: &BenchArgs, chosen: &[Measurement]) -> u64 {
    let tasks: u64 = args.tasks.iter().map(|tasks| u64::from(*tasks)).sum();
    let lines = (args.watch.to_std().as_secs_f64() * args.lines_per_second as f64) as u64;
    let mut tasks_in_all = largest_history(args);
    let mut output_in_all: u64 = 0;
    for measurement in chosen {
        let (tasks, output) = match measurement {
            Measurement::Throughput | Measurement::Dispatch => (tasks, 0),
            // Another run without the transaction, and one to leave something behind it.
            Measurement::Snapshot => (u64::from(args.first_tasks()).saturating_mul(3), 0),
            Measurement::Queue => (u64::from(args.waiting), 0),
            // Large writes and lines; with viewers and without.
            Measurement::Ingest | Measurement::Viewers => (0, args.size.0.saturating_mul(2)),
            Measurement::Follow => (0, lines.saturating_mul(2 * LINE_BYTES as u64)),
            // One job for all rounds.
            Measurement::Output => (0, args.output_size.0 / u64::from(args.rounds)),
            Measurement::Limits
            | Measurement::Latency
            | Measurement::Lists
            | Measurement::Containers
            | Measurement::Workers => (0, 0),
        };
        let rounds = u64::from(args.rounds);
        tasks_in_all = tasks_in_all.saturating_add(tasks.saturating_mul(rounds));
        output_in_all = output_in_all.saturating_add(output.saturating_mul(rounds));
    }
    let stored = output_in_all / 100 * STORED_PERCENT;
    // Measurements have few jobs.
    let jobs = largest_history(args).div_ceil(u64::from(args.history_job_tasks.max(1)));
    let data = tasks_in_all.saturating_mul(TASK_BYTES).saturating_add(jobs.saturating_mul(JOB_BYTES));
    let data = data.saturating_add(stored);
    let log = data.saturating_mul(2).min(LARGEST_LOG_BYTES);
    EMPTY_BYTES.saturating_add(data).saturating_add(log)
}

fn free_bytes(dir: &Path) -> Result<u64, Failure> {
    let system = statfs(dir).map_err(local("cannot look at the disk of the scratch directory"))?;
    let block = u64::try_from(system.block_size()).unwrap_or(0);
    Ok(system.blocks_available().saturating_mul(block))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needed(words: &str) -> Result<u64, Box<dyn std::error::Error>> {
        let args = BenchArgs::of_words(words.split(' '))?;
        let chosen = args.chosen().map_err(|failure| failure.to_string())?;
        Ok(needed_bytes(&args, &chosen))
    }

    #[test]
    fn history_and_what_is_measured_take_room() -> Result<(), Box<dyn std::error::Error>> {
        let of_history = |jobs: u64, tasks: u64| EMPTY_BYTES + jobs * JOB_BYTES + tasks * TASK_BYTES;
        assert_eq!(needed("limits --history 0")?, EMPTY_BYTES);
        let million = of_history(1_000_000, 1_000_000) + LARGEST_LOG_BYTES;
        assert_eq!(needed("limits --history 5,1000000,0")?, million);
        let in_large_jobs = of_history(100_000, 1_000_000) + LARGEST_LOG_BYTES;
        assert_eq!(needed("limits --history 1000000 --history-job-tasks 10")?, in_large_jobs);
        // One more job has the rest.
        assert_eq!(
            needed("limits --history 1000001 --history-job-tasks 10")?,
            in_large_jobs + JOB_BYTES + TASK_BYTES
        );
        let with_log = |data: u64| EMPTY_BYTES + 3 * data;
        let throughput = needed("throughput --history 0 --rounds 2 --tasks 10,20")?;
        assert_eq!(throughput, with_log(60 * TASK_BYTES));
        // One output, however often it is read.
        let output = "output --history 0 --output-size 1GB --rounds";
        assert_eq!(needed(&format!("{output} 1"))?, needed(&format!("{output} 5"))?);
        assert!(needed(&format!("{output} 5"))? > 1_000_000_000);
        Ok(())
    }

    #[test]
    fn a_disk_that_is_too_small_is_refused_with_both_numbers() -> Result<(), Box<dyn std::error::Error>> {
        let words = ["limits", "--history", "1000000000"];
        let args = BenchArgs { scratch_dir: Some("/proc".into()), ..BenchArgs::of_words(words)? };
        // That file system has no room for anything.
        let refused = check(&args, &[Measurement::Limits]).map_err(|failure| failure.to_string());
        let expected = "no room in /proc: a history of 1,000,000,000 tasks and the measurements need about 3,503 GB, \
             and 0 GB are free; choose another disk with --scratch-dir, or measure less";
        assert_eq!(refused, Err(expected.to_owned()));
        Ok(())
    }
}
