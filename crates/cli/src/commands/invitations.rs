//! `gaffer invitations`: one-time links that make somebody a member.

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use gaffer_domain::members::MemberRole;
use gaffer_domain::quantity::Span;
use gaffer_protocol::rest::{Invitation, NewInvitation};

use crate::client::{Client, Query};
use crate::config;
use crate::failure::Failure;
use crate::listing::{self, Entry, List, Output};
use crate::out::Out;
use crate::style;
use crate::table::Cell;
use crate::timestamp;

/// What to do with invitations.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
#[command(after_help = "\
Examples:
  gaffer invitations create operator          prints a link
  gaffer invitations create viewer --project lab --valid 1d
  gaffer invitations
  gaffer invitations revoke 3")]
pub struct InvitationsArgs {
    #[command(subcommand)]
    action: Option<InvitationsAction>,
    #[command(flatten)]
    list: ListArgs,
}

#[derive(Debug, Subcommand)]
enum InvitationsAction {
    /// List invitations
    List(ListArgs),
    /// Make an invitation and print its link once
    Create(CreateArgs),
    /// Revoke an invitation
    Revoke(RevokeArgs),
}

#[derive(Debug, Args)]
struct ListArgs {
    /// Name of the project [default: that of your key]
    #[arg(long, value_name = "NAME")]
    project: Option<String>,
    /// List all, not only the first page
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
struct CreateArgs {
    /// Role that it gives: viewer, operator or admin
    #[arg(value_name = "ROLE")]
    role: MemberRole,
    /// Name of the project [default: that of your key]
    #[arg(long, value_name = "NAME")]
    project: Option<String>,
    /// How long it is valid, at most 30d [default: 7d]
    #[arg(long, value_name = "TIME")]
    valid: Option<Span>,
}

#[derive(Debug, Args)]
struct RevokeArgs {
    /// Number of the invitation, see `gaffer invitations`
    #[arg(value_name = "ID")]
    id: u64,
}

/// Runs the command.
///
/// # Errors
/// Errors of the API or the network.
pub async fn run(args: InvitationsArgs, out: &Out) -> Result<u8, Failure> {
    let client = Client::new(&config::access()?)?;
    match args.action.unwrap_or(InvitationsAction::List(args.list)) {
        InvitationsAction::List(args) => {
            let query: Query = args.project.into_iter().map(|project| ("project", project)).collect();
            let list = List { path: &["invitations"], query, all: args.all };
            listing::show::<Invitation>(&client, out, list, args.output.format).await?;
        }
        InvitationsAction::Create(args) => {
            let new = NewInvitation { project: args.project, role: args.role.to_string(), valid: args.valid };
            let made: Invitation = client.post(&["invitations"], &new).await?.read()?;
            let url = made.url.ok_or_else(|| Failure::Garbled {
                status: None,
                message:
                    "the API made the invitation but did not return its link: revoke it and make another"
                        .to_owned(),
            })?;
            let project = style::visible(&made.project);
            out.note(&format!(
                "invitation {} to project {project}; works once, expires {}",
                made.id,
                timestamp::local(made.expires_at)
            ));
            out.line(&url)?;
        }
        InvitationsAction::Revoke(args) => {
            client.delete(&["invitations", &args.id.to_string()]).await?;
            out.remark(&format!("invitation {} revoked", args.id));
        }
    }
    Ok(0)
}

impl Entry for Invitation {
    const HEAD: &'static [&'static str] = &["ID", "PROJECT", "ROLE", "STATE", "USED BY", "EXPIRES"];
    const WIDE_HEAD: &'static [&'static str] = &["CREATED BY", "CREATED"];
    const NONE: &'static str = "no invitations";

    fn name(&self) -> String {
        self.id.to_string()
    }

    fn cells(&self, now: DateTime<Utc>) -> Vec<Cell> {
        vec![
            Cell::text(self.id.to_string()),
            Cell::text(&self.project),
            Cell::text(&self.role),
            Cell::text(&self.state),
            Cell::maybe(self.used_by.clone()),
            Cell::text(timestamp::ago(self.expires_at, now)),
        ]
    }

    fn wide_cells(&self, now: DateTime<Utc>) -> Vec<Cell> {
        vec![Cell::text(&self.created_by), Cell::text(timestamp::ago(self.created_at, now))]
    }
}
