//! Viewers, however many they are, slow nothing and see no more than is theirs.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use chrono::Utc;
use futures::StreamExt;
use futures::future::{BoxFuture, join_all};
use futures::stream::BoxStream;
use gaffer_domain::reason::AttemptEnd;
use gaffer_domain::spec::JobSpec;
use gaffer_domain::worker::Intake;
use gaffer_e2e::client::{Client, script};
use gaffer_e2e::raw_worker::{RawWorker, hello};
use gaffer_e2e::stage::Stage;
use gaffer_e2e::{PATIENCE, eventually, wait_for_a_lock};
use gaffer_master::snapshot::{NOW, RECENT};
use gaffer_master::store::jobs::{JobFilter, NewJob, Submitted};
use gaffer_protocol::rest::{Job, Page};
use gaffer_protocol::wire::ToWorker;
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};
use tokio::task::JoinHandle;

use crate::tenants::neighbour;

/// The stream of a page.
struct Watching {
    body: BoxStream<'static, Vec<u8>>,
    /// All that came.
    text: String,
}

impl Watching {
    async fn open(stage: &Stage, path: &str, cookie: &str) -> Watching {
        let response = stage.page(path, cookie).await;
        assert_eq!(response.status(), 200, "{path}");
        let body = response.bytes_stream().map(|piece| piece.unwrap().to_vec()).boxed();
        Watching { body, text: String::new() }
    }

    /// Reads until what came is as wanted.
    async fn until(&mut self, what: &str, wanted: impl Fn(&str) -> bool) {
        let reading = async {
            while !wanted(&self.text) {
                let piece = self.body.next().await.expect("the stream is over");
                self.text.push_str(&String::from_utf8_lossy(&piece));
            }
        };
        let in_time = tokio::time::timeout(*PATIENCE, reading).await;
        assert!(in_time.is_ok(), "waited in vain for {what} in {}", self.text);
    }
}

/// Many who ask for the same again and again.
struct Storm {
    over: Arc<AtomicBool>,
    asking: Vec<JoinHandle<()>>,
}

impl Storm {
    fn of(
        size: usize,
        client: &Client,
        ask: fn(Client, String) -> BoxFuture<'static, ()>,
        path: &str,
    ) -> Storm {
        let over = Arc::new(AtomicBool::new(false));
        let asking = (0..size).map(|_| {
            let (over, client, path) = (over.clone(), client.clone(), path.to_owned());
            tokio::spawn(async move {
                while !over.load(Ordering::Relaxed) {
                    ask(client.clone(), path.clone()).await;
                }
            })
        });
        Storm { asking: asking.collect(), over }
    }

    async fn calm_down(self) {
        self.over.store(true, Ordering::Relaxed);
        for asking in self.asking {
            asking.await.unwrap();
        }
    }
}

/// Runs so many tasks on a worker, each from its start to its recorded end.
async fn run(worker: &mut RawWorker, count: u32) {
    let mut stored = 0;
    while stored < count {
        match worker.hear().await.expect("the session is over") {
            ToWorker::Start(start) => {
                worker.started(start.attempt).await;
                worker.ended(start.attempt, AttemptEnd::Exited { code: 0 }, 0).await;
            }
            ToWorker::EndStored { .. } => stored += 1,
            _ => {}
        }
    }
}

#[tokio::test]
async fn viewers_who_hold_all_their_connections_stop_no_transition_and_no_submission() {
    let stage = Stage::set().await;
    let mut worker = RawWorker::connect(&stage.worker_url(), &stage.worker_key, hello("w")).await;
    let job = stage.client.submit(script("true")).await;
    run(&mut worker, 1).await;

    // Nobody but viewers reads the output of attempts.
    let mut other = PgConnection::connect(&stage.database_url).await.unwrap();
    let mut looking = PgConnection::connect(&stage.database_url).await.unwrap();
    let mut locked = other.begin().await.unwrap();
    sqlx::query("LOCK TABLE output_chunks IN ACCESS EXCLUSIVE MODE").execute(&mut *locked).await.unwrap();
    let ask = |client: Client, path: String| -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let answer = client.get(&path).await;
            assert_eq!(answer.status, 503, "{}", answer.text);
            assert!(answer.headers.contains_key("retry-after"), "{}", answer.text);
        })
    };
    let storm = Storm::of(60, &stage.client, ask, &format!("/jobs/{job}/tasks/main"));
    wait_for_a_lock(&mut looking, "gaffer read", 5).await;

    for _ in 0..3 {
        stage.client.submit(script("true")).await;
        run(&mut worker, 1).await;
    }
    wait_for_a_lock(&mut looking, "gaffer read", 5).await;
    storm.calm_down().await;
    locked.rollback().await.unwrap();
    eventually("viewers are served again", async || {
        (stage.client.get(&format!("/jobs/{job}/tasks/main")).await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_storm_of_submissions_keeps_nobody_from_signing_in_and_no_task_from_ending() {
    let stage = Stage::set().await;
    let mut worker = RawWorker::connect(&stage.worker_url(), &stage.worker_key, hello("w")).await;
    let job = stage.client.submit(json!({"script": "true", "count": 3})).await;

    // Submissions with a key of their own wait for this; nothing else does.
    let mut other = PgConnection::connect(&stage.database_url).await.unwrap();
    let mut looking = PgConnection::connect(&stage.database_url).await.unwrap();
    let mut locked = other.begin().await.unwrap();
    sqlx::query("LOCK TABLE idempotency_keys IN ACCESS EXCLUSIVE MODE").execute(&mut *locked).await.unwrap();
    let ask = |client: Client, path: String| -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let key = uuid::Uuid::new_v4().to_string();
            let request = client.request(http::Method::POST, &path).header("idempotency-key", key);
            let answer = request.json(&script("true")).send().await.unwrap();
            assert!(matches!(answer.status().as_u16(), 201 | 503), "{answer:?}");
        })
    };
    let storm = Storm::of(40, &stage.client, ask, "/jobs");
    wait_for_a_lock(&mut looking, "gaffer", 4).await;

    // Keys are checked, somebody signs in, and what was accepted before runs.
    stage.sign_in(&stage.client).await;
    run(&mut worker, 3).await;
    assert_eq!(stage.client.finished(job).await.state, "completed");
    locked.rollback().await.unwrap();
    storm.calm_down().await;
}

#[tokio::test]
async fn all_who_look_at_the_same_page_share_one_feed() {
    let stage = Stage::set().await;
    let cookie = stage.sign_in(&stage.client).await;
    let job = stage.client.submit(json!({"script": "true", "count": 3})).await;
    let path = format!("/jobs/{job}/live?tab=tasks");
    let feeds = &stage.running.feeds;

    let mut watching = Vec::new();
    for _ in 0..20 {
        watching.push(Watching::open(&stage, &path, &cookie).await);
    }
    for one in &mut watching {
        one.until("the rows of all tasks", |text| text.contains("\"key\":\"main.2\"")).await;
    }
    assert_eq!(feeds.count(), 1);
    let mut queue = Watching::open(&stage, "/queue/live", &cookie).await;
    queue.until("the job in the queue", |text| text.contains("\"classes\"")).await;
    assert_eq!(feeds.count(), 2);

    // Each sees how it goes on, to the end.
    let mut worker = RawWorker::connect(&stage.worker_url(), &stage.worker_key, hello("w")).await;
    run(&mut worker, 3).await;
    for one in &mut watching {
        one.until("the end of the job", |text| {
            text.contains("event: end") && text.contains("\"state\":\"completed\"")
        })
        .await;
    }
    drop((watching, queue));
    eventually("nobody looks any more, so nothing does", async || (feeds.count() == 0).then_some(())).await;
}

#[tokio::test]
async fn a_shared_feed_crosses_no_wall_between_projects() {
    let stage = Stage::set().await;
    let (eve, _) = neighbour(&stage).await;
    let (cookie, eves) = (stage.sign_in(&stage.client).await, stage.sign_in(&eve).await);
    let said = hello("secretive");
    let _worker = RawWorker::connect(&stage.worker_url(), &stage.worker_key, said).await;
    let large = json!({"name": "secretive", "script": "true", "resources": {"cpu": 99}});
    let job = stage.client.submit(large).await;
    let eves_job = eve.submit(json!({"name": "hers", "script": "true"})).await;
    for path in ["/live", "/jobs/live", "/queue/live", "/workers/live?since=0", "/events/live"] {
        let mut mine = Watching::open(&stage, path, &cookie).await;
        let is_mine = |text: &str| text.contains("secretive") || text.contains(&format!("\"/jobs/{job}\""));
        mine.until("what is mine", is_mine).await;
        let mut hers = Watching::open(&stage, path, &eves).await;
        hers.until("all of hers", |text| text.matches("\nevent: ").count() >= 1).await;
        assert!(!is_mine(&hers.text), "{path}: {}", hers.text);
        assert!(!mine.text.contains(&format!("\"/jobs/{eves_job}\"")), "{path}: {}", mine.text);
    }
}

#[tokio::test]
async fn those_who_ask_at_the_same_time_share_what_is_read_and_nobody_gets_what_was_before_the_question() {
    let stage = Stage::set().await;
    let worker = RawWorker::connect(&stage.worker_url(), &stage.worker_key, hello("w")).await;
    let (store, snapshots) = (&stage.running.control.store, &stage.running.views.snapshots);
    let project = store.project_default().await.unwrap();
    let read = join_all((0..50).map(|_| snapshots.of(project, NOW))).await;
    let distinct: BTreeSet<usize> =
        read.into_iter().map(|snapshot| Arc::as_ptr(&snapshot.unwrap()) as usize).collect();
    // The first one reads for itself; who came while it did shares what is read next.
    assert!(distinct.len() <= 2, "{} reads", distinct.len());

    for intake in [Intake::Cordoned, Intake::Open, Intake::Draining] {
        let id = worker.welcome.worker;
        assert!(store.worker_intake(project, id, intake, None, "ana").await.unwrap());
        let now = snapshots.of(project, NOW).await.unwrap();
        assert_eq!(now.workers[0].intake, intake);
        let recent = snapshots.of(project, RECENT).await.unwrap();
        assert!(Arc::ptr_eq(&now, &recent));
    }
}

/// Submits a job straight to the store.
async fn submit(stage: &Stage, spec: Value) -> i64 {
    let store = &stage.running.control.store;
    let project = store.project_default().await.unwrap();
    let spec = JobSpec::read(&spec).unwrap();
    let new = NewJob::of(project, &spec, "ana");
    match store.job_insert(&new, Utc::now()).await.unwrap() {
        Submitted::Created { job, .. } => job.0,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_search_looks_at_so_many_jobs_and_goes_on_where_it_ended() {
    let stage = Stage::set().await;
    let reads = &stage.running.views.reads;
    let project = reads.project_default().await.unwrap();
    let mut wanted = Vec::new();
    for n in 0..30 {
        let is_wanted = n % 10 == 0;
        let name = if is_wanted { "Needle" } else { "hay" };
        let job =
            submit(&stage, json!({"name": name, "script": "true", "labels": {"n": n.to_string()}})).await;
        wanted.extend(is_wanted.then_some(job));
    }
    wanted.reverse();

    let mut filter = JobFilter { name: Some("needle".to_owned()), ..JobFilter::default() };
    let (mut found, mut searches) = (Vec::new(), 0);
    loop {
        let page = reads.job_search(project, &filter, 5, 7).await.unwrap();
        found.extend(page.jobs.iter().map(|job| job.id.0));
        searches += 1;
        match page.searched_to {
            Some(last) => filter.before = Some(last),
            None => break,
        }
    }
    assert_eq!((found, searches), (wanted, 5));

    // Nobody waits for what an index finds.
    let labels = [("n".to_owned(), "1".to_owned())].into();
    let page = reads.job_search(project, &JobFilter { labels, ..JobFilter::default() }, 5, 7).await.unwrap();
    assert_eq!((page.jobs.len(), page.searched_to), (1, None));
    let unfinished =
        gaffer_domain::job::JobState::ALL.into_iter().filter(|state| !state.is_final()).collect();
    let filter = JobFilter { states: unfinished, ..JobFilter::default() };
    let page = reads.job_search(project, &filter, 50, 7).await.unwrap();
    assert_eq!((page.jobs.len(), page.searched_to), (30, None));
}

#[tokio::test]
async fn a_page_of_jobs_ends_before_their_specifications_are_too_large() {
    let stage = Stage::set().await;
    let mut jobs = Vec::new();
    for _ in 0..18 {
        jobs.push(submit(&stage, json!({"script": format!("# {}", "x".repeat(500 << 10))})).await);
    }
    jobs.reverse();
    let (mut listed, mut cursor, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let answer = stage.client.get(&format!("/jobs?limit=50&spec=1{cursor}")).await;
        assert!(answer.text.len() < 12 << 20, "{} bytes", answer.text.len());
        let page: Page<Job> = serde_json::from_value(answer.body).unwrap();
        assert!(page.items.iter().all(|job| job.spec["tasks"].is_array()));
        listed.extend(page.items.iter().map(|job| job.id.0));
        pages += 1;
        match page.next_cursor {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(listed, jobs);
    assert_eq!(pages, 2);

    for unasked in ["/jobs?limit=50", "/jobs?limit=50&spec=0"] {
        let short = stage.client.get(unasked).await;
        let items = short.body["items"].as_array().unwrap();
        assert_eq!(items.len(), 18);
        assert!(items.iter().all(|job| job.get("spec").is_none()), "{}", short.text);
    }
}
