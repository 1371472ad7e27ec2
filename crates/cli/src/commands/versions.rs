//! `gaffer versions`, `rollback`, `promote` and `diff`: versions of services.

use std::path::Path;

use chrono::{DateTime, Utc};
use clap::Args;
use gaffer_domain::spec::JobKind;
use gaffer_domain::versions::{difference_line, differences};
use gaffer_protocol::rest::{
    FieldDifference, Job, JobVersions, PromoteRequest, RollbackRequest, ServiceDiff,
};
use serde_json::{Value, json};

use crate::client::{Client, Query};
use crate::config;
use crate::failure::Failure;
use crate::out::Out;
use crate::parameters::ParameterFlags;
use crate::selector::One;
use crate::spec_flags::SpecFlags;
use crate::spec_input::{Input, Wanted};
use crate::style;
use crate::table::{self, Cell};
use crate::timestamp;

/// Which service.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  gaffer versions web
  gaffer versions 42")]
pub struct VersionsArgs {
    /// Number of a job, last, or the name of a running service
    #[arg(value_name = "JOB|NAME")]
    service: String,
}

/// Which service, and where to.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  gaffer rollback web
  gaffer rollback web --to 3

The earlier version becomes the next one. Instances are replaced as its `update` says.")]
pub struct RollbackArgs {
    /// Number of a job, last, or the name of a running service
    #[arg(value_name = "JOB|NAME")]
    service: String,
    /// The version [default: the latest before the present that was not taken back itself]
    #[arg(long, value_name = "VERSION")]
    to: Option<u32>,
    /// Only if this is still the present version
    #[arg(long, value_name = "VERSION")]
    after: Option<u32>,
}

/// Which service.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  gaffer promote web
  gaffer promote web --version 3

With `auto_promote: false`, an update waits after its canaries until a user promotes it.")]
pub struct PromoteArgs {
    /// Number of a job, last, or the name of a running service
    #[arg(value_name = "JOB|NAME")]
    service: String,
    /// Only if this is still the present version
    #[arg(long, value_name = "VERSION")]
    version: Option<u32>,
}

/// What to compare.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  gaffer diff web.yaml        what submitting this file would change
  gaffer diff web.yaml -p mode=fast    the same with values for its parameters
  gaffer diff 42 43           how two jobs differ

Exit codes: 0 if nothing differs, 1 if something does.")]
pub struct DiffArgs {
    /// File of a service, or number of a job
    #[arg(value_name = "FILE|JOB")]
    first: String,
    /// Number of another job
    #[arg(value_name = "JOB")]
    second: Option<One>,
    #[command(flatten)]
    parameters: ParameterFlags,
}

/// The job of a service's name or number.
///
/// # Errors
/// Errors of the API or the network.
async fn job_of(client: &Client, service: &str) -> Result<String, Failure> {
    if let Ok(job) = service.parse::<One>() {
        return Ok(job.resolve(client).await?.to_string());
    }
    let job: Job = client.read(&["services", service], &Query::new()).await?;
    Ok(job.id.to_string())
}

/// Lists the versions of a service.
///
/// # Errors
/// Errors of the API or the network.
pub async fn list(args: VersionsArgs, out: &Out) -> Result<u8, Failure> {
    let client = Client::new(&config::access()?)?;
    let job = job_of(&client, &args.service).await?;
    let versions: JobVersions = client.read(&["jobs", &job, "versions"], &Query::new()).await?;
    let now: DateTime<Utc> = timestamp::now();
    let before = versions.items.iter().skip(1).map(|version| Some(&version.spec)).chain([None]);
    let rows = versions.items.iter().zip(before).map(|(version, before)| {
        let changed = before.map(|before| differences(before, &version.spec));
        let fields = changed.map(|changed| changed.into_iter().map(|one| one.field).collect::<Vec<_>>());
        let what = match (version.message.as_str(), fields) {
            ("", fields) => fields.unwrap_or_default().join(", "),
            (message, _) => message.to_owned(),
        };
        vec![
            Cell::text(version.version.to_string()),
            Cell::text(timestamp::ago(version.created_at, now)),
            Cell::text(&version.created_by),
            Cell::text(what),
        ]
    });
    out.print(table::render(out, &["VERSION", "SUBMITTED", "BY", "CHANGES"], rows.collect()).as_bytes())?;
    Ok(0)
}

/// Goes back to an earlier version.
///
/// # Errors
/// Errors of the API or the network.
pub async fn roll_back(args: RollbackArgs, out: &Out) -> Result<u8, Failure> {
    let client = Client::new(&config::access()?)?;
    let job = job_of(&client, &args.service).await?;
    let request = json!(RollbackRequest { to: args.to, after: args.after });
    let job: Job = client.post(&["jobs", &job, "rollback"], &request).await?.read()?;
    out.line(&job.id.to_string())?;
    out.remark(&format!("job {} is updated to version {}", job.id, job.version));
    Ok(0)
}

/// Lets an update continue.
///
/// # Errors
/// Errors of the API or the network.
pub async fn promote(args: PromoteArgs, out: &Out) -> Result<u8, Failure> {
    let client = Client::new(&config::access()?)?;
    let job = job_of(&client, &args.service).await?;
    let request = json!(PromoteRequest { version: args.version });
    let job: Job = client.post(&["jobs", &job, "promote"], &request).await?.read()?;
    out.line(&job.id.to_string())?;
    Ok(0)
}

/// Compares a file with the running service of its name, or two jobs.
///
/// # Errors
/// Errors of the API or the network.
pub async fn diff(args: DiffArgs, out: &Out) -> Result<u8, Failure> {
    let client = Client::new(&config::access()?)?;
    let found = match (args.first.parse::<One>(), args.second) {
        (Ok(_), Some(_)) if !args.parameters.is_empty() => {
            return Err(Failure::Usage("jobs have values for their parameters: -p is for a file".to_owned()));
        }
        (Ok(first), Some(second)) => {
            let mut specs = Vec::new();
            for job in [first, second] {
                let job = job.resolve(&client).await?.to_string();
                specs.push(client.read::<Job>(&["jobs", &job], &Query::new()).await?.spec);
            }
            differences(&specs[0], &specs[1])
                .into_iter()
                .map(|one| FieldDifference { field: one.field, before: one.before, after: one.after })
                .collect()
        }
        (Ok(_), None) => return Err(Failure::Usage("name a second job, or a file".to_owned())),
        (Err(_), Some(_)) => {
            return Err(Failure::Usage("a file is compared with the running service of its name".to_owned()));
        }
        (Err(_), None) => {
            let wanted = Wanted::File(Path::new(&args.first).to_owned());
            let mut input = wanted.input(&SpecFlags::default(), config::passed_on)?;
            input.values = args.parameters.read()?;
            let Some(name) = service_name(&input) else {
                return Err(Failure::Usage(format!("{} is no service with a `name`", args.first)));
            };
            preview(&client, &name, &input).await?.differences
        }
    };
    show(out, &found)?;
    Ok(u8::from(!found.is_empty()))
}

/// The name of a service, if a specification is of one and names it.
pub fn service_name(input: &Input) -> Option<String> {
    let spec: Value = serde_json::from_str(&input.spec.to_json()).ok()?;
    let kind = spec.get("type").and_then(Value::as_str);
    let is_kept_running =
        JobKind::ALL.into_iter().any(|of| of.is_kept_running() && Some(of.as_str()) == kind);
    spec.get("name").and_then(Value::as_str).filter(|_| is_kept_running).map(str::to_owned)
}

/// What submitting a service would change.
///
/// # Errors
/// What the API or the network says, in terms of the input.
pub async fn preview(client: &Client, name: &str, input: &Input) -> Result<ServiceDiff, Failure> {
    let answer =
        client.post(&["services", name, "diff"], &input.body()?).await.map_err(|failure| match failure {
            Failure::Problem(problem) => Failure::Problem(Box::new(input.explain(*problem))),
            other => other,
        })?;
    answer.read()
}

/// `tasks.web.env.MODE: "a" → "b"`, one line for each field.
///
/// # Errors
/// When standard output is closed.
pub fn show(out: &Out, differences: &[FieldDifference]) -> Result<(), Failure> {
    if differences.is_empty() {
        out.remark("nothing differs");
    }
    for FieldDifference { field, before, after } in differences {
        let line = difference_line(field, before, after, usize::MAX);
        out.line(&style::visible(&line))?;
    }
    Ok(())
}
