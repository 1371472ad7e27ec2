#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that panics is a test that fails"
)]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sqlx::{Connection, PgConnection};
use tempfile::TempDir;

use super::*;

/// More than any of this takes on a slow and busy machine.
const DEADLINE: Duration = Duration::from_secs(120);

fn settings(data_dir: &Path) -> Settings {
    Settings {
        data_dir: data_dir.to_owned(),
        bin_dir: std::env::var_os("GAFFER_PG_BIN").map(PathBuf::from),
        search_path: std::env::var_os("PATH"),
        runtime_dir: None,
        overrides: Vec::new(),
    }
}

fn new_dir() -> TempDir {
    dir_with_mode(0o711)
}

fn dir_with_mode(mode: u32) -> TempDir {
    tempfile::Builder::new().permissions(fs::Permissions::from_mode(mode)).tempdir().unwrap()
}

async fn start(dir: &TempDir) -> EmbeddedPostgres {
    EmbeddedPostgres::start(settings(dir.path())).await.unwrap()
}

async fn start_error(data_dir: &Path) -> StartError {
    EmbeddedPostgres::start(settings(data_dir)).await.expect_err("the start should have failed")
}

async fn connect(url: &str) -> PgConnection {
    PgConnection::connect(url).await.unwrap()
}

/// Asks until the answer is there. A database that is away for a moment has none.
async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn write_row(url: &str) {
    let mut client = connect(url).await;
    sqlx::raw_sql("CREATE TABLE IF NOT EXISTS kept (n int); INSERT INTO kept VALUES (1)")
        .execute(&mut client)
        .await
        .unwrap();
}

async fn try_count_rows(url: &str) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("SELECT count(*) FROM kept").fetch_one(&mut PgConnection::connect(url).await?).await
}

fn server_pid(postgres: &EmbeddedPostgres) -> Pid {
    let text = fs::read_to_string(postgres.cluster_dir().join("postmaster.pid")).unwrap();
    Pid::from_raw(text.lines().next().unwrap().parse().unwrap())
}

/// Processes whose current directory is the cluster.
fn processes_in(cluster: &Path) -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == cluster)).collect()
}

/// Clusters in the making.
fn unfinished(data_dir: &Path) -> Vec<PathBuf> {
    let entries =
        fs::read_dir(data_dir.join("postgres")).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("initdb-")).collect()
}

#[tokio::test]
async fn a_restart_keeps_the_data() {
    let dir = new_dir();
    let postgres = start(&dir).await;
    assert!(postgres.version().starts_with(|c: char| c.is_ascii_digit()));
    let (url, cluster) = (postgres.url().to_owned(), postgres.cluster_dir().to_owned());
    write_row(&url).await;
    // A client that never goes does not hold up the stop.
    let mut idle = connect(&url).await;
    sqlx::raw_sql("BEGIN; INSERT INTO kept VALUES (2)").execute(&mut idle).await.unwrap();
    postgres.stop().await;
    assert!(!cluster.join("postmaster.pid").exists(), "an orderly stop removes postmaster.pid");
    assert_eq!(processes_in(&cluster), Vec::<i32>::new());

    let postgres = start(&dir).await;
    assert_eq!(postgres.url(), url);
    assert_eq!(try_count_rows(&url).await.unwrap(), 1);
    assert!(dir.path().join("postgres.log.old").exists());
    postgres.stop().await;
}

#[tokio::test]
async fn the_server_is_durable_private_and_not_on_the_network() {
    let dir = new_dir();
    let postgres = start(&dir).await;
    let mut client = connect(postgres.url()).await;
    for (setting, expected) in [
        ("fsync", "on"),
        ("synchronous_commit", "on"),
        ("full_page_writes", "on"),
        ("listen_addresses", ""),
        ("server_encoding", "UTF8"),
        ("timezone", "UTC"),
    ] {
        let value: String = sqlx::query_scalar("SELECT current_setting($1)")
            .bind(setting)
            .fetch_one(&mut client)
            .await
            .unwrap();
        assert_eq!(value, expected, "{setting}");
    }
    for dir in [postgres.socket_dir(), postgres.cluster_dir()] {
        assert_eq!(fs::metadata(dir).unwrap().mode() & 0o777, 0o700, "{}", dir.display());
    }
    let server = server_pid(&postgres);
    assert_eq!(
        nix::unistd::getpgid(Some(server)).unwrap(),
        server,
        "the server has a separate process group"
    );
    postgres.stop().await;
}

#[tokio::test]
async fn a_second_gaffer_on_the_directory_is_refused() {
    let dir = new_dir();
    let postgres = start(&dir).await;
    let error = start_error(dir.path()).await;
    assert!(matches!(error, StartError::InUse { .. }), "{error}");
    assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
    try_count_rows(postgres.url()).await.expect_err("there is no such table");
    postgres.stop().await;
    start(&dir).await.stop().await;
}

#[tokio::test]
async fn stale_files_that_name_a_living_process_are_survived() {
    let dir = new_dir();
    let postgres = start(&dir).await;
    write_row(postgres.url()).await;
    let (cluster, socket_dir) = (postgres.cluster_dir().to_owned(), postgres.socket_dir().to_owned());
    let owner = fs::metadata(&cluster).unwrap();
    postgres.stop().await;

    // The same user's, which is what makes Postgres itself believe that it is a server.
    let mut sleep = tokio::process::Command::new("sleep");
    sleep.arg("600").stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    if nix::unistd::geteuid().is_root() {
        sleep.uid(owner.uid()).gid(owner.gid());
    }
    let mut other = sleep.spawn().unwrap();
    let text = format!(
        "{}\n{}\n1700000000\n5432\n{}\n\n\nready\n",
        other.id().unwrap(),
        cluster.display(),
        socket_dir.display()
    );
    for file in [cluster.join("postmaster.pid"), socket_dir.join(".s.PGSQL.5432.lock")] {
        fs::write(&file, &text).unwrap();
        std::os::unix::fs::chown(&file, Some(owner.uid()), Some(owner.gid())).unwrap();
    }
    fs::write(socket_dir.join(".s.PGSQL.5432"), "").unwrap();

    let postgres = start(&dir).await;
    assert_eq!(try_count_rows(postgres.url()).await.unwrap(), 1);
    postgres.stop().await;
    assert!(other.try_wait().unwrap().is_none(), "the other process is none of our business");
    other.kill().await.unwrap();
}

#[tokio::test]
async fn a_killed_server_is_started_again_at_the_same_url() {
    let dir = new_dir();
    let mut postgres = start(&dir).await;
    let url = postgres.url().to_owned();
    for count in 1..=3 {
        write_row(&url).await;
        // A busy child does not notice that its server is gone, and would keep the next one from starting.
        let mut busy = connect(&url).await;
        let busy_pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut busy).await.unwrap();
        let query = tokio::spawn(async move {
            let endless = "SELECT count(*) FROM generate_series(1, 1000000) a, generate_series(1, 1000000) b";
            sqlx::raw_sql(endless).execute(&mut busy).await.map(|_| ())
        });
        eventually("the busy query runs", async || {
            let active = "SELECT count(*) FROM pg_stat_activity WHERE pid = $1 AND state = 'active' AND query LIKE '%generate_series%'";
            let active: i64 =
                sqlx::query_scalar(active).bind(busy_pid).fetch_one(&mut connect(&url).await).await.unwrap();
            (active == 1).then_some(())
        })
        .await;

        kill(server_pid(&postgres), Signal::SIGKILL).unwrap();
        let exits = tokio::time::timeout(DEADLINE, postgres.exited()).await.unwrap();
        assert_eq!(exits.count, count);
        assert!(exits.last.contains("SIGKILL"), "{exits:?}");
        let rows = eventually("the server is back", async || try_count_rows(&url).await.ok()).await;
        assert_eq!(rows, i64::try_from(count).unwrap());
        assert_eq!(postgres.url(), url);
        query.await.unwrap().expect_err("the busy query ended with its server");
    }
    let cluster = postgres.cluster_dir().to_owned();
    postgres.stop().await;
    assert_eq!(processes_in(&cluster), Vec::<i32>::new());
}

#[tokio::test]
async fn a_stop_while_the_server_is_away_is_a_stop() {
    let dir = new_dir();
    let mut postgres = start(&dir).await;
    let cluster = postgres.cluster_dir().to_owned();
    kill(server_pid(&postgres), Signal::SIGKILL).unwrap();
    postgres.exited().await;
    postgres.stop().await;
    assert_eq!(processes_in(&cluster), Vec::<i32>::new());
    start(&dir).await.stop().await;
}

#[tokio::test]
async fn a_torn_initdb_is_repaired() {
    let dir = new_dir();
    let home = dir.path().join("postgres");
    fs::create_dir_all(home.join("initdb-0123abcd/base/1")).unwrap();
    fs::write(home.join("initdb-0123abcd/PG_VERSION"), "15\n").unwrap();
    fs::create_dir(home.join("cluster")).unwrap();
    let postgres = start(&dir).await;
    write_row(postgres.url()).await;
    assert_eq!(unfinished(dir.path()), Vec::<PathBuf>::new());
    postgres.stop().await;
}

#[tokio::test]
async fn a_start_that_is_given_up_leaves_a_directory_that_starts() {
    let dir = new_dir();
    let begun = eventually("initdb is at work", async || {
        unfinished(dir.path()).iter().any(|cluster| cluster.join("PG_VERSION").exists()).then_some(())
    });
    tokio::select! {
        _ = EmbeddedPostgres::start(settings(dir.path())) => panic!("initdb was not noticed"),
        () = begun => {}
    }
    // The lock is held until everything of the first start is gone.
    let postgres = eventually("the second start succeeds", async || {
        match EmbeddedPostgres::start(settings(dir.path())).await {
            Ok(postgres) => Some(postgres),
            Err(StartError::InUse { .. }) => None,
            Err(error) => panic!("{error}"),
        }
    });
    let postgres = postgres.await;
    write_row(postgres.url()).await;
    postgres.stop().await;
}

#[tokio::test]
async fn a_dropped_server_stops() {
    let dir = new_dir();
    let postgres = start(&dir).await;
    let cluster = postgres.cluster_dir().to_owned();
    drop(postgres);
    eventually("the server has stopped", async || (!cluster.join("postmaster.pid").exists()).then_some(()))
        .await;
}

/// Not a test: the gaffer that the test below kills. It reads its data directory from its standard input.
#[tokio::test]
#[ignore = "started by another test"]
async fn a_gaffer_to_be_killed() {
    let mut data_dir = String::new();
    io::stdin().read_line(&mut data_dir).unwrap();
    if data_dir.trim().is_empty() {
        return;
    }
    let postgres = EmbeddedPostgres::start(settings(Path::new(data_dir.trim()))).await.unwrap();
    writeln!(io::stdout(), "\nurl {}", postgres.url()).unwrap();
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn a_killed_gaffer_leaves_no_server_and_a_cluster_that_starts() {
    let dir = new_dir();
    for round in 1..=3 {
        let name = "a_gaffer_to_be_killed";
        let module = module_path!().split_once("::").unwrap().1;
        let mut gaffer = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "--nocapture", &format!("{module}::{name}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        writeln!(gaffer.stdin.take().unwrap(), "{}", dir.path().display()).unwrap();
        let mut lines = BufReader::new(gaffer.stdout.take().unwrap()).lines().map(Result::unwrap);
        let url = lines.find_map(|line| line.strip_prefix("url ").map(str::to_owned)).unwrap();
        write_row(&url).await;
        gaffer.kill().unwrap();
        gaffer.wait().unwrap();
        if round == 2 && cfg!(target_os = "linux") {
            // Also when nobody starts another one, the server ends.
            let cluster = fs::canonicalize(dir.path()).unwrap().join("postgres/cluster");
            eventually("the server has ended", async || processes_in(&cluster).is_empty().then_some(()))
                .await;
        }
    }
    let postgres = start(&dir).await;
    assert_eq!(try_count_rows(postgres.url()).await.unwrap(), 3);
    postgres.stop().await;
}

#[tokio::test]
async fn a_path_no_socket_can_have_puts_the_socket_elsewhere() {
    let dir = new_dir();
    let long = dir.path().join(format!("with space, comma \" quote and ü {}", "x".repeat(100)));
    let runtime_dir = new_dir();
    let mut settings = settings(&long);
    settings.runtime_dir = Some(runtime_dir.path().to_owned());
    let postgres = EmbeddedPostgres::start(settings.clone()).await.unwrap();
    let socket_dir = postgres.socket_dir().to_owned();
    write_row(postgres.url()).await;
    assert!(!socket_dir.starts_with(fs::canonicalize(&long).unwrap()));
    assert_eq!(fs::metadata(&socket_dir).unwrap().mode() & 0o777, 0o700);
    postgres.stop().await;
    assert!(!socket_dir.exists(), "what is outside of the data directory is tidied up");

    // A name that somebody else has taken is not used.
    fs::create_dir(&socket_dir).unwrap();
    fs::set_permissions(&socket_dir, fs::Permissions::from_mode(0o777)).unwrap();
    let postgres = EmbeddedPostgres::start(settings).await.unwrap();
    assert_ne!(postgres.socket_dir(), socket_dir);
    assert_eq!(try_count_rows(postgres.url()).await.unwrap(), 1);
    postgres.stop().await;
    fs::remove_dir(&socket_dir).unwrap();
}

#[tokio::test]
async fn what_cannot_be_a_cluster_of_this_version_is_refused_and_left_alone() {
    let dir = new_dir();
    let postgres = start(&dir).await;
    let cluster = postgres.cluster_dir().to_owned();
    write_row(postgres.url()).await;
    postgres.stop().await;

    let version = fs::read_to_string(cluster.join("PG_VERSION")).unwrap();
    fs::write(cluster.join("PG_VERSION"), "13\n").unwrap();
    let error = start_error(dir.path()).await;
    assert!(matches!(error, StartError::OtherVersion { cluster: 13, .. }), "{error}");

    fs::remove_file(cluster.join("PG_VERSION")).unwrap();
    let error = start_error(dir.path()).await;
    assert!(matches!(error, StartError::NoCluster(_)), "{error}");
    assert!(error.to_string().contains(cluster.to_str().unwrap()), "{error}");

    fs::write(cluster.join("PG_VERSION"), version).unwrap();
    fs::write(cluster.join("postgresql.auto.conf"), "no_such_setting = 1\n").unwrap();
    let error = start_error(dir.path()).await;
    assert!(matches!(error, StartError::Server { .. }), "{error}");
    assert!(error.to_string().contains("no_such_setting"), "the log tells the reason: {error}");

    fs::write(cluster.join("postgresql.auto.conf"), "").unwrap();
    let postgres = start(&dir).await;
    assert_eq!(try_count_rows(postgres.url()).await.unwrap(), 1);
    postgres.stop().await;
}

#[tokio::test]
async fn where_a_restore_was_interrupted_no_empty_database_is_made() {
    let dir = new_dir();
    let postgres = start(&dir).await;
    write_row(postgres.url()).await;
    postgres.stop().await;
    let (cluster, kept) = (dir.path().join("postgres/cluster"), dir.path().join("postgres/replaced-2"));
    fs::create_dir(dir.path().join("postgres/replaced-1")).unwrap();
    fs::rename(&cluster, &kept).unwrap();
    let error = start_error(dir.path()).await.to_string();
    assert!(error.contains(&format!("mv {}", kept.display())), "{error}");
    fs::rename(&kept, &cluster).unwrap();
    let postgres = start(&dir).await;
    assert_eq!(try_count_rows(postgres.url()).await.unwrap(), 1);
    postgres.stop().await;
}

#[tokio::test]
async fn missing_binaries_are_told_with_what_to_do() {
    let (dir, empty) = (new_dir(), new_dir());
    let settings = Settings { bin_dir: Some(empty.path().to_owned()), ..settings(dir.path()) };
    let error = EmbeddedPostgres::start(settings).await.expect_err("there are no binaries").to_string();
    assert!(error.contains(empty.path().to_str().unwrap()), "{error}");
    assert!(
        error.contains("nstall") && error.contains("GAFFER_PG_BIN") && error.contains("DATABASE_URL"),
        "{error}"
    );
}

/// For root this is the interesting case: the server runs as a user who may not pass the directory.
#[tokio::test]
async fn a_directory_closed_to_all_others_will_do_and_stays_closed() {
    let dir = dir_with_mode(0o700);
    let data_dir = dir.path().join("below/it");
    let mut postgres = EmbeddedPostgres::start(settings(&data_dir)).await.unwrap();
    let url = postgres.url().to_owned();
    write_row(&url).await;
    kill(server_pid(&postgres), Signal::SIGKILL).unwrap();
    tokio::time::timeout(DEADLINE, postgres.exited()).await.unwrap();
    eventually("the server is back", async || try_count_rows(&url).await.ok()).await;
    postgres.stop().await;
    let postgres = EmbeddedPostgres::start(settings(&data_dir)).await.unwrap();
    assert_eq!(try_count_rows(postgres.url()).await.unwrap(), 1);
    assert_eq!(fs::metadata(dir.path()).unwrap().mode() & 0o777, 0o700);
    postgres.stop().await;
}

#[tokio::test]
async fn root_gives_a_copied_cluster_to_the_server() {
    if !nix::unistd::geteuid().is_root() {
        return; // Only root can.
    }
    let (dir, copy) = (new_dir(), new_dir());
    let postgres = start(&dir).await;
    write_row(postgres.url()).await;
    postgres.stop().await;
    let status =
        Command::new("cp").arg("-r").arg(dir.path().join("postgres")).arg(copy.path()).status().unwrap();
    assert!(status.success());
    let postgres = start(&copy).await;
    assert_eq!(try_count_rows(postgres.url()).await.unwrap(), 1);
    postgres.stop().await;
}

#[test]
fn each_system_has_its_install_line() {
    for (os, os_release, root, expected) in [
        ("linux", "NAME=\"Debian GNU/Linux\"\nID=debian\n", true, "`apt-get install -y postgresql`"),
        ("linux", "ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n", false, "`sudo apt-get install -y postgresql`"),
        (
            "linux",
            "ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n",
            true,
            "`dnf install -y postgresql-server`",
        ),
        ("linux", "ID=alpine\n", true, "`apk add postgresql`"),
        ("linux", "ID=arch\n", true, "`pacman -S --noconfirm postgresql`"),
        ("linux", "", true, "your system's package"),
        ("macos", "", false, "`brew install postgresql@17`"),
    ] {
        let advice = binaries::install_advice_for(os, os_release, root);
        assert!(advice.contains(expected), "{os} {os_release:?}: {advice}");
    }
}

#[test]
fn versions_are_read_from_what_postgres_says() {
    for (output, expected) in [
        ("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n", "15.18"),
        ("postgres (PostgreSQL) 18beta1\n", "18beta1"),
        ("postgres (EnterpriseDB) 16.4.1\n", "16.4.1"),
    ] {
        assert_eq!(binaries::version_in(output).unwrap(), expected);
    }
    assert_eq!(major("18beta1"), Some(18));
    binaries::version_in("sh: postgres: not found").unwrap_err();
}

#[test]
fn the_url_carries_any_path() {
    let url = server::url(Path::new("/a b/50%&c"));
    assert_eq!(url, "postgres://gaffer@localhost:5432/gaffer?host=/a%20b/50%25%26c&sslmode=disable");
}
