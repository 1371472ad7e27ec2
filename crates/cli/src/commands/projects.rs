//! `gaffer projects`: projects and their members.

use std::str::FromStr;

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use gaffer_domain::members::MemberRole;
use gaffer_domain::quantity::{Bytes, Cpu};
use gaffer_protocol::rest::{Member, NewProject, Project, Quotas, SetMember, SetProject, SetQuota};

use crate::client::{Answer, Client, Query};
use crate::config;
use crate::failure::Failure;
use crate::listing::{self, Entry, Format, List, Output};
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
  gaffer projects set lab --weight 300
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
    /// Show one project
    Show(ShowArgs),
    /// Set the weight and the quotas of a project
    #[command(after_help = "\
On shared workers, a project with twice the weight gets twice as much. The
default is 100. Quotas limit what its live tasks have together; other tasks
wait. `none` removes a quota. Only administrators of the installation do this.

Examples:
  gaffer projects set lab --weight 300
  gaffer projects set lab --cpu 8 --memory 16GiB --tasks 50
  gaffer projects set lab --cpu none")]
    Set(SetArgs),
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
struct ShowArgs {
    /// Name of the project
    #[arg(value_name = "NAME")]
    name: String,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
struct SetArgs {
    /// Name of the project
    #[arg(value_name = "NAME")]
    name: String,
    #[command(flatten)]
    terms: TermsArgs,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
struct TermsArgs {
    /// Weight beside other projects on shared workers, 1 to 1000
    #[arg(long, value_name = "NUMBER")]
    weight: Option<u32>,
    /// Processors of its live tasks, e.g. 8, or none
    #[arg(long, value_name = "NUMBER")]
    cpu: Option<Limit<Cpu>>,
    /// Memory of its live tasks, e.g. 16GiB, or none
    #[arg(long, value_name = "BYTES")]
    memory: Option<Limit<Bytes>>,
    /// Number of its live tasks, or none
    #[arg(long, value_name = "NUMBER")]
    tasks: Option<Limit<u32>>,
}

/// A quota, or `none`.
#[derive(Debug, Clone, Copy)]
struct Limit<T>(Option<T>);

impl<T: FromStr> FromStr for Limit<T> {
    type Err = T::Err;

    fn from_str(text: &str) -> Result<Limit<T>, T::Err> {
        match text {
            "none" => Ok(Limit(None)),
            text => text.parse().map(|limit| Limit(Some(limit))),
        }
    }
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
        ProjectsAction::Show(args) => {
            let answer = client.get(&["projects", &args.name], &Query::new()).await?;
            show(out, &answer, args.output.format)?;
        }
        ProjectsAction::Set(args) => {
            let TermsArgs { weight, cpu, memory, tasks } = args.terms;
            let quota = SetQuota {
                cpu: cpu.map(|Limit(cpu)| cpu),
                memory: memory.map(|Limit(memory)| memory),
                tasks: tasks.map(|Limit(tasks)| tasks),
            };
            let quota = Some(quota).filter(|quota| *quota != SetQuota::default());
            let set = SetProject { weight, quota };
            let project: Project = client.patch(&["projects", &args.name], &set).await?.read()?;
            let (name, quotas) = (style::visible(&project.name), quotas(&project.quota).join(", "));
            out.remark(&format!("project {name} has the weight {}, quotas: {quotas}", project.weight));
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

fn show(out: &Out, answer: &Answer, format: Format) -> Result<(), Failure> {
    match format {
        Format::Json | Format::Jsonl => listing::show_answer(out, answer),
        Format::Name => out.line(&style::visible(&answer.read::<Project>()?.name)),
        Format::Table | Format::Wide => out.print(details(out, &answer.read()?).as_bytes()),
    }
}

/// Such as `cpu 3 of 8 in use`, for each quota; `none` without any.
fn quotas(quotas: &Quotas) -> Vec<String> {
    let Quotas { cpu, memory_bytes, tasks, used } = quotas;
    let bytes = |bytes: u64| Bytes(bytes).to_string();
    let limits = [
        ("cpu", cpu.map(|cpu| cpu.to_string()), used.map(|used| used.cpu.to_string())),
        ("memory", memory_bytes.map(bytes), used.map(|used| bytes(used.memory_bytes))),
        ("tasks", tasks.map(|tasks| tasks.to_string()), used.map(|used| used.tasks.to_string())),
    ];
    let told = limits.into_iter().filter_map(|(name, limit, used)| {
        let limit = limit?;
        Some(match used {
            Some(used) => format!("{name} {used} of {limit} in use"),
            None => format!("{name} {limit}"),
        })
    });
    let told: Vec<String> = told.collect();
    if told.is_empty() { vec!["none".to_owned()] } else { told }
}

fn details(out: &Out, project: &Project) -> String {
    let mut text = format!("project {}\n", style::visible(&project.name));
    let mut field = |name: &str, value: &str| {
        text.push_str(&format!("  {} {}\n", out.dim(&format!("{name:<8}")), style::visible(value)));
    };
    if let Some(user) = &project.personal_of {
        field("personal", &format!("of {user}"));
    }
    field("members", &project.members.to_string());
    field("weight", &project.weight.to_string());
    field("quotas", &quotas(&project.quota).join(", "));
    field("created", &timestamp::ago(project.created_at, timestamp::now()));
    text
}

impl Entry for Project {
    const HEAD: &'static [&'static str] = &["NAME", "ROLE", "MEMBERS", "CREATED"];
    const WIDE_HEAD: &'static [&'static str] = &["WEIGHT", "QUOTAS", "PERSONAL OF"];
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
        vec![
            Cell::text(self.weight.to_string()),
            Cell::text(quotas(&self.quota).join(", ")),
            Cell::maybe(self.personal_of.clone()),
        ]
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
