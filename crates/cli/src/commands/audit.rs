//! `gaffer audit`: who changed what, and whether that log is intact.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use gaffer_protocol::audit::{Broken, End, NO_HASH};
use gaffer_protocol::rest::{AuditEntry, AuditOutcome};

use crate::client::{Client, Query};
use crate::config;
use crate::failure::Failure;
use crate::listing::{self, Entry, List, Output};
use crate::out::Out;
use crate::table::Cell;
use crate::timestamp;

/// Lines that are asked for at a time.
const LINES: usize = 500;

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
#[command(after_help = "\
Examples:
  gaffer audit --user ana --since 2026-11-01T00:00:00Z
  gaffer audit --target 'job 42'
  gaffer audit export > audit.jsonl
  gaffer audit verify
  gaffer audit verify audit.jsonl")]
pub struct AuditArgs {
    #[command(subcommand)]
    action: Option<AuditAction>,
    #[command(flatten)]
    list: ListArgs,
}

#[derive(Debug, Subcommand)]
enum AuditAction {
    /// List entries, newest first
    List(ListArgs),
    /// Print the log as JSON lines, each with its hash, oldest first
    Export(ExportArgs),
    /// Check that no line was changed, removed or inserted
    #[command(after_help = "\
Each line has the hash of the line before it. A person who can write to the
database could make the whole chain anew, or cut off its end: keep the hash that
this prints, or an export, elsewhere, and compare with --expect.")]
    Verify(VerifyArgs),
}

#[derive(Debug, Args)]
struct ListArgs {
    /// Only changes by this user
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Only this action, such as stop_job
    #[arg(long, value_name = "ACTION")]
    action: Option<String>,
    /// Only what was done to this, such as 'job 42'
    #[arg(long, value_name = "TARGET")]
    target: Option<String>,
    /// Only what ended like this: done, refused, failed or unknown
    #[arg(long, value_name = "OUTCOME")]
    outcome: Option<String>,
    /// Only from this time on
    #[arg(long, value_name = "TIME")]
    since: Option<DateTime<Utc>>,
    /// Only before this time
    #[arg(long, value_name = "TIME")]
    until: Option<DateTime<Utc>>,
    /// List all entries, not only the first page
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    chain: ChainArgs,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
struct ExportArgs {
    /// Only lines after the one with this number
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    after: u64,
    #[command(flatten)]
    chain: ChainArgs,
}

#[derive(Debug, Args)]
struct VerifyArgs {
    /// An export to check [default: the log of the server]
    #[arg(value_name = "FILE", conflicts_with = "installation")]
    file: Option<PathBuf>,
    /// A line that must be there, as an earlier check printed it
    #[arg(long, value_name = "NUMBER:HASH", value_parser = expected)]
    expect: Option<End>,
    #[command(flatten)]
    chain: ChainArgs,
}

#[derive(Debug, Clone, Copy, Args)]
struct ChainArgs {
    /// What belongs to no project
    #[arg(long)]
    installation: bool,
}

impl ChainArgs {
    fn add_to(self, query: &mut Query) {
        if self.installation {
            query.push(("of", "installation".to_owned()));
        }
    }
}

fn expected(text: &str) -> Result<End, String> {
    let (number, hash) = text.split_once(':').ok_or("expected NUMBER:HASH")?;
    let number = number.parse().map_err(|_| "expected NUMBER:HASH")?;
    match hash.len() == NO_HASH.len() && hash.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        true => Ok(End { number, hash: hash.to_ascii_lowercase() }),
        false => Err(format!("expected a hash of {} hexadecimal digits", NO_HASH.len())),
    }
}

/// Runs the command.
///
/// # Errors
/// Errors of the API or the network, an unreadable file, or a log that is not intact.
pub async fn run(args: AuditArgs, out: &Out) -> Result<u8, Failure> {
    match args.action.unwrap_or(AuditAction::List(args.list)) {
        AuditAction::List(args) => list(args, out).await,
        AuditAction::Export(args) => {
            let mut lines = Lines::new(args.chain, args.after)?;
            while let Some(page) = lines.next().await? {
                page.iter().try_for_each(|line| out.line(line))?;
            }
            Ok(0)
        }
        AuditAction::Verify(args) => verify(args, out).await,
    }
}

async fn list(args: ListArgs, out: &Out) -> Result<u8, Failure> {
    let mut query = Query::new();
    let filters = [
        ("user", args.user),
        ("action", args.action),
        ("target", args.target),
        ("outcome", args.outcome),
        ("since", args.since.map(|at| at.to_rfc3339_opts(chrono::SecondsFormat::Secs, true))),
        ("until", args.until.map(|at| at.to_rfc3339_opts(chrono::SecondsFormat::Secs, true))),
    ];
    query.extend(filters.into_iter().filter_map(|(name, value)| Some((name, value?))));
    args.chain.add_to(&mut query);
    let client = Client::new(&config::access()?)?;
    let list = List { path: &["audit"], query, all: args.all };
    listing::show::<AuditEntry>(&client, out, list, args.output.format).await?;
    Ok(0)
}

/// The lines of a chain, page by page.
struct Lines {
    client: Client,
    chain: ChainArgs,
    after: u64,
}

impl Lines {
    fn new(chain: ChainArgs, after: u64) -> Result<Lines, Failure> {
        Ok(Lines { client: Client::new(&config::access()?)?, chain, after })
    }

    async fn next(&mut self) -> Result<Option<Vec<String>>, Failure> {
        let mut query = Query::new();
        query.push(("after", self.after.to_string()));
        query.push(("limit", LINES.to_string()));
        self.chain.add_to(&mut query);
        let answer = self.client.get(&["audit", "lines"], &query).await?;
        let text = String::from_utf8_lossy(&answer.body);
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let Some(last) = lines.last() else { return Ok(None) };
        let number = serde_json::from_str::<AuditEntry>(last).ok().and_then(|entry| entry.number);
        match number.filter(|number| *number > self.after) {
            Some(number) => self.after = number,
            None => {
                return Err(Failure::Garbled {
                    status: None,
                    message: "the API sent lines without a number".to_owned(),
                });
            }
        }
        Ok(Some(lines))
    }
}

/// What was checked.
#[derive(Default)]
struct Checked {
    first: Option<u64>,
    lines: u64,
    end: End,
    /// Whether the expected line was met.
    is_met: bool,
}

impl Checked {
    fn check(&mut self, line: &str, expect: Option<&End>) -> Result<(), Broken> {
        self.end.follow(line)?;
        self.first = self.first.or(Some(self.end.number));
        self.lines += 1;
        if let Some(expect) = expect.filter(|expect| expect.number == self.end.number) {
            if expect.hash != self.end.hash {
                return Err(Broken::Changed { number: expect.number });
            }
            self.is_met = true;
        }
        Ok(())
    }
}

async fn verify(args: VerifyArgs, out: &Out) -> Result<u8, Failure> {
    let (mut checked, expect) = (Checked::default(), args.expect.as_ref());
    match &args.file {
        Some(path) => {
            let unreadable =
                |error: std::io::Error| Failure::Local(format!("cannot read {}: {error}", path.display()));
            for line in BufReader::new(File::open(path).map_err(unreadable)?).lines() {
                checked.check(&line.map_err(unreadable)?, expect).map_err(not_intact)?;
            }
        }
        None => {
            let mut lines = Lines::new(args.chain, 0)?;
            while let Some(page) = lines.next().await? {
                page.iter().try_for_each(|line| checked.check(line, expect)).map_err(not_intact)?;
            }
        }
    }
    if let Some(expect) = expect.filter(|_| !checked.is_met) {
        return Err(Failure::Local(format!(
            "the audit log is not intact: line {} is not in it, which ends with line {}",
            expect.number, checked.end.number
        )));
    }
    match checked.first {
        None => out.note("the audit log is empty"),
        Some(first) => {
            let before = match first {
                1 => String::new(),
                first => format!("; lines before {first} were removed, as its retention says"),
            };
            out.note(&format!("{} lines are intact{before}; the last one:", checked.lines));
            out.line(&format!("{}:{}", checked.end.number, checked.end.hash))?;
        }
    }
    Ok(0)
}

fn not_intact(broken: Broken) -> Failure {
    Failure::Local(format!("the audit log is not intact: {broken}"))
}

impl Entry for AuditEntry {
    const HEAD: &'static [&'static str] =
        &["LINE", "AT", "USER", "ACTION", "TARGET", "OUTCOME", "WITH", "FROM"];
    const WIDE_HEAD: &'static [&'static str] = &["ID", "BEFORE", "AFTER", "DETAIL"];
    const NONE: &'static str = "no entries";

    fn name(&self) -> String {
        self.id.to_string()
    }

    fn cells(&self, now: DateTime<Utc>) -> Vec<Cell> {
        vec![
            Cell::maybe(self.number.map(|number| number.to_string())),
            Cell::text(timestamp::ago(self.at, now)),
            Cell::text(&self.user),
            Cell::text(&self.action),
            Cell::text(&self.target),
            Cell::text(self.outcome.map_or("in progress", AuditOutcome::as_str)),
            Cell::maybe(self.credential.clone()),
            Cell::maybe(self.address.clone()),
        ]
    }

    fn wide_cells(&self, _: DateTime<Utc>) -> Vec<Cell> {
        let json = |value: &Option<serde_json::Value>| value.as_ref().map(ToString::to_string);
        vec![
            Cell::text(self.id.to_string()),
            Cell::maybe(json(&self.before)),
            Cell::maybe(json(&self.after)),
            Cell::maybe(self.detail.clone()),
        ]
    }
}
