//! What a statement costs does not grow with history, and does not hang on statistics that nobody has gathered.
//!
//! Postgres itself says how it carried out each statement of a running installation: `auto_explain` logs the plans.

mod life;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;

use gaffer_e2e::client::script;
use gaffer_e2e::cluster::give_cluster;
use gaffer_e2e::eras::open_eras;
use gaffer_e2e::eventually;
use gaffer_e2e::gaffer::{Dev, data_dir};
use gaffer_master::embedded_postgres::url_of_running;
use gaffer_master::store::bench::history::History;
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};

use life::everyday_life;

/// Number of finished jobs in the database.
const HISTORY: u64 = 40_000;
/// The most rows that one step of a plan may read of a table that grows.
const MAX_ROWS: f64 = 2_000.0;
/// The same for a page or a list: a search looks at the latest 15,000 jobs.
const MAX_ROWS_READ: f64 = 15_100.0;
/// About a thousand of these jobs, each a minute older than the next, are older than that.
const EXPIRES_SOME: &str = "27d";
/// A few hundred more are older than that, and their output moves to object storage.
const MOVES_SOME: &str = "640h";
/// Number of eras of history before everyday life begins.
const ERAS: i64 = 60;
/// The tables that grow with history.
const GROWING: [&str; 11] = [
    "audit_entries",
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
const NOT_MET: [&str; 85] = [
    // Somebody joins, registers or sets a password: a row is added, or held by its key.
    "INSERT INTO audit_entries (project_id, at, user_name, credential, address, action, target, outcome, rest) VALUES ($1, now(), $2",
    "SELECT password IS NOT DISTINCT FROM $2 FROM users WHERE id",
    // A worker enrols: each names its rows by key, by hash or by identity.
    "SELECT id, revoked_at IS NULL AND identity_sha256",
    "WITH used AS ( UPDATE keys",
    // Another master key takes the place of one: secrets are few.
    "SELECT project_id, name, version, key_id, data_key, ''::bytea AS value FROM secrets WHERE key_id",
    "UPDATE secrets SET key_id",
    "INSERT INTO secret_keys",
    "DELETE FROM secret_keys",
    // Sign-in through a provider: users have few identities and memberships.
    "SELECT id, issuer, name, created_at, last_used_at FROM identities",
    "SELECT u.id, u.name, u.is_admin, u.admin_by_groups FROM identities",
    "SELECT user_id FROM identities",
    "INSERT INTO identities",
    "UPDATE identities SET last_used_at",
    "DELETE FROM identities",
    "SELECT p.name, m.role, m.by_groups FROM memberships",
    "SELECT id FROM projects WHERE name = $1 AND deleted_at IS NULL",
    "INSERT INTO memberships (project_id, user_id, role, by_groups)",
    "DELETE FROM memberships WHERE project_id = $1 AND user_id = $2 AND by_groups",
    "UPDATE users SET is_admin = $2, admin_by_groups",
    // The oldest entries, in slices.
    "DELETE FROM audit_entries",
    "FROM live_tasks WHERE job_id = $1 AND position = $2 AND index = ANY",
    "SELECT $3 || '-' || n FROM generate_series",
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
    "INSERT INTO events (project_id, at, kind, job_id, task_id, attempt, worker_id, actor, message, era) SELECT j.project_id",
    "INSERT INTO dead_letters",
    "INSERT INTO events (project_id, at, kind, job_id, task_id, attempt, worker_id, actor, message, era) SELECT project_id",
    "SELECT EXISTS (SELECT FROM dead_letters",
    "DELETE FROM dead_letters WHERE id = $1",
    "INSERT INTO events (project_id, at, kind, job_id, task_id, attempt, actor, message, era) SELECT j.project_id",
    "SELECT id, attempt, job_id, position, index, coalesce(version, 1) FROM live_tasks WHERE id = ANY($1)",
    "SELECT NOT EXISTS (SELECT 1 FROM web_sessions)",
    "SELECT u.id AS user_id, u.name AS user_name",
    "UPDATE web_sessions",
    // Of those that have a stream open, each by its key.
    "SELECT s.sha256, s.project FROM UNNEST",
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
    // Forms of those who are not signed in yet: each names its row by key.
    "SELECT id, name, password, disabled_at IS NOT NULL",
    "UPDATE users SET password = $3 WHERE id",
    "UPDATE users SET password = $2 WHERE id",
    "SELECT u.name FROM login_links",
    "UPDATE login_links SET used_at",
    "DELETE FROM login_links WHERE user_id = $1 AND used_at",
    "WHERE i.sha256 = $1 AND",
    "SELECT m.role FROM memberships m JOIN invitations",
    "INSERT INTO memberships (project_id, user_id, role) SELECT project_id, $2, $3 FROM invitations",
    "UPDATE invitations SET used_at",
    // The first user of an installation.
    "SELECT id FROM users WHERE name = $1",
    "INSERT INTO memberships (project_id, user_id, role) VALUES ($1, $2, 'admin') ON CONFLICT DO NOTHING",
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
                let is_statement = ["SELECT ", "INSERT ", "UPDATE ", "DELETE ", "WITH ", "FROM ", "{TASKS} "];
                if is_statement.iter().any(|beginning| text.starts_with(beginning)) {
                    // What is put in when it is asked is not known here.
                    let pieces = text.split(['{', '}']).step_by(2).map(str::trim);
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
    // While a large job is being stopped, the scheduler passes over those of its tasks that still wait: once, and not in each pass.
    let is_head = |carried: &Carried| carried.text.contains("AND job_id <> ALL($5)");
    let reads_many = |carried: &&Carried| {
        let mut found = Vec::new();
        too_much(&carried.plan, MAX_ROWS, &mut found);
        !found.is_empty()
    };
    let passed_over = all.iter().filter(|carried| is_head(carried)).filter(reads_many).count();
    assert!(passed_over <= 2, "{passed_over} times");
    all.retain(|carried| !is_head(carried));
    checked.check("with statistics of empty tables", 0, &all);
    assert!(checked.bad.is_empty(), "{:#?}", checked.bad);
    dev.interrupt().await;
}
