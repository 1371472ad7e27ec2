//! What a pass of the scheduler costs in the database: a thousand classes of waiting tasks and a thousand workers, with a
//! thousand tasks in all and with a million.
//!
//! `cargo bench -p gaffer-e2e --bench pending`

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::time::{Duration, Instant};

use chrono::Utc;
use gaffer_domain::spec::JobSpec;
use gaffer_e2e::cluster::fresh_database;
use gaffer_e2e::raw_worker::{hello, register};
use gaffer_e2e::stage::new_key;
use gaffer_master::records::PlaceInQueue;
use gaffer_master::secret::{NewSecret, Purpose};
use gaffer_master::store::Store;
use gaffer_master::store::jobs::NewJob;
use gaffer_master::store::placement::WantedHeads;
use serde_json::json;
use uuid::Uuid;

const CLASSES: u32 = 1_000;
const WORKERS: u128 = 1_000;
/// Classes of which the scheduler reads tasks in one pass, and tasks of each.
const LOOKED_AT: (usize, usize) = (256, 8);
const ROUNDS: usize = 30;

fn main() {
    gaffer_e2e::cluster::as_for_users();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store = Store::open(&fresh_database().await).await.unwrap();
        let project = store.project_default().await.unwrap();
        let secret = NewSecret::new(Purpose::WorkerKey);
        let key = store.key_insert(project, new_key(&secret, None, "bench")).await.unwrap().id;
        for worker in 0..WORKERS {
            let (hello, session) = (hello(&format!("w{worker}")), Uuid::from_u128(worker));
            let mut identity = [0; 32];
            identity[..16].copy_from_slice(session.as_bytes());
            register(&store, (project, key), session, &identity, &hello).await.unwrap();
        }
        println!("{CLASSES} classes x {WORKERS} workers; median of {ROUNDS}, in ms");
        println!("{:>10} {:>20} {:>10} {:>10}", "waiting", "workers, classes", "tasks", "together");
        for (each, total) in [(1, 1_000), (999, 1_000_000)] {
            for class in 0..CLASSES {
                let spec = json!({"script": "true", "count": each, "resources": {"cpu": f64::from(class + 1) / 1e3}});
                let spec = JobSpec::read(&spec).unwrap();
                let new = NewJob::of(project, &spec, "bench");
                store.job_insert(&new, Utc::now()).await.unwrap();
            }
            let [classes, tasks] = measure(&store).await;
            let together = classes + tasks;
            println!("{total:>10} {classes:>20.2} {tasks:>10.2} {together:>10.2}");
        }
        store.close().await;
    });
}

/// How long the workers and classes of a pass take, and how long its tasks.
async fn measure(store: &Store) -> [f64; 2] {
    let mut times = [(); 2].map(|()| Vec::new());
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        let (workers, _) = store.worker_fleet_with(Vec::new()).await.unwrap();
        let all = store.classes_pending().await.unwrap();
        times[0].push(begun.elapsed());
        assert_eq!((workers.len() as u128, all.len()), (WORKERS, CLASSES as usize));
        let from = PlaceInQueue::START;
        let wanted: Vec<WantedHeads> = all
            .into_iter()
            .take(LOOKED_AT.0)
            .map(|class| WantedHeads { class, from, most: LOOKED_AT.1 })
            .collect();
        let begun = Instant::now();
        let heads = store.class_heads(&wanted, &[]).await.unwrap();
        times[1].push(begun.elapsed());
        assert_eq!(heads.len(), LOOKED_AT.0);
    }
    times.map(median)
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1e3
}
