//! What goes between master and workers under load: large definitions, much output, a database that stands still.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use gaffer_domain::reason::AttemptEnd;
use gaffer_domain::worker::HeldPhase;
use gaffer_domain::{AttemptRef, TaskId};
use gaffer_e2e::client::script;
use gaffer_e2e::cluster::fresh_database;
use gaffer_e2e::eventually;
use gaffer_e2e::raw_worker::{RawWorker, ended, hello};
use gaffer_e2e::stage::Stage;
use gaffer_protocol::output::{MAX_CHUNK_PAYLOAD, Stream};
use gaffer_protocol::wire::{GoodbyeCode, HeldAttempt, Hello, ToMaster, ToWorker};
use serde_json::json;
use sqlx::{Connection as _, PgConnection};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};

async fn worker(stage: &Stage, said: Hello) -> RawWorker {
    RawWorker::connect(&stage.worker_url(), &stage.worker_key, said).await
}

fn held(attempts: &[AttemptRef], phase: HeldPhase) -> Vec<HeldAttempt> {
    attempts.iter().map(|attempt| HeldAttempt { attempt: *attempt, phase }).collect()
}

/// Bytes that do not compress.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let byte = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..length).map(byte).collect()
}

async fn complete(worker: &mut RawWorker, attempt: AttemptRef) {
    worker.ended(attempt, AttemptEnd::Exited { code: 0 }, 0).await;
}

#[tokio::test]
async fn large_scripts_reach_their_worker_in_one_session_however_many_tasks_have_them() {
    let stage = Stage::set().await;
    let text = |bytes: usize, mark: usize| format!("# {mark}\n{}", "x\n".repeat(bytes / 2));
    let small = json!({"cpu": 0.01});
    let array = stage
        .client
        .submit(json!({"script": text(400 << 10, 0), "array": "0-63", "resources": small.clone()}))
        .await;
    let mut jobs = vec![(array, 64)];
    for at in 0..17 {
        let spec = json!({"script": text(500 << 10, at), "resources": small.clone()});
        jobs.push((stage.client.submit(spec).await, 1));
    }
    for at in 0..50 {
        let spec = json!({"script": text(25 << 10, at), "resources": small.clone()});
        jobs.push((stage.client.submit(spec).await, 1));
    }
    // All wait when it comes: everything is placed on it at once.
    let mut worker = worker(&stage, hello("w")).await;
    let count: usize = jobs.iter().map(|(_, tasks)| tasks).sum();
    for _ in 0..count {
        let attempt = worker.next_start().await.attempt;
        complete(&mut worker, attempt).await;
    }
    for (job, _) in jobs {
        assert_eq!(stage.client.finished(job).await.state, "completed");
    }
    let events = stage.client.get("/workers/w").await;
    assert_eq!(events.body["state"], "online");
}

#[tokio::test]
async fn a_task_that_is_placed_and_not_started_says_so() {
    let stage = Stage::set().await;
    let said = hello("w");
    let mut first = worker(&stage, said.clone()).await;
    let job = stage.client.submit(script("true")).await;
    let attempt = first.next_start().await.attempt;
    let why = async || {
        let explained = stage.client.get(&format!("/jobs/{job}/explain")).await;
        explained.body["message"].as_str().unwrap().to_owned()
    };
    let message = why().await;
    assert!(
        message.starts_with("main: placed on w ")
            && message.ends_with(" s ago; the worker is about to start it"),
        "{message}"
    );
    first.hang_up();
    eventually("it says that the worker is away", async || {
        why().await.contains("w is disconnected (last seen").then_some(())
    })
    .await;
    let said = Hello { held: held(&[attempt], HeldPhase::Queued), ..said };
    let _second = worker(&stage, said).await;
    let message = why().await;
    assert!(message.contains("; w reconnected "), "{message}");
}

#[tokio::test]
async fn a_worker_that_reads_is_told_as_much_as_there_is() {
    let stage = Stage::set().await;
    let strangers: Vec<AttemptRef> =
        (0..30_000).map(|task| AttemptRef { task: TaskId(1_000_000 + task), attempt: 1 }).collect();
    let said = Hello { held: held(&strangers, HeldPhase::Running), ..hello("w") };
    let mut worker = worker(&stage, said).await;
    let mut killed = HashSet::new();
    while killed.len() < strangers.len() {
        let attempt = worker
            .hear_until(|message| match message {
                ToWorker::Kill { attempt } => Some(attempt),
                ToWorker::Goodbye { message, .. } => panic!("{message}"),
                _ => None,
            })
            .await;
        killed.insert(attempt);
    }
    worker.heartbeat(1, vec![]).await;
}

#[tokio::test]
async fn nothing_is_kept_of_an_attempt_that_is_not_live_any_more() {
    let stage = Stage::set().await;
    let live = &stage.running.control.live;
    let said = hello("w");
    let mut first = worker(&stage, said.clone()).await;
    let job = stage.client.submit(script("true")).await;
    for _ in 0..5 {
        let attempt = first.next_start().await.attempt;
        first.say(&[ToMaster::Returned { attempt }]).await;
    }
    let attempt = first.next_start().await.attempt;
    assert_eq!(live.count(), 1, "those that were given back are forgotten");
    first.output(attempt, 0, Stream::Stdout, b"some\n").await;
    first.hear_until(|message| matches!(message, ToWorker::OutputStored { .. }).then_some(())).await;
    complete(&mut first, attempt).await;
    stage.client.finished(job).await;
    assert_eq!((live.count(), live.kept_bytes()), (0, 0));

    let lost = stage.client.submit(script("true")).await;
    first.next_start().await;
    first.hang_up();
    let said = Hello { boot_id: "boot-2".to_owned(), ..said };
    let mut second = worker(&stage, said).await;
    assert_eq!(
        stage.client.finished(lost).await.reason.unwrap().message,
        "the worker's machine was restarted"
    );
    assert_eq!(live.count(), 0);

    let stopped = stage.client.submit(script("true")).await;
    let attempt = second.next_start().await.attempt;
    second.output(attempt, 0, Stream::Stdout, b"some\n").await;
    stage.client.post(&format!("/jobs/{stopped}/stop"), &json!({})).await;
    second.hear_until(|message| matches!(message, ToWorker::Stop { .. }).then_some(())).await;
    second.ended(attempt, AttemptEnd::Stopped { process: None }, 5).await;
    stage.client.finished(stopped).await;
    assert_eq!(stage.client.delete(&format!("/jobs/{stopped}")).await.status, 204);
    // Output of what is gone finds no place, and leaves nothing behind.
    second.output(attempt, 5, Stream::Stdout, b"more\n").await;
    let offset = second
        .hear_until(|message| match message {
            ToWorker::OutputStored { offset, .. } if offset > 5 => Some(offset),
            _ => None,
        })
        .await;
    assert_eq!((offset, live.count()), (10, 0));
}

#[tokio::test]
async fn heartbeats_are_answered_while_the_database_stands_still() {
    let stage = Stage::set().await;
    let mut workers = Vec::new();
    for name in ["a", "b", "c"] {
        let mut worker = worker(&stage, hello(name)).await;
        let job = stage.client.submit(json!({"script": "true", "resources": {"cpu": 2}})).await;
        let attempt = worker.next_start().await.attempt;
        worker.started(attempt).await;
        stage.client.in_state(job, "running").await;
        workers.push((worker, job, attempt));
    }
    let mut database = PgConnection::connect(&stage.database_url).await.unwrap();
    let mut lock = database.begin().await.unwrap();
    sqlx::query("LOCK TABLE output_chunks, tasks, attempts, workers").execute(&mut *lock).await.unwrap();
    let chunk = noise(MAX_CHUNK_PAYLOAD);
    let chunks = (8 << 20) / chunk.len();
    let stranger = AttemptRef { task: TaskId(999_999), attempt: 1 };
    for (worker, _, attempt) in &mut workers {
        for at in 0..chunks {
            worker.output(*attempt, (at * chunk.len()) as u64, Stream::Stdout, &chunk).await;
        }
        // All that could be thought of to keep the master waiting.
        worker.output(stranger, 0, Stream::Stdout, b"x").await;
        complete(worker, stranger).await;
        let drivers = hello("w").drivers;
        worker.say(&[ToMaster::Noted { attempt: *attempt, message: "so far".to_owned() }]).await;
        worker.say(&[ToMaster::Drivers { drivers }]).await;
        let started = ToMaster::Started {
            attempt: *attempt,
            at: chrono::Utc::now(),
            container: None,
            ports: Vec::new(),
        };
        for _ in 0..12 {
            worker.say(&vec![started.clone(); 500]).await;
        }
    }
    for sequence in 1..=3 {
        for (worker, _, attempt) in &mut workers {
            worker.heartbeat(sequence, held(&[*attempt], HeldPhase::Running)).await;
        }
    }
    lock.rollback().await.unwrap();
    for (worker, job, attempt) in &mut workers {
        let bytes = (chunks * chunk.len()) as u64;
        worker.ended(*attempt, AttemptEnd::Exited { code: 0 }, bytes).await;
        assert_eq!(stage.client.finished(*job).await.state, "completed");
        let output = stage.client.output(*job).await;
        assert_eq!(output.len() as u64, bytes);
    }
}

#[tokio::test]
async fn a_worker_that_sends_more_than_it_was_granted_is_cut_off() {
    let stage = Stage::set().await;
    let mut worker = worker(&stage, hello("w")).await;
    stage.client.submit(script("true")).await;
    let attempt = worker.next_start().await.attempt;
    let granted = worker.welcome.output_window;
    let mut database = PgConnection::connect(&stage.database_url).await.unwrap();
    let mut lock = database.begin().await.unwrap();
    sqlx::query("LOCK TABLE output_chunks").execute(&mut *lock).await.unwrap();
    let chunk = noise(MAX_CHUNK_PAYLOAD);
    for at in 0..granted as usize / chunk.len() + 4 {
        worker.output(attempt, (at * chunk.len()) as u64, Stream::Stdout, &chunk).await;
    }
    let (code, message) = worker
        .hear_until(|message| match message {
            ToWorker::Goodbye { code, message } => Some((code, message)),
            _ => None,
        })
        .await;
    assert_eq!(code, GoodbyeCode::ProtocolError);
    assert!(message.contains("than its credit of 8388608 bytes"), "{message}");
    lock.rollback().await.unwrap();
}

#[tokio::test]
async fn a_heartbeat_without_news_does_not_ask_the_database_and_one_with_news_does() {
    let stage = Stage::set().await;
    let mut worker = worker(&stage, hello("w")).await;
    let job = stage.client.submit(script("true")).await;
    let attempt = worker.next_start().await.attempt;
    worker.started(attempt).await;
    stage.client.in_state(job, "running").await;
    let holds = held(&[attempt], HeldPhase::Running);
    worker.heartbeat(1, holds.clone()).await;
    let mut stored = 0;
    let mut write = async |worker: &mut RawWorker| {
        worker.output(attempt, stored, Stream::Stdout, b"line\n").await;
        stored += 5;
        let wanted = stored;
        worker
            .hear_until(|message| {
                matches!(message, ToWorker::OutputStored { offset, .. } if offset == wanted).then_some(())
            })
            .await;
    };
    // What comes after the comparison is stored when that is over.
    write(&mut worker).await;
    let mut database = PgConnection::connect(&stage.database_url).await.unwrap();
    let mut lock = database.begin().await.unwrap();
    sqlx::query("LOCK TABLE tasks").execute(&mut *lock).await.unwrap();
    for sequence in 2..5 {
        worker.heartbeat(sequence, holds.clone()).await;
        write(&mut worker).await;
    }
    lock.rollback().await.unwrap();
    // It lost the attempt: that is found out.
    worker.heartbeat(5, vec![]).await;
    let mut sequence = 5;
    eventually("the loss is found out", async || {
        sequence += 1;
        worker.heartbeat(sequence, vec![]).await;
        (stage.client.job(job).await.state == "failed").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_hello_waits_for_nobody_who_holds_its_project() {
    let stage = Stage::set().await;
    let mut database = PgConnection::connect(&stage.database_url).await.unwrap();
    let mut lock = database.begin().await.unwrap();
    // More than a submission does.
    sqlx::query("SELECT 1 FROM projects FOR NO KEY UPDATE").execute(&mut *lock).await.unwrap();
    let many = (0..20).map(|_| worker(&stage, hello("twin")));
    let workers = futures::future::join_all(many).await;
    let names: HashSet<String> = workers.iter().map(|worker| worker.welcome.name.clone()).collect();
    assert_eq!(names.len(), 20, "{names:?}");
    assert!(names.contains("twin") && names.contains("twin-20"));
    lock.rollback().await.unwrap();
}

/// Passes a database's connections on, and counts what its client says. Lives as long as the directory does.
async fn counted(database_url: &str) -> (String, Arc<AtomicUsize>, tempfile::TempDir) {
    let mut url = url::Url::parse(database_url).unwrap();
    let settings: Vec<(String, String)> = url.query_pairs().into_owned().collect();
    let host = |(name, value): &(String, String)| (name == "host").then(|| value.clone());
    let server = std::path::PathBuf::from(settings.iter().find_map(host).unwrap());
    let port = |(name, value): &(String, String)| (name == "port").then(|| value.clone());
    let port = settings.iter().find_map(port).or(url.port().map(|port| port.to_string()));
    let socket = format!(".s.PGSQL.{}", port.unwrap_or("5432".to_owned()));
    let dir = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(dir.path().join(&socket)).unwrap();
    url.query_pairs_mut().clear().extend_pairs(settings.into_iter().map(|(name, value)| {
        let value = if name == "host" { dir.path().display().to_string() } else { value };
        (name, value)
    }));
    let said = Arc::new(AtomicUsize::new(0));
    let count = said.clone();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = UnixStream::connect(server.join(&socket)).await.unwrap();
            let count = count.clone();
            tokio::spawn(async move {
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_server, mut to_server) = server.into_split();
                tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
                let mut buffer = vec![0; 1 << 20];
                while let Ok(length @ 1..) = from_client.read(&mut buffer).await {
                    count.fetch_add(1, Ordering::Relaxed);
                    if to_server.write_all(&buffer[..length]).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (url.to_string(), said, dir)
}

#[tokio::test]
async fn a_worker_that_returns_with_many_attempts_costs_the_database_a_few_questions() {
    const ATTEMPTS: usize = 1_000;
    let (database, said, _dir) = counted(&fresh_database().await).await;
    let stage = Stage::on(database).await;
    let claims = hello("w");
    let mut first = worker(&stage, claims.clone()).await;
    let spec = json!({"script": "true", "array": format!("0-{}", ATTEMPTS - 1), "resources": {"cpu": 0.001}});
    let job = stage.client.submit(spec).await;
    let mut attempts = Vec::new();
    answer(&mut first, ATTEMPTS, |attempt| {
        attempts.push(attempt);
        Some(ToMaster::Started { attempt, at: chrono::Utc::now(), container: None, ports: Vec::new() })
    })
    .await;
    first.output(attempts[7], 0, Stream::Stdout, b"hello").await;
    first.hear_until(|message| matches!(message, ToWorker::OutputStored { .. }).then_some(())).await;
    first.hang_up();
    let database = stage.strike().await;
    let stage = Stage::on(database).await;
    let claims = Hello { held: held(&attempts, HeldPhase::Running), ..claims };
    let before = said.load(Ordering::Relaxed);
    let mut second = worker(&stage, claims).await;
    let questions = said.load(Ordering::Relaxed) - before;
    assert!(questions < ATTEMPTS / 4, "{questions} for {ATTEMPTS} attempts");
    let stored = second.welcome.stored.iter().find(|stored| stored.attempt == attempts[7]);
    assert_eq!((second.welcome.stored.len(), stored.map(|stored| stored.offset)), (ATTEMPTS, Some(5)));
    for (at, attempt) in attempts.iter().enumerate() {
        let bytes = if at == 7 { 5 } else { 0 };
        let end = ended(*attempt, AttemptEnd::Exited { code: 0 }, bytes);
        second.say(&[ToMaster::Ended(Box::new(end))]).await;
    }
    assert_eq!(stage.client.finished(job).await.state, "completed");
    assert_eq!(stage.running.control.live.count(), 0);
}

#[tokio::test]
async fn a_session_survives_cut_connections_to_the_database() {
    let stage = Stage::set().await;
    let mut worker = worker(&stage, hello("w")).await;
    let job = stage.client.submit(script("true")).await;
    let attempt = worker.next_start().await.attempt;
    let mut database = PgConnection::connect(&stage.database_url).await.unwrap();
    for sequence in 1..=5 {
        let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
             WHERE datname = current_database() AND pid <> pg_backend_pid() AND query NOT LIKE '%advisory%'";
        sqlx::query(cut).execute(&mut database).await.unwrap();
        let stranger = AttemptRef { task: TaskId(900_000 + sequence as i64), attempt: 1 };
        worker.output(stranger, 0, Stream::Stdout, b"x").await;
        complete(&mut worker, stranger).await;
        worker.say(&[ToMaster::Drivers { drivers: hello("w").drivers }]).await;
        worker.heartbeat(sequence, held(&[attempt], HeldPhase::Queued)).await;
        worker
            .hear_until(|message| {
                matches!(message, ToWorker::EndStored { attempt } if attempt == stranger).then_some(())
            })
            .await;
    }
    complete(&mut worker, attempt).await;
    assert_eq!(stage.client.finished(job).await.state, "completed");
}

fn resident_mib() -> f64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: f64 = text.split_whitespace().nth(1).unwrap().parse().unwrap();
    pages * 4_096.0 / f64::from(1 << 20)
}

/// Takes starts until there are so many, and answers each with a report.
async fn answer(
    worker: &mut RawWorker,
    count: usize,
    mut report: impl FnMut(AttemptRef) -> Option<ToMaster>,
) {
    let (mut seen, mut reports, mut beat, mut beaten) = (0, Vec::new(), 1_000_000, std::time::Instant::now());
    while seen < count {
        if let Some(ToWorker::Start(start)) = worker.hear().await {
            seen += 1;
            reports.extend(report(start.attempt));
        }
        if reports.len() == 100 || seen == count || beaten.elapsed() > Duration::from_secs(1) {
            worker.say(&std::mem::take(&mut reports)).await;
            beat += 1;
            beaten = std::time::Instant::now();
            let heartbeat = gaffer_protocol::wire::Heartbeat {
                sequence: beat,
                held: None,
                stats: gaffer_protocol::wire::MachineStats::default(),
                clock: None,
            };
            worker.say(&[ToMaster::Heartbeat(Box::new(heartbeat))]).await;
        }
    }
}

#[tokio::test]
#[ignore = "for its figures: how much memory many attempts take (ATTEMPTS, in thousands)"]
async fn memory_of_many_attempts() {
    let thousands: usize = std::env::var("ATTEMPTS").ok().and_then(|text| text.parse().ok()).unwrap_or(100);
    let stage = Stage::set().await;
    let live = &stage.running.control.live;
    let mut worker = worker(&stage, hello("w")).await;
    let spec = |tasks: usize| json!({"script": "true", "array": format!("0-{}", tasks - 1), "resources": {"cpu": 0}});
    let say = |what: &str| {
        let line = format!("{what}: {:.0} MiB resident, {} known\n", resident_mib(), live.count());
        std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes()).unwrap();
    };
    say("at the start");
    let mut left = thousands;
    while left > 0 {
        let some = left.min(20);
        stage.client.submit(spec(some * 1_000)).await;
        answer(&mut worker, some * 1_000, |attempt| {
            let end = ended(attempt, AttemptEnd::Exited { code: 0 }, 0);
            Some(ToMaster::Ended(Box::new(end)))
        })
        .await;
        left -= some;
        say(&format!("{} thousand over", thousands - left));
    }
    let job = stage.client.submit(spec(100_000)).await;
    answer(&mut worker, 100_000, |attempt| {
        Some(ToMaster::Started { attempt, at: chrono::Utc::now(), container: None, ports: Vec::new() })
    })
    .await;
    say(&format!("a hundred thousand of job {job} live"));
}
