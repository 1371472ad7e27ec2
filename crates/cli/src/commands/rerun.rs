//! `gaffer rerun`: submits jobs again, whole or in part, with the same specification or an edited one.

mod edit;

use std::path::PathBuf;

use clap::Args;
use gaffer_domain::JobId;
use gaffer_domain::document::Value as Document;
use gaffer_protocol::rest::{Job, JobSource, Problem, RERUN_IN_PART, Version};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::client::{Client, Query};
use crate::commands::bulk::{self, Bulk};
use crate::commands::submit::{self, Submitted};
use crate::config;
use crate::failure::Failure;
use crate::out::Out;
use crate::parameters::{Given, ParameterFlags};
use crate::selector::Selector;
use crate::spec_flags::SpecFlags;
use crate::spec_input::Input;
use crate::status::Status;

/// Which jobs to repeat.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  gaffer rerun 42
  gaffer rerun last --follow
  gaffer rerun 42 --failed               the tasks that failed, and those that depend on them
  gaffer rerun 42 --from train           the task train, and those that depend on it
  gaffer rerun 42 --failed --edit        the same after a change of the specification
  gaffer rerun 42 --spec fixed.yaml
  gaffer rerun 42 -p lr=0.2              another value for a parameter; the others stay

With --failed and --from, the new job keeps the results of all other tasks. Task definitions are matched by name, tasks
by index.

Prints the numbers of the new jobs. With --follow, exits as `gaffer run` does.")]
pub struct RerunArgs {
    /// Jobs: 42, 1-20, last
    #[arg(required = true, value_name = "JOB")]
    jobs: Vec<Selector>,
    /// Run what failed and what depends on it
    #[arg(long)]
    failed: bool,
    /// Run this task and what depends on it
    #[arg(long, value_name = "TASK")]
    from: Option<String>,
    /// Edit the specification first
    ///
    /// Opens it in $VISUAL or $EDITOR. Nothing is submitted if it is not changed.
    #[arg(short, long, conflicts_with = "spec")]
    edit: bool,
    /// Use this job specification file (- for standard input)
    #[arg(long, value_name = "FILE")]
    spec: Option<PathBuf>,
    #[command(flatten)]
    parameters: ParameterFlags,
    /// Follow the output of the new job
    #[arg(short, long)]
    pub follow: bool,
    /// Skip the confirmation
    #[arg(short, long)]
    yes: bool,
}

/// The body of the request.
#[derive(Debug, Serialize)]
struct Body<'a> {
    failed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<&'a str>,
    /// As text, so that numbers are sent as they were written.
    #[serde(skip_serializing_if = "Option::is_none")]
    spec: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<Box<RawValue>>,
}

/// Runs the command.
///
/// # Errors
/// Errors of the API or the network.
pub async fn run(args: RerunArgs, out: &Out) -> Result<u8, Failure> {
    let values = args.parameters.read()?;
    if args.needs_a_recent_server() || values.is_some() {
        refuse_older_server().await?;
    }
    if !args.follow && !args.edit && args.spec.is_none() {
        let bulk = Bulk { verb: "rerun", done: "again as", asks_from: 2, yes: args.yes };
        return bulk::each(out, &args.jobs, &bulk, async |client, job| {
            let made = rerun(client, job, &args, None, values.as_ref()).await?;
            submit::tell_hints(&made.job, &Status::new(out, false), |_| None);
            Ok(Some(made.job.id))
        })
        .await;
    }
    let [Selector::One(one)] = args.jobs[..] else {
        let option = if args.follow { "--follow" } else { "an edited specification" };
        return Err(Failure::Usage(format!("{option} is for a single job")));
    };
    let client = Client::new(&config::access()?)?;
    let job = one.resolve(&client).await?;
    let made = if args.edit {
        let edited = edit::edit(job, &specification(&client, job).await?, args.with_file(job))?;
        let answer = rerun(&client, job, &args, Some(&edited.input), values.as_ref()).await;
        edited.keep_unless_done(answer)?
    } else {
        let no_flags = SpecFlags::default();
        let spec = args.spec.as_ref().map(|file| Input::of_file(file, &no_flags, |_| None)).transpose()?;
        rerun(&client, job, &args, spec.as_ref(), values.as_ref()).await?
    };
    let status = Status::new(out, false);
    submit::tell_hints(&made.job, &status, |_| None);
    let part = match made.job.taken_over {
        0 => String::new(),
        n => format!("; it keeps {n} results"),
    };
    out.remark(&format!("job {job} submitted again as job {}{part}", made.job.id));
    if args.follow {
        return submit::show_to_end(&client, out, &made, false).await;
    }
    out.line(&made.job.id.to_string())?;
    Ok(0)
}

impl RerunArgs {
    /// Whether it asks for anything that a server before reruns in part would pass over.
    fn needs_a_recent_server(&self) -> bool {
        self.failed || self.from.is_some() || self.edit || self.spec.is_some()
    }

    /// The command that does the same for one job with the file that is named behind it.
    fn with_file(&self, job: JobId) -> String {
        let from = self.from.as_ref().map(|from| format!(" --from {}", shell_words::quote(from)));
        let options = [
            self.failed.then(|| " --failed".to_owned()),
            from,
            self.follow.then(|| " --follow".to_owned()),
            Some(self.parameters.as_options()),
            Some(" --spec".to_owned()),
        ];
        format!("gaffer rerun {job}{}", options.into_iter().flatten().collect::<String>())
    }
}

/// Refuses a server that would run everything again, without a word.
async fn refuse_older_server() -> Result<(), Failure> {
    let client = Client::new(&config::access()?)?;
    let server: Version = client.read(&["version"], &Query::new()).await?;
    match server.features.iter().any(|feature| feature == RERUN_IN_PART) {
        true => Ok(()),
        false => Err(Failure::Local(format!(
            "the server runs gaffer {}, which can only run a whole job again, as it was; nothing was submitted. Update the server, \
             or leave out --failed, --from, --edit, --spec and -p",
            server.version
        ))),
    }
}

/// What to edit: for a job with parameters, its specification before their values were put in.
async fn specification(client: &Client, job: JobId) -> Result<serde_json::Value, Failure> {
    let number = job.to_string();
    let earlier: Job = client.read(&["jobs", &number], &Query::new()).await?;
    if earlier.parameters.is_empty() {
        return Ok(earlier.spec);
    }
    let source: JobSource = client.read(&["jobs", &number, "source"], &Query::new()).await?;
    Ok(source.spec)
}

async fn rerun(
    client: &Client,
    job: JobId,
    args: &RerunArgs,
    spec: Option<&Input>,
    values: Option<&Given>,
) -> Result<Submitted, Failure> {
    let raw = |document: &Document| {
        RawValue::from_string(document.to_json())
            .map_err(|error| Failure::Local(format!("cannot write the specification as JSON: {error}")))
    };
    let parameters = values.map(|given| raw(&given.values)).transpose()?;
    let spec_as_json = spec.map(|input| raw(&input.spec)).transpose()?;
    let body = Body { failed: args.failed, from: args.from.as_deref(), spec: spec_as_json, parameters };
    let answer = client.post(&["jobs", &job.to_string(), "rerun"], &body).await;
    let answer = answer.map_err(|failure| match failure {
        Failure::Problem(problem) => Failure::Problem(Box::new(explain(*problem, spec, values))),
        failure => failure,
    })?;
    Ok(Submitted { job: answer.read::<Job>()?, page: answer.page })
}

/// The API's complaint with lines of the files and with options.
fn explain(mut problem: Problem, spec: Option<&Input>, values: Option<&Given>) -> Problem {
    for field in &mut problem.errors {
        let below = field.pointer.strip_prefix("/spec");
        let place = match below {
            Some(below) => spec.and_then(|input| input.place(below)),
            None => values.and_then(|given| given.place(&field.pointer)),
        };
        if let Some(place) = place.or_else(|| below.map(str::to_owned)) {
            field.pointer = place;
        }
    }
    problem
}
