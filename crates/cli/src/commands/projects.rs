//! `gaffer projects`: projects and their members.

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use gaffer_domain::members::MemberRole;
use gaffer_protocol::rest::{Member, NewProject, Project, SetMember};

use crate::client::{Client, Query};
use crate::config;
use crate::failure::Failure;
use crate::listing::{self, Entry, List, Output};
use crate::out::Out;
use crate::style;
use crate::table::Cell;
use crate::timestamp;

/// What to do with projects.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
#[command(after_help = "\
Examples:
  gaffer projects
  gaffer projects create lab
  gaffer projects members lab
  gaffer projects set-member lab ana operator
  gaffer projects remove-member lab ana
  gaffer projects delete lab --confirm lab

A key belongs to one project and sees that one alone. Administrators of the
installation see all projects.")]
pub struct ProjectsArgs {
    #[command(subcommand)]
    action: Option<ProjectsAction>,
    #[command(flatten)]
    list: ListArgs,
}

#[derive(Debug, Subcommand)]
enum ProjectsAction {
    /// List projects
    List(ListArgs),
    /// Create a project
    Create(NameArgs),
    /// Rename a project
    Rename(RenameArgs),
    /// Delete a project
    Delete(DeleteArgs),
    /// List the members of a project
    Members(MembersArgs),
    /// Add a member, or change the role of one
    SetMember(SetMemberArgs),
    /// Remove a member
    RemoveMember(RemoveMemberArgs),
}

#[derive(Debug, Args)]
struct ListArgs {
    /// List all, not only the first page
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
struct NameArgs {
    /// Name of the project
    #[arg(value_name = "NAME")]
    name: String,
}

#[derive(Debug, Args)]
struct RenameArgs {
    /// Name of the project
    #[arg(value_name = "NAME")]
    name: String,
    /// New name
    #[arg(value_name = "NEW")]
    new: String,
}

#[derive(Debug, Args)]
struct DeleteArgs {
    /// Name of the project
    #[arg(value_name = "NAME")]
    name: String,
    /// The name again, to delete all that it has with it
    #[arg(long, value_name = "NAME")]
    confirm: Option<String>,
}

#[derive(Debug, Args)]
struct MembersArgs {
    /// Name of the project
    #[arg(value_name = "PROJECT")]
    project: String,
    #[command(flatten)]
    list: ListArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Roles; each may do what the one before it may:
  viewer    read jobs, output, history and workers
  operator  run and stop jobs, direct workers, change templates
  admin     manage members and keys of workers")]
struct SetMemberArgs {
    /// Name of the project
    #[arg(value_name = "PROJECT")]
    project: String,
    /// Name of the user
    #[arg(value_name = "USER")]
    user: String,
    /// Their role: viewer, operator or admin
    #[arg(value_name = "ROLE")]
    role: MemberRole,
}

#[derive(Debug, Args)]
struct RemoveMemberArgs {
    /// Name of the project
    #[arg(value_name = "PROJECT")]
    project: String,
    /// Name of the user
    #[arg(value_name = "USER")]
    user: String,
}

/// Runs the command.
///
/// # Errors
/// Errors of the API or the network.
pub async fn run(args: ProjectsArgs, out: &Out) -> Result<u8, Failure> {
    let client = Client::new(&config::access()?)?;
    match args.action.unwrap_or(ProjectsAction::List(args.list)) {
        ProjectsAction::List(args) => {
            let list = List { path: &["projects"], query: Query::new(), all: args.all };
            listing::show::<Project>(&client, out, list, args.output.format).await?;
        }
        ProjectsAction::Create(args) => {
            let new = NewProject { name: args.name };
            let project: Project = client.post(&["projects"], &new).await?.read()?;
            out.remark(&format!("project {} created", style::visible(&project.name)));
        }
        ProjectsAction::Rename(args) => {
            let new = NewProject { name: args.new };
            let project: Project = client.post(&["projects", &args.name, "rename"], &new).await?.read()?;
            out.remark(&format!("project {} renamed to {}", args.name, style::visible(&project.name)));
        }
        ProjectsAction::Delete(args) => {
            client.delete_confirmed(&["projects", &args.name], args.confirm).await?;
            out.remark(&format!("project {} deleted", args.name));
        }
        ProjectsAction::Members(args) => {
            let path = ["projects", &args.project, "members"];
            let list = List { path: &path, query: Query::new(), all: args.list.all };
            listing::show::<Member>(&client, out, list, args.list.output.format).await?;
        }
        ProjectsAction::SetMember(args) => {
            let role = SetMember { role: args.role.to_string() };
            let path = ["projects", &args.project, "members", &args.user];
            let member: Member = client.post(&path, &role).await?.read()?;
            let (user, role) = (style::visible(&member.user), style::visible(&member.role));
            out.remark(&format!("{user} is {role} of project {}", args.project));
        }
        ProjectsAction::RemoveMember(args) => {
            client.delete(&["projects", &args.project, "members", &args.user]).await?;
            out.remark(&format!("{} is no member of project {} any more", args.user, args.project));
        }
    }
    Ok(0)
}

impl Entry for Project {
    const HEAD: &'static [&'static str] = &["NAME", "ROLE", "MEMBERS", "CREATED"];
    const WIDE_HEAD: &'static [&'static str] = &["PERSONAL OF"];
    const NONE: &'static str = "no projects";

    fn name(&self) -> String {
        self.name.clone()
    }

    fn cells(&self, now: DateTime<Utc>) -> Vec<Cell> {
        vec![
            Cell::text(&self.name),
            Cell::maybe(self.role.clone()),
            Cell::text(self.members.to_string()),
            Cell::text(timestamp::ago(self.created_at, now)),
        ]
    }

    fn wide_cells(&self, _: DateTime<Utc>) -> Vec<Cell> {
        vec![Cell::maybe(self.personal_of.clone())]
    }
}

impl Entry for Member {
    const HEAD: &'static [&'static str] = &["USER", "ROLE", "STATE", "SINCE"];
    const WIDE_HEAD: &'static [&'static str] = &["MADE BY"];
    const NONE: &'static str = "no members";

    fn name(&self) -> String {
        self.user.clone()
    }

    fn cells(&self, now: DateTime<Utc>) -> Vec<Cell> {
        vec![
            Cell::text(&self.user),
            Cell::text(&self.role),
            Cell::text(if self.disabled { "disabled" } else { "enabled" }),
            Cell::text(timestamp::ago(self.since, now)),
        ]
    }

    fn wide_cells(&self, _: DateTime<Utc>) -> Vec<Cell> {
        vec![Cell::text(if self.by_groups { "groups" } else { "hand" })]
    }
}
