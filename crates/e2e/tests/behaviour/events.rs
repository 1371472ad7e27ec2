//! Who follows the history misses nothing, whatever order transactions commit in.

use std::collections::BTreeSet;
use std::time::Duration;

use gaffer_e2e::client::script;
use gaffer_e2e::cluster::fresh_database;
use gaffer_e2e::stage::Stage;
use gaffer_e2e::{PATIENCE, eventually};
use reqwest::Response;
use serde_json::json;
use sqlx::{Connection as _, PgConnection};

/// Reads the numbers of the events of a stream, as they come.
struct Follower {
    response: Response,
    text: String,
}

impl Follower {
    fn new(response: Response) -> Follower {
        assert!(response.status().is_success(), "{}", response.status());
        Follower { response, text: String::new() }
    }

    /// The number of the next event; none if nothing comes for so long.
    async fn next_within(&mut self, patience: Duration) -> Option<i64> {
        let next = async {
            loop {
                if let Some((line, rest)) = self.text.split_once('\n') {
                    let id = line.strip_prefix("id:").and_then(|id| id.trim().parse().ok());
                    self.text = rest.to_owned();
                    match id {
                        Some(id) => return id,
                        None => continue,
                    }
                }
                let piece = self.response.chunk().await.unwrap().expect("the stream ended");
                self.text.push_str(std::str::from_utf8(&piece).unwrap());
            }
        };
        tokio::time::timeout(patience, next).await.ok()
    }

    async fn next(&mut self) -> i64 {
        self.next_within(*PATIENCE).await.expect("no event came")
    }
}

const INSERT: &str = "INSERT INTO events (project_id, at, kind, actor, message) \
     SELECT id, now(), 'test.written', 'test', '' FROM projects LIMIT 1 RETURNING id";

#[tokio::test]
async fn an_event_that_is_committed_after_a_later_one_is_still_told() {
    let stage = Stage::set().await;
    let before = stage.client.submit(script("true")).await;
    let newest = stage.client.get("/events?limit=1").await.body["items"][0]["id"].as_i64().unwrap();
    let mut from_now_on = Follower::new(stage.client.open("/events", "text/event-stream").await);
    let path = format!("/events?after={newest}");
    let mut from_there = Follower::new(stage.client.open(&path, "text/event-stream").await);
    assert!(before > 0);

    let mut slow = PgConnection::connect(&stage.database_url).await.unwrap();
    let mut quick = PgConnection::connect(&stage.database_url).await.unwrap();
    let mut open = slow.begin().await.unwrap();
    let first: i64 = sqlx::query_scalar(INSERT).fetch_one(&mut *open).await.unwrap();
    let second: i64 = sqlx::query_scalar(INSERT).fetch_one(&mut quick).await.unwrap();
    assert!(first < second);
    // A submission wakes all followers; they must not pass the number that is still open.
    stage.client.submit(script("true")).await;
    let early = from_there.next_within(Duration::from_millis(500)).await;
    assert_eq!(early, None, "told while an earlier number was open");
    let page = stage.client.get(&path).await;
    assert_eq!(page.body["items"], json!([]), "nor is it on a page that somebody goes on from");
    // Who comes now and asks for what happens from now on is told of what is under way, too.
    let mut late = Follower::new(stage.client.open("/events", "text/event-stream").await);

    open.commit().await.unwrap();
    for follower in [&mut from_there, &mut from_now_on, &mut late] {
        let told = [follower.next().await, follower.next().await, follower.next().await];
        assert_eq!(told[..2], [first, second]);
        assert!(told[2] > second);
    }
}

#[tokio::test]
async fn the_last_event_that_was_seen_is_where_a_follower_goes_on() {
    let stage = Stage::set().await;
    for _ in 0..3 {
        stage.client.submit(script("true")).await;
    }
    let all = stage.client.get("/events?after=0").await;
    let ids: Vec<i64> =
        all.body["items"].as_array().unwrap().iter().map(|event| event["id"].as_i64().unwrap()).collect();
    assert!(ids.is_sorted() && ids.len() >= 3);
    let request = stage.client.request(reqwest::Method::GET, "/events");
    let request = request.header("accept", "text/event-stream").header("last-event-id", ids[0].to_string());
    let mut follower = Follower::new(request.send().await.unwrap());
    assert_eq!([follower.next().await, follower.next().await], ids[1..3]);
}

/// Transactions of others in the same server are nobody's business.
#[tokio::test]
async fn a_transaction_in_another_database_holds_no_events_back() {
    let stage = Stage::set().await;
    let mut other = PgConnection::connect(&fresh_database().await).await.unwrap();
    let mut idle = other.begin().await.unwrap();
    sqlx::query("CREATE TABLE theirs (n int)").execute(&mut *idle).await.unwrap();
    let mut own = PgConnection::connect(&stage.database_url).await.unwrap();
    let mut reading = own.begin().await.unwrap();
    sqlx::query("CREATE TABLE not_events AS SELECT 1").execute(&mut *reading).await.unwrap();

    let mut follower = Follower::new(stage.client.open("/events", "text/event-stream").await);
    let job = stage.client.submit(script("true")).await;
    let told = follower.next().await;
    let events = stage.client.get(&format!("/jobs/{job}/events")).await;
    assert_eq!(events.body["items"][0]["id"], told);
}

#[tokio::test]
async fn a_transaction_that_holds_events_back_is_named_to_operators() {
    let stage = Stage::set().await;
    let store = &stage.running.control.store;
    assert_eq!(store.events_held_back(Duration::ZERO).await.unwrap(), None);
    let mut other = PgConnection::connect(&stage.database_url).await.unwrap();
    sqlx::query("SET application_name = 'night backup'").execute(&mut other).await.unwrap();
    let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut other).await.unwrap();
    let mut idle = other.begin().await.unwrap();
    sqlx::query(INSERT).execute(&mut *idle).await.unwrap();
    let said = store.events_held_back(Duration::ZERO).await.unwrap().expect("nobody is named");
    assert!(said.contains("night backup") && said.contains(&format!("process {pid} ")), "{said}");
    assert_eq!(
        store.events_held_back(Duration::from_secs(3_600)).await.unwrap(),
        None,
        "not yet worth a word"
    );
    idle.rollback().await.unwrap();
    eventually("nobody is named", async || {
        store.events_held_back(Duration::ZERO).await.unwrap().is_none().then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_follower_is_told_every_event_while_many_write_at_once() {
    const WRITERS: usize = 8;
    const JOBS_EACH: usize = 12;
    let stage = Stage::set().await;
    let response = stage.client.open("/events?after=0", "text/event-stream").await;
    let writing = (0..WRITERS).map(|_| {
        let client = stage.client.clone();
        tokio::spawn(async move {
            for n in 0..JOBS_EACH {
                // Of different sizes, so that transactions overtake each other.
                let spec = json!({ "script": "true", "count": 1 + (n % 7) * 60 });
                let job = client.submit(spec).await;
                client.post(&format!("/jobs/{job}/stop"), &json!({})).await;
            }
        })
    });
    let writing = futures::future::join_all(writing.collect::<Vec<_>>());
    let (mut told, mut follower) = (Vec::new(), Follower::new(response));
    let following = async {
        loop {
            told.push(follower.next().await);
        }
    };
    let () = tokio::select! {
        () = following => (),
        done = writing => done.into_iter().for_each(|done| done.unwrap()),
    };
    let mut connection = PgConnection::connect(&stage.database_url).await.unwrap();
    let all =
        "SELECT id + n FROM events, generate_series(0, coalesce(jsonb_array_length(more), 0)) n ORDER BY 1";
    let all: Vec<i64> = sqlx::query_scalar(all).fetch_all(&mut connection).await.unwrap();
    while told.last() < all.last() {
        told.push(follower.next().await);
    }
    assert!(told.is_sorted(), "in the order of their numbers");
    let told_once: BTreeSet<i64> = told.iter().copied().collect();
    assert_eq!(told.len(), told_once.len(), "each once");
    let missed: Vec<&i64> = all.iter().filter(|id| !told_once.contains(id)).collect();
    assert!(missed.is_empty(), "{} of {} events were never told: {missed:?}", missed.len(), all.len());
}
