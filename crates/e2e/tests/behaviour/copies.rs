//! Copied data directories, cloned machines, and names of workers that are gone: who is well keeps its place.

use std::sync::atomic::{AtomicUsize, Ordering};

use gaffer_domain::AttemptRef;
use gaffer_domain::reason::AttemptEnd;
use gaffer_domain::worker::HeldPhase;
use gaffer_domain::worker::place::Place;
use gaffer_e2e::client::script;
use gaffer_e2e::gaffer::{Dev, command, data_dir};
use gaffer_e2e::raw_worker::{RawWorker, goodbye, hello};
use gaffer_e2e::stage::Stage;
use gaffer_e2e::{PATIENCE, eventually};
use gaffer_protocol::wire::{GoodbyeCode, Heartbeat, HeldAttempt, Hello, MachineStats, ToMaster, ToWorker};
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};

/// A hello from a place of which everything is known.
fn from(said: &Hello, boot_id: &str, machine: &str, directory: &str) -> Hello {
    let known = |text: &str| Some(text.to_owned());
    let place = Place {
        boot_id: String::new(),
        machine: known(machine),
        hardware: None,
        host: known(&format!("host of {machine}")),
        directory: known(directory),
    };
    Hello { boot_id: boot_id.to_owned(), place, ..said.clone() }
}

async fn connect(stage: &Stage, hello: Hello) -> RawWorker {
    RawWorker::connect(&stage.worker_url(), &stage.worker_key, hello).await
}

/// Says hello while another worker, which is well, sends heartbeats.
async fn beside(stage: &Stage, well: &mut RawWorker, hello: Hello, held: &[HeldAttempt]) -> Option<ToWorker> {
    let (url, key) = (stage.worker_url(), stage.worker_key.clone());
    let mut newcomer =
        tokio::spawn(async move { RawWorker::try_connect(&url, &key, hello).await.err().flatten() });
    for sequence in 1_000.. {
        well.heartbeat(sequence, held.to_vec()).await;
        if let Ok(answer) = tokio::time::timeout(std::time::Duration::from_millis(200), &mut newcomer).await {
            return answer.unwrap();
        }
    }
    None
}

async fn events(stage: &Stage, kind: &str) -> Vec<Value> {
    let all = stage.client.get("/events?limit=500").await.body["items"].as_array().unwrap().clone();
    all.into_iter().filter(|event| event["kind"] == kind).collect()
}

/// The first worker of an identity, with a job that runs on it.
async fn busy_first(stage: &Stage, said: &Hello) -> (RawWorker, i64, AttemptRef) {
    let mut first = connect(stage, from(said, "boot-1", "m1", "8:1")).await;
    let job = stage.client.submit(script("sleep 1000")).await;
    let attempt = first.next_start().await.attempt;
    first.started(attempt).await;
    (first, job, attempt)
}

#[tokio::test]
async fn a_worker_that_is_well_keeps_its_place_from_another_machine_and_both_sides_are_told() {
    let stage = Stage::set().await;
    let said = hello("pi");
    let (mut first, job, attempt) = busy_first(&stage, &said).await;
    let held = [HeldAttempt { attempt, phase: HeldPhase::Running }];
    // A copy of its directory, and a clone of its whole machine: another kernel, and nothing else tells them apart.
    for clone in [from(&said, "boot-2", "m2", "8:1"), from(&said, "boot-3", "m1", "8:1")] {
        let (code, message) = goodbye(beside(&stage, &mut first, clone, &held).await);
        assert_eq!(code, GoodbyeCode::BeginAnew, "{message}");
        assert!(message.contains("`pi`") && message.contains("another machine"), "{message}");
    }
    // On its own machine a copy could take its processes for its own.
    let (code, message) =
        goodbye(beside(&stage, &mut first, from(&said, "boot-1", "m1", "8:2"), &held).await);
    assert_eq!(code, GoodbyeCode::Duplicate, "{message}");
    assert!(message.contains("on this machine"), "{message}");

    let notice = first
        .hear_until(|message| match message {
            ToWorker::Notice { message } => Some(message),
            _ => None,
        })
        .await;
    assert!(notice.contains("host of m2"), "{notice}");
    let told = events(&stage, "worker.duplicate").await;
    assert_eq!(told.len(), 1, "one event for all that keep trying: {told:?}");
    assert!(told[0]["message"].as_str().unwrap().contains("host of m2"), "{told:?}");
    // Nothing changes for it.
    first.ended(attempt, AttemptEnd::Exited { code: 0 }, 0).await;
    assert_eq!(stage.client.finished(job).await.state, "completed");
    let workers = stage.client.get("/workers").await;
    assert_eq!(workers.body["items"].as_array().unwrap().len(), 1);

    // What the copy does then: with a new identity it is another worker.
    let anew = Hello { identity: uuid::Uuid::new_v4(), ..from(&said, "boot-2", "m2", "8:1") };
    let second = connect(&stage, anew).await;
    assert_ne!(second.welcome.worker, first.welcome.worker);
    assert_eq!(second.welcome.name, "pi-2");
    first.heartbeat(1, vec![]).await;
}

#[tokio::test]
async fn a_worker_that_was_restarted_takes_its_own_place_at_once_however_the_older_session_is() {
    let stage = Stage::set().await;
    let said = hello("pi");
    let here = from(&said, "boot-1", "m1", "8:1");
    let mut older = connect(&stage, here.clone()).await;
    // Nothing is waited for: the older session is neither heard nor asked.
    let anew = Hello { process: uuid::Uuid::new_v4(), ..here };
    let mut newer = connect(&stage, anew).await;
    assert_eq!(goodbye(older.hear().await).0, GoodbyeCode::Superseded);
    assert_eq!(older.welcome.worker, newer.welcome.worker);
    // Not even one that is heard keeps the place: its lock lets in one executor, so this one is it.
    let (url, key) = (stage.worker_url(), stage.worker_key.clone());
    let again = from(&said, "boot-1", "m1", "8:1");
    let mut newest = tokio::spawn(async move { RawWorker::connect(&url, &key, again).await });
    let newest = loop {
        let beat = Heartbeat { sequence: 1, held: Some(vec![]), stats: MachineStats::default(), clock: None };
        newer.say(&[ToMaster::Heartbeat(Box::new(beat))]).await;
        if let Ok(connected) = tokio::time::timeout(std::time::Duration::from_millis(50), &mut newest).await {
            break connected.unwrap();
        }
    };
    assert_eq!(newest.welcome.worker, older.welcome.worker);
    assert_eq!(events(&stage, "worker.duplicate").await.len(), 0);
}

#[tokio::test]
async fn a_machine_that_was_started_anew_takes_its_place_once_its_half_open_session_is_silent() {
    let stage = Stage::set().await;
    let said = hello("pi");
    let mut older = connect(&stage, from(&said, "boot-1", "m1", "8:1")).await;
    let job = stage
        .client
        .submit(json!({"script": "true", "restart": {"policy": "never", "on_lost": "fail"}}))
        .await;
    let attempt = older.next_start().await.attempt;
    older.started(attempt).await;
    older.heartbeat(1, vec![HeldAttempt { attempt, phase: HeldPhase::Running }]).await;
    let mut newer = connect(&stage, from(&said, "boot-2", "m1", "9:1")).await;
    assert_eq!(goodbye(older.hear().await).0, GoodbyeCode::Superseded);
    assert_eq!(older.welcome.worker, newer.welcome.worker);
    // What ran before it was started anew is over.
    assert_eq!(stage.client.finished(job).await.state, "failed");
    newer.heartbeat(1, vec![]).await;
}

#[tokio::test]
async fn attempts_of_a_machine_that_is_cut_off_are_adopted_by_no_other() {
    let stage = Stage::set().await;
    let said = hello("pi");
    let (mut first, job, attempt) = busy_first(&stage, &said).await;
    first.heartbeat(1, vec![HeldAttempt { attempt, phase: HeldPhase::Running }]).await;
    stage.client.in_state(job, "running").await;
    first.hang_up();
    eventually("it is offline", async || {
        (stage.client.get("/workers/pi").await.body["state"] == "offline").then_some(())
    })
    .await;
    // It would say that it knows nothing of them, and they would be started anew beside the ones that run.
    let url = stage.worker_url();
    let clone = RawWorker::try_connect(&url, &stage.worker_key, from(&said, "boot-2", "m2", "8:1"));
    assert_eq!(goodbye(clone.await.err().flatten()).0, GoodbyeCode::BeginAnew);
    assert_eq!(stage.client.job(job).await.state, "running");
    // Back, it goes on with them.
    let back = Hello {
        held: vec![HeldAttempt { attempt, phase: HeldPhase::Running }],
        ..from(&said, "boot-1", "m1", "8:1")
    };
    let mut first = connect(&stage, back).await;
    first.ended(attempt, AttemptEnd::Exited { code: 0 }, 0).await;
    assert_eq!(stage.client.finished(job).await.state, "completed");
}

#[tokio::test]
async fn a_data_directory_that_moved_to_another_machine_is_the_same_worker() {
    let stage = Stage::set().await;
    let said = hello("pi");
    let first = connect(&stage, from(&said, "boot-1", "m1", "8:1")).await;
    let id = first.welcome.worker;
    first.hang_up();
    eventually("it is offline", async || {
        (stage.client.get("/workers/pi").await.body["state"] == "offline").then_some(())
    })
    .await;
    let mut moved = connect(&stage, from(&said, "boot-2", "m2", "8:1")).await;
    assert_eq!(moved.welcome.worker, id);
    moved.heartbeat(1, vec![]).await;
    // And now that one is well: should the first come back, it is the copy.
    let (code, _) = goodbye(beside(&stage, &mut moved, from(&said, "boot-1", "m1", "8:1"), &[]).await);
    assert_eq!(code, GoodbyeCode::BeginAnew);
}

#[tokio::test]
async fn of_copies_that_arrive_together_one_is_the_worker_and_nobody_is_ousted() {
    let stage = Stage::set().await;
    let said = hello("pi");
    let answered = AtomicUsize::new(0);
    let arriving = (0..6).map(|at| {
        let clone = from(&said, &format!("boot-{at}"), &format!("m{at}"), "8:1");
        let (url, key, answered) = (stage.worker_url(), &stage.worker_key, &answered);
        async move {
            let answer = RawWorker::try_connect(&url, key, clone).await;
            answered.fetch_add(1, Ordering::Relaxed);
            let mut worker = match answer {
                Ok(worker) => worker,
                Err(said) => return Some(goodbye(said).0),
            };
            // Well, and heard of until all have their answer.
            let mut sequence = 0;
            eventually("all have their answer", async || {
                sequence += 1;
                worker.heartbeat(sequence, vec![]).await;
                (answered.load(Ordering::Relaxed) == 6).then_some(())
            })
            .await;
            worker.heartbeat(sequence + 1, vec![]).await;
            None
        }
    });
    let mut refused = 0;
    for code in futures::future::join_all(arriving).await.into_iter().flatten() {
        assert_eq!(code, GoodbyeCode::BeginAnew);
        refused += 1;
    }
    assert_eq!(refused, 5);
    assert_eq!(events(&stage, "worker.online").await.len(), 1);
}

#[tokio::test]
async fn a_copied_data_directory_on_one_machine_is_refused_before_it_touches_anything() {
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    let job = dev.client.submit(script("echo started; sleep 1000")).await;
    eventually("it runs", async || (dev.client.output(job).await == b"started\n").then_some(())).await;
    let copy = data_dir();
    let copied = tokio::process::Command::new("cp")
        .args([
            "-a",
            &format!("{}/.", dir.path().join("worker").display()),
            &copy.path().display().to_string(),
        ])
        .status()
        .await
        .unwrap();
    assert!(copied.success());
    let start = || {
        let mut worker = command(&["worker"]);
        worker
            .env("MASTER_URL", &dev.env["MASTER_URL"])
            .env("API_KEY", dir_key(dir.path()))
            .env("GAFFER_WORKER_NAME", "copy")
            .env("GAFFER_DATA_DIR", copy.path());
        worker
    };
    let refused = tokio::time::timeout(*PATIENCE, start().output()).await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("is a copy of") && said.contains("remove the file `identity`"), "{said}");
    assert_eq!(dev.client.job(job).await.state, "running");
    // As it says: then it is another worker, and what it was copied with is left alone.
    std::fs::remove_file(copy.path().join("identity")).unwrap();
    let copy_worker = dev.add_worker("copy", copy.path()).await;
    assert_eq!(dev.client.job(job).await.state, "running");
    assert_eq!(dev.client.output(job).await, b"started\n");
    copy_worker.end(nix::sys::signal::Signal::SIGTERM).await;
    assert_eq!(dev.client.job(job).await.state, "running");
}

fn dir_key(dir: &std::path::Path) -> String {
    std::fs::read_to_string(dir.join("dev-worker.key")).unwrap().trim().to_owned()
}

/// Makes a worker one that has been away for so long.
async fn away_since(database_url: &str, name: &str, hours: i32) {
    let mut database = PgConnection::connect(database_url).await.unwrap();
    let done = sqlx::query(
        "UPDATE workers SET session = NULL, online_since = NULL, offline_since = now() - $2 * interval '1 hour' \
         WHERE name = $1",
    )
    .bind(name)
    .bind(hours)
    .execute(&mut database)
    .await
    .unwrap();
    assert_eq!(done.rows_affected(), 1);
}

#[tokio::test]
async fn the_name_of_a_lost_worker_goes_to_the_one_that_is_there() {
    let stage = Stage::set().await;
    let said = hello("edge7");
    let gone = connect(&stage, said.clone()).await;
    let number = gone.welcome.worker;
    gone.hang_up();
    eventually("it is offline", async || {
        (stage.client.get("/workers/edge7").await.body["state"] == "offline").then_some(())
    })
    .await;
    // Away for a moment only, it keeps its name.
    let other = connect(&stage, hello("edge7")).await;
    assert_eq!(other.welcome.name, "edge7-2");
    drop(other);
    away_since(&stage.database_url, "edge7", 1).await;
    let mut installed_anew = connect(&stage, hello("edge7")).await;
    assert_eq!(installed_anew.welcome.name, "edge7");
    let renamed = format!("edge7-{number}");
    assert_eq!(stage.client.get(&format!("/workers/{renamed}")).await.body["state"], "lost");
    assert_eq!(events(&stage, "worker.renamed").await.len(), 1);
    let spec = json!({"script": "true", "constraints": ["name == edge7"]});
    let job = stage.client.submit(spec).await;
    let attempt = installed_anew.next_start().await.attempt;
    installed_anew.ended(attempt, AttemptEnd::Exited { code: 0 }, 0).await;
    stage.client.finished(job).await;
    // Should the first come back after all, it is known under the name that it has now.
    let back = connect(&stage, said).await;
    assert_eq!((back.welcome.worker, back.welcome.name), (number, renamed));
}

#[tokio::test]
async fn a_lost_worker_is_forgotten_after_the_time_that_the_operator_sets_and_back_if_it_connects() {
    let stage = Stage::set().await;
    let said = hello("old");
    let old = connect(&stage, said.clone()).await;
    let id = old.welcome.worker;
    let busy = hello("busy");
    let mut with_attempts = connect(&stage, busy).await;
    let job = stage
        .client
        .submit(json!({"script": "true", "lost_after": "7d", "constraints": ["name == busy"]}))
        .await;
    let attempt = with_attempts.next_start().await.attempt;
    with_attempts.started(attempt).await;
    with_attempts.heartbeat(1, vec![HeldAttempt { attempt, phase: HeldPhase::Running }]).await;
    let young = connect(&stage, hello("young")).await;
    drop((old, with_attempts, young));
    let database = stage.strike().await;
    for (name, hours) in [("old", 169), ("young", 167)] {
        away_since(&database, name, hours).await;
    }
    // Kept for ever where the operator says so.
    let stage = Stage::with(database, |config| config.forget_workers = "never".parse().unwrap()).await;
    assert_eq!(stage.client.get("/workers/old").await.status, 200);
    let database = stage.strike().await;
    let stage = Stage::on(database).await;
    eventually("the old one is forgotten", async || {
        (stage.client.get("/workers/old").await.status == 404).then_some(())
    })
    .await;
    assert_eq!(stage.client.get("/workers/young").await.status, 200);
    // However long it has been away, what has attempts is kept.
    away_since(&stage.database_url, "busy", 2).await;
    assert_eq!(
        stage.running.control.store.workers_forget("1h".parse().unwrap()).await.unwrap(),
        1,
        "the young one"
    );
    assert_eq!(stage.client.get("/workers/young").await.status, 404);
    let told = events(&stage, "worker.forgotten").await;
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told.iter().any(|event| event["message"].as_str().unwrap().contains("more than 7d")), "{told:?}");
    assert_eq!(stage.client.get("/workers/busy").await.status, 200);
    assert_eq!(stage.client.job(job).await.state, "running");
    // Its name is free; and should it come back, so is it.
    let other = connect(&stage, hello("old")).await;
    assert_eq!(other.welcome.name, "old");
    let back = connect(&stage, said).await;
    assert_eq!((back.welcome.worker, back.welcome.name.as_str()), (id, "old-2"));
}
