//! `gaffer keys`: lists, creates, rotates and revokes keys.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand, ValueEnum};
use gaffer_domain::quantity::Span;
use gaffer_domain::scopes::Scope;
use gaffer_domain::worker::limits::WorkerLimits;
use gaffer_protocol::rest::{Key, NewKey, RotateRequest};

use crate::client::{Client, Query};
use crate::config;
use crate::failure::Failure;
use crate::listing::{self, Entry, List, Output};
use crate::out::Out;
use crate::style;
use crate::table::Cell;
use crate::timestamp;

/// What to do with keys.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
#[command(after_help = "\
Examples:
  gaffer keys
  API_KEY=$(gaffer keys create lab --kind worker)
  API_KEY=$(gaffer keys create pool --kind worker --shared)
  API_KEY=$(gaffer keys create racks --kind enrolment --uses 20 --names 'gpu-*')
  GAFFER_KEY=$(gaffer keys create ci --scope read,submit --expires 30d)
  GAFFER_KEY=$(gaffer keys rotate 3 --overlap 1h)
  gaffer keys revoke 3")]
pub struct KeysArgs {
    #[command(subcommand)]
    action: Option<KeysAction>,
    #[command(flatten)]
    list: ListArgs,
}

#[derive(Debug, Subcommand)]
enum KeysAction {
    /// List keys
    List(ListArgs),
    /// Create a key and print it once
    Create(CreateArgs),
    /// Replace a key with a new one and print that once
    #[command(after_help = "\
The new key has the same name, scopes and lifetime. The old one stays valid for
the overlap; what was opened with it ends then.")]
    Rotate(RotateArgs),
    /// Revoke a key
    Revoke(RevokeArgs),
}

#[derive(Debug, Args)]
struct ListArgs {
    /// List all keys, not only the first page
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Scopes of user keys; none includes another one:
  read     read jobs, output, history and workers
  submit   submit and rerun jobs, update services
  operate  stop, scale and delete jobs, write to tasks, direct workers,
           change templates
  admin    manage keys and secrets

`gaffer run` and `gaffer submit --follow` need read and submit.

A worker sees the tasks that it gets, with their secrets. Only administrators
of the installation create shared keys. Each worker that connects with an
enrolment key gets its own key. In patterns, `*` stands for any characters.")]
struct CreateArgs {
    /// Name of the key
    #[arg(value_name = "NAME", required_unless_present = "name_option")]
    name: Option<String>,
    /// Name of the key
    #[arg(long = "name", id = "name_option", value_name = "NAME", hide = true, conflicts_with = "name")]
    name_option: Option<String>,
    /// Kind of key
    #[arg(long, value_enum, default_value_t = Kind::User)]
    kind: Kind,
    /// Scope of a user key [default: those of your key]
    #[arg(long = "scope", value_name = "SCOPE", value_delimiter = ',')]
    scopes: Vec<Scope>,
    /// Let workers with this key take tasks of all projects
    #[arg(long)]
    shared: bool,
    /// Let them take tasks of these projects, too
    #[arg(long, value_name = "PROJECT", value_delimiter = ',', conflicts_with = "shared")]
    shared_with: Vec<String>,
    /// Lifetime, e.g. 30d [default: until revoked; enrolment 1h]
    #[arg(long, value_name = "TIME")]
    expires: Option<Span>,
    /// Pattern of names that its workers may have, e.g. 'gpu-*'
    #[arg(long, value_name = "PATTERN", value_delimiter = ',')]
    names: Vec<String>,
    /// Label that its workers may have, e.g. rack=3,gpu=*
    #[arg(long, value_name = "LABEL=PATTERN", value_delimiter = ',', value_parser = label)]
    labels: Vec<(String, String)>,
    /// Allow its workers no labels
    #[arg(long, conflicts_with = "labels")]
    no_labels: bool,
    /// Pattern of datacenters that its workers may be in
    #[arg(long, value_name = "PATTERN", value_delimiter = ',')]
    datacenters: Vec<String>,
    /// Number of workers that an enrolment key makes [default: 1]
    #[arg(long, value_name = "N")]
    uses: Option<u32>,
}

impl CreateArgs {
    /// What its workers may claim; none for everything.
    fn limits(&self) -> Option<WorkerLimits> {
        let mut labels: Option<BTreeMap<String, Vec<String>>> = self.no_labels.then(BTreeMap::new);
        for (label, pattern) in &self.labels {
            labels.get_or_insert_default().entry(label.clone()).or_default().push(pattern.clone());
        }
        let limits =
            WorkerLimits { names: self.names.clone(), labels, datacenters: self.datacenters.clone() };
        Some(limits).filter(|limits| !limits.is_empty())
    }
}

fn label(text: &str) -> Result<(String, String), String> {
    let (label, pattern) = text.split_once('=').ok_or("expected LABEL=PATTERN, such as rack=3 or gpu=*")?;
    Ok((label.to_owned(), pattern.to_owned()))
}

#[derive(Debug, Args)]
struct RotateArgs {
    /// Key number, see `gaffer keys list`
    #[arg(value_name = "ID")]
    id: u64,
    /// How long the old key stays valid, at most 30d [default: 1h]
    #[arg(long, value_name = "TIME")]
    overlap: Option<Span>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    /// Lets workers connect
    Worker,
    /// Calls the API
    User,
    /// Lets workers get keys of their own
    Enrolment,
}

#[derive(Debug, Args)]
struct RevokeArgs {
    /// Key number, see `gaffer keys list`
    #[arg(value_name = "ID")]
    id: u64,
}

/// Runs the command.
///
/// # Errors
/// Errors of the API or the network.
pub async fn run(args: KeysArgs, out: &Out) -> Result<u8, Failure> {
    let client = Client::new(&config::access()?)?;
    match args.action.unwrap_or(KeysAction::List(args.list)) {
        KeysAction::List(args) => {
            let list = List { path: &["keys"], query: Query::new(), all: args.all };
            listing::show::<Key>(&client, out, list, args.output.format).await?;
        }
        KeysAction::Create(args) => create(&client, out, args).await?,
        KeysAction::Rotate(args) => {
            let path = ["keys", &args.id.to_string(), "rotate"];
            let key: Key = client.post(&path, &RotateRequest { overlap: args.overlap }).await?.read()?;
            show_once(out, key)?;
        }
        KeysAction::Revoke(args) => {
            client.delete(&["keys", &args.id.to_string()]).await?;
            out.remark(&format!("key {} revoked", args.id));
        }
    }
    Ok(0)
}

async fn create(client: &Client, out: &Out, args: CreateArgs) -> Result<(), Failure> {
    let kind = match args.kind {
        Kind::Worker => "worker",
        Kind::User => "user",
        Kind::Enrolment => "enrolment",
    };
    let limits = args.limits();
    let wanted = NewKey {
        kind: kind.to_owned(),
        name: args.name.or(args.name_option).unwrap_or_default(),
        scopes: (!args.scopes.is_empty()).then(|| args.scopes.iter().map(Scope::to_string).collect()),
        shared: args.shared || !args.shared_with.is_empty(),
        shared_with: (!args.shared_with.is_empty()).then_some(args.shared_with),
        expires_in_seconds: args.expires.map(|span| span.as_millis().div_ceil(1000)),
        limits,
        uses: args.uses,
    };
    show_once(out, client.post(&["keys"], &wanted).await?.read()?)
}

/// Only the key goes to standard output, for scripts; the rest goes to standard error.
fn show_once(out: &Out, key: Key) -> Result<(), Failure> {
    let secret = key.key.ok_or_else(|| Failure::Garbled {
        status: None,
        message: "the API created the key but did not return it: revoke it and create another".to_owned(),
    })?;
    let until = key.expires_at.map(|at| format!(", expires {}", timestamp::local(at))).unwrap_or_default();
    let scopes = match key.scopes.as_slice() {
        [] => String::new(),
        scopes => format!(", scopes {}", style::visible(&scopes.join(", "))),
    };
    let uses = key.uses_left.map(|uses| format!(", for {uses} worker{}", if uses == 1 { "" } else { "s" }));
    let limits = key.limits.as_ref().map(|limits| format!(", {}", style::visible(&limits.to_string())));
    let more = [uses, limits].into_iter().flatten().collect::<String>();
    let (kind, name) = (style::visible(&key.kind), style::visible(&key.name));
    out.note(&format!(
        "{kind} key {} ({name}){scopes}{more}{until}; store it now, it is not shown again",
        key.id
    ));
    out.line(&secret)
}

fn kind(key: &Key) -> String {
    match (key.shared, &key.shared_with) {
        (false, _) => key.kind.clone(),
        (true, None) => format!("{}, shared", key.kind),
        (true, Some(projects)) => format!("{}, shared with {}", key.kind, projects.join(", ")),
    }
}

impl Entry for Key {
    const HEAD: &'static [&'static str] =
        &["ID", "NAME", "KIND", "SCOPES", "KEY", "STATE", "EXPIRES", "LAST USED", "FROM"];
    const WIDE_HEAD: &'static [&'static str] =
        &["CREATED", "REVOKED", "REPLACED BY", "WORKER", "USES LEFT", "LIMITS"];
    const NONE: &'static str = "no keys";

    fn name(&self) -> String {
        self.id.to_string()
    }

    fn cells(&self, now: DateTime<Utc>) -> Vec<Cell> {
        let state = match (self.revoked_at, self.expires_at) {
            (Some(_), _) => "revoked",
            (None, Some(expiry)) if expiry <= now => "expired",
            (None, _) if self.uses_left == Some(0) => "used",
            _ => "valid",
        };
        vec![
            Cell::text(self.id.to_string()),
            Cell::text(&self.name),
            Cell::text(kind(self)),
            Cell::maybe((!self.scopes.is_empty()).then(|| self.scopes.join(","))),
            Cell::text(format!("{}…", self.prefix)),
            Cell::text(state),
            Cell::maybe(self.expires_at.map(|at| timestamp::ago(at, now))),
            Cell::maybe(self.last_used_at.map(|at| timestamp::ago(at, now))),
            Cell::maybe(self.last_used_from.clone()),
        ]
    }

    fn wide_cells(&self, now: DateTime<Utc>) -> Vec<Cell> {
        vec![
            Cell::text(timestamp::ago(self.created_at, now)),
            Cell::maybe(self.revoked_at.map(|at| timestamp::ago(at, now))),
            Cell::maybe(self.replaced_by.map(|key| key.to_string())),
            Cell::maybe(self.worker.clone()),
            Cell::maybe(self.uses_left.map(|uses| uses.to_string())),
            Cell::maybe(self.limits.as_ref().map(WorkerLimits::to_string)),
        ]
    }
}
