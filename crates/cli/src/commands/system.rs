//! `gaffer system`: shows database problems and background loops.

use chrono::{DateTime, Utc};
use clap::Args;
use gaffer_protocol::rest::{BackgroundLoop, System, Trouble};

use crate::client::{Client, Query};
use crate::config;
use crate::failure::Failure;
use crate::listing::{self, Format, Output};
use crate::out::Out;
use crate::style;
use crate::table::{self, Cell};
use crate::timestamp;

/// How to show it.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  gaffer system
  gaffer system -o json")]
pub struct SystemArgs {
    #[command(flatten)]
    output: Output,
}

/// Runs the command.
///
/// # Errors
/// Errors of the API or the network.
pub async fn run(args: SystemArgs, out: &Out) -> Result<u8, Failure> {
    let client = Client::new(&config::access()?)?;
    let answer = client.get(&["system"], &Query::new()).await?;
    match args.output.format {
        Format::Json | Format::Jsonl => listing::show_answer(out, &answer)?,
        Format::Name => {
            for one in &answer.read::<System>()?.loops {
                out.line(&one.name)?;
            }
        }
        Format::Table | Format::Wide => show(&answer.read()?, out)?,
    }
    Ok(0)
}

fn show(system: &System, out: &Out) -> Result<(), Failure> {
    let now = Utc::now();
    for line in troubles(system, now) {
        out.line(&format!("✗ {line}"))?;
    }
    if let Some(problem) = &system.secrets.problem {
        out.line(&format!("✗ secrets cannot be used: {}", style::visible(problem)))?;
    }
    match system.tls.as_ref().map(|tls| (&tls.problem, tls.expires_at)) {
        Some((Some(problem), _)) => out.line(&format!("✗ {}", style::visible(problem)))?,
        Some((None, Some(at))) => {
            out.line(&format!("✓ the TLS certificate is valid until {}", at.format("%Y-%m-%d")))?;
        }
        Some((None, None)) | None => {}
    }
    if system.has_dead_letters {
        out.line("✗ there are dead letters: gaffer dead-letters list")?;
    }
    if system.database_trouble.is_none() {
        out.line("✓ the database accepts writes")?;
    }
    if let Some(key) = &system.secrets.key {
        let old = match system.secrets.on_old_keys {
            0 => String::new(),
            old => format!("; {old} are still on an old key of the list"),
        };
        out.line(&format!("✓ secrets are encrypted with the master key {}{old}", style::visible(key)))?;
    }
    let rows = system.loops.iter().map(|one| row(one, now)).collect();
    let head = ["LOOP", "LAST RUN", "DURATION", "RESULT", "RUNS"];
    out.print(table::render(out, &head, rows).as_bytes())
}

/// Current problems, one sentence each.
pub fn troubles(system: &System, now: DateTime<Utc>) -> Vec<String> {
    let since = |at| timestamp::ago(at, now);
    let mut lines = Vec::new();
    let of = |what: &str, trouble: &Trouble| {
        format!("{what} since {}: {}", since(trouble.since), style::visible(&trouble.message))
    };
    lines.extend(system.database_trouble.as_ref().map(|trouble| of("the database refuses writes", trouble)));
    lines.extend(system.change_trouble.as_ref().map(|trouble| of("some writes are waiting", trouble)));
    lines.extend(system.locked_jobs.iter().map(|locked| {
        format!("job {} is locked by another transaction since {}", locked.job, since(locked.since))
    }));
    lines.extend(system.loops.iter().filter_map(|one| {
        let error = style::visible(one.last_run_error.as_deref()?);
        Some(format!(
            "the background loop {} is failing since {}: {error}",
            one.name,
            since(one.failing_since?)
        ))
    }));
    lines
}

fn row(one: &BackgroundLoop, now: DateTime<Utc>) -> Vec<Cell> {
    let result = match (&one.last_run_error, one.last_run_done) {
        (Some(error), _) => error.clone(),
        (None, Some(0)) => "nothing to do".to_owned(),
        (None, done) => done.map(|done| format!("{done} done")).unwrap_or_default(),
    };
    vec![
        Cell::text(&one.name),
        Cell::maybe(one.last_run_at.map(|at| timestamp::ago(at, now))),
        Cell::maybe(one.last_run_seconds.map(|seconds| format!("{:.1} ms", seconds * 1_000.0))),
        Cell::text(result),
        Cell::text(one.runs.to_string()),
    ]
}
