//! Many workers at the same moment: registered together, each as if it were alone.

use std::collections::BTreeSet;

use gaffer_domain::ProjectId;
use gaffer_e2e::cluster::fresh_database;
use gaffer_e2e::raw_worker::{hello, register};
use gaffer_e2e::stage::new_key;
use gaffer_master::secret::{NewSecret, Purpose};
use gaffer_master::store::Store;
use gaffer_protocol::wire::Hello;
use sqlx::{Connection as _, PgConnection};
use uuid::Uuid;

/// A database with a key for workers, and a connection to look into it.
async fn set() -> (Store, PgConnection, ProjectId, i64) {
    let url = fresh_database().await;
    let store = Store::connect(&url).await.unwrap();
    let project = store.project_default().await.unwrap();
    let secret = NewSecret::new(Purpose::WorkerKey);
    let key = store.key_insert(project, new_key(&secret, None, "fleet")).await.unwrap().id;
    (store, PgConnection::connect(&url).await.unwrap(), project, key)
}

#[tokio::test]
async fn workers_that_say_hello_together_get_what_each_would_get_alone() {
    let (store, mut database, project, key) = set().await;
    let foreign: i64 = sqlx::query_scalar("INSERT INTO projects (name) VALUES ('foreign') RETURNING id")
        .fetch_one(&mut database)
        .await
        .unwrap();
    let say = async |project: ProjectId, identity: u8, said: Hello| {
        register(&store, (project, key), Uuid::now_v7(), &[identity; 32], &said).await.unwrap()
    };
    let known = say(project, 1, hello("known")).await.unwrap();
    say(ProjectId(foreign), 2, hello("of another project")).await.unwrap();

    // Nothing is written until all have asked, or are about to.
    let mut lock = database.begin().await.unwrap();
    sqlx::query("LOCK TABLE workers IN EXCLUSIVE MODE").execute(&mut *lock).await.unwrap();
    let moved = Hello { boot_id: "boot-2".to_owned(), datacenter: "cellar".to_owned(), ..hello("known") };
    let twins = futures::future::join_all((10..40).map(|identity| say(project, identity, hello("twin"))));
    let together = async {
        tokio::join!(
            say(project, 3, hello("first")),
            say(project, 1, moved),
            say(project, 2, hello("stolen")),
            say(project, 4, hello("other")),
            twins
        )
    };
    let released = async {
        tokio::task::yield_now().await;
        lock.rollback().await.unwrap();
    };
    let ((first, again, stolen, other, twins), ()) = tokio::join!(together, released);

    let (first, again, other) = (first.unwrap(), again.unwrap(), other.unwrap());
    assert!(first.is_new && other.is_new && first.name == "first" && other.name == "other");
    assert!(again.id == known.id && again.rebooted && !again.is_new && !first.rebooted);
    assert!(stolen.is_none(), "an identity of another project: {stolen:?}");
    let names: BTreeSet<String> = twins.into_iter().map(|twin| twin.unwrap().name).collect();
    assert!(names.len() == 30 && names.contains("twin") && names.contains("twin-30"), "{names:?}");

    let stored: Vec<(String, String, String)> = sqlx::query_as(
        "SELECT w.name, w.datacenter, string_agg(e.message, ', ' ORDER BY e.id) FROM workers w \
         JOIN events e ON e.worker_id = w.id WHERE w.name IN ('known', 'first') GROUP BY w.id ORDER BY w.name",
    )
    .fetch_all(&mut database)
    .await
    .unwrap();
    let row = |name: &str, place: &str, said: &str| (name.to_owned(), place.to_owned(), said.to_owned());
    assert_eq!(
        stored,
        [row("first", "", "first connection"), row("known", "cellar", "first connection, connected")]
    );
}

#[tokio::test]
async fn sessions_that_end_together_end_each_for_its_own_reason_and_newer_ones_stay() {
    let (store, mut database, project, key) = set().await;
    let mut sessions = Vec::new();
    for identity in 0..20 {
        let session = Uuid::now_v7();
        let name = format!("w{identity:02}");
        let registered = register(&store, (project, key), session, &[identity; 32], &hello(&name)).await;
        sessions.push((registered.unwrap().unwrap().id, session, name));
    }
    // The first has a newer session already.
    let newer = Uuid::now_v7();
    register(&store, (project, key), newer, &[0; 32], &hello("w00")).await.unwrap();
    let goodbyes =
        sessions.iter().enumerate().map(|(at, (worker, session, name))| {
            let store = &store;
            async move {
                store.worker_goodbye(*worker, *session, at as f64 * 60.0, &format!("{name} is off")).await
            }
        });
    for done in futures::future::join_all(goodbyes).await {
        done.unwrap();
    }
    let told: Vec<(String, bool, Option<i32>, Option<String>)> = sqlx::query_as(
        "SELECT w.name, coalesce(w.session = $1, false), round(extract(epoch FROM now() - w.offline_since) / 60)::int, e.message \
         FROM workers w LEFT JOIN events e ON e.worker_id = w.id AND e.kind = 'worker.offline' ORDER BY w.name",
    )
    .bind(newer)
    .fetch_all(&mut database)
    .await
    .unwrap();
    assert_eq!(told.len(), 20, "one event each: {told:?}");
    for (at, (name, is_newer, minutes, message)) in told.iter().enumerate() {
        match at {
            0 => assert!(*is_newer && minutes.is_none() && message.is_none(), "{told:?}"),
            _ => assert_eq!(
                (minutes, message.as_deref()),
                (&Some(at as i32), Some(&*format!("{name} is off")))
            ),
        }
    }
}
