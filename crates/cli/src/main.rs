//! The program `gaffer`: servers and client commands.

mod access;
mod args;
mod attach;
mod backoff;
mod client;
mod commands;
mod config;
mod document_file;
mod exit;
mod failure;
mod follow;
mod later;
mod line_times;
mod listing;
mod login;
mod matches;
mod ndjson;
mod open_files;
mod out;
mod parameters;
mod selector;
mod sgr;
mod signals;
mod sink;
mod spec_flags;
mod spec_input;
mod sse;
mod start;
mod status;
mod stdin;
mod style;
mod table;
mod timestamp;
mod words;
mod yaml;

use std::process::ExitCode;

use args::Command;
use clap::CommandFactory as _;
use gaffer_worker::config::ApiKey;

use commands::server::WorkerArgs;
use failure::Failure;
use later::Later;
use out::Out;

fn main() -> ExitCode {
    let args = words::read();
    // Before anything is opened.
    let begun = args.as_ref().map_or(Ok(None), |args| start::begin(&args.command));
    let Ok(out) = Out::of_process() else { return ExitCode::from(exit::GAFFER_FAILED) };
    let args = match args {
        Ok(args) => args,
        Err(failure) => return leave(&out, &failure, failure::USAGE),
    };
    // Fails only if there is a provider already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let general = args.command.general_exit_code();
    match begun.and_then(|key| carry_out(args.command, key.as_ref(), &out)) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => leave(&out, &failure, general),
    }
}

/// Prints an error.
fn leave(out: &Out, failure: &Failure, general: u8) -> ExitCode {
    if !failure.is_silent() {
        let text = failure.to_string();
        let lines: Vec<_> = text.lines().map(style::visible).collect();
        out.note(&format!("gaffer: {}", lines.join("\n")));
    }
    ExitCode::from(failure.exit_code(general))
}

/// The servers use all processors; a client command needs one thread, which starts sooner. `key`: what the supervisor of a
/// worker hands to its agents.
fn carry_out(command: Command, key: Option<&ApiKey>, out: &Out) -> Result<u8, Failure> {
    match command {
        Command::Dev(Later(args)) => commands::dev::run(args, out),
        Command::Master(Later(config)) => commands::server::master(*config, out),
        Command::Worker(WorkerArgs::Serve(config)) => commands::server::worker(*config, key, out),
        Command::Executor => commands::server::executor(),
        Command::Watchdog => commands::server::watchdog(),
        Command::Schema => commands::schema::run(out),
        Command::Bench(args) => commands::bench::run(&args, out),
        Command::BenchLoad(args) => commands::bench::load::run(&args, out),
        Command::Completion(args) => commands::completion::run(&args, args::Args::command(), out),
        command => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|error| Failure::Local(format!("cannot start: {error}")))?;
            let done = runtime.block_on(call(command, out));
            // A write that its reader does not take must not keep us.
            runtime.shutdown_background();
            done
        }
    }
}

async fn call(command: Command, out: &Out) -> Result<u8, Failure> {
    match command {
        Command::Run(Later(args)) => commands::run::run(args, out).await,
        Command::Submit(Later(args)) => commands::submit::run(args, out).await,
        Command::Jobs(args) => commands::jobs::run(args, out).await,
        Command::Job(args) => commands::job::run(args, out).await,
        Command::Logs(args) => commands::logs::run(args, out).await,
        Command::Wait(args) => commands::wait::run(args, out).await,
        Command::Stop(args) => commands::stop::run(args, out).await,
        Command::Versions(args) => commands::versions::list(args, out).await,
        Command::Rollback(args) => commands::versions::roll_back(args, out).await,
        Command::Promote(args) => commands::versions::promote(args, out).await,
        Command::Diff(args) => commands::versions::diff(args, out).await,
        Command::Scale(args) => commands::scale::run(args, out).await,
        Command::Templates(args) => commands::templates::run(args, out).await,
        Command::Rerun(args) => commands::rerun::run(args, out).await,
        Command::Delete(args) => commands::delete::run(args, out).await,
        Command::Pin(args) => commands::pin::run(args, "pin", out).await,
        Command::Unpin(args) => commands::pin::run(args, "unpin", out).await,
        Command::Explain(args) => commands::explain::run(args, out).await,
        Command::Health(args) => commands::health::run(args, out).await,
        Command::Ports(args) => commands::ports::run(args, out).await,
        Command::Queue(args) => commands::queue::run(args, out).await,
        Command::Simulate(args) => commands::simulate::run(&args, out).await,
        Command::Events(args) => commands::events::run(args, out).await,
        Command::Workers(args) => commands::workers::list(args, out).await,
        Command::Worker(WorkerArgs::Act(action)) => commands::workers::act(action, out).await,
        Command::Retention(args) => commands::retention::run(args, out).await,
        Command::Secrets(args) => commands::secrets::run(args, out).await,
        Command::Keys(args) => commands::keys::run(args, out).await,
        Command::Projects(args) => commands::projects::run(args, out).await,
        Command::Invitations(args) => commands::invitations::run(args, out).await,
        Command::Sessions(args) => commands::sessions::run(args, out).await,
        Command::Users(args) => commands::users::run(args, out).await,
        Command::System(args) => commands::system::run(args, out).await,
        Command::Audit(args) => commands::audit::run(args, out).await,
        Command::DeadLetters(args) => commands::dead_letters::run(args, out).await,
        Command::Login(args) => commands::login::run(args, out).await,
        Command::Dashboard => commands::dashboard::run(out).await,
        Command::Doctor(args) => commands::doctor::run(args, out).await,
        Command::Backup(args) => commands::backup::back_up(args, out).await,
        Command::Restore(args) => commands::backup::restore(args, out).await,
        Command::Version(args) => commands::version::run(args, out).await,
        // These need no client.
        Command::Worker(WorkerArgs::Serve(_))
        | Command::Completion(_)
        | Command::Schema
        | Command::Bench(_)
        | Command::BenchLoad(_)
        | Command::Dev(_)
        | Command::Executor
        | Command::Watchdog
        | Command::Master(_) => Ok(0),
    }
}
