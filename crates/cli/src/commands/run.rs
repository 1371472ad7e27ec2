//! `gaffer run`: runs a command on a worker as if it ran here.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use tokio::time::timeout;

use crate::attach;
use crate::client::Client;
use crate::commands::submit::{self, Submitted};
use crate::config;
use crate::exit;
use crate::failure::Failure;
use crate::follow::{self, FollowOptions};
use crate::out::Out;
use crate::signals::{Order, Signals};
use crate::sink::{Manner, Sink};
use crate::spec_flags::SpecFlags;
use crate::spec_input::{Input, Items, Wanted};
use crate::status::Status;
use crate::stdin;

/// The task of a job that does not list its tasks.
const ONLY_TASK: &str = "main";
/// How long a Ctrl-C waits for the answer to a job that is being submitted.
const LAST_ANSWER: Duration = Duration::from_secs(2);

/// What to run, and how to show it.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  gaffer run -- uname -a
  gaffer run --workdir /srv/project --cpu 4 --memory 8GiB -- make test
  gaffer run --script build.sh --timeout 30m
  gaffer run --retries 3 -- flaky | tee log
  gaffer run --image busybox -- sh -c 'echo in a container'
  gaffer run -i -- sort < names
  gaffer run --each-worker -- uptime

The command starts in an empty scratch directory on the worker, or with --image in the image's working \
directory; --workdir sets another one.

Standard output and standard error of the command are those of gaffer. The first Ctrl-C is forwarded to \
the command, the second stops the job, the third leaves it running. SIGTERM stops the job, SIGHUP leaves \
it running.

Exit codes: the command's own; 128+n for signal n; 124 timeout; 126 not executable, 127 not found; 137 out \
of memory or output limit; 143 stopped; 125 if gaffer failed or lost the worker. If the job is not \
accepted: 2 invalid usage or job, 4 not allowed.")]
pub struct RunArgs {
    /// Command and arguments
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "CMD",
        required_unless_present_any = ["script", "image"],
        conflicts_with = "script"
    )]
    command: Vec<String>,
    /// Run this script instead (- for standard input)
    #[arg(long, value_name = "FILE")]
    script: Option<PathBuf>,
    /// Pass standard input to the command
    ///
    /// Bytes and end of input are passed on exactly. After a lost connection the input continues where it stopped. Without
    /// this option the command's standard input is empty. A command with -i is never repeated, so --retries, --count, --array,
    /// --each, --each-line and --each-worker conflict with it. Example: tar c src | gaffer run -i -- tar x -C /srv
    #[arg(short, long, conflicts_with_all = ["retries", "count", "array", "each", "each_line", "each_worker"])]
    interactive: bool,
    /// Suppress gaffer's own messages
    #[arg(short, long)]
    quiet: bool,
    /// Pass all terminal escape sequences through
    #[arg(long)]
    raw: bool,
    #[command(flatten)]
    items: Items,
    #[command(flatten)]
    spec: SpecFlags,
}

/// Runs the command.
///
/// # Errors
/// Errors of the API or the network.
pub async fn run(args: RunArgs, out: &Out) -> Result<u8, Failure> {
    let reads_script = args.script.as_deref() == Some(Path::new("-"));
    if args.interactive && reads_script {
        return Err(Failure::Usage(
            "-i and `--script -` both read standard input: put the script into a file".to_owned(),
        ));
    }
    let wanted = match args.script {
        Some(script) => Wanted::Script(script),
        None => Wanted::Command(args.command),
    };
    if reads_script && args.items.reads_stdin() {
        return Err(Failure::Usage(
            "`--each-line -` and `--script -` both read standard input: put one of them into a file"
                .to_owned(),
        ));
    }
    let mut input = wanted.input(&args.spec, config::passed_on)?;
    args.items.apply(&mut input)?;
    if args.interactive {
        input.pass_stdin();
    }
    let client = Client::new(&config::access()?)?;
    let mut signals =
        Signals::listen().map_err(|error| Failure::Local(format!("cannot listen to signals: {error}")))?;
    let status = Status::new(out, args.quiet);
    let submitted = match submit(&client, &input, &status, &mut signals).await? {
        Ok(submitted) => submitted,
        Err(left) => return Ok(left),
    };

    let is_ignored = !args.interactive && !reads_script && !args.items.reads_stdin() && !args.quiet;
    let mut is_told = false;
    let mut tell_if_ignored = || {
        if is_ignored && !is_told && stdin::is_piped_in() {
            is_told = true;
            status.note("standard input is not passed to the command; use `gaffer run -i`");
        }
    };
    tell_if_ignored();
    let mut sink = Sink::new(out, &status, Manner { raw: args.raw, ..Manner::default() });
    let wish = FollowOptions { follow: true, ..FollowOptions::default() };
    let job = submitted.job.id;
    let reading = follow::follow_job(&client, &submitted.job, &wish, &mut sink, &status);
    let read = tokio::select! {
        read = reading => read.map(|followed| followed.tasks),
        code = attach::obey(&mut signals, &client, job, &status) => return Ok(code),
        () = stdin::pass_on(&client, job, ONLY_TASK, &status), if args.interactive => Ok(Vec::new()),
        () = attach::explain_silence(&client, job, &status) => Ok(Vec::new()),
    };
    status.retire();
    sink.close(!args.quiet);
    // The writer may have started later than this process.
    tell_if_ignored();
    match read {
        Ok(tasks) => {
            attach::tell_end(out, job, &tasks, submitted.page.as_deref(), args.quiet);
            Ok(exit::of_tasks(&tasks))
        }
        Err(failure) if failure.is_silent() => {
            // A command here would be ended by writing to a reader that went away. So is one there.
            attach::stop(&client, job).await?;
            Err(failure)
        }
        Err(failure) => {
            status.note(&format!("job {job} continues; follow it with `gaffer logs -f {job}`"));
            Err(failure)
        }
    }
}

/// Submits. A signal that arrives meanwhile stops what may have been accepted; the inner error is the code to leave with.
async fn submit(
    client: &Client,
    input: &Input,
    status: &Status<'_>,
    signals: &mut Signals,
) -> Result<Result<Submitted, u8>, Failure> {
    let submitting = submit::submit(client, input, status);
    tokio::pin!(submitting);
    let order = tokio::select! {
        submitted = &mut submitting => return submitted.map(Ok),
        order = signals.next() => order,
    };
    let answer = tokio::select! {
        answer = timeout(LAST_ANSWER, submitting) => answer,
        again = signals.next() => return Ok(Err(again.exit_code())),
    };
    match answer {
        Ok(Ok(_)) if order == Order::Hangup => Ok(Err(order.exit_code())),
        Ok(Ok(submitted)) => {
            let told = attach::stop(client, submitted.job.id).await?;
            status.note(&told);
            Ok(Ok(submitted))
        }
        Ok(Err(_)) => Ok(Err(order.exit_code())),
        Err(_) => {
            status.note(
                "interrupted before the server responded; `gaffer jobs` shows whether it accepted the job",
            );
            Ok(Err(order.exit_code()))
        }
    }
}
