//! Backs the private database of an installation up into one file, and restores it from there.
//!
//! A backup is what `pg_dump` reads in one transaction, so it is of one moment, and the master continues meanwhile. A restore
//! makes a cluster beside the present one, fills it, prepares it for what happened after the backup
//! ([`Store::continue_after_restore`]), and puts it in its place last.

pub mod archive;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use gaffer_domain::Time;
use gaffer_domain::lease::LEADER_LEASE;
use gaffer_domain::restore::is_plausible;
use tempfile::NamedTempFile;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStderr, Command};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::election::{Attempt, Candidate};
use crate::embedded_postgres::{
    EmbeddedPostgres, Replacement, Settings, StartError, Tools, cluster_major, has_cluster, major,
    url_of_running,
};
use crate::store::output::objects::MovedOutput;
use crate::store::restored::{RestoredJobs, newest_schema};
use crate::store::{Store, StoreError, Stores};
pub use archive::Manifest;
use archive::{Archive, Unusable, Writer};

const PIECE: usize = 1 << 20;
/// A server that does not answer within this time has ended without a trace.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// A server is being started.
    Starting,
    /// The number of bytes written.
    Writing(u64),
    /// The number of bytes checked, and of all bytes.
    Checking(u64, u64),
    /// The number of bytes loaded into the new database, and of all bytes.
    Loading(u64, u64),
    /// Indexes are being built.
    Indexing,
    /// The new database is prepared and put in its place.
    Finishing,
}

/// A backup that was made.
#[derive(Debug, Clone)]
pub struct Backup {
    pub file: PathBuf,
    pub bytes: u64,
    /// Output that is in object storage and so not in the file.
    pub moved: MovedOutput,
    pub manifest: Manifest,
}

/// A database that was restored.
#[derive(Debug, Clone)]
pub struct Restored {
    pub manifest: Manifest,
    pub jobs: RestoredJobs,
    /// Where the cluster is that it replaced.
    pub replaced: Option<PathBuf>,
}

/// Why a backup or a restore failed.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// Something is there already, or in use.
    #[error("{0}")]
    Conflict(String),
    #[error("{0}")]
    NotFound(String),
    /// What the caller named is no place for a backup.
    #[error("{0}")]
    Unsuitable(String),
    #[error("interrupted")]
    Interrupted,
    #[error("{0}")]
    Failed(String),
}

impl From<StartError> for BackupError {
    fn from(error: StartError) -> BackupError {
        match error {
            StartError::InUse { .. } => BackupError::Conflict(error.to_string()),
            error => BackupError::Failed(error.to_string()),
        }
    }
}

impl From<StoreError> for BackupError {
    fn from(error: StoreError) -> BackupError {
        BackupError::Failed(error.to_string())
    }
}

impl From<anyhow::Error> for BackupError {
    fn from(error: anyhow::Error) -> BackupError {
        BackupError::Failed(format!("{error:#}"))
    }
}

/// For `map_err`: what could not be done with a file.
fn failed<E: std::fmt::Display>(action: &'static str, path: &Path) -> impl FnOnce(E) -> BackupError {
    let path = path.display().to_string();
    move |error| BackupError::Failed(format!("cannot {action} {path}: {error}"))
}

/// Writes a backup of the private database into a new file, or into a directory under a name with the time. If no master runs
/// there, the database is started for it.
///
/// # Errors
/// [`BackupError`]; there is no file then, unless the error says so.
pub async fn back_up(
    settings: &Settings,
    file: &Path,
    overwrite: bool,
    stop: &CancellationToken,
    progress: impl Fn(Progress),
) -> Result<Backup, BackupError> {
    may_be_written(file, overwrite)?;
    let data_dir = &settings.data_dir;
    let Some(cluster) = cluster_major(data_dir)? else {
        return Err(BackupError::NotFound(format!(
            "{} has no database of gaffer. Name the master's data directory with --data-dir.",
            data_dir.display()
        )));
    };
    let tools = Tools::find(settings, cluster).await.map_err(BackupError::Failed)?;
    let running = async {
        let url = url_of_running(data_dir)?;
        let store = tokio::time::timeout(ANSWER_TIMEOUT, Store::connect(&url)).await;
        Some((store.ok()?.ok()?, url))
    };
    let (store, url, server) = match running.await {
        Some((store, url)) => (store, url, None),
        None => {
            progress(Progress::Starting);
            let server = EmbeddedPostgres::start(settings.clone()).await?;
            (Store::connect(server.url()).await?, server.url().to_owned(), Some(server))
        }
    };
    let dumping = Box::pin(dump(&store, &tools, &url, file, overwrite, &progress));
    let done = stop.run_until_cancelled(dumping).await.unwrap_or(Err(BackupError::Interrupted));
    store.close().await;
    if let Some(server) = server {
        server.stop().await;
    }
    done
}

/// Refuses to replace a file unless that is wanted, and anything else that is no directory: a device would be replaced by a file.
fn may_be_written(file: &Path, overwrite: bool) -> Result<(), BackupError> {
    let name = file.display();
    if file == Path::new("-") {
        let problem = "a backup cannot be written to standard output, because its size comes before its content. Name a file or a \
                       directory.";
        return Err(BackupError::Unsuitable(problem.to_owned()));
    }
    match file.metadata() {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(found) if !found.is_file() => {
            Err(BackupError::Unsuitable(format!("{name} is not a regular file. Name a file or a directory.")))
        }
        // A link that leads nowhere is there as well.
        _ if !overwrite && file.symlink_metadata().is_ok() => {
            Err(BackupError::Conflict(format!("{name} exists. Choose another name, or add --force.")))
        }
        _ => Ok(()),
    }
}

async fn dump(
    store: &Store,
    tools: &Tools,
    url: &str,
    file: &Path,
    overwrite: bool,
    progress: &impl Fn(Progress),
) -> Result<Backup, BackupError> {
    // Before the dump begins: what happens from now on may be missing in it.
    let taken_at = store.now().await?;
    let manifest =
        Manifest::new(store.schema().await?, tools.version.clone(), taken_at, store.database_bytes().await?);
    let moved = store.moved_output_of_any_schema().await?;
    let file = match file.is_dir() {
        true => file.join(format!("gaffer-{}.backup", stamp(taken_at))),
        // Through links, so that what they lead to is replaced, and not they.
        false => file.canonicalize().unwrap_or_else(|_| file.to_owned()),
    };
    let cannot_write = || failed("write", &file);
    let directory = file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // For its owner alone, like all that this library makes.
    let unfinished = tempfile::Builder::new().prefix(".gaffer-backup-").tempfile_in(directory);
    let unfinished = unfinished.map_err(cannot_write())?;
    let mut writer = Writer::begin(unfinished.as_file(), &manifest).map_err(cannot_write())?;

    let mut program = Program::start("pg_dump", tools.dump(url))?;
    let mut output = program.child.stdout.take().ok_or_else(|| program.failed("it has no output"))?;
    let (mut piece, mut bytes) = (vec![0; PIECE], 0);
    loop {
        let read = output.read(&mut piece).await.map_err(|error| program.failed(error))?;
        if read == 0 {
            break;
        }
        writer.dump(&piece[..read]).map_err(cannot_write())?;
        bytes += read as u64;
        progress(Progress::Writing(bytes));
    }
    program.end().await?;
    let (written, bytes) = writer.finish().map_err(cannot_write())?;
    written.sync_all().map_err(cannot_write())?;
    put_in_place(unfinished, &file, overwrite)?;
    File::open(directory).and_then(|dir| dir.sync_all()).map_err(|error| {
        BackupError::Failed(format!("{} is complete, but maybe not on disk yet: {error}", file.display()))
    })?;
    Ok(Backup { file, bytes, moved, manifest })
}

fn put_in_place(unfinished: NamedTempFile, file: &Path, overwrite: bool) -> Result<(), BackupError> {
    let put = match overwrite {
        true => unfinished.persist(file),
        false => unfinished.persist_noclobber(file),
    };
    match put {
        Ok(_) => Ok(()),
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => {
            Err(BackupError::Conflict(format!("{} exists", file.display())))
        }
        Err(error) => Err(failed("write", file)(error.error)),
    }
}

/// Restores a backup into a data directory. A present database is replaced only with `replace`, and is kept beside the new one.
///
/// # Errors
/// [`BackupError`]; the data directory is as it was then.
pub async fn restore(
    settings: &Settings,
    file: &Path,
    replace: bool,
    stop: &CancellationToken,
    progress: impl Fn(Progress),
) -> Result<Restored, BackupError> {
    let data_dir = &settings.data_dir;
    // Before the file is read, which takes long, and again when nobody else can make one.
    may_take_place(data_dir, has_cluster(data_dir), replace)?;
    let checking = checked(file, &progress);
    let mut archive = stop.run_until_cancelled(checking).await.unwrap_or(Err(BackupError::Interrupted))?;

    let replacement = Replacement::begin(settings).await?;
    may_take_place(data_dir, replacement.has_present(), replace)?;
    progress(Progress::Starting);
    let server = EmbeddedPostgres::start(replacement.settings().clone()).await?;
    let filling = Box::pin(fill(&mut archive, settings, &server, &progress));
    let filled = stop.run_until_cancelled(filling).await.unwrap_or(Err(BackupError::Interrupted));
    server.stop().await;
    let jobs = filled.map_err(|error| match (error, replacement.crash()) {
        // pg_restore only says that the server does not answer any more.
        (BackupError::Failed(error), Some(crash)) => {
            BackupError::Failed(format!("{error}\nthe new database's server crashed: {crash}"))
        }
        (error, _) => error,
    })?;
    let replaced = replacement.finish(&stamp(chrono::Utc::now()))?;
    Ok(Restored { manifest: archive.manifest, jobs, replaced })
}

/// Refuses to replace a present database, unless that is wanted.
fn may_take_place(data_dir: &Path, is_there: bool, replace: bool) -> Result<(), BackupError> {
    match is_there && !replace {
        false => Ok(()),
        true => Err(BackupError::Conflict(format!(
            "{} has a database already. Restore into another directory with --data-dir, or replace the present database with \
             --replace, which keeps it beside the new one.",
            data_dir.display()
        ))),
    }
}

/// Opens a backup that this program can restore and that is as it was written.
async fn checked(file: &Path, progress: &impl Fn(Progress)) -> Result<Archive, BackupError> {
    let cannot_restore = |error: Unusable| match error {
        Unusable::Unreadable(error) if error.kind() == io::ErrorKind::NotFound => {
            BackupError::NotFound(format!("there is no file {}", file.display()))
        }
        error => failed("restore", file)(error),
    };
    if file.metadata().map_or(file == Path::new("-"), |found| !found.is_file()) {
        return Err(BackupError::Unsuitable(format!(
            "{} is not a regular file. A backup is read twice, so it cannot come through a pipe: save it to a file.",
            file.display()
        )));
    }
    let mut archive = Archive::open(file).map_err(cannot_restore)?;
    let all = archive.dump_bytes();
    archive.verify(|done| progress(Progress::Checking(done, all))).await.map_err(cannot_restore)?;
    if archive.manifest.schema > newest_schema() {
        return Err(cannot_restore(Unusable::Newer(archive.manifest.gaffer)));
    }
    may_be_of(archive.manifest.taken_at)?;
    Ok(archive)
}

/// Refuses a backup of a time to come.
fn may_be_of(taken_at: Time) -> Result<(), BackupError> {
    match is_plausible(taken_at, chrono::Utc::now()) {
        true => Ok(()),
        false => Err(BackupError::Unsuitable(format!(
            "{taken_at} is in the future by the clock of this machine. Correct the time of the backup, or the clock."
        ))),
    }
}

/// Postgres reads what the same or an earlier version of it wrote.
fn is_new_enough(manifest: &Manifest, version: &str) -> Result<(), BackupError> {
    match major(version) >= major(&manifest.postgres) {
        true => Ok(()),
        false => Err(BackupError::Failed(format!(
            "the backup was written by PostgreSQL {}, and the PostgreSQL that is used here is {version}: install that version \
             or a newer one, or name the directory of its programs in GAFFER_PG_BIN",
            manifest.postgres
        ))),
    }
}

/// Loads the dump into the empty database of a server, and prepares it for a master.
async fn fill(
    archive: &mut Archive,
    settings: &Settings,
    server: &EmbeddedPostgres,
    progress: &impl Fn(Progress),
) -> Result<RestoredJobs, BackupError> {
    is_new_enough(&archive.manifest, server.version())?;
    let version = server.version();
    let major = major(version)
        .ok_or_else(|| BackupError::Failed(format!("the version of PostgreSQL is unknown: {version}")))?;
    let tools = Tools::find(settings, major).await.map_err(BackupError::Failed)?;
    let mut program = Program::start("pg_restore", tools.restore(server.url()))?;
    let mut input = program.child.stdin.take().ok_or_else(|| program.failed("it has no input"))?;
    let cannot_read = |error| BackupError::Failed(format!("cannot read the backup: {error}"));
    archive.rewind().map_err(cannot_read)?;
    let (mut piece, mut done, all) = (vec![0; PIECE], 0, archive.dump_bytes());
    loop {
        let read = archive.read_dump(&mut piece, done).map_err(cannot_read)?;
        // A program that takes no more has exited: its status and its messages are read below.
        if read == 0 || input.write_all(&piece[..read]).await.is_err() {
            break;
        }
        done += read as u64;
        progress(Progress::Loading(done, all));
    }
    drop(input);
    progress(Progress::Indexing);
    program.end().await?;

    progress(Progress::Finishing);
    Box::pin(prepare(server.url(), archive.manifest.taken_at)).await
}

/// Prepares a database for a master that holds what an installation had at that time. It leads for a moment, so nothing is
/// changed under another master.
///
/// # Errors
/// [`BackupError::Conflict`] if another master leads; [`BackupError::NotFound`] if nothing was restored into the database yet;
/// [`BackupError::Unsuitable`] for a time to come; [`BackupError::Failed`] if it does not answer.
pub async fn prepare(url: &str, taken_at: Time) -> Result<RestoredJobs, BackupError> {
    may_be_of(taken_at)?;
    let store = Store::connect(url).await?;
    let is_restored = store.has_schema().await?;
    store.close().await;
    if !is_restored {
        let problem = "the database has no tables of gaffer. Restore the backup into it first.";
        return Err(BackupError::NotFound(problem.to_owned()));
    }
    let mut candidate = Candidate::connect(url, LEADER_LEASE).await?;
    // The first attempt on a schema from before there were leaders only brings it up to date.
    let first = candidate.try_once().await?;
    let attempt = match first {
        Attempt::Leads(_) => first,
        Attempt::Waits(_) => candidate.try_once().await?,
    };
    let leader = match attempt {
        Attempt::Leads(leader) => leader,
        Attempt::Waits(who) => {
            return Err(BackupError::Conflict(format!("a master uses the database: {who}. Stop it first.")));
        }
    };
    let stores = Stores::connect_as(url, leader.leadership.clone()).await?;
    let jobs = Box::pin(prepare_as_leader(&stores.control, taken_at)).await;
    stores.close().await;
    jobs
}

async fn prepare_as_leader(store: &Store, taken_at: Time) -> Result<RestoredJobs, BackupError> {
    // Not before: a master of an earlier version knows only the earlier schema.
    store.migrate().await?;
    Ok(store.continue_after_restore(taken_at).await?)
}

/// A time as a part of a file's name.
fn stamp(at: Time) -> String {
    at.format("%Y%m%dT%H%M%SZ").to_string()
}

/// A program of Postgres, and what it complains about.
struct Program {
    name: &'static str,
    child: Child,
    complaint: JoinHandle<String>,
}

impl Program {
    fn start(name: &'static str, mut command: Command) -> Result<Program, BackupError> {
        let failed = |error: io::Error| BackupError::Failed(format!("cannot run {name}: {error}"));
        let mut child = command.spawn().map_err(failed)?;
        let complaint = tokio::spawn(complaint(child.stderr.take()));
        Ok(Program { name, child, complaint })
    }

    fn failed(&self, error: impl std::fmt::Display) -> BackupError {
        BackupError::Failed(format!("{} failed: {error}", self.name))
    }

    /// Waits for its end, which is to be a good one.
    async fn end(mut self) -> Result<(), BackupError> {
        let status = self.child.wait().await.map_err(|error| self.failed(error))?;
        let complaint = (&mut self.complaint).await.unwrap_or_default();
        match status.success() {
            true => Ok(()),
            false => Err(self.failed(format!("{status}\n{}", complaint.trim()))),
        }
    }
}

async fn complaint(stderr: Option<ChildStderr>) -> String {
    let mut text = Vec::new();
    if let Some(mut stderr) = stderr {
        // What cannot be read is only missing from the message.
        let _ = stderr.read_to_end(&mut text).await;
    }
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    fn manifest(schema: i64) -> Manifest {
        Manifest::new(schema, "15.18".to_owned(), Time::from_timestamp(1_700_000_000, 0).unwrap(), 4_096)
    }

    #[tokio::test]
    async fn a_schema_that_this_program_does_not_know_is_refused_before_anything_is_made() {
        for (schema, is_known) in [(1, true), (newest_schema(), true), (newest_schema() + 1, false)] {
            let file = NamedTempFile::new().unwrap();
            let writer = Writer::begin(file.as_file(), &manifest(schema)).unwrap();
            writer.finish().unwrap();
            let opened = checked(file.path(), &|_| {}).await;
            assert_eq!(opened.is_ok(), is_known, "schema {schema}");
            if let Err(error) = opened {
                assert!(error.to_string().contains("this program"), "{error}");
            }
        }
    }

    #[test]
    fn an_older_postgres_does_not_read_what_a_newer_one_has_written() {
        for (version, can) in [
            ("15.18", true),
            ("15.1", true),
            ("17.2", true),
            ("18beta1", true),
            ("14.22", false),
            ("14beta2", false),
        ] {
            let checked = is_new_enough(&manifest(1), version);
            assert_eq!(checked.is_ok(), can, "{version}");
        }
    }
}
