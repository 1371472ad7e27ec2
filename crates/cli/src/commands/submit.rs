//! `gaffer submit`: submits a job and prints its number.

use std::path::PathBuf;

use clap::Args;
use gaffer_protocol::output::Stream;
use gaffer_protocol::rest::Job;

use crate::attach;
use crate::backoff::Backoff;
use crate::client::{Client, Query};
use crate::commands::{versions, wait};
use crate::config;
use crate::exit;
use crate::failure::Failure;
use crate::follow::{self, FollowOptions};
use crate::out::Out;
use crate::parameters::ParameterFlags;
use crate::sink::{Manner, Sink};
use crate::spec_flags::SpecFlags;
use crate::spec_input::{Input, Items, Wanted};
use crate::status::Status;

/// What to submit, and what to do then.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  gaffer submit job.yaml                             a job from a file: YAML, TOML or JSON
  gaffer submit train.yaml -p lr=0.1 -p steps=200    values for its parameters
  gaffer submit --template train -p lr=0.1           a template, see `gaffer templates`
  gaffer submit --workdir /srv/project -- make -j2   a command
  gaffer submit --script build.sh                    a script
  gaffer submit --each-line files -- ./convert       one task for each line, which is in GAFFER_ITEM
  gaffer submit --each-worker -- apt-get -y upgrade  one task on each worker
  gaffer submit web.yaml                             a service: updates the one of that name, if it runs
  job=$(gaffer submit -- nightly)                    prints the number alone when piped
  gaffer submit --wait job.yaml && deploy            exits as the job does

Exit codes: 0 if the job is accepted. With --wait or --follow, as `gaffer run`.")]
pub struct SubmitArgs {
    /// Job specification file (- for standard input)
    #[arg(value_name = "FILE", conflicts_with_all = ["command", "script"])]
    file: Option<PathBuf>,
    /// Command and arguments
    #[arg(
        last = true,
        value_name = "CMD",
        required_unless_present_any = ["file", "script", "image", "template"],
        conflicts_with = "script"
    )]
    command: Vec<String>,
    /// Script file (- for standard input)
    #[arg(long, value_name = "FILE")]
    script: Option<PathBuf>,
    /// Submit another job, also if a service of that name runs
    ///
    /// A file of `type: service` or `system` with a `name` updates the running job of that name.
    #[arg(long)]
    new: bool,
    /// Update a service only if this is still its present version
    #[arg(long, value_name = "VERSION", conflicts_with = "new", requires = "file")]
    after: Option<u32>,
    /// Only show what a service's file would change
    #[arg(long, conflicts_with_all = ["wait", "follow", "new"])]
    dry_run: bool,
    /// Template to submit a job from, see `gaffer templates`
    #[arg(long, value_name = "NAME", conflicts_with_all = ["file", "command", "script", "each_line", "each_worker"])]
    template: Option<String>,
    /// Version of the template [default: the latest]
    #[arg(long, value_name = "N", requires = "template")]
    version: Option<u32>,
    /// Wait until the job has finished
    #[arg(long)]
    wait: bool,
    /// Follow the output of the job
    #[arg(short, long, conflicts_with = "wait")]
    follow: bool,
    /// Suppress messages
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    items: Items,
    #[command(flatten)]
    parameters: ParameterFlags,
    #[command(flatten)]
    spec: SpecFlags,
}

impl SubmitArgs {
    /// Whether the exit code speaks of the job.
    pub fn is_attached(&self) -> bool {
        self.wait || self.follow
    }
}

/// Runs the command.
///
/// # Errors
/// Errors of the API or the network.
pub async fn run(args: SubmitArgs, out: &Out) -> Result<u8, Failure> {
    let attached = args.is_attached();
    let is_file = args.file.is_some();
    let wanted = match (args.template, args.file, args.script) {
        (Some(name), ..) => Wanted::Template(name, args.version),
        (None, Some(file), _) => Wanted::File(file),
        (None, None, Some(script)) => Wanted::Script(script),
        (None, None, None) => Wanted::Command(args.command),
    };
    let mut input = wanted.input(&args.spec, config::passed_on)?;
    args.items.apply(&mut input)?;
    input.values = args.parameters.read()?;
    let client = Client::new(&config::access()?)?;
    let status = Status::new(out, args.quiet);
    let service = versions::service_name(&input).filter(|_| is_file && !args.new);
    if service.as_ref().is_some_and(|name| name.contains("{{")) {
        let problem =
            "a service is updated by its name, which has a placeholder here; --new submits another one";
        return Err(Failure::Usage(problem.to_owned()));
    }
    if args.dry_run {
        let Some(name) = service else {
            out.remark("this would be a new job");
            return Ok(0);
        };
        let diff = versions::preview(&client, &name, &input).await?;
        match diff.job {
            Some(job) => out.remark(&format!("this would update job {job}")),
            None => out.remark("this would be a new service"),
        }
        versions::show(out, &diff.differences)?;
        return Ok(0);
    }
    let submitted = match service {
        Some(name) => {
            let after: Query = args.after.iter().map(|after| ("after", after.to_string())).collect();
            post(&client, (&["services", &name], &after), &input, &status).await?
        }
        None => submit(&client, &input, &status).await?,
    };
    let job = &submitted.job;
    if args.follow {
        return show_to_end(&client, out, &submitted, args.quiet).await;
    }
    tell_number(out, &submitted, attached)?;
    if args.wait { wait::to_end(&client, out, job.id, &status, args.quiet).await } else { Ok(0) }
}

/// A job that was accepted.
pub struct Submitted {
    pub job: Job,
    /// Its page for people, if the API named one.
    pub page: Option<String>,
}

/// Submits with retries.
///
/// # Errors
/// What the API or the network says in the end, in terms of the input.
pub async fn submit(client: &Client, input: &Input, status: &Status<'_>) -> Result<Submitted, Failure> {
    post(client, (&["jobs"], &Query::new()), input, status).await
}

async fn post(
    client: &Client,
    to: (&[&str], &Query),
    input: &Input,
    status: &Status<'_>,
) -> Result<Submitted, Failure> {
    let tell = |failure: &Failure| status.note(&format!("{failure}; retrying (Ctrl-C gives up)"));
    let answer = client.post_patiently(to, &input.body()?, &mut Backoff::for_a_start(), tell).await;
    let answer = answer.map_err(|failure| match failure {
        Failure::Problem(problem) => Failure::Problem(Box::new(input.explain(*problem))),
        other => other,
    })?;
    let job: Job = answer.read()?;
    tell_hints(&job, status, |pointer| input.place(pointer));
    Ok(Submitted { job, page: answer.page })
}

/// Says what may be a mistake in an accepted job.
pub fn tell_hints(job: &Job, status: &Status<'_>, place: impl Fn(&str) -> Option<String>) {
    for hint in &job.hints {
        let place = place(&hint.pointer).unwrap_or_else(|| hint.pointer.clone());
        status.note(&format!("hint: {place}: {}", hint.message()));
    }
}

/// The number alone for a program, what to do next for a person.
fn tell_number(out: &Out, submitted: &Submitted, attached: bool) -> Result<(), Failure> {
    let job = &submitted.job;
    if !out.is_terminal(Stream::Stdout) {
        return out.line(&job.id.to_string());
    }
    let page = submitted.page.as_ref().map(|page| format!(" · {page}")).unwrap_or_default();
    out.line(&format!("job {} accepted{page}", job.id))?;
    if !attached {
        out.line(
            &out.dim(&format!(
                "  gaffer logs -f {} shows its output, gaffer explain {0} why it waits",
                job.id
            )),
        )?;
    }
    Ok(())
}

/// Follows the output of a new job to its end; returns its exit code.
///
/// # Errors
/// Errors of the API or the network.
pub async fn show_to_end(client: &Client, out: &Out, made: &Submitted, quiet: bool) -> Result<u8, Failure> {
    let status = Status::new(out, quiet);
    let mut sink = Sink::new(out, &status, Manner::default());
    let wish = FollowOptions { follow: true, ..FollowOptions::default() };
    let job = made.job.id;
    let reading = follow::follow_job(client, &made.job, &wish, &mut sink, &status);
    let tasks = tokio::select! {
        followed = reading => followed?.tasks,
        () = attach::explain_silence(client, job, &status) => Vec::new(),
    };
    status.retire();
    sink.close(!quiet);
    attach::tell_end(out, job, &tasks, made.page.as_deref(), quiet);
    Ok(exit::of_tasks(&tasks))
}
