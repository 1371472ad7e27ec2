//! `gaffer events`: shows the history of a job or a project, and follows it.

use chrono::{DateTime, Utc};
use clap::Args;
use futures::StreamExt;
use gaffer_protocol::output::Stream;
use gaffer_protocol::rest::Event;

use crate::backoff::Backoff;
use crate::client::{Client, Query};
use crate::config;
use crate::failure::Failure;
use crate::listing::{self, Entry, Format, List, Output};
use crate::ndjson::Lines;
use crate::out::Out;
use crate::selector::One;
use crate::sse::{Message, Messages};
use crate::status::Status;
use crate::style;
use crate::table::Cell;
use crate::timestamp;

/// Which events to show.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  gaffer events 42
  gaffer events -f
  gaffer events -f -o jsonl | jq .message")]
pub struct EventsArgs {
    /// Only events of this job (number or last)
    #[arg(value_name = "JOB")]
    job: Option<One>,
    /// Follow events as they happen
    #[arg(short, long)]
    follow: bool,
    /// List all events, not only the first page
    #[arg(long, conflicts_with = "follow")]
    all: bool,
    #[command(flatten)]
    output: Output,
}

/// Runs the command.
///
/// # Errors
/// Errors of the API or the network.
pub async fn run(args: EventsArgs, out: &Out) -> Result<u8, Failure> {
    let client = Client::new(&config::access()?)?;
    let number = match args.job {
        Some(job) => Some(job.resolve(&client).await?.to_string()),
        None => None,
    };
    let path: &[&str] = match &number {
        Some(number) => &["jobs", number, "events"],
        None => &["events"],
    };
    if args.follow {
        follow(&client, out, path, args.output.format).await?;
    } else {
        let list = List { path, query: Query::new(), all: args.all };
        listing::show::<Event>(&client, out, list, args.output.format).await?;
    }
    Ok(0)
}

/// Resumes after the last seen event when the connection is lost. Runs until the process ends.
async fn follow(client: &Client, out: &Out, path: &[&str], format: Format) -> Result<(), Failure> {
    let status = Status::new(out, false);
    let mut patience = Backoff::for_a_job();
    let mut last = None;
    loop {
        let failure = match client.open(path, &Query::new(), "text/event-stream", last).await {
            Err(failure) => failure,
            Ok(response) => {
                let (mut pieces, mut lines, mut messages) =
                    (response.bytes_stream(), Lines::default(), Messages::default());
                let mut broken = None;
                while let Some(piece) = pieces.next().await {
                    match piece {
                        Ok(piece) => lines.feed(&piece, |line| match messages.line(line) {
                            Some(message) if message.is_error => Err(failure_of(&message)),
                            Some(message) => {
                                patience.relax();
                                last = message.id.or(last);
                                show(out, &message, format)
                            }
                            None => Ok(()),
                        })?,
                        Err(error) => {
                            broken = Some(client.unreachable(&error));
                            break;
                        }
                    }
                }
                broken.unwrap_or_else(|| {
                    Failure::Unreachable(format!("{} closed the connection", client.address()))
                })
            }
        };
        patience.endure(failure, |failure| status.note(&format!("{failure}; retrying"))).await?;
    }
}

/// Why the server ends the stream.
fn failure_of(message: &Message) -> Failure {
    match serde_json::from_str(&message.data) {
        Ok(problem) => Failure::Problem(problem),
        Err(error) => {
            Failure::Garbled { status: None, message: format!("unreadable error in the stream: {error}") }
        }
    }
}

fn show(out: &Out, message: &Message, format: Format) -> Result<(), Failure> {
    if matches!(format, Format::Json | Format::Jsonl) {
        return out.line(&message.data);
    }
    // Other SSE events are keepalives, or come from a later version.
    let Ok(event) = serde_json::from_str::<Event>(&message.data) else { return Ok(()) };
    if format == Format::Name {
        return out.line(&event.name());
    }
    let whom =
        [event.job.map(|job| job.to_string()), event.task.clone()].into_iter().flatten().collect::<Vec<_>>();
    let time = style::paint(&timestamp::local(event.at), style::Colour::Dim, out.has_colours(Stream::Stdout));
    let text = [whom.join("."), event.kind, event.message]
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>();
    out.line(&format!("{time}  {}", style::visible(&text.join("  "))))
}

impl Entry for Event {
    const HEAD: &'static [&'static str] = &["TIME", "EVENT", "JOB", "TASK", "WORKER", "MESSAGE"];
    const WIDE_HEAD: &'static [&'static str] = &["ID", "ATTEMPT", "BY"];
    const NONE: &'static str = "no events";

    fn name(&self) -> String {
        self.id.to_string()
    }

    fn cells(&self, _: DateTime<Utc>) -> Vec<Cell> {
        vec![
            Cell::dim(timestamp::local(self.at)),
            Cell::text(&self.kind),
            Cell::maybe(self.job.map(|job| job.to_string())),
            Cell::maybe(self.task.as_ref()),
            Cell::maybe(self.worker.as_ref()),
            Cell::text(&self.message),
        ]
    }

    fn wide_cells(&self, _: DateTime<Utc>) -> Vec<Cell> {
        vec![
            Cell::text(self.id.to_string()),
            Cell::maybe(self.attempt.map(|attempt| attempt.to_string())),
            Cell::text(&self.actor),
        ]
    }
}
