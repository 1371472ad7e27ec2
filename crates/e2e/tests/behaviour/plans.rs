//! What a statement costs does not grow with history, and does not hang on statistics that nobody has gathered.
//!
//! Postgres itself says how it carried out each statement of a running installation: `auto_explain` logs the plans.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;

use gaffer_domain::reason::ReasonCode;
use gaffer_e2e::client::{Client, script};
use gaffer_e2e::cluster::give_cluster;
use gaffer_e2e::eras::open_eras;
use gaffer_e2e::eventually;
use gaffer_e2e::gaffer::{Dev, data_dir, kill_executor};
use gaffer_master::embedded_postgres::url_of_running;
use gaffer_master::store::bench::history::History;
use nix::sys::signal::{Signal, kill};
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};

use super::texts::Visitor;

/// So many finished jobs lie in the database.
const HISTORY: u64 = 40_000;
/// The most rows that one step of a plan may read of a table that grows.
const MAX_ROWS: f64 = 2_000.0;
/// The same for a page or a list: a search looks at the latest 15,000 jobs.
const MAX_ROWS_READ: f64 = 15_100.0;
/// About a thousand of these jobs, each a minute older than the next, are older than that.
const EXPIRES_SOME: &str = "27d";
/// A few hundred more are older than that, and their output moves to object storage.
const MOVES_SOME: &str = "640h";
/// So many eras of history are there when everyday life begins.
const ERAS: i64 = 60;
/// So many pieces of output are joined at the end of an attempt.
const MANY_CHUNKS: i64 = 10;
/// The tables that grow with history.
const GROWING: [&str; 10] = [
    "jobs",
    "job_workers",
    "task_definitions",
    "live_tasks",
    "finished_tasks",
    "earlier_attempts",
    "events",
    "output_chunks",
    "output_objects",
    "unused_objects",
];

/// Statements that look into the partitions of earlier eras, each with its reason.
const LOOKS_BACK: [(&str, &str); 3] = [
    (
        "FROM (SELECT * FROM events e WHERE e.project_id = $1 AND $2::bigint IS NULL",
        "the newest events of a project may be of a job of any era",
    ),
    ("WITH RECURSIVE walk AS", "output without a task was left by versions that knew only the first era"),
    ("WITH done AS ( SELECT j.created_at", "a trace is of what ran since some time, in any era"),
];

/// Of the server: it tells how it carries out each statement, and gathers statistics only when asked to.
const SETTINGS: &str = "
autovacuum_naptime = '1h'
log_line_prefix = '%a|'
session_preload_libraries = 'auto_explain'
auto_explain.log_min_duration = 0
auto_explain.log_analyze = on
auto_explain.log_timing = off
auto_explain.log_format = json
auto_explain.log_nested_statements = on
";

/// Beginnings of statements that the life of the installation below does not meet: they are about accidents, look at tables
/// that do not grow, or name their rows by key.
const NOT_MET: [&str; 52] = [
    "SELECT o.name FROM UNNEST",
    "SELECT id, job_id, position, index, class_id, state::text AS state, finished_at AS since",
    "SELECT a.task_id, a.attempt, a.output_bytes IS NOT NULL",
    "UPDATE leadership SET released",
    "SELECT job_id, position, (SELECT worker_id FROM classes WHERE id = $1) FROM live_tasks",
    "UPDATE workers SET boot_id",
    "SELECT drivers FROM workers",
    "UPDATE workers SET drivers",
    "INSERT INTO events (project_id, at, kind, worker_id, actor, message) SELECT project_id, now(), 'worker.drivers'",
    "SELECT EXISTS (SELECT 1 FROM live_tasks WHERE worker_id = $1",
    "INSERT INTO events (project_id, at, kind, worker_id, actor, message) SELECT project_id, now(), 'worker.duplicate'",
    "AND NOT EXISTS (SELECT 1 FROM workers other",
    "SELECT id FROM jobs WHERE id = ANY($1)",
    "INSERT INTO events (project_id, at, kind, job_id, task_id, attempt, worker_id, actor, message, era) SELECT w.project_id",
    "INSERT INTO dead_letters",
    "INSERT INTO events (project_id, at, kind, job_id, task_id, attempt, worker_id, actor, message, era) SELECT project_id",
    "SELECT EXISTS (SELECT FROM dead_letters",
    "DELETE FROM dead_letters WHERE id = $1",
    "INSERT INTO events (project_id, at, kind, job_id, task_id, attempt, actor, message, era) SELECT j.project_id",
    "SELECT id, attempt, job_id, position, index, coalesce(version, 1) FROM live_tasks WHERE id = ANY($1)",
    "SELECT NOT EXISTS (SELECT 1 FROM web_sessions)",
    "WITH used AS (UPDATE login_links",
    "SELECT u.id, u.name, m.project_id, s.last_used_at",
    "UPDATE web_sessions",
    // Of those that have a stream open, each by its key.
    "SELECT s.sha256 FROM UNNEST($1::bytea[]) AS s(sha256) WHERE NOT EXISTS ( SELECT 1 FROM web_sessions",
    "DELETE FROM web_sessions",
    "SELECT name, kind FROM jobs WHERE id = $1",
    "SELECT d.name, d.driver, d.single, (SELECT min(index)",
    "SELECT id FROM live_tasks WHERE id = ANY($1) ORDER BY id FOR UPDATE SKIP LOCKED",
    "SELECT a.task_id, a.attempt, a.worker_id, a.exit_code",
    "DELETE FROM output_chunks WHERE task_id = $1 AND (attempt, start_offset) IN",
    "SELECT attempt FROM attempts WHERE task_id = $1 AND era = era_of_task($1) ORDER BY attempt DESC",
    // An era that begins: sequences, and rows of eras by their number.
    "SELECT last_value + is_called::int FROM jobs_id_seq",
    "UPDATE eras SET closed_at",
    "UPDATE eras SET opened_at",
    "SELECT setval(",
    "SELECT pg_advisory_xact_lock(",
    // Asked once, when an installation is restored.
    "SELECT EXISTS (SELECT FROM eras WHERE number = $1 AND opened_at IS NULL)",
    // An era that goes: its partitions are named, and what is kept of it is bounded.
    "SELECT COALESCE( (SELECT min(j.id) FROM jobs j",
    "SELECT make_era",
    "DELETE FROM dead_letters l WHERE task_id >= first_task",
    "DELETE FROM live_tasks t WHERE id >= first_task",
    "SELECT drop_era",
    "SELECT COALESCE(sum(tasks), 0)::bigint FROM deletions",
    "SELECT t.id FROM UNNEST($1::bigint[]) AS kept(job)",
    "SELECT COALESCE(sum(octet_length(o.body)), 0)::bigint",
    // Objects whose rows are gone, by name, and those of an era that was dropped, a slice at a time.
    "DELETE FROM unused_objects WHERE name = ANY($1)",
    "WITH slice AS (SELECT task_id, attempt, start_offset FROM output_objects",
    "UPDATE output_object_eras SET looked_through",
    // An update that has failed, by its definition.
    "UPDATE task_definitions SET update_problem",
    // The preview of retention looks at every job, when somebody asks for it.
    "WITH parts AS",
    "SELECT e.number AS era, j.state::text AS state",
];

/// A statement as it was carried out.
struct Carried {
    /// Whose connection it was.
    by: String,
    text: String,
    plan: Value,
}

/// Reads all plans of the server's log.
fn plans(log: &Path) -> Vec<Carried> {
    let text = String::from_utf8_lossy(&std::fs::read(log).unwrap()).into_owned();
    let mut carried = Vec::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let Some((by, rest)) = line.split_once('|') else { continue };
        if !(rest.starts_with("LOG:  duration:") && rest.ends_with("plan:")) {
            continue;
        }
        let mut json = String::new();
        while let Some(more) = lines.next_if(|line| line.starts_with('\t')) {
            json.push_str(more);
            json.push('\n');
        }
        let plan: Value = serde_json::from_str(&json).unwrap();
        let text = plan["Query Text"].as_str().unwrap_or_default().to_owned();
        carried.push(Carried { by: by.to_owned(), text, plan: plan["Plan"].clone() });
    }
    carried
}

/// The steps of a plan that read a growing table as a whole, or more of it than `most` rows.
fn too_much(plan: &Value, most: f64, found: &mut Vec<String>) {
    let node = plan["Node Type"].as_str().unwrap_or_default();
    let number = |name: &str| plan[name].as_f64().unwrap_or(0.0);
    let loops = number("Actual Loops").max(1.0);
    let rows =
        (number("Actual Rows") + number("Rows Removed by Filter") + number("Rows Removed by Index Recheck"))
            * loops;
    if let Some(partition) = plan["Relation Name"].as_str()
        && let table = partition.split("_era_").next().unwrap_or(partition)
        && GROWING.contains(&table)
    {
        if node == "Seq Scan" {
            found.push(format!("reads all of {table}"));
        } else if rows > most {
            found.push(format!("reads {rows} rows of {table}: {node} {}", plan["Index Name"]));
        }
    }
    for child in plan["Plans"].as_array().into_iter().flatten() {
        too_much(child, most, found);
    }
}

/// The partitions of eras before this one that a plan looks into.
fn looks_back(plan: &Value, present: i64, found: &mut Vec<String>) {
    if let Some(partition) = plan["Relation Name"].as_str()
        && let Some((_, era)) = partition.split_once("_era_")
        && era.parse::<i64>().unwrap() < present
        && plan["Actual Loops"].as_f64() > Some(0.0)
        // Of what is changed, it names the first partition, whether that is looked into or not.
        && plan["Node Type"] != "ModifyTable"
    {
        found.push(partition.to_owned());
    }
    for child in plan["Plans"].as_array().into_iter().flatten() {
        looks_back(child, present, found);
    }
}

/// What people do with an installation, and what happens to them.
async fn everyday_life(dev: &Dev, round: u32, database_url: &str) {
    let client = &dev.client;
    let done =
        client.submit(json!({"script": "echo one; echo two", "count": 3, "labels": {"for": "plans"}})).await;
    client.finished(done).await;
    let restart = json!({"policy": "on-failure", "limit": 1, "delay": "10ms"});
    let failed = client.submit(json!({"script": "exit 3", "restart": restart})).await;
    client.finished(failed).await;
    client.get(&format!("/jobs/{failed}/output?attempt=1&follow=1")).await;
    let chain =
        json!([{"name": "a", "script": "true"}, {"name": "b", "script": "true", "depends_on": ["a"]}]);
    let chain = client.submit(json!({"tasks": chain})).await;
    client.finished(chain).await;
    let broken =
        json!([{"name": "a", "script": "exit 1"}, {"name": "b", "script": "true", "depends_on": ["a"]}]);
    client.finished(client.submit(json!({"tasks": broken})).await).await;
    let limited = json!([
        {"name": "a", "script": "exit 1"}, {"name": "b", "script": "sleep 1000"},
        {"name": "c", "script": "true", "when": "always"},
    ]);
    client.finished(client.submit(json!({"max_failures": 0, "tasks": limited})).await).await;
    let matching = json!([
        {"name": "a", "script": "exit $GAFFER_TASK_INDEX", "count": 3},
        {"name": "b", "script": "true", "depends_on": [{"task": "a", "on": "ended"}]},
        {"name": "c", "script": "true", "count": 3, "depends_on": ["b", {"task": "a", "index": "same"}]},
    ]);
    let matching = client.submit(json!({"tasks": matching})).await;
    client.finished(matching).await;
    let in_part = client.post(&format!("/jobs/{matching}/rerun"), &json!({"failed": true})).await;
    let in_part = in_part.body["id"].as_i64().unwrap();
    assert_eq!(client.finished(in_part).await.taken_over, 1);
    client.get(&format!("/jobs/{in_part}/tasks/a.0/output")).await;
    let apart = client.submit(json!({"script": "true", "distinct_workers": true})).await;
    client.finished(apart).await;
    let service = json!({
        "name": "web", "type": "service", "script": "sleep 1000", "ports": ["http"], "health": {"command": ["true"]},
        "resources": {"cpu": 0.1},
    });
    let long = client.submit(service).await;
    client.in_state(long, "running").await;
    let available = async |count| {
        eventually("it is healthy", async || {
            let found = client.job(long).await;
            (found.available == Some(count) && !found.task_counts.contains_key("stopping")).then_some(())
        })
        .await;
    };
    available(1).await;
    for count in [3, 1, 2] {
        client.post("/services/web/scale", &json!({"count": count})).await;
        available(count).await;
    }
    let updated = json!({
        "name": "web", "type": "service", "script": "sleep 1001", "ports": ["http"], "health": {"command": ["true"]},
        "count": 2, "update": {"healthy_for": "0s"}, "resources": {"cpu": 0.1},
    });
    assert!(client.post("/services/web", &updated).await.status.is_success());
    eventually("it is updated", async || client.job(long).await.updates.is_empty().then_some(())).await;
    assert!(client.post(&format!("/jobs/{long}/rollback"), &json!({})).await.status.is_success());
    client.post(&format!("/jobs/{long}/promote"), &json!({})).await;
    eventually("it is taken back", async || client.job(long).await.updates.is_empty().then_some(())).await;
    client.get(&format!("/jobs/{long}/versions")).await;
    look(client, done).await;
    let many = json!({"script": "true", "count": 201, "constraints": ["name == nobody"]});
    let many = client.submit(many).await;
    let visitor = Visitor::of(dev).await;
    for path in [
        format!("/jobs/{done}?tab=timeline"),
        format!("/jobs/{many}?tab=timeline"),
        format!("/jobs/{many}?tab=graph"),
    ] {
        assert!(visitor.page(&path).await.contains("data-f=\"picture\""), "{path}");
    }
    client.post(&format!("/jobs/{many}/stop"), &json!({})).await;
    client.post(&format!("/jobs/{long}/stop"), &json!({})).await;
    client.finished(long).await;
    let again = client.post(&format!("/jobs/{failed}/rerun"), &json!({})).await;
    client.finished(again.body["id"].as_i64().unwrap()).await;
    client.delete(&format!("/jobs/{chain}")).await;
    read_moved_output(client, database_url).await;
    for verb in ["pin", "unpin"] {
        assert!(client.post(&format!("/jobs/{failed}/{verb}"), &json!({})).await.status.is_success());
    }
    let key = client.post("/keys", &json!({"kind": "user", "name": format!("round {round}")})).await;
    assert!(client.delete(&format!("/keys/{}", key.body["id"])).await.status.is_success());
    templates_are_used(client, round).await;
    workers_come_and_go(dev, round, database_url).await;
    // Keys are checked every half minute, the first time perhaps before a worker was there.
    eventually("the keys of workers are checked", async || {
        let system = client.get("/system").await.body;
        let loops = system["loops"].as_array()?;
        let check = loops.iter().find(|one| one["name"] == "key_check")?;
        (check["runs"].as_u64()? >= 2).then_some(())
    })
    .await;
}

/// A template is saved, used and deleted.
async fn templates_are_used(client: &Client, round: u32) {
    let template = json!({"command": ["echo", "{{ x }}"], "parameters": {"x": {"default": round}}});
    let saved = client.post("/templates/plans", &template).await;
    assert!(saved.status.is_success(), "{}", saved.text);
    let made = client.post("/jobs", &json!({"template": "plans", "parameters": {"x": "y"}})).await;
    let job = made.body["id"].as_i64().unwrap();
    client.finished(job).await;
    for path in
        ["/templates", "/templates/plans", "/templates/plans/versions", &format!("/jobs/{job}/source")]
    {
        assert!(client.get(path).await.status.is_success(), "{path}");
    }
    assert!(client.delete("/templates/plans").await.status.is_success());
}

/// Reads output that has moved to object storage.
async fn read_moved_output(client: &Client, database_url: &str) {
    let mut database = PgConnection::connect(database_url).await.unwrap();
    // Those that were finished last are moved last, and expire last.
    let moved = "SELECT t.job_id FROM output_objects o JOIN finished_tasks t ON t.id = o.task_id \
                 JOIN jobs j ON j.id = t.job_id WHERE j.output_moved ORDER BY j.finished_at DESC LIMIT 1";
    let job = eventually("some output has moved", async || {
        sqlx::query_scalar::<_, i64>(moved).fetch_optional(&mut database).await.unwrap()
    })
    .await;
    for query in ["", "?lines=2-2", "?tail=1", "?q=done"] {
        let answer = client.get(&format!("/jobs/{job}/output{query}")).await;
        assert!(answer.status.is_success(), "{query}: {} {}", answer.status, answer.text);
    }
}

/// A service moves when its worker is drained; another worker is killed, and the sweeper takes from it what it had.
async fn workers_come_and_go(dev: &Dev, round: u32, database_url: &str) {
    let client = &dev.client;
    let dirs = [data_dir(), data_dir()];
    let (leaving, dying_name) = (format!("leaving-{round}"), format!("dying-{round}"));
    let labels = format!("for=moves-{round}");
    let moving = [("GAFFER_WORKER_LABELS", labels.as_str())];
    let _leaving = dev.add_worker_with(&leaving, dirs[0].path(), &moving).await;
    let placement = json!({"on_drain": "move"});
    let batch = json!({"script": "while echo x; do sleep 0.2; done", "constraints": [format!("labels.for == moves-{round}")], "placement": placement});
    let batch = client.submit(batch).await;
    client.in_state(batch, "running").await;
    let dying = dev.add_worker_with(&dying_name, dirs[1].path(), &moving).await;
    assert!(client.post(&format!("/workers/{leaving}/drain"), &json!({})).await.status.is_success());
    eventually("the worker is drained", async || {
        client.get(&format!("/workers/{leaving}")).await.body["draining"]["drained_at"]
            .is_string()
            .then_some(())
    })
    .await;
    // Its new worker loses the connection and comes back with it.
    client.in_state(batch, "running").await;
    let mut database = PgConnection::connect(database_url).await.unwrap();
    let mut chunks = async || {
        let count = "SELECT count(*) FROM output_chunks o JOIN tasks t ON t.id = o.task_id AND t.attempt = o.attempt \
                     WHERE t.job_id = $1";
        sqlx::query_scalar::<_, i64>(count).bind(batch).fetch_one(&mut database).await.unwrap()
    };
    let agent = dying.agent().unwrap();
    kill(agent, Signal::SIGKILL).unwrap();
    eventually("another agent speaks for the worker", async || dying.agent().filter(|new| *new != agent))
        .await;
    let before = chunks().await;
    eventually("its output is in many pieces", async || {
        (chunks().await > before + MANY_CHUNKS).then_some(())
    })
    .await;
    client.post(&format!("/jobs/{batch}/stop"), &json!({})).await;
    client.finished(batch).await;
    eventually("these are joined", async || (chunks().await < before + MANY_CHUNKS).then_some(())).await;
    client.post(&format!("/workers/{leaving}/resume"), &json!({})).await;

    // Workers of an earlier round are still waited for.
    let own = [format!("labels.for == moves-{round}")];
    let each = json!({"script": "true", "each": "worker", "array": "%2", "constraints": own});
    let each = client.submit(each).await;
    client.finished(each).await;
    let each =
        client.post(&format!("/jobs/{each}/rerun"), &json!({"from": "main"})).await.body["id"].as_i64();
    client.finished(each.unwrap()).await;
    let waits = json!({"tasks": [
        {"name": "a", "script": "true"},
        {"name": "b", "script": "true", "each": "worker", "constraints": [format!("name == {leaving}")], "depends_on": ["a"]},
    ]});
    let waits = client.submit(waits).await;
    client.finished(waits).await;

    let lost = json!({"script": "sleep 1000", "constraints": [format!("name == {dying_name}")], "lost_after": "10s",
        "restart": {"policy": "never", "on_lost": "fail"}});
    let lost = client.submit(lost).await;
    client.in_state(lost, "running").await;
    kill_executor(dirs[1].path()).await;
    dying.end(Signal::SIGKILL).await;
    eventually("the worker is away", async || {
        let state = client.get(&format!("/workers/{dying_name}")).await.body["state"].clone();
        (state == "offline").then_some(())
    })
    .await;
    let waits = json!({"script": "true", "each": "worker", "constraints": [format!("name == {dying_name}")]});
    let waits = client.submit(waits).await;
    for path in [format!("/jobs/{waits}/explain"), "/queue".to_owned()] {
        assert!(client.get(&path).await.text.contains("waits for its worker"), "{path}");
    }
    assert_eq!(client.finished(lost).await.reason.map(|reason| reason.code), Some(ReasonCode::LostWorker));
    eventually("the lost worker is removed", async || {
        client.delete(&format!("/workers/{dying_name}")).await.status.is_success().then_some(())
    })
    .await;
    assert_eq!(client.finished(waits).await.state, "failed");
}

/// Every list and every view, as their readers ask for them.
async fn look(client: &Client, job: i64) {
    let paths = [
        "/jobs".to_owned(),
        "/jobs?state=failed".to_owned(),
        "/jobs?state=cancelled".to_owned(),
        "/jobs?state=running".to_owned(),
        "/jobs?name=nobody".to_owned(),
        "/jobs?label=for%3Dplans".to_owned(),
        "/jobs?driver=docker".to_owned(),
        "/jobs?worker=1".to_owned(),
        "/jobs?worker=1&label=for%3Dplans".to_owned(),
        "/jobs?worker=1&name=nobody".to_owned(),
        format!("/jobs/{job}"),
        format!("/jobs/{job}/tasks"),
        format!("/jobs/{job}/tasks?state=failed"),
        format!("/jobs/{job}/events"),
        format!("/jobs/{job}/output"),
        format!("/jobs/{job}/tasks/main.0"),
        format!("/jobs/{job}/tasks/main.0/output?lines=1-2"),
        format!("/jobs/{job}/output?q=two"),
        format!("/jobs/{job}/explain"),
        format!("/jobs/{job}/ports"),
        "/events".to_owned(),
        "/events?after=0".to_owned(),
        "/workers".to_owned(),
        "/keys".to_owned(),
        "/queue".to_owned(),
        "/system".to_owned(),
        "/metrics".to_owned(),
        "/trace?since=1h".to_owned(),
        "/dead-letters".to_owned(),
        "/services/web/ports".to_owned(),
    ];
    let mut refused = Vec::new();
    for path in paths {
        let answer = client.get(&path).await;
        if !answer.status.is_success() {
            refused.push(format!("{path}: {} {}", answer.status, answer.text));
        }
    }
    assert!(refused.is_empty(), "{refused:#?}");
}

/// What was found in plans.
#[derive(Default)]
struct Checked {
    /// Statements that read too much, by how and when.
    bad: BTreeMap<String, String>,
    /// All texts.
    seen: String,
}

impl Checked {
    /// `present`: the era in which all of this happened.
    fn check(&mut self, when: &str, present: i64, all: &[Carried]) {
        for carried in all.iter().filter(|carried| carried.by.starts_with("gaffer")) {
            self.seen.push_str(&words(&carried.text));
            let most = if carried.by == "gaffer read" { MAX_ROWS_READ } else { MAX_ROWS };
            let mut found = Vec::new();
            too_much(&carried.plan, most, &mut found);
            if !LOOKS_BACK.iter().any(|(statement, _)| words(&carried.text).contains(statement)) {
                looks_back(&carried.plan, present, &mut found);
            }
            if let Some(found) = found.first() {
                self.bad.insert(format!("{when}, {}: {found}", carried.by), carried.text.clone());
            }
        }
    }
}

fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// All statements in the sources of the store: of each, the longest piece that stands there as it is asked.
fn statements() -> Vec<String> {
    let mut statements = Vec::new();
    let store = Path::new(env!("CARGO_MANIFEST_DIR")).join("../master/src/store");
    let mut dirs = vec![store];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            // These are not statements of an installation, or are asked once, when it is restored.
            if path.file_name().is_some_and(|name| name == "bench" || name == "restored.rs") {
                continue;
            }
            if path.is_dir() {
                dirs.push(path);
                continue;
            }
            let source = std::fs::read_to_string(path).unwrap().replace("\\\n", " ");
            for literal in source.split('"').skip(1).step_by(2) {
                let text = words(literal);
                let is_statement = ["SELECT ", "INSERT ", "UPDATE ", "DELETE ", "WITH ", "{TASKS} "];
                if is_statement.iter().any(|beginning| text.starts_with(beginning)) {
                    // What is put in when it is asked is not known here.
                    let pieces = text.split(['{', '}']).map(str::trim);
                    statements.push(pieces.max_by_key(|piece| piece.len()).unwrap_or_default().to_owned());
                }
            }
        }
    }
    statements
}

/// Starts an installation whose server tells how it carries out each statement.
async fn start_telling(dir: &Path, settings: &[(&str, &str)]) -> Dev {
    give_cluster(dir).await;
    let of_server = dir.join("postgres/cluster/postgresql.auto.conf");
    std::fs::OpenOptions::new().append(true).open(of_server).unwrap().write_all(SETTINGS.as_bytes()).unwrap();
    Dev::start_with(dir, settings).await
}

#[tokio::test]
async fn no_statement_costs_more_because_there_is_history_with_statistics_or_without() {
    let dir = data_dir();
    let objects = data_dir();
    let objects = format!("file://{}", objects.path().display());
    let store = [("GAFFER_OUTPUT_STORE", objects.as_str()), ("GAFFER_OUTPUT_STORE_AFTER", MOVES_SOME)];
    let dev = start_telling(dir.path(), &store).await;
    let log = dir.path().join("postgres.log");
    let database_url = url_of_running(dir.path()).unwrap();
    // The first job would print for a while and then be of another era.
    let welcome = eventually("the first job is there", async || {
        dev.client.get("/jobs").await.body["items"][0]["id"].as_i64()
    })
    .await;
    assert!(dev.client.post(&format!("/jobs/{welcome}/stop"), &json!({})).await.status.is_success());
    dev.client.finished(welcome).await;
    assert!(dev.client.delete(&format!("/jobs/{welcome}")).await.status.is_success());
    for _ in 0..ERAS {
        // An empty era would be dropped.
        dev.client.submit(script("true")).await;
        open_eras(&database_url, 1).await;
    }
    // All of this history is in the present era, where everyday life goes on.
    let first = dev.client.submit(script("echo done")).await;
    dev.client.finished(first).await;
    let mut history = History::connect(&database_url).await.unwrap();
    history.copy_jobs(first..=first, HISTORY + 1, |_| ()).await.unwrap();
    let mut checked = Checked::default();
    let before = plans(&log).len();
    everyday_life(&dev, 1, &database_url).await;
    checked.check("without statistics", ERAS, &plans(&log)[before..]);
    let mut database = PgConnection::connect(&database_url).await.unwrap();
    sqlx::query("ANALYZE").execute(&mut database).await.unwrap();
    // The next master finds that the oldest jobs have expired.
    dev.interrupt().await;
    let settings = [&[("GAFFER_RETENTION", EXPIRES_SOME)], &store[..]].concat();
    let dev = Dev::start_with(dir.path(), &settings).await;
    let again = dev.client.post(&format!("/jobs/{first}/rerun"), &json!({})).await;
    dev.client.finished(again.body["id"].as_i64().unwrap()).await;
    everyday_life(&dev, 2, &url_of_running(dir.path()).unwrap()).await;
    // A server that is started anew begins another log.
    checked.check("with statistics", ERAS, &plans(&log));

    let Checked { bad, seen } = checked;
    assert!(
        seen.contains("WITH led AS MATERIALIZED") && seen.contains("jobs_as_known"),
        "batches of known rows"
    );
    let unseen: Vec<String> = statements().into_iter().filter(|text| !seen.contains(text.as_str())).collect();
    let all = statements();
    let stale = NOT_MET.iter().filter(|beginning| !all.iter().any(|text| text.starts_with(**beginning)));
    assert_eq!(stale.collect::<Vec<_>>(), Vec::<&&str>::new(), "the store has no such statements");
    let is_excused = |text: &String| {
        NOT_MET.iter().any(|beginning| text.starts_with(beginning)) || text.contains("pg_locks")
    };
    let unseen: Vec<String> = unseen.into_iter().filter(|text| !is_excused(text)).collect();
    assert!(unseen.is_empty(), "the life of this installation meets these no more: {unseen:#?}");
    assert!(bad.is_empty(), "{bad:#?}");
    dev.interrupt().await;
}

/// Tables that are empty from time to time, whatever the installation does.
const EMPTIED: &str = "^(live_tasks|earlier_attempts|output_chunks|output_objects|unused_objects)";

#[tokio::test]
async fn tables_that_were_empty_when_their_statistics_were_gathered_are_not_read_as_a_whole() {
    let dir = data_dir();
    let dev = start_telling(dir.path(), &[]).await;
    let log = dir.path().join("postgres.log");
    let mut database = PgConnection::connect(&url_of_running(dir.path()).unwrap()).await.unwrap();
    dev.client.finished(dev.client.submit(script("echo before")).await).await;
    // As they are gathered from a table with pages that hold nothing at that time.
    let emptied = "UPDATE pg_class SET reltuples = 0, relpages = 10 WHERE relkind = 'r' AND relname ~ $1";
    let emptied = sqlx::query(emptied).bind(EMPTIED).execute(&mut database).await.unwrap();
    assert!(emptied.rows_affected() >= 5);
    let before = plans(&log).len();

    let client = &dev.client;
    // More than any step may read.
    let waiting = json!({"script": "true", "count": 5_000, "constraints": ["name == nobody"]});
    let waiting = client.submit(waiting).await;
    let task = json!({"script": "echo out", "count": 20});
    client.finished(client.submit(task).await).await;
    let repeated = json!({"policy": "on-failure", "limit": 1, "delay": "10ms"});
    client.finished(client.submit(json!({"script": "exit 3", "restart": repeated})).await).await;
    let chain = json!([
        {"name": "a", "script": "true", "count": 3},
        {"name": "b", "script": "true", "count": 3, "depends_on": [{"task": "a", "index": "same"}]},
        {"name": "c", "script": "true", "depends_on": ["b"]},
    ]);
    client.finished(client.submit(json!({"tasks": chain})).await).await;
    client.get("/queue").await;
    client.get(&format!("/jobs/{waiting}/explain")).await;
    client.get(&format!("/jobs/{waiting}/tasks")).await;
    assert!(client.post(&format!("/jobs/{waiting}/stop"), &json!({})).await.status.is_success());
    client.finished(waiting).await;
    assert!(client.delete(&format!("/jobs/{waiting}")).await.status.is_success());
    let left = "SELECT count(*) FROM tasks WHERE job_id = $1";
    eventually("its tasks are deleted", async || {
        let left: i64 = sqlx::query_scalar(left).bind(waiting).fetch_one(&mut database).await.unwrap();
        (left == 0).then_some(())
    })
    .await;

    let mut checked = Checked::default();
    let mut all = plans(&log).split_off(before);
    // While a large job is being stopped, the scheduler passes over those of its tasks that still wait.
    all.retain(|carried| !carried.text.contains("AND job_id <> ALL($5)"));
    checked.check("with statistics of empty tables", 0, &all);
    assert!(checked.bad.is_empty(), "{:#?}", checked.bad);
    dev.interrupt().await;
}
