//! `gaffer keys`: lists, creates and revokes keys.

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand, ValueEnum};
use gaffer_domain::quantity::Span;
use gaffer_protocol::rest::{Key, NewKey};

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
#[command(after_help = "\
Examples:
  gaffer keys list
  API_KEY=$(gaffer keys create --kind worker --name lab)
  gaffer keys revoke 3")]
pub struct KeysArgs {
    #[command(subcommand)]
    action: KeysAction,
}

#[derive(Debug, Subcommand)]
enum KeysAction {
    /// List keys
    List(ListArgs),
    /// Create a key and print it once
    Create(CreateArgs),
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
struct CreateArgs {
    /// Kind of key
    #[arg(long, value_enum)]
    kind: Kind,
    /// Name of the key
    #[arg(long, value_name = "NAME")]
    name: String,
    /// Lifetime, e.g. 30d [default: until revoked]
    #[arg(long, value_name = "TIME")]
    expires: Option<Span>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    /// Lets workers connect
    Worker,
    /// Calls the API
    User,
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
    match args.action {
        KeysAction::List(args) => {
            let list = List { path: &["keys"], query: Query::new(), all: args.all };
            listing::show::<Key>(&client, out, list, args.output.format).await?;
        }
        KeysAction::Create(args) => create(&client, out, args).await?,
        KeysAction::Revoke(args) => {
            client.delete(&["keys", &args.id.to_string()]).await?;
            out.remark(&format!("key {} revoked", args.id));
        }
    }
    Ok(0)
}

/// Only the key goes to standard output, for scripts; the rest goes to standard error.
async fn create(client: &Client, out: &Out, args: CreateArgs) -> Result<(), Failure> {
    let kind = match args.kind {
        Kind::Worker => "worker",
        Kind::User => "user",
    };
    let expires_in_seconds = args.expires.map(|span| span.as_millis().div_ceil(1000));
    let wanted = NewKey { kind: kind.to_owned(), name: args.name, expires_in_seconds };
    let key: Key = client.post(&["keys"], &wanted).await?.read()?;
    let secret = key.key.ok_or_else(|| Failure::Garbled {
        status: None,
        message: "the API created the key but did not return it: revoke it and create another".to_owned(),
    })?;
    let until = key.expires_at.map(|at| format!(", expires {}", timestamp::local(at))).unwrap_or_default();
    let name = style::visible(&key.name);
    out.note(&format!("{kind} key {} ({name}){until}; store it now, it is not shown again", key.id));
    out.line(&secret)
}

impl Entry for Key {
    const HEAD: &'static [&'static str] = &["ID", "NAME", "KIND", "KEY", "STATE", "CREATED", "LAST USED"];
    const WIDE_HEAD: &'static [&'static str] = &["EXPIRES", "REVOKED"];
    const NONE: &'static str = "no keys";

    fn name(&self) -> String {
        self.id.to_string()
    }

    fn cells(&self, now: DateTime<Utc>) -> Vec<Cell> {
        let state = match (self.revoked_at, self.expires_at) {
            (Some(_), _) => "revoked",
            (None, Some(expiry)) if expiry <= now => "expired",
            _ => "valid",
        };
        vec![
            Cell::text(self.id.to_string()),
            Cell::text(&self.name),
            Cell::text(&self.kind),
            Cell::text(format!("{}…", self.prefix)),
            Cell::text(state),
            Cell::text(timestamp::ago(self.created_at, now)),
            Cell::maybe(self.last_used_at.map(|at| timestamp::ago(at, now))),
        ]
    }

    fn wide_cells(&self, now: DateTime<Utc>) -> Vec<Cell> {
        vec![
            Cell::maybe(self.expires_at.map(|at| timestamp::ago(at, now))),
            Cell::maybe(self.revoked_at.map(|at| timestamp::ago(at, now))),
        ]
    }
}
