//! `gaffer backup` and `gaffer restore`: the private database of a master as one file, and back.

use std::path::PathBuf;
use std::time::Instant;

use clap::{Args, ValueEnum};
use gaffer_master::backup::{self, BackupError, Progress};
use gaffer_master::config::{default_data_dir, postgres_settings};
use gaffer_master::embedded_postgres::Settings;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::commands::workers::size;
use crate::config;
use crate::failure::Failure;
use crate::out::Out;
use crate::signals::Signals;
use crate::status::Status;

/// Whose database, and how the result is shown.
#[derive(Debug, Args)]
struct Target {
    /// Data directory of the master or of gaffer dev
    ///
    /// The default is /var/lib/gaffer as root, else ~/.local/share/gaffer.
    #[arg(long, env = "GAFFER_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Directory of the Postgres programs [default: search for it]
    #[arg(long, env = "GAFFER_PG_BIN", value_name = "DIR")]
    pg_bin: Option<PathBuf>,
    /// Output format
    #[arg(short = 'o', long = "output", value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    format: Format,
}

/// How the result is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// One line
    Table,
    /// JSON
    Json,
}

/// Where a backup goes.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  gaffer backup /backups/gaffer.backup
  gaffer backup /backups/            a new file, named by the time
  gaffer backup --data-dir /srv/gaffer gaffer.backup -o json

The backup is of one moment, and the master may run meanwhile. It contains jobs, output, events, workers, users and keys \
(as hashes); anyone who can read it can read all output. Worker data directories are not part of it. \
A database of your own (DATABASE_URL) is backed up with pg_dump.")]
pub struct BackupArgs {
    /// File to write, or a directory for a file named by time
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Replace the file if it exists
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    target: Target,
}

/// What is restored.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  gaffer restore /backups/gaffer.backup
  gaffer restore --data-dir /srv/gaffer-new gaffer.backup
  gaffer restore --replace gaffer.backup

Stop the master first, also on the machine from which the backup is. Nothing changes before the whole file is checked and \
loaded. Afterwards unfinished jobs continue: attempts that the backup knows count as lost, and tasks wait until no \
worker can still execute one of them. Keys revoked after the backup are valid again.")]
pub struct RestoreArgs {
    /// Backup to restore
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Replace the present database, and keep it beside
    ///
    /// It is moved to postgres/replaced-TIME in the data directory. Remove that when you no longer need it.
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    target: Target,
}

/// Makes a backup.
///
/// # Errors
/// [`Failure::Conflict`] if the file exists; [`Failure::Local`] if there is no backup for another reason.
pub async fn back_up(args: BackupArgs, out: &Out) -> Result<u8, Failure> {
    let instead = format!("back it up with `pg_dump --format=custom --file={} URL`", args.file.display());
    let settings = args.target.settings(&instead)?;
    let begun = Instant::now();
    let file = &args.file;
    let made = attended(out, async |stop, status| {
        backup::back_up(&settings, file, args.force, stop, |progress| show(status, progress)).await
    });
    let made = match made.await? {
        Ok(made) => made,
        Err(code) => return Ok(code),
    };
    let seconds = begun.elapsed().as_secs_f64();
    match args.target.format {
        Format::Table => {
            out.line(&format!("{}: {}, {seconds:.1} s", made.file.display(), size(made.bytes)))?;
        }
        Format::Json => out.line(
            &json!({
                "file": made.file, "bytes": made.bytes, "seconds": seconds, "taken_at": made.manifest.taken_at,
                "version": made.manifest.gaffer, "schema": made.manifest.schema, "postgres": made.manifest.postgres,
                "database_bytes": made.manifest.database_bytes,
            })
            .to_string(),
        )?,
    }
    Ok(0)
}

/// Restores one.
///
/// # Errors
/// [`Failure::Conflict`] if there is a database already; [`Failure::Local`] if the file cannot be restored.
pub async fn restore(args: RestoreArgs, out: &Out) -> Result<u8, Failure> {
    let settings = args.target.settings("restore it with pg_restore")?;
    let begun = Instant::now();
    let file = &args.file;
    let made = attended(out, async |stop, status| {
        backup::restore(&settings, file, args.replace, stop, |progress| show(status, progress)).await
    });
    let made = match made.await? {
        Ok(made) => made,
        Err(code) => return Ok(code),
    };
    let (seconds, jobs) = (begun.elapsed().as_secs_f64(), made.jobs);
    match args.target.format {
        Format::Table => {
            let (taken_at, data_dir) =
                (made.manifest.taken_at.format("%Y-%m-%d %H:%M:%S UTC"), settings.data_dir.display());
            out.line(&format!(
                "{data_dir}: {} jobs, {} of them unfinished, as of {taken_at}, {seconds:.1} s; the next job is {}",
                jobs.jobs, jobs.unfinished, jobs.next_job
            ))?;
            let mut notes = vec!["keys that were revoked after the backup are valid again".to_owned()];
            notes.extend(made.replaced.as_ref().map(|kept| {
                format!("the database before is in {}; remove it when you no longer need it", kept.display())
            }));
            notes.iter().for_each(|note| out.note(&format!("gaffer: {note}")));
        }
        Format::Json => out.line(
            &json!({
                "data_dir": settings.data_dir, "seconds": seconds, "taken_at": made.manifest.taken_at,
                "jobs": jobs.jobs, "unfinished_jobs": jobs.unfinished, "next_job": jobs.next_job,
                "replaced": made.replaced,
            })
            .to_string(),
        )?,
    }
    Ok(0)
}

impl Target {
    /// `instead`: what to do with a database that is not gaffer's own.
    fn settings(&self, instead: &str) -> Result<Settings, Failure> {
        if config::has_database_url() {
            return Err(Failure::Usage(format!(
                "DATABASE_URL is set, so the database is not in the data directory: {instead}. Unset DATABASE_URL for a \
                 private database."
            )));
        }
        let data_dir = self.data_dir.clone().unwrap_or_else(default_data_dir);
        let data_dir = std::path::absolute(&data_dir)
            .map_err(|error| Failure::Local(format!("{}: {error}", data_dir.display())))?;
        Ok(postgres_settings(data_dir, self.pg_bin.clone()))
    }
}

/// Does it with a status line, and cleans up after a signal: then the exit code of that is the outcome.
async fn attended<T>(
    out: &Out,
    work: impl AsyncFnOnce(&CancellationToken, &Status<'_>) -> Result<T, BackupError>,
) -> Result<Result<T, u8>, Failure> {
    let mut signals =
        Signals::listen().map_err(|error| Failure::Local(format!("cannot listen to signals: {error}")))?;
    let (stop, status) = (CancellationToken::new(), Status::new(out, false));
    let working = work(&stop, &status);
    tokio::pin!(working);
    let mut code = None;
    let done = loop {
        tokio::select! {
            done = &mut working => break done,
            order = signals.next(), if code.is_none() => {
                code = Some(order.exit_code());
                stop.cancel();
            }
        }
    };
    status.retire();
    match (done, code) {
        (Ok(done), _) => Ok(Ok(done)),
        (Err(BackupError::Interrupted), Some(code)) => Ok(Err(code)),
        (Err(error), _) => Err(match error {
            BackupError::Conflict(message) => Failure::Conflict(message),
            BackupError::NotFound(message) => Failure::NotFound(message),
            error @ (BackupError::Interrupted | BackupError::Failed(_)) => Failure::Local(error.to_string()),
        }),
    }
}

fn show(status: &Status<'_>, progress: Progress) {
    let part = |done: u64, all: u64| format!("{} of {}", size(done), size(all));
    let text = match progress {
        Progress::Starting => "starting the database".to_owned(),
        Progress::Writing(bytes) => format!("writing: {}", size(bytes)),
        Progress::Checking(done, all) => format!("checking: {}", part(done, all)),
        Progress::Loading(done, all) => format!("loading: {}", part(done, all)),
        Progress::Indexing => "building indexes".to_owned(),
        Progress::Finishing => "preparing the database for the master".to_owned(),
    };
    status.show(&text);
}
