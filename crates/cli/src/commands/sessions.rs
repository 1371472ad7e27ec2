//! `gaffer sessions`: the browser sessions of the key's user.

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use gaffer_protocol::rest::Session;

use crate::client::{Client, Query};
use crate::config;
use crate::failure::Failure;
use crate::listing::{self, Entry, List, Output};
use crate::out::Out;
use crate::table::Cell;
use crate::timestamp;

/// What to do with browser sessions.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
#[command(after_help = "\
Examples:
  gaffer sessions
  gaffer sessions end 3
  gaffer sessions end --all")]
pub struct SessionsArgs {
    #[command(subcommand)]
    action: Option<SessionsAction>,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Subcommand)]
enum SessionsAction {
    /// List your browser sessions
    List(ListArgs),
    /// Sign browsers out
    End(EndArgs),
}

#[derive(Debug, Args)]
struct ListArgs {
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
struct EndArgs {
    /// Number of the session, see `gaffer sessions`
    #[arg(value_name = "ID", required_unless_present = "all", conflicts_with = "all")]
    id: Option<u64>,
    /// End all of them
    #[arg(long)]
    all: bool,
}

/// Runs the command.
///
/// # Errors
/// Errors of the API or the network.
pub async fn run(args: SessionsArgs, out: &Out) -> Result<u8, Failure> {
    let client = Client::new(&config::access()?)?;
    match args.action.unwrap_or(SessionsAction::List(ListArgs { output: args.output })) {
        SessionsAction::List(args) => {
            let list = List { path: &["sessions"], query: Query::new(), all: false };
            listing::show::<Session>(&client, out, list, args.output.format).await?;
        }
        SessionsAction::End(EndArgs { id: Some(id), .. }) => {
            client.delete(&["sessions", &id.to_string()]).await?;
            out.remark(&format!("session {id} ended"));
        }
        SessionsAction::End(_) => {
            client.delete(&["sessions"]).await?;
            out.remark("all sessions ended");
        }
    }
    Ok(0)
}

impl Entry for Session {
    const HEAD: &'static [&'static str] = &["ID", "ADDRESS", "PROJECT", "LAST USED", "CREATED", "BROWSER"];
    const WIDE_HEAD: &'static [&'static str] = &[];
    const ONLY_IF_ANY: &'static [&'static str] = &["PROJECT"];
    const NONE: &'static str = "no browser sessions";

    fn name(&self) -> String {
        self.id.to_string()
    }

    fn cells(&self, now: DateTime<Utc>) -> Vec<Cell> {
        vec![
            Cell::text(self.id.to_string()),
            Cell::maybe(self.address.clone()),
            Cell::maybe(self.project.clone()),
            Cell::text(timestamp::ago(self.last_used_at, now)),
            Cell::text(timestamp::ago(self.created_at, now)),
            Cell::maybe(self.browser.clone()),
        ]
    }

    fn wide_cells(&self, _: DateTime<Utc>) -> Vec<Cell> {
        Vec::new()
    }
}
