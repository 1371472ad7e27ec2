//! Reruns in part: what runs again, and whose results the new job has.

use gaffer_domain::reason::AttemptEnd;
use gaffer_e2e::client::Client;
use gaffer_e2e::gaffer::{Dev, data_dir};
use gaffer_e2e::raw_worker::{RawWorker, hello};
use gaffer_e2e::stage::Stage;
use gaffer_e2e::{eventually, wait_for_a_lock};
use gaffer_protocol::rest::{ResultOf, Task};
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};

use crate::texts::Visitor;

/// Reruns a job; returns the number of the new one.
async fn rerun(client: &Client, job: i64, body: Value) -> i64 {
    let answer = client.post(&format!("/jobs/{job}/rerun"), &body).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
    assert_eq!(answer.body["rerun_of"], job);
    answer.body["id"].as_i64().unwrap()
}

/// State of each task by its address, and whose result it has: `build completed (41 build 1)`.
async fn shown(client: &Client, job: i64) -> Vec<String> {
    let whose = |of: &ResultOf| format!(" ({} {} {})", of.job, of.task, of.attempt);
    let task = |task: &Task| {
        format!("{} {}{}", task.address, task.state, task.result_of.as_ref().map(whose).unwrap_or_default())
    };
    client.tasks(job).await.iter().map(task).collect()
}

/// Ends the next attempts that are started: with a failure those whose indices are named.
async fn end_all(worker: &mut RawWorker, count: usize, failing: &[u32]) -> Vec<u32> {
    let mut indices = Vec::new();
    for _ in 0..count {
        let start = worker.next_start().await;
        let code = i32::from(failing.contains(&start.index));
        worker.ended(start.attempt, AttemptEnd::Exited { code }, 0).await;
        indices.push(start.index);
    }
    indices.sort_unstable();
    indices
}

#[tokio::test]
async fn of_a_thousand_tasks_only_the_eleven_that_failed_run_again() {
    let stage = Stage::set().await;
    let mut worker = RawWorker::connect(&stage.worker_url(), &stage.worker_key, hello("w")).await;
    let small = json!({"cpu": 0, "memory": 0});
    let spec = json!({"command": ["train"], "array": "0-999", "resources": small});
    let first = stage.client.submit(spec).await;
    let failing: Vec<u32> = (0..11).map(|n| 7 + 90 * n).collect();
    end_all(&mut worker, 1_000, &failing).await;
    assert_eq!(stage.client.finished(first).await.state, "failed");

    let again = rerun(&stage.client, first, json!({"failed": true})).await;
    let job = stage.client.job(again).await;
    assert_eq!((job.taken_over, job.task_counts["completed"]), (989, 989));
    assert_eq!(job.state, "pending", "that it has results does not mean that it has begun");
    // One of them fails once more, so there is a chain of reruns.
    assert_eq!(end_all(&mut worker, 11, &[97]).await, failing);
    let done = stage.client.finished(again).await;
    assert_eq!((done.state.as_str(), done.task_counts["completed"]), ("failed", 999));
    let last = rerun(&stage.client, again, json!({"failed": true})).await;
    assert_eq!(end_all(&mut worker, 1, &[]).await, [97]);
    let done = stage.client.finished(last).await;
    assert_eq!((done.state.as_str(), done.taken_over, done.reason), ("completed", 999, None));

    // A result is always that of the job where it ran.
    let whose: Vec<Option<i64>> =
        stage.client.tasks(last).await.iter().map(|task| Some(task.result_of.as_ref()?.job.0)).collect();
    for (index, whose) in (0..).zip(whose) {
        let expected = match index {
            97 => None,
            index if failing.contains(&index) => Some(again),
            _ => Some(first),
        };
        assert_eq!(whose, expected, "{index}");
    }

    // The address of a result stays what it was when its job is deleted.
    assert_eq!(stage.client.delete(&format!("/jobs/{first}")).await.status, 204);
    let of_first = stage.client.tasks(last).await[0].result_of.clone().unwrap();
    assert_eq!((of_first.task.as_str(), of_first.is_deleted), ("main.0", true));
}

/// A pipeline in which `build` fails while a file is missing.
fn pipeline(file: &std::path::Path) -> Value {
    json!({"tasks": [
        {"name": "fetch", "script": "echo fetched"},
        {"name": "build", "script": format!("echo built; test -e {}", file.display()), "depends_on": ["fetch"]},
        {"name": "test", "script": "echo tested", "depends_on": ["build"]},
        {"name": "repair", "script": "true", "depends_on": [{"task": "build", "on": "failed"}]},
        {"name": "complain", "script": "true", "depends_on": [{"task": "fetch", "on": "failed"}]},
        {"name": "clean", "script": "true", "when": "always", "depends_on": ["test"]},
    ]})
}

#[tokio::test]
async fn what_failed_and_what_follows_from_it_runs_again_and_the_rest_is_a_link() {
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    let file = dir.path().join("there");
    let first = dev.client.submit(pipeline(&file)).await;
    assert_eq!(dev.client.finished(first).await.state, "failed");
    std::fs::write(&file, "").unwrap();
    let again = rerun(&dev.client, first, json!({"failed": true})).await;
    assert_eq!(dev.client.finished(again).await.state, "completed");
    let expected = [
        &format!("fetch completed ({first} fetch 1)"),
        "build completed",
        "test completed",
        "repair cancelled",
        "complain cancelled",
        "clean completed",
    ];
    assert_eq!(shown(&dev.client, again).await, expected);
    assert_eq!(dev.client.tasks(first).await[1].state, "failed", "what ran is as it was");

    // Its output is read under both addresses; that of the job is what ran in it.
    let fetched = dev.client.get(&format!("/jobs/{again}/tasks/fetch/output")).await;
    assert_eq!((fetched.status.as_u16(), fetched.text.as_str()), (200, "fetched\n"));
    assert_eq!(dev.client.output(again).await, b"built\ntested\n");
    let cli = async |args: &[&str]| {
        let output = dev.cli(args).output().await.unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let number = again.to_string();
    assert_eq!(cli(&["logs", &format!("{again}.fetch")]).await, (Some(0), "fetched\n".to_owned()));
    let (code, verified) = cli(&["logs", "--verify", &number, "--task", "fetch"]).await;
    assert!(code == Some(0) && verified.contains("complete"), "{verified}");
    let said = cli(&["job", &number]).await.1;
    assert!(said.contains(&format!("result of fetch in job {first}")), "{said}");
    let browser = Visitor::of(&dev).await;
    let page = browser.page(&format!("/jobs/{again}/tasks/fetch")).await;
    assert!(
        page.contains("Not run in this job") && page.contains(&format!("/jobs/{first}/tasks/fetch")),
        "{page}"
    );
    let page = browser.page(&format!("/jobs/{again}?task=fetch")).await;
    assert!(page.contains(&format!("Output in job {first}")), "{page}");
    let page = browser.page(&format!("/jobs/{again}?tab=tasks")).await;
    assert!(page.contains(&format!("result of fetch in job {first}")), "{page}");
    let events = cli(&["events", &number]).await.1;
    assert!(events.contains(&format!("6 tasks, 4 of them run: a rerun in part of job {first}")), "{events}");

    // When the first job is gone, the link says so.
    assert_eq!(dev.client.delete(&format!("/jobs/{first}")).await.status, 204);
    let fetch = dev.client.tasks(again).await[0].clone();
    assert!(fetch.state == "completed" && fetch.result_of.is_some_and(|of| of.is_deleted));
    let gone = dev.client.get(&format!("/jobs/{again}/tasks/fetch/output")).await;
    assert!(
        gone.status == 404 && gone.text.contains(&format!("it was deleted with job {first}")),
        "{}",
        gone.text
    );
    let page = browser.page(&format!("/jobs/{again}/tasks/fetch")).await;
    assert!(page.contains(&format!("result of fetch in job {first}, which was deleted")), "{page}");
    let last = rerun(&dev.client, again, json!({"from": "test"})).await;
    assert_eq!(dev.client.finished(last).await.state, "completed");
    assert_eq!(shown(&dev.client, last).await[0], format!("fetch completed ({first} fetch 1)"));
}

#[tokio::test]
async fn from_a_task_on_all_that_depends_on_it_runs_again() {
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    let after = |name: &str| json!({"task": name, "index": "same"});
    let spec = json!({"tasks": [
        {"name": "prepare", "script": "true"},
        {"name": "train", "script": "test $GAFFER_TASK_INDEX -ne 3", "array": "2-4", "depends_on": ["prepare"]},
        {"name": "judge", "script": "true", "array": "2-4", "depends_on": [after("train")]},
        {"name": "lint", "script": "exit 1"},
    ]});
    let first = dev.client.submit(spec.clone()).await;
    dev.client.finished(first).await;
    let refused = dev.client.post(&format!("/jobs/{first}/rerun"), &json!({"from": "judge"})).await;
    assert_eq!(
        (refused.status.as_u16(), &refused.body["state"]),
        (409, &json!("failed")),
        "{}",
        refused.text
    );
    assert!(refused.text.contains("task train.3 of job"), "{}", refused.text);
    let both = rerun(&dev.client, first, json!({"from": "judge", "failed": true})).await;
    dev.client.finished(both).await;
    let of = |task: &str| format!("{task} completed ({first} {task} 1)");
    let expected = [
        of("prepare"),
        of("train.2"),
        "train.3 failed".to_owned(),
        of("train.4"),
        "judge.2 completed".to_owned(),
        "judge.3 cancelled".to_owned(),
        "judge.4 completed".to_owned(),
        "lint failed".to_owned(),
    ];
    assert_eq!(shown(&dev.client, both).await, expected);

    // An edited specification: definitions are found by name, and one that is new runs.
    let mut edited = spec;
    edited["tasks"][1]["script"] = json!("true");
    edited["tasks"][3] = json!({"name": "new", "script": "true"});
    let fixed = rerun(&dev.client, first, json!({"failed": true, "spec": edited})).await;
    assert_eq!(dev.client.finished(fixed).await.state, "completed");
    let expected = [
        of("prepare"),
        of("train.2"),
        "train.3 completed".to_owned(),
        of("train.4"),
        of("judge.2"),
        "judge.3 completed".to_owned(),
        of("judge.4"),
        "new completed".to_owned(),
    ];
    assert_eq!(shown(&dev.client, fixed).await, expected);
    // Nothing waits for what runs: the rest is there before it begins.
    let again = rerun(&dev.client, fixed, json!({"from": "judge"})).await;
    let done = dev.client.finished(again).await;
    assert_eq!((done.state.as_str(), done.taken_over), ("completed", 5));
}

#[tokio::test]
async fn a_rerun_in_part_whose_client_went_away_while_it_was_committed_runs_nevertheless() {
    let stage = Stage::set().await;
    let mut worker = RawWorker::connect(&stage.worker_url(), &stage.worker_key, hello("w")).await;
    let first = stage
        .client
        .submit(json!({"tasks": [
            {"name": "a", "script": "true"},
            {"name": "b", "script": "true", "depends_on": ["a"]},
        ]}))
        .await;
    end_all(&mut worker, 1, &[]).await;
    end_all(&mut worker, 1, &[0]).await;
    assert_eq!(stage.client.finished(first).await.state, "failed");

    let mut other = PgConnection::connect(&stage.database_url).await.unwrap();
    let wait = "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
             PERFORM pg_advisory_xact_lock_shared(42); RETURN NEW; END $$; \
         CREATE CONSTRAINT TRIGGER wait AFTER INSERT ON jobs DEFERRABLE INITIALLY DEFERRED FOR EACH ROW \
             EXECUTE FUNCTION wait(); \
         SELECT pg_advisory_lock(42)";
    sqlx::raw_sql(wait).execute(&mut other).await.unwrap();
    let (client, path) = (stage.client.clone(), format!("/jobs/{first}/rerun"));
    let request = tokio::spawn(async move { client.post(&path, &json!({"failed": true})).await });
    let mut looking = PgConnection::connect(&stage.database_url).await.unwrap();
    wait_for_a_lock(&mut looking, "gaffer", 1).await;
    request.abort();
    let large_jobs = &stage.running.control.large_jobs;
    eventually("the master notices", async || large_jobs.reads_again_in()).await;
    let looks = async || {
        let system = stage.client.get("/system").await.body;
        let loops = system["loops"].as_array().unwrap();
        loops.iter().find(|one| one["name"] == "large_jobs").unwrap()["runs"].as_u64().unwrap()
    };
    let before = looks().await;
    // The first of them may have begun earlier.
    eventually("it has looked in vain", async || (looks().await > before + 1).then_some(())).await;
    sqlx::query("SELECT pg_advisory_unlock(42)").execute(&mut other).await.unwrap();

    // What `b` waits for was taken over, so nothing else releases it.
    let start = worker.next_start().await;
    let again = start.definition.job.0;
    assert_eq!((again > first, start.definition.task.as_str()), (true, "b"));
    worker.ended(start.attempt, AttemptEnd::Exited { code: 0 }, 0).await;
    let done = stage.client.finished(again).await;
    assert_eq!((done.state.as_str(), done.taken_over), ("completed", 1));
}

#[tokio::test]
async fn a_rerun_in_part_that_makes_no_sense_is_refused_with_the_reason() {
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    let go_on = dir.path().join("go-on");
    let spec = json!({"tasks": [
        {"name": "a", "script": format!("until test -e {}; do sleep 0.05; done", go_on.display())},
        {"name": "b", "script": "true"},
    ]});
    let job = dev.client.submit(spec).await;
    let path = format!("/jobs/{job}/rerun");
    let state = dev.client.in_state(job, "running").await.state;
    let early = dev.client.post(&path, &json!({"failed": true})).await;
    assert_eq!((early.status.as_u16(), early.body["state"].as_str()), (409, Some(state.as_str())));
    std::fs::write(&go_on, "").unwrap();
    dev.client.finished(job).await;
    let nothing = dev.client.post(&path, &json!({"failed": true})).await;
    assert_eq!((nothing.status.as_u16(), nothing.body["state"].as_str()), (409, Some("completed")));
    assert!(nothing.text.contains(&format!("nothing of job {job} failed")), "{}", nothing.text);
    let unknown = dev.client.post(&path, &json!({"from": "c"})).await;
    assert_eq!((unknown.status.as_u16(), &unknown.body["errors"][0]["pointer"]), (422, &json!("/from")));
    assert!(unknown.text.contains("the job has a and b"), "{}", unknown.text);
    let mistaken =
        dev.client.post(&path, &json!({"spec": {"tasks": [{"name": "a", "comand": ["x"]}]}})).await;
    assert_eq!(mistaken.status, 422);
    assert_eq!(mistaken.body["errors"][1]["pointer"], "/spec/tasks/0/comand", "{}", mistaken.text);
    let more = dev.client.post(&path, &json!({"fail": true})).await;
    assert_eq!(more.status, 422, "{}", more.text);

    // The same request twice is one job, another one with the same key is refused.
    let ask = async |body: Value| {
        let request = dev.client.request(reqwest::Method::POST, &path).header("idempotency-key", "once");
        let response = request.json(&body).send().await.unwrap();
        let status = response.status().as_u16();
        (status, response.json::<Value>().await.unwrap()["id"].as_i64())
    };
    let (status, made) = ask(json!({"from": "a"})).await;
    assert_eq!(status, 201);
    assert_eq!(ask(json!({"from": "a"})).await, (200, made));
    assert_eq!(ask(json!({"from": "b"})).await.0, 422);
    assert_eq!(ask(json!({})).await.0, 422);
}

#[tokio::test]
async fn the_command_reruns_what_failed_with_an_edited_specification() {
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    let spec = json!({"name": "p", "env": {"WORD": "1.10"}, "script": "echo fine\nexit 3\n", "count": 2});
    let first = dev.client.submit(spec).await;
    dev.client.finished(first).await;
    let number = first.to_string();
    let with_editor = async |editor: &str, args: &[&str]| {
        let output =
            dev.cli(&[&["rerun", &number], args].concat()).env("VISUAL", editor).output().await.unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let (code, made, said) = with_editor("sed -i 's/exit 3/exit 0/'", &["--failed", "--edit"]).await;
    assert_eq!((code, said.as_str()), (Some(0), ""));
    let again: i64 = made.trim().parse().unwrap();
    let done = dev.client.finished(again).await;
    assert_eq!((done.state.as_str(), done.rerun_of.map(|of| of.0)), ("completed", Some(first)));
    let stored = dev.client.job(again).await.spec;
    assert_eq!(stored["tasks"][0]["env"]["WORD"], "1.10");

    let (code, made, said) = with_editor("true", &["--edit"]).await;
    assert_eq!((code, made.as_str()), (Some(1), ""));
    assert!(said.contains("the specification was not changed; nothing was submitted"), "{said}");
    // Somebody's work is not lost with a mistake.
    let (code, _, said) = with_editor("sed -i 's/^name: p$/nme: p/'", &["--edit"]).await;
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains(" /nme: unknown field `nme`"), "{said}");
    let kept = said.split("your changes are kept in ").nth(1).unwrap().split(':').next().unwrap();
    assert!(said.contains(&format!("run\n  gaffer rerun {first} --spec {kept}\n")), "{said}");
    assert!(std::fs::read_to_string(kept).unwrap().contains("nme: p"), "{kept}");
    let fixed =
        std::fs::read_to_string(kept).unwrap().replace("nme: p", "name: q").replace("exit 3", "exit 0");
    std::fs::write(kept, fixed).unwrap();
    let (code, made, said) = with_editor("false", &["--spec", kept, "--failed"]).await;
    assert_eq!((code, said.as_str()), (Some(0), ""));
    assert_eq!(dev.client.finished(made.trim().parse().unwrap()).await.name, "q");
    std::fs::remove_file(kept).unwrap();
    // Nor with an editor that fails after it has written, or breaks down.
    let (code, _, said) =
        with_editor("f() { sed -i 's/exit 3/exit 4/' \"$1\"; exit 9; }; f", &["--failed", "--edit"]).await;
    assert_eq!(code, Some(1), "{said}");
    let kept = said.split("your changes are kept in ").nth(1).unwrap().split(':').next().unwrap();
    assert!(said.ends_with(&format!("run\n  gaffer rerun {first} --failed --spec {kept}\n")), "{said}");
    assert!(std::fs::read_to_string(kept).unwrap().contains("exit 4"), "{kept}");
    std::fs::remove_file(kept).unwrap();
    let (code, _, said) = with_editor("false", &["--edit"]).await;
    assert!(code == Some(1) && !said.contains("your changes are kept"), "{said}");
    let refused = dev.cli(&["rerun", made.trim(), "--failed"]).output().await.unwrap();
    assert_eq!(refused.status.code(), Some(5));
}

#[tokio::test]
async fn the_page_of_a_job_reruns_a_part_of_it() {
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    let spec = json!({"tasks": [{"name": "a", "script": "true"}, {"name": "b", "script": "exit 1"}]});
    let job = dev.client.submit(spec).await;
    dev.client.finished(job).await;
    let browser = Visitor::of(&dev).await;
    let page = browser.page(&format!("/jobs/{job}")).await;
    assert!(page.contains("<option>a</option><option>b</option>"), "{page}");
    let once = page.split(r#"name="once" value=""#).nth(1).unwrap().split('"').next().unwrap().to_owned();
    for (form, taken_over) in
        [(format!("once={once}&failed=1"), 1), (format!("once={once}&from=a&failed=1"), 0)]
    {
        let send = async || {
            let response = browser.send(&format!("/jobs/{job}/rerun"), form.clone()).await;
            response.headers()[reqwest::header::LOCATION].to_str().unwrap().to_owned()
        };
        let to = send().await;
        let again: i64 = to.rsplit('/').next().unwrap().parse().unwrap();
        assert_eq!(dev.client.job(again).await.taken_over, taken_over, "{form}");
        assert_eq!(send().await, to, "pressed twice, it is one job");
    }
}
