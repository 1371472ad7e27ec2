//! `gaffer users`: the users of the installation.

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use gaffer_protocol::rest::{LoginLink, NewUser, User};
use serde_json::json;

use crate::client::{Client, Query};
use crate::config;
use crate::failure::Failure;
use crate::listing::{self, Entry, List, Output};
use crate::out::Out;
use crate::style;
use crate::table::Cell;
use crate::timestamp;

/// What to do with users.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
#[command(after_help = "\
Examples:
  gaffer users
  gaffer users create ana                  prints a link that signs ana in
  gaffer users disable ana
  gaffer users login-link ana
  gaffer users reset-password ana
  gaffer users delete ana --confirm ana

Only administrators of the installation manage users.")]
pub struct UsersArgs {
    #[command(subcommand)]
    action: Option<UsersAction>,
    #[command(flatten)]
    list: ListArgs,
}

#[derive(Debug, Subcommand)]
enum UsersAction {
    /// List users
    List(ListArgs),
    /// Create a user and print a sign-in link
    Create(CreateArgs),
    /// Refuse the sessions and keys of a user
    Disable(UserArgs),
    /// Accept the sessions and keys of a user again
    Enable(UserArgs),
    /// Let a user administer the installation
    GrantAdmin(UserArgs),
    /// End a user's administration of the installation
    RevokeAdmin(UserArgs),
    /// Print a link that signs a user in once
    LoginLink(UserArgs),
    /// Print a link with which a user sets a password
    ResetPassword(UserArgs),
    /// Delete a user
    Delete(DeleteArgs),
}

#[derive(Debug, Args)]
struct ListArgs {
    /// List all users, not only the first page
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
struct CreateArgs {
    /// Name of the user
    #[arg(value_name = "NAME")]
    name: String,
    /// Let the user administer the installation
    #[arg(long)]
    admin: bool,
}

#[derive(Debug, Args)]
struct UserArgs {
    /// Name of the user
    #[arg(value_name = "NAME")]
    name: String,
}

#[derive(Debug, Args)]
struct DeleteArgs {
    /// Name of the user
    #[arg(value_name = "NAME")]
    name: String,
    /// The name again, to delete what the personal project has
    #[arg(long, value_name = "NAME")]
    confirm: Option<String>,
}

/// Runs the command.
///
/// # Errors
/// Errors of the API or the network.
pub async fn run(args: UsersArgs, out: &Out) -> Result<u8, Failure> {
    let client = Client::new(&config::access()?)?;
    match args.action.unwrap_or(UsersAction::List(args.list)) {
        UsersAction::List(args) => {
            let list = List { path: &["users"], query: Query::new(), all: args.all };
            listing::show::<User>(&client, out, list, args.output.format).await?;
        }
        UsersAction::Create(args) => {
            let new = NewUser { name: args.name, admin: args.admin };
            let user: User = client.post(&["users"], &new).await?.read()?;
            let link = user.login_url.ok_or_else(|| Failure::Garbled {
                status: None,
                message: "the API created the user but returned no sign-in link: get one by `gaffer users login-link`"
                    .to_owned(),
            })?;
            out.note(&format!(
                "user {} created; the link works once, within a day",
                style::visible(&user.name)
            ));
            out.line(&link)?;
        }
        UsersAction::Disable(args) => change(&client, out, &args.name, "disable", "disabled").await?,
        UsersAction::Enable(args) => change(&client, out, &args.name, "enable", "enabled").await?,
        UsersAction::GrantAdmin(args) => {
            change(&client, out, &args.name, "grant-admin", "an administrator of the installation").await?;
        }
        UsersAction::RevokeAdmin(args) => {
            let what = "no administrator of the installation any more";
            change(&client, out, &args.name, "revoke-admin", what).await?;
        }
        UsersAction::LoginLink(args) => link(&client, out, &args.name, "login-link").await?,
        UsersAction::ResetPassword(args) => link(&client, out, &args.name, "reset-password").await?,
        UsersAction::Delete(args) => {
            client.delete_confirmed(&["users", &args.name], args.confirm).await?;
            out.remark(&format!("user {} deleted", args.name));
        }
    }
    Ok(0)
}

async fn link(client: &Client, out: &Out, user: &str, verb: &str) -> Result<(), Failure> {
    let link: LoginLink = client.post(&["users", user, verb], &json!({})).await?.read()?;
    out.line(&link.url)?;
    out.remark(&format!("works once, expires {}", timestamp::local(link.expires_at)));
    Ok(())
}

async fn change(client: &Client, out: &Out, user: &str, verb: &str, what: &str) -> Result<(), Failure> {
    client.post(&["users", user, verb], &json!({})).await?;
    out.remark(&format!("user {user} is {what}"));
    Ok(())
}

impl Entry for User {
    const HEAD: &'static [&'static str] = &["NAME", "ADMIN", "STATE", "LAST USED", "CREATED"];
    const WIDE_HEAD: &'static [&'static str] = &[];
    const NONE: &'static str = "no users";

    fn name(&self) -> String {
        self.name.clone()
    }

    fn cells(&self, now: DateTime<Utc>) -> Vec<Cell> {
        vec![
            Cell::text(&self.name),
            Cell::text(if self.admin { "yes" } else { "no" }),
            Cell::text(if self.disabled_at.is_some() { "disabled" } else { "enabled" }),
            Cell::maybe(self.last_used_at.map(|at| timestamp::ago(at, now))),
            Cell::text(timestamp::ago(self.created_at, now)),
        ]
    }

    fn wide_cells(&self, _: DateTime<Utc>) -> Vec<Cell> {
        Vec::new()
    }
}
