//! `gaffer logs`: shows the output of a job or a task.

mod grep;
mod verify;

use std::str::FromStr;

use clap::Args;
use gaffer_protocol::output::Stream;
use gaffer_protocol::rest::Job;

use crate::attach;
use crate::backoff::Backoff;
use crate::client::{Client, Query};
use crate::config;
use crate::failure::Failure;
use crate::follow::{self, FollowOptions, Source};
use crate::out::Out;
use crate::selector::One;
use crate::sink::{Manner, Sink};
use crate::status::Status;

/// Which output to show, and how.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  gaffer logs -f 42                  follow to the end; Ctrl-C leaves the job running
  gaffer logs 42.train.7 --tail 50   the last lines of one task
  gaffer logs last --stream stderr
  gaffer logs 42 --lines 100-200
  gaffer logs 42 --grep 'error|timeout' -C 3
  gaffer logs -f 42 --grep 'listening on' -m 1   wait for a line
  gaffer logs 42 --verify            verify the checksum of the stored output

Both streams go to standard output, in the order of reading. A terminal gets text and colours only, unless \
--raw is given.")]
pub struct LogsArgs {
    /// Job, or one of its tasks: 42, last, 42.train.7
    #[arg(value_name = "JOB[.TASK]")]
    whose: Whose,
    /// Follow the output until the task finishes
    #[arg(short, long)]
    follow: bool,
    /// Task, as name or name.index
    #[arg(long, value_name = "TASK")]
    task: Option<String>,
    /// Only this attempt [default: the latest]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    attempt: Option<u32>,
    /// Only the last N lines
    #[arg(long, value_name = "N")]
    tail: Option<u64>,
    /// Only these lines, counted from 1: 100-200
    #[arg(long, value_name = "A-B", value_parser = line_range, conflicts_with_all = ["tail", "follow"])]
    lines: Option<String>,
    /// Only this stream
    #[arg(long, value_name = "STREAM", value_parser = stream)]
    stream: Option<Stream>,
    /// Prefix each line with its time
    #[arg(short, long)]
    timestamps: bool,
    /// Verify the stored output against the worker's checksum
    ///
    /// Compares length and SHA-256 and prints one line per task. Exit code 1 if an output differs, 5 if one cannot be compared
    /// because its task is not finished or was lost.
    #[arg(long, conflicts_with_all = ["follow", "tail", "lines", "stream", "timestamps", "raw"])]
    verify: bool,
    /// Pass all terminal escape sequences through
    #[arg(long)]
    raw: bool,
    #[command(flatten)]
    grep: grep::GrepArgs,
}

/// A job, or a task of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whose {
    /// The job.
    pub job: One,
    /// Name or address of the task; none for the job.
    pub task: Option<String>,
}

impl FromStr for Whose {
    type Err = String;

    fn from_str(text: &str) -> Result<Whose, String> {
        let (job, task) = match text.split_once('.') {
            Some((_, "")) => return Err("expected a task name after the dot".to_owned()),
            Some((job, task)) => (job, Some(task.to_owned())),
            None => (text, None),
        };
        Ok(Whose { job: job.parse()?, task })
    }
}

fn stream(text: &str) -> Result<Stream, String> {
    let known = [Stream::Stdout, Stream::Stderr];
    known
        .into_iter()
        .find(|stream| stream.as_str() == text)
        .ok_or_else(|| "expected stdout or stderr".to_owned())
}

fn line_range(text: &str) -> Result<String, String> {
    let numbers =
        text.split_once('-').and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
    match numbers {
        Some((first, last)) if 1_u64 <= first && first <= last => Ok(format!("{first}-{last}")),
        _ => Err("expected a range of line numbers such as 100-200".to_owned()),
    }
}

/// Runs the command.
///
/// # Errors
/// Errors of the API or the network.
pub async fn run(args: LogsArgs, out: &Out) -> Result<u8, Failure> {
    let client = Client::new(&config::access()?)?;
    let job = args.whose.job.resolve(&client).await?;
    if args.verify {
        return verify::run(&client, job, args.task.or(args.whose.task), args.attempt, out).await;
    }
    let source = match args.task.or(args.whose.task) {
        Some(task) => Source { job, task: Some(task), tasks: 1 },
        None => {
            let found: Job = client.read(&["jobs", &job.to_string()], &Query::new()).await?;
            if found.taken_over > 0 {
                out.remark(&format!(
                    "{} tasks did not run in job {job}: `gaffer job {job}` says whose results they have, and \
                     `gaffer logs {job}.TASK` shows their output",
                    found.taken_over
                ));
            }
            Source::of(&found)
        }
    };
    let wish = FollowOptions {
        follow: args.follow,
        attempt: args.attempt,
        stream: args.stream,
        tail: args.tail,
        lines: args.lines,
        search: args.grep.search(),
    };
    let status = Status::new(out, false);
    let matches = args.grep.manner(source.tasks > 1);
    let manner = Manner { merged: true, raw: args.raw, timestamps: args.timestamps, matches };
    let mut sink = Sink::new(out, &status, manner);
    let read = follow::follow(&client, &source, &wish, &mut sink, &status, Backoff::for_a_job()).await;
    status.retire();
    sink.close(args.follow);
    let followed = read?;
    if wish.search.as_ref().is_some_and(|search| search.counts_only) {
        out.line(&followed.found.to_string())?;
    }
    // With a limit, the job may not have ended.
    let is_over = wish.search.as_ref().is_none_or(|search| search.limit.is_none());
    if args.follow && is_over {
        attach::tell_end(out, job, &followed.tasks, None, !out.is_terminal(Stream::Stdout));
    }
    match wish.search {
        Some(_) if followed.found == 0 => Ok(grep::NO_MATCH),
        _ => Ok(0),
    }
}

#[cfg(test)]
mod tests {
    use gaffer_domain::JobId;

    use super::*;

    #[test]
    fn a_task_stands_behind_its_job() {
        let read = |text: &str| text.parse::<Whose>();
        let whose = |number, task: Option<&str>| Whose {
            job: One::Number(JobId(number)),
            task: task.map(str::to_owned),
        };
        assert_eq!(read("42"), Ok(whose(42, None)));
        assert_eq!(read("42.train"), Ok(whose(42, Some("train"))));
        assert_eq!(read("42.train.7"), Ok(whose(42, Some("train.7"))));
        assert_eq!(read("last.x").map(|whose| whose.job), Ok(One::Last));
        for text in ["", ".x", "42.", "x.y"] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_range_of_lines_goes_up_from_one() {
        assert_eq!(line_range("1-20").as_deref(), Ok("1-20"));
        for text in ["0-3", "5-4", "7", "a-b", "-3", "1-"] {
            assert!(line_range(text).is_err(), "{text}");
        }
    }
}
