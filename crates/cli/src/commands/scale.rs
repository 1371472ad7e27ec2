//! `gaffer scale`: keeps another number of instances of a service.

use std::str::FromStr;

use clap::Args;
use gaffer_protocol::output::Stream;
use gaffer_protocol::rest::{Job, ScaleRequest};
use serde_json::json;

use crate::client::Client;
use crate::config;
use crate::failure::Failure;
use crate::out::Out;
use crate::selector::One;
use crate::style;

/// What to scale.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  gaffer scale web=5
  gaffer scale 42=0
  gaffer scale web/proxy=2 web/app=6

Fewer instances: those with the highest indices get their stop signal; after the grace period, everything they started is
killed. More instances: those that were stopped run again, and new ones are added. The service is kept with 0 instances, too.
Scaling lasts until the service ends; the job's specification stays as it was submitted.")]
pub struct ScaleArgs {
    /// Service and its number of instances: web=5, 42=5, web/TASK=5
    #[arg(required = true, value_name = "SERVICE[/TASK]=N")]
    scales: Vec<Scale>,
}

/// `SERVICE[/TASK]=N`
#[derive(Debug, Clone, PartialEq, Eq)]
struct Scale {
    /// Number of a job, `last`, or the name of a running service.
    service: String,
    task: Option<String>,
    count: u32,
}

impl FromStr for Scale {
    type Err = String;

    fn from_str(text: &str) -> Result<Scale, String> {
        let expected = || "expected SERVICE=N, such as web=5, or SERVICE/TASK=N".to_owned();
        let (target, count) = text.rsplit_once('=').ok_or_else(expected)?;
        let count = count.parse().map_err(|_| format!("{count:?} is not a number of instances"))?;
        // The name of a service may have a slash, that of a task has none.
        let (service, task) = match target.rsplit_once('/') {
            Some((service, task)) => (service, Some(task.to_owned())),
            None => (target, None),
        };
        if service.is_empty() || task.as_ref().is_some_and(String::is_empty) {
            return Err(expected());
        }
        Ok(Scale { service: service.to_owned(), task, count })
    }
}

/// Runs the command.
///
/// # Errors
/// Errors of the API or the network.
pub async fn run(args: ScaleArgs, out: &Out) -> Result<u8, Failure> {
    let client = Client::new(&config::access()?)?;
    for scale in &args.scales {
        let (kind, name) = match scale.service.parse::<One>() {
            Ok(job) => ("jobs", job.resolve(&client).await?.to_string()),
            Err(_) => ("services", scale.service.clone()),
        };
        let request = json!(ScaleRequest { task: scale.task.clone(), count: scale.count });
        let job: Job = client.post(&[kind, &name, "scale"], &request).await?.read()?;
        match out.is_terminal(Stream::Stdout) {
            false => out.line(&job.id.to_string())?,
            true => {
                let what = style::visible(scale.task.as_deref().unwrap_or(&job.name)).into_owned();
                out.line(&format!("job {}: {what} is kept at {}", job.id, instances(scale.count)))?;
            }
        }
    }
    Ok(0)
}

fn instances(count: u32) -> String {
    match count {
        1 => "1 instance".to_owned(),
        count => format!("{count} instances"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_named_by_name_or_number_and_its_task_behind_a_slash() {
        let read = |text: &str| text.parse::<Scale>();
        let scale = |service: &str, task: Option<&str>, count| {
            Ok(Scale { service: service.to_owned(), task: task.map(str::to_owned), count })
        };
        assert_eq!(read("web=5"), scale("web", None, 5));
        assert_eq!(read("42/app=0"), scale("42", Some("app"), 0));
        assert_eq!(read("team/web/app=2"), scale("team/web", Some("app"), 2));
        for text in ["", "web", "web=", "=3", "web/=3", "/app=3", "web=-1", "web=many", "web=1.5"] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
