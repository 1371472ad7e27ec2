//! Backups of a private database, and what a restored installation makes of workers that know more than it does.

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use gaffer_domain::AttemptRef;
use gaffer_domain::reason::AttemptEnd;
use gaffer_domain::worker::HeldPhase;
use gaffer_e2e::client::Client;
use gaffer_e2e::cluster::{bare_database, copy_of, fresh_database, give_cluster};
use gaffer_e2e::eventually;
use gaffer_e2e::gaffer::{Dev, bare_command, command, data_dir, program};
use gaffer_e2e::raw_worker::{RawWorker, hello};
use gaffer_e2e::stage::Stage;
use gaffer_master::backup::prepare;
use gaffer_protocol::output::Stream;
use gaffer_protocol::wire::{HeldAttempt, Hello, ToWorker};
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};

/// What the program says on the installation of that directory.
async fn gaffer(data_dir: &Path, args: &[&str]) -> Output {
    command(args).env("GAFFER_DATA_DIR", data_dir).output().await.unwrap()
}

/// Its result, which is to be a good one.
async fn gaffer_json(data_dir: &Path, args: &[&str]) -> Value {
    let output = gaffer(data_dir, &[args, &["-o", "json"]].concat()).await;
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Its exit code, and what it says on standard error.
async fn refused(data_dir: &Path, args: &[&str]) -> (Option<i32>, String) {
    let output = gaffer(data_dir, args).await;
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn entries(dir: &Path) -> usize {
    std::fs::read_dir(dir).unwrap().count()
}

/// Repeats a task whose attempt is lost, after the shortest time that there is.
fn patient(script: &str) -> Value {
    let restart = json!({"policy": "on-failure", "limit": 5, "delay": "0s", "on_lost": "restart"});
    json!({"script": script, "lost_after": "10s", "restart": restart, "resources": {"cpu": 0.1}})
}

async fn attempt_of(client: &Client, job: i64) -> u32 {
    client.tasks(job).await.remove(0).attempt
}

async fn kinds(client: &Client, job: i64) -> Vec<String> {
    let events = client.get(&format!("/jobs/{job}/events")).await;
    let kinds = events.body["items"].as_array().unwrap().iter();
    kinds.map(|event| event["kind"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_backup_of_a_busy_installation_is_restored_elsewhere_to_the_byte_and_continues() {
    let (dir, elsewhere, backups) = (data_dir(), data_dir(), data_dir());
    let dev = Dev::start_with(dir.path(), &[("GAFFER_WORKER_NAME", "one")]).await;
    let mut outputs = Vec::new();
    for _ in 0..3 {
        let script = "head -c 300000 /dev/urandom; head -c 70000 /dev/urandom >&2; echo the end";
        let job = dev.client.submit(json!({"script": script})).await;
        assert_eq!(dev.client.finished(job).await.state, "completed");
        outputs.push((job, dev.client.output(job).await));
    }
    let script = "[ $GAFFER_ATTEMPT -gt 1 ] || while echo one more line; do sleep 0.001; done";
    let busy = dev.client.submit(patient(script)).await;
    eventually("it writes", async || (dev.client.output(busy).await.len() > 1_000).then_some(())).await;
    let mut waiting = patient("echo at last");
    waiting["constraints"] = json!(["labels.there == yes"]);
    let waiting = dev.client.submit(waiting).await;

    let file = backups.path().join("gaffer.backup");
    let made = gaffer_json(dir.path(), &["backup", text(&file)]).await;
    let metadata = file.metadata().unwrap();
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    assert_eq!(made["bytes"], metadata.len());
    assert_eq!(entries(backups.path()), 1, "nothing else is left");
    let newer = dev.client.submit(json!({"script": "true"})).await;
    dev.client.finished(newer).await;
    let key = dev.client.key().to_owned();
    assert_eq!(dev.interrupt().await, Some(0));

    let restored = gaffer_json(elsewhere.path(), &["restore", text(&file)]).await;
    assert!(restored["unfinished_jobs"].as_i64().unwrap() >= 2, "{restored}");
    assert_eq!(restored["replaced"], Value::Null);
    let settings = [("GAFFER_WORKER_NAME", "two"), ("GAFFER_WORKER_LABELS", "there=yes")];
    let dev = Dev::start_from_nothing(elsewhere.path(), &settings).await;
    // The keys are those of before.
    let client = dev.client.with_key(&key);
    for (job, output) in &outputs {
        assert_eq!(client.job(*job).await.state, "completed");
        assert!(client.output(*job).await == *output, "the output of job {job} has changed");
        assert!(!kinds(&client, *job).await.contains(&"job.restored".to_owned()));
    }
    assert_eq!(client.get(&format!("/jobs/{newer}")).await.status, 404);
    let next = client.submit(json!({"script": "echo as ever"})).await;
    assert!(next >= restored["next_job"].as_i64().unwrap() && next > newer);
    assert_eq!(client.finished(next).await.state, "completed");
    assert_eq!(client.output(next).await, b"as ever\n");
    for job in [busy, waiting] {
        let done = client.finished(job).await;
        assert_eq!(done.state, "completed", "{:?}", done.reason);
        assert!(attempt_of(&client, job).await > 1_000);
        assert!(kinds(&client, job).await.contains(&"job.restored".to_owned()));
    }
    assert_eq!(client.output(waiting).await, b"at last\n");
    assert_eq!(dev.interrupt().await, Some(0));
}

#[tokio::test]
async fn what_cannot_be_restored_is_refused_and_nothing_is_touched() {
    let (dir, elsewhere, backups) = (data_dir(), data_dir(), data_dir());
    let file = backups.path().join("gaffer.backup");
    let (code, said) = refused(dir.path(), &["backup", text(&file)]).await;
    assert!(code == Some(3) && said.contains("no database of gaffer"), "{said}");
    // No master runs, so the database is started for it.
    give_cluster(dir.path()).await;
    gaffer_json(dir.path(), &["backup", text(&file)]).await;
    let (code, said) = refused(dir.path(), &["backup", text(&file)]).await;
    assert!(code == Some(5) && said.contains("--force"), "{said}");
    gaffer_json(dir.path(), &["backup", "--force", text(&file)]).await;
    // What leads to the file still does.
    let link = backups.path().join("link");
    std::os::unix::fs::symlink(&file, &link).unwrap();
    gaffer_json(dir.path(), &["backup", "--force", text(&link)]).await;
    assert!(link.symlink_metadata().unwrap().is_symlink() && !file.symlink_metadata().unwrap().is_symlink());
    let named = gaffer_json(dir.path(), &["backup", text(backups.path())]).await;
    assert_eq!(Path::new(named["file"].as_str().unwrap()).parent(), Some(backups.path()));

    let whole = std::fs::read(&file).unwrap();
    let mut altered = whole.clone();
    altered[whole.len() / 2] ^= 1;
    let damaged = backups.path().join("damaged");
    for (bytes, complaint) in [
        (&whole[..whole.len() / 2], "truncated"),
        (&altered[..], "the checksum of database.dump does not match"),
        (b"SELECT 1;\n".as_slice(), "not a backup of gaffer"),
    ] {
        std::fs::write(&damaged, bytes).unwrap();
        let (code, said) = refused(elsewhere.path(), &["restore", text(&damaged)]).await;
        assert!(code == Some(1) && said.contains(complaint), "{said}");
        assert_eq!(entries(elsewhere.path()), 0, "something was made for a file that is refused");
    }
    let (code, _) = refused(elsewhere.path(), &["restore", "/nonexistent"]).await;
    assert_eq!(code, Some(3));

    let cluster = dir.path().join("postgres/cluster");
    let before = cluster.metadata().unwrap().ino();
    let (code, said) = refused(dir.path(), &["restore", text(&file)]).await;
    assert!(code == Some(5) && said.contains("--replace"), "{said}");
    let dev = Dev::start(dir.path()).await;
    let (code, said) = refused(dir.path(), &["restore", "--replace", text(&file)]).await;
    assert!(code == Some(5) && said.contains("is using"), "{said}");
    assert_eq!(dev.interrupt().await, Some(0));
    assert_eq!(cluster.metadata().unwrap().ino(), before);
    let (code, said) = refused(dir.path(), &["restore", "--replace", text(&damaged)]).await;
    assert!(code == Some(1) && cluster.metadata().unwrap().ino() == before, "{said}");

    let restored = gaffer_json(dir.path(), &["restore", "--replace", text(&file)]).await;
    let kept = Path::new(restored["replaced"].as_str().unwrap()).metadata().unwrap();
    assert_eq!(kept.ino(), before);
    let left: Vec<_> =
        std::fs::read_dir(dir.path().join("postgres")).unwrap().map(|it| it.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().starts_with("initdb-")), "{left:?}");
    let dev = Dev::start(dir.path()).await;
    assert_eq!(dev.interrupt().await, Some(0));
}

#[tokio::test]
async fn what_is_no_file_is_neither_written_nor_read() {
    let (dir, backups) = (data_dir(), data_dir());
    let pipe = backups.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    for name in [text(&pipe), "-"] {
        for args in [&["backup", "--force", name][..], &["backup", name], &["restore", name]] {
            let (code, said) = refused(dir.path(), args).await;
            assert!(code == Some(2) && said.contains("file"), "{args:?}: {code:?} {said}");
        }
    }
    assert!(pipe.metadata().unwrap().file_type().is_fifo(), "the pipe was replaced");
    assert_eq!((entries(dir.path()), entries(backups.path())), (0, 1));
}

#[tokio::test]
async fn a_restore_that_is_killed_loses_nothing_and_can_be_repeated() {
    let (dir, backups) = (data_dir(), data_dir());
    let dev = Dev::start(dir.path()).await;
    let job = dev.client.submit(json!({"script": "echo kept"})).await;
    dev.client.finished(job).await;
    let key = dev.client.key().to_owned();
    let file = backups.path().join("gaffer.backup");
    gaffer_json(dir.path(), &["backup", text(&file)]).await;
    assert_eq!(dev.interrupt().await, Some(0));

    let home = dir.path().join("postgres");
    let inode = |path: &Path| path.metadata().map(|it| it.ino()).ok();
    let present = || inode(&home.join("cluster")).unwrap();
    let in_home = |prefix: &str| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(&home).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with(prefix)).collect()
    };
    for progress in ["postgres", "postgres/cluster/PG_VERSION", "postgres/cluster/postmaster.pid"] {
        let before = present();
        let mut restore = command(&["restore", "--replace", text(&file)]);
        let restore = restore.env("GAFFER_DATA_DIR", dir.path()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut restore = restore.spawn().unwrap();
        eventually("it has come so far, or to its end", async || {
            let is_there = in_home("initdb-").iter().any(|scratch| scratch.join(progress).exists());
            (is_there || restore.try_wait().unwrap().is_some()).then_some(())
        })
        .await;
        // It may have ended.
        let _ = restore.kill().await;
        // However far it came: the cluster is in its place, or kept beside that of the backup.
        let is_kept = in_home("replaced-").iter().any(|kept| inode(kept) == Some(before));
        assert!(present() == before || is_kept, "killed at {progress}");
    }
    let restored = gaffer_json(dir.path(), &["restore", "--replace", text(&file)]).await;
    assert!(restored["replaced"].is_string(), "{restored}");
    assert_eq!(in_home("initdb-"), Vec::<PathBuf>::new());
    let dev = Dev::start(dir.path()).await;
    assert_eq!(dev.client.with_key(&key).output(job).await, b"kept\n");
    assert_eq!(dev.interrupt().await, Some(0));
}

#[tokio::test]
async fn a_backup_for_which_there_is_no_room_leaves_no_file() {
    let (dir, backups) = (data_dir(), data_dir());
    let dev = Dev::start(dir.path()).await;
    let file = backups.path().join("gaffer.backup");
    // The shell counts in blocks of 512 bytes; to exceed that is an error, as on a full disk.
    let limited = async |args: &[&str]| {
        let script = "trap '' XFSZ; ulimit -f 20; exec \"$0\" \"$@\"";
        let mut command = bare_command(Path::new("sh"), &["-c", script]);
        command.arg(program()).args(args).env("GAFFER_DATA_DIR", dir.path()).output().await.unwrap()
    };
    let output = limited(&["backup", text(&file)]).await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("cannot write"), "{said}");
    assert_eq!(entries(backups.path()), 0);
    // Nor does it take one that is there.
    gaffer_json(dir.path(), &["backup", text(&file)]).await;
    let whole = std::fs::read(&file).unwrap();
    assert_eq!(limited(&["backup", "--force", text(&file)]).await.status.code(), Some(1));
    assert!(std::fs::read(&file).unwrap() == whole && entries(backups.path()) == 1);
    assert_eq!(dev.interrupt().await, Some(0));
}

#[tokio::test]
async fn a_database_of_the_operator_is_left_to_the_tools_of_postgres() {
    let dir = data_dir();
    for (verb, instead) in [("backup", "pg_dump"), ("restore", "gaffer restore --prepare")] {
        let mut command = command(&[verb, "x"]);
        command.env("GAFFER_DATA_DIR", dir.path()).env("DATABASE_URL", "postgres://localhost/gaffer");
        let output = command.output().await.unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && said.contains(instead), "{said}");
    }
    // Restored by them, it is prepared as well.
    let mut command = command(&["restore", "--prepare", "2020-01-01T00:00:00Z", "-o", "json"]);
    let output = command.env("DATABASE_URL", fresh_database().await).output().await.unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let prepared: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(prepared["next_job"], 2_000);
    // A database into which nothing was restored stays empty, and a time that has not been is a mistake.
    for (time, expected) in [("2020-01-01T00:00:00Z", 3), ("2999-01-01T00:00:00Z", 2)] {
        let url = bare_database().await;
        let mut command = self::command(&["restore", "--prepare", time]);
        let output = command.env("DATABASE_URL", &url).output().await.unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(expected) && !said.is_empty(), "{said}");
        let mut database = PgConnection::connect(&url).await.unwrap();
        let tables: i64 = sqlx::query_scalar("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")
            .fetch_one(&mut database)
            .await
            .unwrap();
        assert_eq!(tables, 0, "{time}");
    }
}

/// A worker's hello with what it holds.
fn holding(said: &Hello, attempts: &[AttemptRef]) -> Hello {
    let held = |attempt: &AttemptRef| HeldAttempt { attempt: *attempt, phase: HeldPhase::Running };
    Hello { held: attempts.iter().map(held).collect(), ..said.clone() }
}

async fn number(database_url: &str, sql: &'static str) -> i64 {
    let mut database = PgConnection::connect(database_url).await.unwrap();
    sqlx::query_scalar(sql).fetch_one(&mut database).await.unwrap()
}

async fn term(database_url: &str) -> i64 {
    number(database_url, "SELECT term FROM leadership").await
}

#[tokio::test]
async fn a_restored_master_ends_what_workers_have_begun_since_and_gives_no_number_out_again() {
    let stage = Stage::set().await;
    let key = stage.worker_key.clone();
    let mut said = hello("w");
    let mut worker = RawWorker::connect(&stage.worker_url(), &key, said.clone()).await;
    let running = stage.client.submit(patient("true")).await;
    let first = worker.next_start().await.attempt;
    worker.started(first).await;
    worker.output(first, 0, Stream::Stdout, b"12345").await;
    eventually("it is stored", async || (stage.client.output(running).await == b"12345").then_some(())).await;
    let mut spec = patient("true");
    spec["constraints"] = json!(["labels.later == yes"]);
    let waiting = stage.client.submit(spec).await;
    worker.hang_up();
    let original = stage.strike().await;
    let backup = copy_of(&original).await;
    let taken_at = chrono::Utc::now();

    // After the backup: more output, an attempt of a task that had none, and a task that the backup does not know.
    let stage = Stage::on(original).await;
    said.labels.insert("later".to_owned(), "yes".to_owned());
    let mut worker = RawWorker::connect(&stage.worker_url(), &key, holding(&said, &[first])).await;
    let second = worker.next_start().await.attempt;
    worker.started(second).await;
    worker.output(first, 5, Stream::Stdout, b"67890").await;
    let stored = |message| matches!(message, ToWorker::OutputStored { offset: 10, .. }).then_some(());
    worker.hear_until(stored).await;
    let newer = stage.client.submit(patient("true")).await;
    let third = worker.next_start().await.attempt;
    worker.started(third).await;
    stage.client.in_state(newer, "running").await;
    worker.hang_up();
    let original = stage.strike().await;

    let (begun, held) = (Instant::now(), [first, second, third]);
    let restored = prepare(&backup, taken_at).await.unwrap();
    assert_eq!((restored.jobs, restored.unfinished), (2, 2));
    assert!(term(&backup).await > term(&original).await);
    let told = number(&backup, "SELECT min(id) FROM events WHERE kind = 'job.restored'").await;
    let told_since = number(&original, "SELECT max(id) + 1024 FROM events").await;
    assert!(told > told_since, "who follows events would pass over {told} after {told_since}");
    let stage = Stage::on(backup).await;
    let explained = stage.client.get(&format!("/jobs/{waiting}/explain")).await.body["message"].to_string();
    assert!(explained.contains("restored from a backup"), "{explained}");
    let mut worker = RawWorker::connect(&stage.worker_url(), &key, holding(&said, &held)).await;
    assert!(worker.welcome.stored.is_empty(), "{:?}", worker.welcome.stored);
    let mut killed = Vec::new();
    while killed.len() < held.len() {
        let killing = |message| match message {
            ToWorker::Kill { attempt } => Some(attempt),
            ToWorker::Start(start) => panic!("{start:?} while its earlier attempts may execute"),
            _ => None,
        };
        killed.push(worker.hear_until(killing).await);
    }
    killed.sort();
    assert_eq!(killed, held);
    // Until they have ended, the one that is known counts as running.
    assert_eq!(stage.client.job(running).await.state, "running");
    // Of what it asks for nothing is left at the worker, so it asks for nothing.
    worker.output(first, 10, Stream::Stdout, b"abc").await;
    for attempt in held {
        worker.ended(attempt, AttemptEnd::Stopped { process: None }, 13).await;
    }
    let mut forgotten = Vec::new();
    while forgotten.len() < held.len() {
        let told = |message| match message {
            ToWorker::EndStored { attempt } => Some(attempt),
            ToWorker::OutputWanted { attempt, .. } => panic!("output of {attempt} is asked for"),
            _ => None,
        };
        forgotten.push(worker.hear_until(told).await);
    }
    forgotten.sort();
    assert_eq!(forgotten, held);
    worker.heartbeat(1, Vec::new()).await;
    let task = eventually("it counts as lost", async || {
        let task = stage.client.tasks(running).await.remove(0);
        (task.state == "pending").then_some(task)
    })
    .await;
    assert!(task.reason.is_some_and(|reason| reason.message.contains("restored from a backup")));

    // A new task need not wait, and has a number that no worker knows.
    let fresh = stage.client.submit(patient("true")).await;
    assert!(fresh > newer && fresh == restored.next_job);
    let start = worker.next_start().await.attempt;
    assert!(start.task.0 > third.task.0 && start.attempt == 1, "{start:?}");
    worker.ended(start, AttemptEnd::Exited { code: 0 }, 0).await;
    for _ in [running, waiting] {
        let start = worker.next_start().await.attempt;
        assert!(begun.elapsed() > Duration::from_secs(15), "a lease of before may still last");
        assert!(start.attempt > 1_000 && [first.task, second.task].contains(&start.task), "{start:?}");
        worker.output(start, 0, Stream::Stdout, b"again").await;
        worker.ended(start, AttemptEnd::Exited { code: 0 }, 5).await;
    }
    for job in [running, waiting, fresh] {
        assert_eq!(stage.client.finished(job).await.state, "completed");
    }
    // Who follows attempt after attempt passes over the numbers that were left out.
    let path = format!("/jobs/{running}/output?attempt=2&follow=1");
    let followed = stage.client.open(&path, "text/plain").await;
    let number = stage.client.tasks(running).await.remove(0).attempt;
    assert_eq!(followed.headers()["x-gaffer-attempt"], number.to_string(), "it says which that is");
    assert_eq!(followed.bytes().await.unwrap(), b"again".as_slice());
    let none = stage.client.get(&format!("/jobs/{running}/output?attempt=0&follow=1")).await;
    assert_eq!(none.status, 404);
    assert_eq!(kinds(&stage.client, running).await.iter().filter(|kind| *kind == "job.restored").count(), 1);
}

#[tokio::test]
async fn an_era_that_a_backup_met_without_its_record_keeps_its_jobs() {
    let stage = Stage::set().await;
    let mut database = PgConnection::connect(&stage.database_url).await.unwrap();
    // As when the transaction that opens an era fails: what it has done to the sequence stays.
    let opened = "SELECT setval('live_tasks_id_seq', first_task(1), false)";
    sqlx::query(opened).execute(&mut database).await.unwrap();
    let job = stage.client.submit(json!({"script": "true"})).await;
    database.close().await.unwrap();
    let url = stage.strike().await;
    prepare(&url, chrono::Utc::now()).await.unwrap();
    let mut database = PgConnection::connect(&url).await.unwrap();
    // By this range its jobs are looked for before the era is dropped.
    let is_within: bool = sqlx::query_scalar(
        "SELECT $1 >= first_job AND $1 < end_job FROM ( \
             SELECT number, first_job, lead(first_job) OVER (ORDER BY number) AS end_job FROM eras) e WHERE number = 1",
    )
    .bind(job)
    .fetch_one(&mut database)
    .await
    .unwrap();
    assert!(is_within, "job {job} would go with its era");
}

#[tokio::test]
async fn what_a_master_uses_is_not_prepared_for_another_time() {
    let stage = Stage::set().await;
    let before = term(&stage.database_url).await;
    // Nor is its schema brought up to date: with the last migration forgotten, to try that would fail.
    let mut database = PgConnection::connect(&stage.database_url).await.unwrap();
    let forget = "DELETE FROM _sqlx_migrations WHERE version = (SELECT max(version) FROM _sqlx_migrations)";
    sqlx::raw_sql(forget).execute(&mut database).await.unwrap();
    let error = prepare(&stage.database_url, chrono::Utc::now()).await.unwrap_err().to_string();
    assert!(error.contains("a master uses the database"), "{error}");
    assert_eq!(term(&stage.database_url).await, before);
}
