//! Sessions of workers: who is let in, what they are believed, what repairs a difference.

use gaffer_domain::reason::AttemptEnd;
use gaffer_domain::spec::DriverKind;
use gaffer_domain::worker::HeldPhase;
use gaffer_e2e::client::script;
use gaffer_e2e::eventually;
use gaffer_e2e::raw_worker::{RawWorker, dial, ended, goodbye, hello};
use gaffer_e2e::stage::Stage;
use gaffer_protocol::output::Stream;
use gaffer_protocol::wire::{GoodbyeCode, HeldAttempt, ToMaster, ToWorker};
use serde_json::json;
use sqlx::{Connection as _, PgConnection};

async fn worker(stage: &Stage, name: &str) -> RawWorker {
    RawWorker::connect(&stage.worker_url(), &stage.worker_key, hello(name)).await
}

#[tokio::test]
async fn a_job_runs_on_a_worker_and_its_output_and_end_are_kept() {
    let stage = Stage::set().await;
    let mut worker = worker(&stage, "w").await;
    let job = stage.client.submit(script("echo hello")).await;
    let attempt = worker.next_start().await.attempt;
    worker.started(attempt).await;
    worker.output(attempt, 0, Stream::Stdout, b"hel").await;
    worker.output(attempt, 3, Stream::Stderr, b"lo\n").await;
    worker.ended(attempt, AttemptEnd::Exited { code: 0 }, 6).await;
    let stored = worker
        .hear_until(|message| match message {
            ToWorker::EndStored { attempt } => Some(attempt),
            _ => None,
        })
        .await;
    assert_eq!(stored, attempt);
    let done = stage.client.finished(job).await;
    assert_eq!(done.state, "completed");
    assert_eq!(stage.client.output(job).await, b"hello\n");
    let tasks = stage.client.tasks(job).await;
    assert_eq!((tasks[0].worker.as_deref(), tasks[0].exit_code, tasks[0].attempt), (Some("w"), Some(0), 1));
}

#[tokio::test]
async fn a_worker_with_a_bad_key_is_told_why_before_the_upgrade() {
    let stage = Stage::set().await;
    let user_key =
        gaffer_e2e::stage::key(&stage.running.control, gaffer_master::secret::Purpose::UserKey).await;
    for key in ["%", user_key.as_str()] {
        let Err(tokio_tungstenite::tungstenite::Error::Http(response)) = dial(&stage.worker_url(), key).await
        else {
            panic!("a worker with the key {key:?} was let in");
        };
        assert_eq!(response.status(), 401);
        let problem: serde_json::Value = serde_json::from_slice(response.body().as_ref().unwrap()).unwrap();
        assert_eq!(problem["code"], "key_invalid");
    }
}

#[tokio::test]
async fn a_worker_that_speaks_another_protocol_is_told_which_version_to_run() {
    let stage = Stage::set().await;
    let mut strange = hello("w");
    strange.protocol = 99;
    let refused =
        RawWorker::try_connect(&stage.worker_url(), &stage.worker_key, strange).await.err().unwrap();
    let (code, message) = goodbye(refused);
    assert_eq!(code, GoodbyeCode::ProtocolVersion);
    assert!(message.contains("run the same version of gaffer on both"), "{message}");
}

#[tokio::test]
async fn the_newer_session_of_a_worker_wins_and_the_older_is_told() {
    let stage = Stage::set().await;
    let said = hello("w");
    let mut older = RawWorker::connect(&stage.worker_url(), &stage.worker_key, said.clone()).await;
    let mut newer = RawWorker::connect(&stage.worker_url(), &stage.worker_key, said).await;
    assert_eq!(goodbye(older.hear().await).0, GoodbyeCode::Superseded);
    assert_eq!(older.welcome.worker, newer.welcome.worker);
    newer.heartbeat(1, vec![]).await;
    let workers = stage.client.get("/workers").await;
    assert_eq!(workers.body["items"].as_array().unwrap().len(), 1);
    eventually("the worker is online", async || {
        (stage.client.get("/workers/w").await.body["state"] == "online").then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_a_session_took_in_is_stored_also_when_a_newer_one_takes_its_place() {
    let stage = Stage::set().await;
    let said = hello("w");
    let mut older = RawWorker::connect(&stage.worker_url(), &stage.worker_key, said.clone()).await;
    let job = stage.client.submit(script("true")).await;
    let attempt = older.next_start().await.attempt;
    // The database stands still until the older session cannot pass on what it has read.
    let mut database = PgConnection::connect(&stage.database_url).await.unwrap();
    let mut lock = database.begin().await.unwrap();
    sqlx::query("LOCK TABLE output_chunks").execute(&mut *lock).await.unwrap();
    let text: Vec<u8> = (0..5_000).map(|at: u32| b'a' + (at % 26) as u8).collect();
    for (at, byte) in text.iter().enumerate() {
        older.output(attempt, at as u64, Stream::Stdout, &[*byte]).await;
    }
    let live = stage.running.control.live.get(attempt).unwrap();
    eventually("its queue is full", async || (live.received().bytes > 4_096).then_some(())).await;

    let held = vec![HeldAttempt { attempt, phase: HeldPhase::Finished }];
    let said = gaffer_protocol::wire::Hello { held, ..said };
    let (url, key) = (stage.worker_url(), stage.worker_key.clone());
    let newer = tokio::spawn(async move { RawWorker::connect(&url, &key, said).await });
    assert_eq!(goodbye(older.hear().await).0, GoodbyeCode::Superseded);
    lock.rollback().await.unwrap();
    let mut newer = newer.await.unwrap();
    // What is not committed yet counts as taken in, too: it is not sent again here.
    assert!(newer.welcome.stored[0].offset <= live.received().bytes);
    let taken_in = live.received().bytes as usize;
    if taken_in < text.len() {
        newer.output(attempt, taken_in as u64, Stream::Stdout, &text[taken_in..]).await;
    }
    newer.ended(attempt, AttemptEnd::Exited { code: 0 }, text.len() as u64).await;
    stage.client.finished(job).await;
    assert!(stage.client.output(job).await == text);
}

#[tokio::test]
async fn a_second_worker_of_the_same_name_gets_a_number() {
    let stage = Stage::set().await;
    let first = worker(&stage, "pi").await;
    let second = worker(&stage, "pi").await;
    assert_eq!((first.welcome.name.as_str(), second.welcome.name.as_str()), ("pi", "pi-2"));
}

#[tokio::test]
async fn garbage_ends_only_the_session_that_sent_it() {
    let stage = Stage::set().await;
    let mut good = worker(&stage, "good").await;
    let deep = format!("[{}{}]", "[".repeat(5_000), "]".repeat(5_000));
    let garbage = [
        "{}".to_owned(),
        "[{\"type\":\"nonsense\"}]".to_owned(),
        "\u{0}\u{1}".to_owned(),
        "[]garbage".to_owned(),
        deep,
        serde_json::to_string(&[ToMaster::Hello(Box::new(hello("again")))]).unwrap(),
    ];
    for text in garbage {
        let mut bad = worker(&stage, "bad").await;
        bad.say_text(&text).await;
        let (code, _) = loop {
            match bad.hear().await {
                Some(ToWorker::Goodbye { code, message }) => break (code, message),
                Some(_) => {}
                None => panic!("the session ended without a reason"),
            }
        };
        assert_eq!(code, GoodbyeCode::ProtocolError);
    }
    for bytes in [vec![], vec![1; 10], vec![9; 100], vec![1; 200]] {
        let mut bad = worker(&stage, "bad").await;
        bad.say_bytes(bytes).await;
        assert_eq!(goodbye(bad.hear().await).0, GoodbyeCode::ProtocolError);
    }
    good.heartbeat(1, vec![]).await;
    let job = stage.client.submit(script("true")).await;
    let attempt = good.next_start().await.attempt;
    good.ended(attempt, AttemptEnd::Exited { code: 0 }, 0).await;
    assert_eq!(stage.client.finished(job).await.state, "completed");
}

#[tokio::test]
async fn a_worker_cannot_touch_the_attempts_of_another() {
    let stage = Stage::set().await;
    let mut honest = worker(&stage, "honest").await;
    let job = stage.client.submit(script("true")).await;
    let attempt = honest.next_start().await.attempt;
    honest.started(attempt).await;
    honest.output(attempt, 0, Stream::Stdout, b"mine\n").await;
    honest.heartbeat(1, vec![HeldAttempt { attempt, phase: HeldPhase::Running }]).await;

    let mut hostile = worker(&stage, "hostile").await;
    hostile.output(attempt, 5, Stream::Stdout, b"forged\n").await;
    hostile.ended(attempt, AttemptEnd::Exited { code: 0 }, 12).await;
    hostile.heartbeat(1, vec![]).await;
    assert_eq!(stage.client.job(job).await.state, "running");

    honest.ended(attempt, AttemptEnd::Exited { code: 7 }, 5).await;
    assert_eq!(stage.client.finished(job).await.state, "failed");
    assert_eq!(stage.client.output(job).await, b"mine\n");
}

#[tokio::test]
async fn hostile_text_in_a_report_is_made_harmless() {
    let stage = Stage::set().await;
    let mut said = hello("evil\u{1b}]0;title\u{7}\u{0}name");
    said.labels.insert("a\u{0}b".to_owned(), "\u{202e}x\u{0}".to_owned());
    said.warnings.push("\u{0}".to_owned());
    let mut worker = RawWorker::connect(&stage.worker_url(), &stage.worker_key, said).await;
    assert!(!worker.welcome.name.chars().any(char::is_control), "{:?}", worker.welcome.name);
    let job = stage.client.submit(script("true")).await;
    let attempt = worker.next_start().await.attempt;
    let end = AttemptEnd::StartFailed { exit_code: 127, message: "no such\u{0} thing\u{1b}[31m".to_owned() };
    worker.ended(attempt, end, 0).await;
    let reason = stage.client.finished(job).await.reason.unwrap();
    assert_eq!(reason.message, "no such  thing [31m");
}

#[tokio::test]
async fn doubled_and_overlapping_output_is_stored_once_and_a_gap_is_asked_for() {
    let stage = Stage::set().await;
    let mut worker = worker(&stage, "w").await;
    let job = stage.client.submit(script("true")).await;
    let attempt = worker.next_start().await.attempt;
    worker.output(attempt, 0, Stream::Stdout, b"0123\n56789").await;
    worker.output(attempt, 0, Stream::Stdout, b"0123\n56789").await;
    worker.output(attempt, 3, Stream::Stdout, b"3\n56789abcde").await;
    worker.output(attempt, 20, Stream::Stdout, b"too far").await;
    let wanted = worker
        .hear_until(|message| match message {
            ToWorker::OutputWanted { offset, .. } => Some(offset),
            _ => None,
        })
        .await;
    assert_eq!(wanted, 15);
    worker.output(attempt, 15, Stream::Stdout, b"fghij").await;
    worker.ended(attempt, AttemptEnd::Exited { code: 0 }, 20).await;
    stage.client.finished(job).await;
    assert_eq!(stage.client.output(job).await, b"0123\n56789abcdefghij");
    let detail = stage.client.get(&format!("/jobs/{job}/tasks/main")).await;
    let attempt = &detail.body["attempts"][0];
    assert_eq!((&attempt["output_bytes"], &attempt["output_lines"]), (&json!(20), &json!(1)));
}

#[tokio::test]
async fn an_end_that_was_sent_before_the_worker_heard_of_a_gap_is_waited_for_again() {
    let stage = Stage::set().await;
    let mut worker = worker(&stage, "w").await;
    let job = stage.client.submit(script("true")).await;
    let attempt = worker.next_start().await.attempt;
    worker.output(attempt, 0, Stream::Stdout, b"01234").await;
    worker.output(attempt, 10, Stream::Stdout, b"abcde").await;
    worker.ended(attempt, AttemptEnd::Exited { code: 0 }, 15).await;
    let wanted = worker
        .hear_until(|message| match message {
            ToWorker::OutputWanted { offset, .. } => Some(offset),
            ToWorker::Goodbye { message, .. } => panic!("{message}"),
            _ => None,
        })
        .await;
    assert_eq!(wanted, 5);
    worker.output(attempt, 5, Stream::Stdout, b"56789abcde").await;
    worker.ended(attempt, AttemptEnd::Exited { code: 0 }, 15).await;
    stage.client.finished(job).await;
    assert_eq!(stage.client.output(job).await, b"0123456789abcde");
}

#[tokio::test]
async fn output_that_is_not_what_the_worker_read_is_told_so() {
    let stage = Stage::set().await;
    let mut worker = worker(&stage, "w").await;
    let sum = "9834876dcfb05cb167a5c24953eba58c4ac89b1adf57f28f2f9d09af107ee8f0"; // of "aaa"
    for (bytes, differs) in [(b"aaa", false), (b"aab", true)] {
        let job = stage.client.submit(script("true")).await;
        let attempt = worker.next_start().await.attempt;
        worker.output(attempt, 0, Stream::Stdout, bytes).await;
        let mut report = ended(attempt, AttemptEnd::Exited { code: 0 }, 3);
        report.output_sha256 = Some(sum.to_owned());
        worker.say(&[ToMaster::Ended(Box::new(report))]).await;
        assert_eq!(stage.client.finished(job).await.state, "completed");
        let events = stage.client.get(&format!("/jobs/{job}/events")).await;
        assert_eq!(events.text.contains("checksum"), differs, "{}", events.text);
    }
}

#[tokio::test]
async fn an_end_that_comes_before_its_output_ends_the_session_instead_of_losing_the_rest() {
    let stage = Stage::set().await;
    let said = hello("w");
    let mut worker = RawWorker::connect(&stage.worker_url(), &stage.worker_key, said.clone()).await;
    let job = stage.client.submit(script("true")).await;
    let attempt = worker.next_start().await.attempt;
    worker.output(attempt, 0, Stream::Stdout, b"half").await;
    worker.ended(attempt, AttemptEnd::Exited { code: 0 }, 8).await;
    let told = worker
        .hear_until(|message| match message {
            ToWorker::Goodbye { message, .. } => Some(message),
            _ => None,
        })
        .await;
    assert!(told.contains("reports 8 bytes of output, but only 4 arrived"), "{told}");
    assert_ne!(stage.client.job(job).await.state, "completed");

    let held = vec![HeldAttempt { attempt, phase: HeldPhase::Finished }];
    let said = gaffer_protocol::wire::Hello { held, ..said };
    let mut worker = RawWorker::connect(&stage.worker_url(), &stage.worker_key, said).await;
    assert_eq!(worker.welcome.stored[0].offset, 4);
    worker.output(attempt, 4, Stream::Stdout, b" all").await;
    worker.ended(attempt, AttemptEnd::Exited { code: 0 }, 8).await;
    stage.client.finished(job).await;
    assert_eq!(stage.client.output(job).await, b"half all");
}

#[tokio::test]
async fn what_a_returning_worker_holds_is_compared_with_what_was_expected() {
    let stage = Stage::set().await;
    let said = hello("w");
    let mut worker = RawWorker::connect(&stage.worker_url(), &stage.worker_key, said.clone()).await;
    let kept = stage.client.submit(script("kept")).await;
    let kept_attempt = worker.next_start().await.attempt;
    let unstarted = stage.client.submit(script("unstarted")).await;
    let unstarted_attempt = worker.next_start().await.attempt;
    worker.started(kept_attempt).await;
    stage.client.in_state(kept, "running").await;
    worker.hang_up();

    // It comes back without the second one, and with one that nobody knows.
    let stranger = gaffer_domain::AttemptRef { task: gaffer_domain::TaskId(999_999), attempt: 1 };
    let held = vec![
        HeldAttempt { attempt: kept_attempt, phase: HeldPhase::Running },
        HeldAttempt { attempt: stranger, phase: HeldPhase::Running },
    ];
    let said = gaffer_protocol::wire::Hello { held, ..said };
    let mut worker = RawWorker::connect(&stage.worker_url(), &stage.worker_key, said.clone()).await;
    let mut again = None;
    let mut killed = None;
    while again.is_none() || killed.is_none() {
        match worker.hear().await.unwrap() {
            ToWorker::Start(start) => again = Some(start.attempt),
            ToWorker::Kill { attempt } => killed = Some(attempt),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((again, killed), (Some(unstarted_attempt), Some(stranger)));
    worker.started(unstarted_attempt).await;
    stage.client.in_state(unstarted, "running").await;
    worker.hang_up();

    // After a restart of its machine it has nothing: both are lost at once.
    let said = gaffer_protocol::wire::Hello { held: vec![], boot_id: "boot-2".to_owned(), ..said };
    let _worker = RawWorker::connect(&stage.worker_url(), &stage.worker_key, said).await;
    for job in [kept, unstarted] {
        let done = stage.client.finished(job).await;
        assert_eq!(done.state, "failed");
        assert_eq!(done.reason.unwrap().message, "the worker's machine was restarted");
    }
}

#[tokio::test]
async fn a_task_whose_worker_stays_away_is_lost_after_its_own_time_and_tried_elsewhere_if_it_says_so() {
    let stage = Stage::set().await;
    let said = hello("first");
    let mut first = RawWorker::connect(&stage.worker_url(), &stage.worker_key, said.clone()).await;
    let spec = json!({"script": "true", "lost_after": "10s", "restart": {"policy": "never", "on_lost": "restart", "delay": "0s"}});
    let job = stage.client.submit(spec).await;
    let attempt = first.next_start().await.attempt;
    first.started(attempt).await;
    stage.client.in_state(job, "running").await;
    first.hang_up();
    let mut second = worker(&stage, "second").await;
    let again = second.next_start().await;
    assert_eq!((again.attempt.task, again.attempt.attempt), (attempt.task, 2));

    // The first one comes back and reports: too late, and it changes nothing.
    let held = vec![HeldAttempt { attempt, phase: HeldPhase::Finished }];
    let said = gaffer_protocol::wire::Hello { held, ..said };
    let mut first = RawWorker::connect(&stage.worker_url(), &stage.worker_key, said).await;
    first.ended(attempt, AttemptEnd::Exited { code: 0 }, 0).await;
    first.hear_until(|message| matches!(message, ToWorker::EndStored { .. }).then_some(())).await;
    assert_eq!(stage.client.job(job).await.state, "running");
    let events = stage.client.get(&format!("/jobs/{job}/events")).await;
    assert!(events.text.contains("task.late_report"), "{}", events.text);
}

#[tokio::test]
async fn jobs_workers_and_unfinished_attempts_survive_a_restart_of_the_master() {
    let stage = Stage::set().await;
    let said = hello("w");
    let mut worker = RawWorker::connect(&stage.worker_url(), &stage.worker_key, said.clone()).await;
    let job = stage.client.submit(script("true")).await;
    let attempt = worker.next_start().await.attempt;
    worker.started(attempt).await;
    for (offset, bytes) in [(0, b"bef"), (3, b"ore"), (6, b"   ")] {
        worker.output(attempt, offset, Stream::Stdout, bytes).await;
        worker.hear_until(|message| matches!(message, ToWorker::OutputStored { .. }).then_some(())).await;
    }
    let database = stage.strike().await;

    let stage = Stage::on(database).await;
    assert_eq!(stage.client.job(job).await.state, "running");
    let held = vec![HeldAttempt { attempt, phase: HeldPhase::Running }];
    let said = gaffer_protocol::wire::Hello { held, ..said };
    let mut worker = RawWorker::connect(&stage.worker_url(), &stage.worker_key, said).await;
    assert_eq!(worker.welcome.stored[0].offset, 9);
    worker.output(attempt, 9, Stream::Stdout, b"and after\n").await;
    worker.ended(attempt, AttemptEnd::Exited { code: 0 }, 19).await;
    assert_eq!(stage.client.finished(job).await.state, "completed");
    assert_eq!(stage.client.output(job).await, b"before   and after\n");
}

#[tokio::test]
async fn a_worker_never_gets_more_than_it_offers() {
    let stage = Stage::set().await;
    let mut worker = worker(&stage, "w").await;
    let job = stage.client.submit(json!({"script": "true", "count": 5})).await;
    let first = worker.next_start().await.attempt;
    let second = worker.next_start().await.attempt;
    let held = [first, second].map(|attempt| HeldAttempt { attempt, phase: HeldPhase::Running }).to_vec();
    worker
        .say(&[first, second].map(|attempt| ToMaster::Started {
            attempt,
            at: chrono::Utc::now(),
            container: None,
            ports: Vec::new(),
        }))
        .await;
    worker.heartbeat(1, held).await;
    stage.client.in_state(job, "running").await;
    let explained = stage.client.get(&format!("/jobs/{job}/explain")).await;
    assert_eq!(explained.body["message"], "main: all matching workers are busy");
    assert_eq!(explained.body["waiting"][0]["count"], 3);
    assert_eq!(explained.body["waiting"][0]["workers"][0]["message"], "w has 0 cpu free, 1 requested");
    let seen = stage.client.get("/workers/w").await;
    assert_eq!((&seen.body["allocated"]["cpu"], &seen.body["running"]), (&json!(2.0), &json!(2)));

    // An end makes room for exactly one more, plus what runs in a second when runs are short.
    let mut report = ended(first, AttemptEnd::Exited { code: 0 }, 0);
    report.ran_micros = 10_000_000;
    worker.say(&[ToMaster::Ended(Box::new(report))]).await;
    let third = worker.next_start().await.attempt;
    assert!(third != first && third != second);
    let held = [second, third].map(|attempt| HeldAttempt { attempt, phase: HeldPhase::Running }).to_vec();
    worker.heartbeat(2, held).await;
    assert_eq!(stage.client.job(job).await.task_counts.get("pending"), Some(&2));
}

#[tokio::test]
async fn a_task_that_no_worker_can_run_says_why_and_starts_when_one_comes_that_can() {
    let stage = Stage::set().await;
    let job =
        stage.client.submit(json!({"script": "true", "resources": {"cpu": 3}, "datacenters": ["lab"]})).await;
    let why = || async { stage.client.get(&format!("/jobs/{job}/explain")).await.body["waiting"][0].clone() };
    assert_eq!(why().await["message"], "no worker has connected yet");
    let _small = worker(&stage, "small").await;
    let waiting = why().await;
    assert_eq!(waiting["message"], "no worker is in a datacenter of the job");
    let mut said = hello("lab-1");
    said.datacenter = "lab".to_owned();
    let _small = RawWorker::connect(&stage.worker_url(), &stage.worker_key, said.clone()).await;
    assert_eq!(why().await["message"], "no worker is large enough");
    assert_eq!(why().await["workers"][1]["message"], "lab-1 has 2 cpu in total, 3 requested");

    let mut large = said;
    large.identity = uuid::Uuid::new_v4();
    large.name = "lab-2".to_owned();
    large.capacity.cpu = gaffer_domain::quantity::Cpu::from_millis(4_000);
    let mut large = RawWorker::connect(&stage.worker_url(), &stage.worker_key, large).await;
    assert_eq!(large.next_start().await.definition.job.0, job);
}

#[tokio::test]
async fn a_draining_worker_gets_nothing_new_until_it_is_resumed() {
    let stage = Stage::set().await;
    let mut worker = worker(&stage, "w").await;
    let drained = stage.client.post("/workers/w/drain", &json!({})).await;
    assert_eq!(drained.body["state"], "draining");
    let job = stage.client.submit(script("true")).await;
    worker.heartbeat(1, vec![]).await;
    let why = stage.client.get(&format!("/jobs/{job}/explain")).await;
    assert_eq!(why.body["message"], "main: all connected workers are cordoned or draining");
    assert_eq!(stage.client.post("/workers/w/resume", &json!({})).await.body["state"], "online");
    assert_eq!(worker.next_start().await.definition.job.0, job);
}

#[tokio::test]
async fn a_worker_without_the_driver_is_not_asked() {
    let stage = Stage::set().await;
    let mut said = hello("w");
    said.drivers[0].driver = DriverKind::Docker;
    let _worker = RawWorker::connect(&stage.worker_url(), &stage.worker_key, said).await;
    let job = stage.client.submit(script("true")).await;
    let why = stage.client.get(&format!("/jobs/{job}/explain")).await;
    assert_eq!(why.body["message"], "main: no connected worker has a healthy driver for it");
    assert_eq!(why.body["waiting"][0]["workers"][0]["message"], "w has no healthy host driver");
}
