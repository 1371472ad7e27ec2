//! The command line.

use clap::{Parser, Subcommand};
use gaffer_master::config::MasterConfig;

use crate::commands::audit::AuditArgs;
use crate::commands::backup::{BackupArgs, RestoreArgs};
use crate::commands::bench::BenchArgs;
use crate::commands::bench::load::LoadArgs;
use crate::commands::completion::CompletionArgs;
use crate::commands::dead_letters::DeadLettersArgs;
use crate::commands::delete::DeleteArgs;
use crate::commands::dev::DevArgs;
use crate::commands::doctor::DoctorArgs;
use crate::commands::events::EventsArgs;
use crate::commands::explain::ExplainArgs;
use crate::commands::health::HealthArgs;
use crate::commands::invitations::InvitationsArgs;
use crate::commands::job::JobArgs;
use crate::commands::jobs::JobsArgs;
use crate::commands::keys::KeysArgs;
use crate::commands::login::LoginArgs;
use crate::commands::logs::LogsArgs;
use crate::commands::pin::PinArgs;
use crate::commands::ports::PortsArgs;
use crate::commands::projects::ProjectsArgs;
use crate::commands::queue::QueueArgs;
use crate::commands::rerun::RerunArgs;
use crate::commands::retention::RetentionArgs;
use crate::commands::run::RunArgs;
use crate::commands::scale::ScaleArgs;
use crate::commands::secrets::SecretsArgs;
use crate::commands::server::WorkerArgs;
use crate::commands::sessions::SessionsArgs;
use crate::commands::simulate::SimulateArgs;
use crate::commands::stop::StopArgs;
use crate::commands::submit::SubmitArgs;
use crate::commands::system::SystemArgs;
use crate::commands::templates::TemplatesArgs;
use crate::commands::users::UsersArgs;
use crate::commands::version::VersionArgs;
use crate::commands::versions::{DiffArgs, PromoteArgs, RollbackArgs, VersionsArgs};
use crate::commands::wait::WaitArgs;
use crate::commands::workers::WorkersArgs;
use crate::later::Later;

/// Run commands on any of your machines
#[derive(Debug, Parser)]
#[command(
    name = "gaffer",
    version,
    max_term_width = 110,
    after_help = "\
First steps:
  gaffer dev                    run gaffer on this machine, with a dashboard
  gaffer run -- uname -a        in another terminal: run a command
  gaffer logs -f 42             follow the output of job 42

Client commands use GAFFER_URL and GAFFER_KEY, else the stored login, else a running `gaffer dev`. NO_COLOR \
turns colours off. `run`, `submit`, `logs`, `wait`, `events -f` and `rerun --follow` retry for GAFFER_RETRY_FOR \
while the API is unreachable. Like workers, they connect \
through HTTPS_PROXY, HTTP_PROXY or ALL_PROXY (except to NO_PROXY), and verify the server against GAFFER_TLS_CA if set.

Exit codes: 0; 2 usage; 3 not found; 4 not allowed; 5 conflict; 1 anything else. \
`run`, `wait`, and `submit` and `rerun` when they wait, exit as the job does, or with 125 if gaffer failed."
)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

impl Args {
    /// The whole command line with the options of all commands.
    pub fn described() -> clap::Command {
        let mut command = <Args as clap::CommandFactory>::command();
        command.build();
        command
    }
}

/// The commands, in the order of the help.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a command on a worker and stream its output
    Run(Later<RunArgs>),
    /// Submit a job and print its number
    Submit(Later<SubmitArgs>),
    /// List jobs
    Jobs(JobsArgs),
    /// Show one job with its tasks
    Job(JobArgs),
    /// Show the output of a job or a task
    Logs(LogsArgs),
    /// Wait until jobs have finished
    Wait(WaitArgs),
    /// Stop jobs
    Stop(StopArgs),
    /// Scale services
    Scale(ScaleArgs),
    /// List the versions of a service
    Versions(VersionsArgs),
    /// Go back to an earlier version of a service
    Rollback(RollbackArgs),
    /// Let the update of a service go on after its canaries
    Promote(PromoteArgs),
    /// Show what submitting a service would change
    Diff(DiffArgs),
    /// Save specifications under a name, to submit jobs from them
    #[command(visible_alias = "template")]
    Templates(TemplatesArgs),
    /// Submit finished jobs again
    Rerun(RerunArgs),
    /// Delete finished jobs and their output
    Delete(DeleteArgs),
    /// Keep jobs for ever, whatever their retention is
    Pin(PinArgs),
    /// Let pinned jobs expire again
    Unpin(PinArgs),
    /// Explain why a job is waiting
    Explain(ExplainArgs),
    /// Show what the health checks of a task say
    Health(HealthArgs),
    /// Show where the tasks of a job or service are reached
    Ports(PortsArgs),
    /// Show the queue and the scheduler
    Queue(QueueArgs),
    /// Simulate a workload under each placement strategy
    Simulate(SimulateArgs),
    /// Show events
    Events(EventsArgs),
    /// List workers
    Workers(WorkersArgs),
    /// Run a worker, or manage one
    Worker(WorkerArgs),
    /// Preview what retention removes
    Retention(RetentionArgs),
    /// List, create, rotate and revoke API keys
    Keys(KeysArgs),
    /// Show who changed what, and check that log
    Audit(AuditArgs),
    /// Manage projects and their members
    #[command(visible_alias = "project")]
    Projects(ProjectsArgs),
    /// Invite people to a project
    #[command(visible_alias = "invite")]
    Invitations(InvitationsArgs),
    /// List and end your browser sessions
    Sessions(SessionsArgs),
    /// Manage the users of the installation
    #[command(visible_alias = "user")]
    Users(UsersArgs),
    /// List, set and delete secrets
    #[command(visible_alias = "secret")]
    Secrets(SecretsArgs),
    /// Show database problems and background loops
    System(SystemArgs),
    /// List, retry and delete dead letters
    DeadLetters(DeadLettersArgs),
    /// Store the server's URL and an API key
    Login(LoginArgs),
    /// Create a sign-in link for the dashboard
    Dashboard,
    /// Diagnose common problems
    Doctor(DoctorArgs),
    /// Back up the private database of a master into a file
    Backup(BackupArgs),
    /// Restore a backup into a data directory
    Restore(RestoreArgs),
    /// Measure speed, beside the limits of this machine
    Bench(Later<BenchArgs>),
    /// Show the client's and the server's version
    Version(VersionArgs),
    /// Print the JSON Schema of a job's specification
    #[command(after_help = crate::commands::schema::EXAMPLES)]
    Schema,
    /// Generate a shell completion script
    Completion(CompletionArgs),
    /// Run database, master and worker on this machine
    Dev(Later<DevArgs>),
    /// Run a master
    Master(Later<Box<MasterConfig>>),
    /// Own the attempts of a worker (started by the worker)
    #[command(hide = true)]
    Executor,
    /// Watch an executor (started by the executor)
    #[command(hide = true)]
    Watchdog,
    /// Write output (started by jobs of gaffer bench)
    #[command(hide = true)]
    BenchLoad(LoadArgs),
}

impl Command {
    /// The exit code for failures that have none of their own: commands that exit as a job does keep 1 for the job, and a
    /// measurement says with it that gaffer failed.
    pub fn general_exit_code(&self) -> u8 {
        let as_the_job = match self {
            Command::Run(_) | Command::Wait(_) | Command::Bench(_) => true,
            Command::Submit(args) => args.is_attached(),
            Command::Rerun(args) => args.follow,
            _ => false,
        };
        if as_the_job { crate::exit::GAFFER_FAILED } else { 1 }
    }
}

#[cfg(test)]
mod settings;

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use clap::error::ErrorKind;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    /// Whether `-h` says in a line what a command or an option is. A default may stand after it.
    fn is_a_line(help: &str) -> bool {
        let text = help.split(" [default").next().unwrap_or_default();
        let begins_well = text.starts_with(|first: char| first.is_uppercase());
        begins_well && text.chars().count() <= 60 && !text.contains('\n') && !text.ends_with('.')
    }

    /// The commands and options of which `-h` does not say in a line what they are.
    fn others(command: &clap::Command, path: &str, found: &mut Vec<String>) {
        let options = command.get_arguments().filter(|option| !option.is_hide_set());
        let helps = options.map(|option| (format!("{path} {}", option.get_id()), option.get_help()));
        let about = (path.to_owned(), command.get_about());
        for (name, help) in helps.chain([about]) {
            let help = help.map(ToString::to_string).unwrap_or_default();
            if !is_a_line(&help) {
                found.push(format!("{name}: {help}"));
            }
        }
        for command in command.get_subcommands() {
            others(command, &format!("{path} {}", command.get_name()), found);
        }
    }

    #[test]
    fn short_help_is_a_line() {
        let mut found = Vec::new();
        others(&Args::described(), "gaffer", &mut found);
        assert_eq!(found, Vec::<String>::new());
    }

    #[test]
    fn what_is_typed_is_understood() {
        let understood = [
            "run -- uname -a",
            "run --cpu 2 make -j4 --always-make",
            "run --script x.sh",
            "submit job.yaml",
            "submit -",
            "submit --wait -- sleep 1",
            "submit --script -",
            "jobs --state failed,cancelled -l a=b -o jsonl --all",
            "job last -o json",
            "logs -f 42.train.7",
            "logs 42 --task train.7 --tail 10 --stream stderr -t",
            "wait 1 2-5 last --timeout 10m",
            "stop 1-20 -y",
            "scale web=5 42/app=0",
            "versions web",
            "rollback web --to 3",
            "promote 42",
            "diff web.yaml",
            "submit --dry-run web.yaml",
            "submit --new web.yaml",
            "rerun last --follow",
            "rerun 42 --failed --from train --edit",
            "submit --each-line files --array %4 -- x",
            "submit --each a --each b -- x",
            "run --each-worker --array %10 --constraint os==linux -- uptime",
            "rerun 42 --spec job.yaml",
            "delete 7 -y",
            "worker drain pi4 --deadline 1h --wait",
            "worker cordon pi4",
            "queue -o json",
            "simulate --history --since 7d",
            "worker remove pi4",
            "worker",
            "keys",
            "keys -o json --all",
            "keys create --kind worker --name lab --expires 30d",
            "keys create ci --scope read,submit --scope operate",
            "keys rotate 3 --overlap 90m",
            "projects",
            "projects set-member lab ana operator",
            "projects members lab -o json",
            "project delete lab --confirm lab",
            "users -o name",
            "users create ana --admin",
            "user disable ana",
            "users reset-password ana",
            "invitations",
            "invitations create viewer --project lab --valid 1d",
            "sessions end 3",
            "sessions end --all",
            "secrets",
            "secrets -o json",
            "secrets set DB_PASSWORD",
            "secrets set --exact TLS_KEY",
            "secrets rm DB_PASSWORD",
            "run --secret DB_PASSWORD --secret TOKEN -- x",
            "events -f 42",
            "system -o json",
            "dead-letters list --job 42",
            "dead-letters retry 7",
            "schema",
            "completion zsh",
            "bench",
            "bench throughput latency --rounds 3 --tasks 1000 -o json",
            "bench --history 0,1000000 --statistics without",
            "simulate trace.csv 4x8:16GiB:100GiB --strategy epvm --json",
            "backup /backups/ -o json",
            "backup --force --data-dir d gaffer.backup",
            "restore --replace gaffer.backup",
            "restore --prepare 2026-11-29T03:00:00Z",
            "master",
            "dev",
        ];
        for line in understood {
            let words = std::iter::once("gaffer").chain(line.split(' '));
            assert!(Args::try_parse_from(words).is_ok(), "{line}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let refused = [
            "run",
            "run --script x.sh -- y",
            "submit",
            "submit a.yaml -- x",
            "submit --wait --follow a.yaml",
            "jobs --state done",
            "jobs --limit 501",
            "logs 42 --lines 5-1",
            "stop",
            "stop x",
            "scale",
            "scale web",
            "keys create --kind robot --name x",
            "keys create --scope read",
            "keys create ci --scope root",
            "keys --all revoke 3",
            "projects set-member lab ana owner",
            "projects create",
            "users disable",
            "invitations create",
            "invitations create owner",
            "sessions end",
            "sessions end 3 --all",
            "run --count 2 --array 0-1 -- x",
            "run --count 2 --each a -- x",
            "run --each a --each-line b -- x",
            "run --each-worker --each a -- x",
            "run --each-worker -i -- x",
            "rerun 42 --edit --spec job.yaml",
            "bench speed",
            "bench --rounds 0",
            "bench -o wide",
            "backup",
            "restore",
            "restore --force gaffer.backup",
            "restore --prepare yesterday",
            "restore --prepare 2026-11-29T03:00:00Z gaffer.backup",
        ];
        for line in refused {
            let words = std::iter::once("gaffer").chain(line.split(' '));
            let refusal = Args::try_parse_from(words).map(|_| ()).map_err(|error| error.exit_code());
            assert_eq!(refusal, Err(2), "{line}");
        }
        let slip = Args::try_parse_from(["gaffer", "jbos"]).map(|_| ()).map_err(|error| error.kind());
        assert_eq!(slip, Err(ErrorKind::InvalidSubcommand));
    }
}
