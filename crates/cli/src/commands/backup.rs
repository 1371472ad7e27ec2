//! `gaffer backup` and `gaffer restore`: the private database of a master as one file, and back.

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::{Args, ValueEnum};
use gaffer_domain::Time;
use gaffer_master::backup::{self, BackupError, Progress};
use gaffer_master::config::{default_data_dir, postgres_settings};
use gaffer_master::embedded_postgres::Settings;
use gaffer_master::store::restored::RestoredJobs;
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
    /// Text
    Table,
    /// JSON
    Json,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  gaffer backup /backups/gaffer.backup
  gaffer backup /backups/            a new file, named by the time
  gaffer backup --data-dir /srv/gaffer gaffer.backup -o json

The backup is of one moment, and the master may run meanwhile. It contains jobs, output, events, workers, users and keys \
(as hashes); anyone who can read it can read all output. Worker data directories and output in object storage are not part of \
it. \
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

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  gaffer restore /backups/gaffer.backup
  gaffer restore --data-dir /srv/gaffer-new gaffer.backup
  gaffer restore --replace gaffer.backup
  DATABASE_URL=postgres://… gaffer restore --prepare 2026-11-29T03:00:00Z

Stop the master first, also on the machine from which the backup is. Nothing changes before the whole file is checked and \
loaded. Afterwards unfinished jobs continue: attempts that the backup knows count as lost, and tasks wait until no \
worker can still execute one of them. Keys revoked after the backup are valid again.")]
pub struct RestoreArgs {
    /// Backup to restore
    #[arg(value_name = "FILE", required_unless_present = "prepare")]
    file: Option<PathBuf>,
    /// Prepare DATABASE_URL, restored to its state at TIME
    ///
    /// For a database of your own that was restored by other means: do this before a master or a worker uses it. It
    /// does to the database what a restore does to a private one.
    #[arg(long, value_name = "TIME", conflicts_with_all = ["file", "replace"])]
    prepare: Option<Time>,
    /// Replace the existing database; keep the old one
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
            let (file, data_dir) = (made.file.display(), settings.data_dir.display());
            out.line(&format!("{file}: {} of {data_dir}, {seconds:.1} s", size(made.bytes)))?;
            if made.moved.objects > 0 {
                out.note(&format!(
                    "gaffer: {} objects with output ({}) are in object storage and not in this file; keep the store as well",
                    made.moved.objects,
                    size(made.moved.object_bytes.unsigned_abs())
                ));
            }
        }
        Format::Json => out.line(
            &json!({
                "file": made.file, "bytes": made.bytes, "seconds": seconds, "taken_at": made.manifest.taken_at,
                "version": made.manifest.gaffer, "schema": made.manifest.schema, "postgres": made.manifest.postgres,
                "database_bytes": made.manifest.database_bytes, "objects": made.moved.objects,
                "object_bytes": made.moved.object_bytes,
            })
            .to_string(),
        )?,
    }
    Ok(0)
}

/// Restores a backup.
///
/// # Errors
/// [`Failure::Conflict`] if there is a database already; [`Failure::Local`] if the file cannot be restored.
pub async fn restore(args: RestoreArgs, out: &Out) -> Result<u8, Failure> {
    let begun = Instant::now();
    let Some(file) = &args.file else { return prepare(&args, begun, out).await };
    let settings =
        args.target.settings("restore it with Postgres's tools, then run `gaffer restore --prepare TIME`")?;
    let made = attended(out, async |stop, status| {
        backup::restore(&settings, file, args.replace, stop, |progress| show(status, progress)).await
    });
    let made = match made.await? {
        Ok(made) => made,
        Err(code) => return Ok(code),
    };
    let place = settings.data_dir.display().to_string();
    let (taken_at, replaced) = (made.manifest.taken_at, made.replaced.as_deref());
    let restored = Outcome { place: &place, taken_at, begun, jobs: made.jobs, replaced };
    restored.show(args.target.format, out)
}

/// Prepares the operator's own database.
async fn prepare(args: &RestoreArgs, begun: Instant, out: &Out) -> Result<u8, Failure> {
    let (Some(taken_at), Some(url)) = (args.prepare, config::database_url()) else {
        return Err(Failure::Usage("--prepare is for a database of your own: set DATABASE_URL".to_owned()));
    };
    let prepared = attended(out, async |stop, status| {
        show(status, Progress::Finishing);
        let preparing = Box::pin(backup::prepare(&url, taken_at));
        stop.run_until_cancelled(preparing).await.unwrap_or(Err(BackupError::Interrupted))
    });
    match prepared.await? {
        Ok(jobs) => Outcome { place: "DATABASE_URL", taken_at, begun, jobs, replaced: None }
            .show(args.target.format, out),
        Err(code) => Ok(code),
    }
}

/// A database that is restored.
struct Outcome<'a> {
    place: &'a str,
    taken_at: Time,
    begun: Instant,
    jobs: RestoredJobs,
    replaced: Option<&'a Path>,
}

impl Outcome<'_> {
    fn show(&self, format: Format, out: &Out) -> Result<u8, Failure> {
        let Outcome { place, taken_at, begun, jobs, replaced } = self;
        let RestoredJobs { jobs, unfinished, objects, next_job } = jobs;
        let seconds = begun.elapsed().as_secs_f64();
        if format == Format::Json {
            let json = json!({
                "place": place, "seconds": seconds, "taken_at": taken_at, "jobs": jobs, "unfinished_jobs": unfinished,
                "next_job": next_job, "objects": objects, "replaced": replaced,
            });
            out.line(&json.to_string())?;
            return Ok(0);
        }
        let taken_at = taken_at.format("%Y-%m-%d %H:%M:%S UTC");
        out.line(&format!(
            "{place}: {jobs} jobs, {unfinished} unfinished, as of {taken_at}; {seconds:.1} s; new jobs are numbered from {next_job}"
        ))?;
        out.note("gaffer: keys that were revoked after the backup are valid again");
        if *objects > 0 {
            out.note(&format!(
                "gaffer: {objects} objects with output are in object storage; set GAFFER_OUTPUT_STORE to read them"
            ));
        }
        if let Some(kept) = replaced {
            let kept = kept.display();
            out.note(&format!(
                "gaffer: the database before is in {kept}; remove it when you no longer need it"
            ));
        }
        Ok(0)
    }
}

impl Target {
    /// `instead`: what to do with a database that is not gaffer's own.
    fn settings(&self, instead: &str) -> Result<Settings, Failure> {
        if config::database_url().is_some() {
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
            order = signals.next() => {
                if code.replace(order.exit_code()).is_some() {
                    // A second one does not wait for what is being tidied up.
                    return Ok(Err(order.exit_code()));
                }
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
            BackupError::Unsuitable(message) => Failure::Usage(message),
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
