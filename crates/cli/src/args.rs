//! The command line.

use clap::{Parser, Subcommand};
use gaffer_master::config::MasterConfig;

use crate::commands::completion::CompletionArgs;
use crate::commands::dead_letters::DeadLettersArgs;
use crate::commands::delete::DeleteArgs;
use crate::commands::dev::DevArgs;
use crate::commands::doctor::DoctorArgs;
use crate::commands::events::EventsArgs;
use crate::commands::explain::ExplainArgs;
use crate::commands::job::JobArgs;
use crate::commands::jobs::JobsArgs;
use crate::commands::keys::KeysArgs;
use crate::commands::login::LoginArgs;
use crate::commands::logs::LogsArgs;
use crate::commands::queue::QueueArgs;
use crate::commands::rerun::RerunArgs;
use crate::commands::run::RunArgs;
use crate::commands::server::WorkerArgs;
use crate::commands::simulate::SimulateArgs;
use crate::commands::stop::StopArgs;
use crate::commands::submit::SubmitArgs;
use crate::commands::system::SystemArgs;
use crate::commands::version::VersionArgs;
use crate::commands::wait::WaitArgs;
use crate::commands::workers::WorkersArgs;

/// Runs commands on any of your machines as easily as on this one.
#[derive(Debug, Parser)]
#[command(
    name = "gaffer",
    version,
    max_term_width = 110,
    after_help = "\
First steps:
  gaffer dev                    a whole gaffer on this machine, with a dashboard
  gaffer run -- uname -a        in another terminal: run a command, see its output
  gaffer logs -f 42             the output of job 42

Client commands find the API by GAFFER_URL and GAFFER_KEY, else by `gaffer login`, else by a running `gaffer dev`. They \
use no colours if NO_COLOR is set. `run`, `submit`, `logs`, `wait`, `events -f` and `rerun --follow` keep trying for \
GAFFER_RETRY_FOR when it can't be reached. Like workers, they go \
through HTTPS_PROXY, HTTP_PROXY or ALL_PROXY (except to NO_PROXY), and verify the server against GAFFER_TLS_CA if set.

Exit codes: 0; 2 wrong usage; 3 not found; 4 not allowed; 5 does not apply in the present state; 1 anything else. \
`run`, `wait`, and `submit` and `rerun` when they wait, exit as the job does, or with 125 if gaffer failed."
)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands, in the order of the help.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a command on some worker: its output here, its exit code here
    Run(RunArgs),
    /// Submit a job and get its number
    Submit(SubmitArgs),
    /// List jobs
    Jobs(JobsArgs),
    /// Show one job with its tasks
    Job(JobArgs),
    /// Show the output of a job or a task
    Logs(LogsArgs),
    /// Wait until jobs are over; the exit code says how
    Wait(WaitArgs),
    /// Stop jobs
    Stop(StopArgs),
    /// Submit jobs again
    Rerun(RerunArgs),
    /// Delete jobs that are over, with their output
    Delete(DeleteArgs),
    /// Say why a job waits, worker by worker
    Explain(ExplainArgs),
    /// Show what waits for workers, in the order in which it will go, and how the scheduler does
    Queue(QueueArgs),
    /// Say what would become of a load under each way to choose workers
    Simulate(SimulateArgs),
    /// Show the history
    Events(EventsArgs),
    /// List workers
    Workers(WorkersArgs),
    /// Run a worker on this machine; or show, drain, cordon, resume or remove one
    Worker(WorkerArgs),
    /// List, make and revoke keys
    Keys(KeysArgs),
    /// Show troubles with the database and how background loops are doing
    System(SystemArgs),
    /// List, retry and delete what the database refused
    DeadLetters(DeadLettersArgs),
    /// Keep an address and a key for the commands that follow
    Login(LoginArgs),
    /// Make a link that signs in to the dashboard
    Dashboard,
    /// Diagnose common problems
    Doctor(DoctorArgs),
    /// Show the versions of this program and of the server
    Version(VersionArgs),
    /// Print the JSON Schema of a job's specification
    #[command(after_help = crate::commands::schema::EXAMPLES)]
    Schema,
    /// Print what a shell needs to complete commands
    Completion(CompletionArgs),
    /// Run everything on this machine: database, master, worker
    Dev(DevArgs),
    /// Run a master
    Master(Box<MasterConfig>),
    /// Keep the attempts of a worker, which starts this by itself
    #[command(hide = true)]
    Executor,
    /// Watchdog an executor, which starts this by itself
    #[command(hide = true)]
    Watchdog,
}

impl Command {
    /// The exit code for failures that have none of their own: commands that exit as a job does keep 1 for the job.
    pub fn general_exit_code(&self) -> u8 {
        let as_the_job = match self {
            Command::Run(_) | Command::Wait(_) => true,
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
            "rerun last --follow",
            "delete 7 -y",
            "worker drain pi4 --deadline 1h --wait",
            "worker cordon pi4",
            "queue -o json",
            "simulate --history --since 7d",
            "worker remove pi4",
            "worker",
            "keys create --kind worker --name lab --expires 30d",
            "events -f 42",
            "system -o json",
            "dead-letters list --job 42",
            "dead-letters retry 7",
            "schema",
            "completion zsh",
            "simulate trace.csv 4x8:16GiB:100GiB --strategy epvm --json",
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
            "keys",
            "keys create --kind robot --name x",
            "run --count 2 --array 0-1 -- x",
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
