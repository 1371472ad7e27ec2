//! The database faults of a run: how each begins and ends.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rand::Rng as _;
use rand::rngs::StdRng;
use sqlx::{Connection as _, PgConnection};
use tokio::time::sleep;

use super::super::fleet::{Fleet, ROLE};

/// A way to refuse, lock or be slow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The master's role may not sign in, and its connections are cut.
    SignIn,
    /// Somebody holds the row of one job.
    JobLocked,
    /// A constraint refuses the output of one job.
    Constraint,
    /// The role may not insert output.
    InsertOutput,
    /// Somebody holds the row of one task.
    TaskLocked,
    /// The role may not update tasks and attempts.
    UpdateTasks,
    /// The role's sessions are read-only; some stay so when new ones are not.
    ReadOnly,
    /// Somebody locks a table.
    TableLocked,
    /// The role may not read.
    Select,
    /// The role may have few connections.
    Connections,
    /// The database is far away.
    Latency,
    /// The role's sessions have a twentieth of the time.
    Starved,
    /// There is no room for new rows of events and attempts.
    DiskFull,
}

impl Kind {
    /// Every kind; what was seen to lose something comes first.
    pub const ALL: [Kind; 13] = [
        Kind::SignIn,
        Kind::JobLocked,
        Kind::Constraint,
        Kind::InsertOutput,
        Kind::TaskLocked,
        Kind::UpdateTasks,
        Kind::ReadOnly,
        Kind::TableLocked,
        Kind::Select,
        Kind::Connections,
        Kind::Latency,
        Kind::Starved,
        Kind::DiskFull,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Kind::SignIn => "role may not sign in",
            Kind::JobLocked => "row of a job locked",
            Kind::Constraint => "constraint refuses a job's output",
            Kind::InsertOutput => "INSERT on output revoked",
            Kind::TaskLocked => "row of a task locked",
            Kind::UpdateTasks => "UPDATE on tasks and attempts revoked",
            Kind::ReadOnly => "read-only",
            Kind::TableLocked => "table locked",
            Kind::Select => "SELECT revoked",
            Kind::Connections => "few connections",
            Kind::Latency => "far away",
            Kind::Starved => "a twentieth of the time",
            Kind::DiskFull => "disk full",
        }
    }

    /// Whether all but one job go on as if nothing was.
    pub fn concerns_one_job(self) -> bool {
        matches!(self, Kind::JobLocked | Kind::TaskLocked | Kind::Constraint)
    }

    /// Whether nothing fails, but takes longer.
    pub fn is_slowness(self) -> bool {
        matches!(self, Kind::Latency | Kind::Starved)
    }
}

/// A fault that is to strike.
#[derive(Debug, Clone)]
pub struct Strike {
    pub kind: Kind,
    pub lasts: Duration,
    how: How,
}

/// What beside its kind was chosen.
#[derive(Debug, Clone)]
enum How {
    Sql {
        before: String,
        after: String,
        cuts: bool,
        cuts_after: bool,
    },
    /// Statements of a transaction that stays open.
    Locks(String),
    Latency(Duration),
    Starved,
    DiskFull,
}

/// A job of which something is refused or locked: its number and its tasks' numbers in the database.
#[derive(Debug, Clone)]
pub struct Victim {
    pub job: i64,
    pub tasks: Vec<i64>,
}

const MAX_TRIES: u32 = 20;
const TABLES: [&str; 11] = [
    "live_tasks",
    "job_workers",
    "finished_tasks",
    "jobs",
    "earlier_attempts",
    "output_chunks",
    "events",
    "workers",
    "keys",
    "leadership",
    "task_definitions",
];
/// Tables that the role may not read for a while.
const UNREADABLE: [&str; 3] = ["live_tasks", "jobs, output_chunks", "ALL TABLES IN SCHEMA public"];
/// Of the time in which the role's sessions stand still and go on.
const STOPPED: Duration = Duration::from_millis(190);
const RUNNING: Duration = Duration::from_millis(10);

impl Strike {
    /// A fault of this kind; victims are for those that concern one job.
    pub fn new(kind: Kind, lasts: Duration, victim: Option<&Victim>, rng: &mut StdRng) -> Strike {
        let sql = |before: String, after: String, cuts| How::Sql { before, after, cuts, cuts_after: cuts };
        let revoke = |what: &str, on: &str| {
            let (revoke, grant) =
                (format!("REVOKE {what} ON {on} FROM {ROLE}"), format!("GRANT {what} ON {on} TO {ROLE}"));
            sql(revoke, grant, false)
        };
        let job = victim.map_or(0, |victim| victim.job);
        let tasks = victim.map_or(&[][..], |victim| &victim.tasks);
        let how = match kind {
            Kind::SignIn => {
                sql(format!("ALTER ROLE {ROLE} NOLOGIN"), format!("ALTER ROLE {ROLE} LOGIN"), true)
            }
            Kind::JobLocked => How::Locks(format!("SELECT FROM jobs WHERE id = {job} FOR UPDATE")),
            Kind::TaskLocked => {
                let task = tasks.first().copied().unwrap_or(0);
                How::Locks(format!("SELECT FROM live_tasks WHERE id = {task} FOR UPDATE"))
            }
            Kind::Constraint => {
                let tasks: Vec<String> = tasks.iter().map(i64::to_string).collect();
                let name = format!("not_of_job_{job}");
                sql(
                    format!(
                        "ALTER TABLE output_chunks ADD CONSTRAINT {name} CHECK (task_id NOT IN ({})) NOT VALID",
                        tasks.join(", ")
                    ),
                    format!("ALTER TABLE output_chunks DROP CONSTRAINT {name}"),
                    false,
                )
            }
            Kind::InsertOutput => revoke("INSERT", "output_chunks"),
            Kind::UpdateTasks => revoke("UPDATE, DELETE", "live_tasks"),
            Kind::Select => revoke("SELECT", UNREADABLE[rng.random_range(0..UNREADABLE.len())]),
            Kind::ReadOnly => How::Sql {
                before: format!("ALTER ROLE {ROLE} SET default_transaction_read_only = on"),
                after: format!("ALTER ROLE {ROLE} RESET default_transaction_read_only"),
                cuts: true,
                // As after a failover: sessions that were begun meanwhile stay read-only.
                cuts_after: rng.random(),
            },
            Kind::TableLocked => {
                let table = TABLES[rng.random_range(0..TABLES.len())];
                let mode = if rng.random() { "SHARE" } else { "ACCESS EXCLUSIVE" };
                How::Locks(format!("LOCK TABLE {table} IN {mode} MODE"))
            }
            Kind::Connections => {
                let few = rng.random_range(0..6);
                let limit = |limit: i32| format!("ALTER ROLE {ROLE} CONNECTION LIMIT {limit}");
                sql(limit(few), limit(-1), true)
            }
            Kind::Latency => How::Latency(Duration::from_millis(rng.random_range(5..60))),
            Kind::Starved => How::Starved,
            Kind::DiskFull => How::DiskFull,
        };
        Strike { kind, lasts, how }
    }

    /// What it is, for people.
    pub fn told(&self) -> String {
        let what = match &self.how {
            How::Sql { before, .. } | How::Locks(before) => before.clone(),
            How::Latency(latency) => format!("{latency:?} each way"),
            How::Starved | How::DiskFull => self.kind.name().to_owned(),
        };
        format!("{:.1?}: {what}", self.lasts)
    }

    /// Strikes, lasts and ends. Gives when it began and ended.
    pub async fn run(&self, fleet: &Fleet, disk: Option<&Disk>) -> (Instant, Instant) {
        let mut owner = PgConnection::connect(fleet.database_url()).await.unwrap();
        match &self.how {
            How::Sql { before, after, cuts, cuts_after } => {
                run(&mut owner, before).await;
                if *cuts {
                    cut_connections(&mut owner).await;
                }
                let begun = Instant::now();
                sleep(self.lasts).await;
                run(&mut owner, after).await;
                if *cuts_after {
                    cut_connections(&mut owner).await;
                }
                (begun, Instant::now())
            }
            How::Locks(statement) => {
                let mut tx = owner.begin().await.unwrap();
                run(&mut tx, statement).await;
                let begun = Instant::now();
                sleep(self.lasts).await;
                tx.rollback().await.unwrap();
                (begun, Instant::now())
            }
            How::Latency(latency) => {
                let way = fleet.way(0).expect("an ordinary master connects through a proxy");
                way.delay(*latency);
                let begun = Instant::now();
                sleep(self.lasts).await;
                way.restore();
                (begun, Instant::now())
            }
            How::Starved => {
                let begun = Instant::now();
                while begun.elapsed() < self.lasts {
                    let stopped = Stopped::sessions(&mut owner).await;
                    sleep(STOPPED).await;
                    drop(stopped);
                    sleep(RUNNING).await;
                }
                (begun, Instant::now())
            }
            How::DiskFull => {
                let ballast = disk.map(Disk::fill);
                let begun = Instant::now();
                sleep(self.lasts).await;
                drop(ballast);
                (begun, Instant::now())
            }
        }
    }
}

/// Postgres refuses a change of its catalogue that meets another one, such as what autovacuum notes there: once more, then.
async fn run(database: &mut PgConnection, sql: &str) {
    for attempt in 1.. {
        let done = sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned())).execute(&mut *database).await;
        match done {
            Ok(_) => return,
            Err(error) if error.to_string().contains("tuple concurrently updated") && attempt < MAX_TRIES => {
            }
            Err(error) => panic!("{sql}: {error}"),
        }
    }
}

async fn cut_connections(owner: &mut PgConnection) {
    let sql = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{ROLE}'");
    run(owner, &sql).await;
}

/// Processes of the server that stand still until this is dropped.
struct Stopped(Vec<Pid>);

impl Stopped {
    async fn sessions(owner: &mut PgConnection) -> Stopped {
        let pids: Vec<i32> = sqlx::query_scalar("SELECT pid FROM pg_stat_activity WHERE usename = $1")
            .bind(ROLE)
            .fetch_all(owner)
            .await
            .unwrap();
        let pids: Vec<Pid> = pids.into_iter().map(Pid::from_raw).collect();
        // One that has ended meanwhile is none of ours any more.
        pids.iter().for_each(|pid| {
            let _ = kill(*pid, Signal::SIGSTOP);
        });
        Stopped(pids)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        for pid in &self.0 {
            let _ = kill(*pid, Signal::SIGCONT);
        }
    }
}

/// A small disk for tables that grow.
pub struct Disk {
    root: tempfile::TempDir,
}

const DISK: &str = "size=512m,mode=0755";

impl Disk {
    /// Mounts it, and moves the tables there; or says why not.
    pub async fn below(fleet: &Fleet) -> Result<Disk, String> {
        let server = fleet.server_ref().ok_or("the server is not the run's own")?;
        let root = tempfile::Builder::new().prefix("gaffer-disk-").tempdir();
        let disk = Disk { root: root.map_err(|error| error.to_string())? };
        let path = disk.root.path();
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .map_err(|error| error.to_string())?;
        let mut mount = Command::new("mount");
        let mount = mount.args(["-t", "tmpfs", "-o", DISK, "gaffer-torture"]).arg(path).output();
        let mount = mount.map_err(|error| format!("mount: {error}"))?;
        if !mount.status.success() {
            return Err(format!("mount: {}", String::from_utf8_lossy(&mount.stderr).trim()));
        }
        let space = path.join("space");
        std::fs::create_dir(&space).map_err(|error| error.to_string())?;
        server.give(&space);
        let mut owner = PgConnection::connect(fleet.database_url()).await.unwrap();
        run(&mut owner, &format!("CREATE TABLESPACE small LOCATION '{}'", space.display())).await;
        for table in ["events", "finished_tasks"] {
            run(&mut owner, &format!("ALTER TABLE {table} SET TABLESPACE small")).await;
        }
        Ok(disk)
    }

    /// Leaves no room until what is returned is dropped.
    fn fill(&self) -> Ballast {
        let ballast = Ballast(self.root.path().join("ballast"));
        let mut file = std::fs::File::create(&ballast.0).unwrap();
        let piece = vec![0; 1 << 20];
        // To the last page.
        while std::io::Write::write_all(&mut file, &piece).is_ok() {}
        while std::io::Write::write_all(&mut file, &piece[..4 << 10]).is_ok() {}
        ballast
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.root.path()).output();
    }
}

struct Ballast(PathBuf);

impl Drop for Ballast {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
