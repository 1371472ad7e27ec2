//! Services are updated: versions, and instances that are replaced one after the other.

use gaffer_e2e::eventually;
use gaffer_e2e::gaffer::{Dev, data_dir};
use gaffer_protocol::rest::{Job, Task};
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::texts::Visitor;

/// A service whose instances say which version they are.
pub(super) fn service(version: &str, count: u32, update: Value) -> Value {
    json!({
        "name": "web", "type": "service", "count": count, "resources": {"cpu": 0.05}, "env": {"VERSION": version},
        "script": "echo up $VERSION; [ $VERSION != broken ] || exit 7; exec sleep 1000",
        "restart": {"policy": "always", "delay": "0s"}, "lost_after": "10s", "update": update,
    })
}

pub(super) fn quick() -> Value {
    json!({"healthy_for": "0s"})
}

/// An instance of a broken version has ended long before.
fn patient() -> Value {
    json!({"healthy_for": "2s"})
}

pub(super) async fn apply(dev: &Dev, spec: &Value) -> (StatusCode, Job) {
    let answer = dev.client.post("/services/web", spec).await;
    assert!(answer.status.is_success(), "{}", answer.text);
    (answer.status, serde_json::from_value(answer.body).unwrap())
}

#[tokio::test]
async fn a_service_that_goes_back_to_a_version_has_its_placeholders_again() {
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    let version = |name: &str, default: &str| {
        let mut spec = service("{{ word }}", 1, quick());
        spec["env"] = json!({"VERSION": format!("{{{{ {name} }}}}")});
        spec["parameters"] = json!({name: {"default": default}});
        spec
    };
    let (_, job) = apply(&dev, &version("first", "one")).await;
    let job = job.id.0;
    settled(&dev, job, 1).await;
    apply(&dev, &version("second", "two")).await;
    settled(&dev, job, 1).await;
    let source = async || dev.client.get(&format!("/jobs/{job}/source")).await.body;
    assert_eq!(source().await["spec"]["env"]["VERSION"], "{{ second }}");
    assert!(dev.client.post(&format!("/jobs/{job}/rollback"), &json!({})).await.status.is_success());
    settled(&dev, job, 1).await;
    let found = source().await;
    assert_eq!(found["spec"]["env"]["VERSION"], "{{ first }}");
    assert_eq!(found["parameters"], json!({"first": "one"}));
    // So it can be rerun with another value once it has ended.
    dev.client.post(&format!("/jobs/{job}/stop"), &json!({})).await;
    dev.client.finished(job).await;
    let again =
        dev.client.post(&format!("/jobs/{job}/rerun"), &json!({"parameters": {"first": "three"}})).await;
    assert_eq!(again.status, StatusCode::CREATED, "{}", again.text);
    assert_eq!(again.body["spec"]["tasks"][0]["env"]["VERSION"], "three");
    let mismatch = dev.client.post("/services/other", &json!({"spec": version("first", "one")})).await;
    assert_eq!(
        (mismatch.status.as_u16(), &mismatch.body["errors"][0]["pointer"]),
        (422, &json!("/spec/name"))
    );
    dev.interrupt().await;
}

/// Once no update is under way and so many instances are available.
pub(super) async fn settled(dev: &Dev, job: i64, count: u64) -> Job {
    eventually(&format!("{count} instances are available and no update is under way"), async || {
        let found = dev.client.job(job).await;
        let on_their_way = ["pending", "scheduled", "stopping"];
        let is_quiet = on_their_way.iter().all(|state| !found.task_counts.contains_key(*state));
        (found.available == Some(count) && found.updates.is_empty() && is_quiet).then_some(found)
    })
    .await
}

/// The version and the number of the attempt of each running instance.
pub(super) async fn versions(dev: &Dev, job: i64) -> Vec<(u32, u32)> {
    let mut found = Vec::new();
    for task in running(dev, job).await {
        let task = dev.client.get(&format!("/jobs/{job}/tasks/{}", task.address)).await.body;
        let latest = &task["attempts"][0];
        found.push((latest["version"].as_u64().unwrap() as u32, latest["attempt"].as_u64().unwrap() as u32));
    }
    found
}

pub(super) async fn running(dev: &Dev, job: i64) -> Vec<Task> {
    let tasks = dev.client.tasks(job).await;
    tasks.into_iter().filter(|task| task.state == "running").collect()
}

pub(super) async fn kinds(dev: &Dev, job: i64, wanted: &str) -> Vec<String> {
    let events = dev.client.get(&format!("/jobs/{job}/events?limit=500")).await.body;
    let events = events["items"].as_array().unwrap().clone();
    let wanted = events.iter().rev().filter(|event| event["kind"] == wanted);
    wanted.map(|event| event["message"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_service_that_is_applied_again_is_updated_and_never_has_fewer_instances_meanwhile() {
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    let (status, first) = apply(&dev, &service("one", 3, quick())).await;
    assert_eq!((status, first.version), (StatusCode::CREATED, 1));
    let job = first.id.0;
    settled(&dev, job, 3).await;
    let before = versions(&dev, job).await;
    assert_eq!(before, [(1, 1); 3]);

    let (status, second) = apply(&dev, &service("two", 3, quick())).await;
    assert_eq!((status, second.id.0, second.version), (StatusCode::OK, job, 2));
    assert_eq!(second.updates.len(), 1);
    let mut most = 0;
    eventually("the update is done", async || {
        let found = dev.client.job(job).await;
        let running = found.tasks_in(gaffer_domain::task::StateName::Running);
        most = most.max(running);
        assert!(running >= 3, "{:?}", found.task_counts);
        found.updates.is_empty().then_some(())
    })
    .await;
    assert!(most <= 4, "{most} were running");
    settled(&dev, job, 3).await;
    assert_eq!(versions(&dev, job).await, [(2, 2); 3]);
    for task in running(&dev, job).await {
        let output = dev.client.get(&format!("/jobs/{job}/tasks/{}/output", task.address)).await.text;
        assert_eq!(output, "up two\n");
    }

    // The same again is no version, and a number alone replaces nobody.
    assert_eq!(apply(&dev, &service("two", 3, quick())).await.1.version, 2);
    assert_eq!(apply(&dev, &service("two", 4, quick())).await.1.version, 3);
    settled(&dev, job, 4).await;
    assert_eq!(versions(&dev, job).await[..3], [(2, 2); 3]);
    // What was scaled to stays until a version has another number.
    dev.client.post("/services/web/scale", &json!({"count": 2})).await;
    settled(&dev, job, 2).await;
    apply(&dev, &service("four", 4, quick())).await;
    assert_eq!(settled(&dev, job, 2).await.instances, [("main".to_owned(), 2)].into());
    assert!(versions(&dev, job).await.iter().all(|(version, _)| *version == 4));

    // Back to the first one, whose definition has the number of that version.
    let back = dev.client.post(&format!("/jobs/{job}/rollback"), &json!({"to": 1})).await;
    assert_eq!(back.status, StatusCode::ACCEPTED, "{}", back.text);
    settled(&dev, job, 3).await;
    assert!(versions(&dev, job).await.iter().all(|(version, _)| *version == 1));
    let kept = dev.client.get(&format!("/jobs/{job}/versions")).await.body;
    let numbers: Vec<i64> =
        kept["items"].as_array().unwrap().iter().map(|one| one["version"].as_i64().unwrap()).collect();
    assert_eq!(numbers, [5, 4, 3, 2, 1]);
    assert_eq!(kept["items"][0]["message"], "back to version 1");
}

#[tokio::test]
async fn a_version_that_fails_is_taken_back_and_instances_that_were_not_replaced_go_on() {
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    let job = apply(&dev, &service("one", 3, patient())).await.1.id.0;
    settled(&dev, job, 3).await;
    apply(&dev, &service("broken", 3, patient())).await;
    let reverted = eventually("it is taken back", async || {
        let found = dev.client.job(job).await;
        (found.version == 3).then_some(found)
    })
    .await;
    assert_eq!(reverted.spec["tasks"][0]["env"]["VERSION"], "one");
    settled(&dev, job, 3).await;
    assert_eq!(versions(&dev, job).await, [(1, 1); 3], "no old instance was stopped for it");
    let told = kinds(&dev, job, "job.updated").await;
    assert!(
        told[1].starts_with("version 3: back to version 1, because an instance of version 2 "),
        "{told:?}"
    );

    // Without that, it stays where it is, and says why.
    apply(&dev, &service("broken", 3, json!({"healthy_for": "2s", "auto_revert": false}))).await;
    let halted = eventually("the update has stopped", async || {
        let found = dev.client.job(job).await;
        found.updates.iter().any(|update| update.problem.is_some()).then_some(found)
    })
    .await;
    assert_eq!(halted.version, 4);
    assert_eq!(halted.available, Some(3));
    let shown = dev.cli(&["job", &job.to_string()]).output().await.unwrap();
    assert!(String::from_utf8_lossy(&shown.stdout).contains("it has stopped: an instance of version"));
    let page = Visitor::of(&dev).await.page(&format!("/jobs/{job}?tab=versions")).await;
    assert!(page.contains("the update of main has stopped") && page.contains("Go back to 3"), "{page}");
}

#[tokio::test]
async fn an_update_goes_on_after_the_master_was_killed() {
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    let update = json!({"healthy_for": "1s"});
    let job = apply(&dev, &service("one", 3, update.clone())).await.1.id.0;
    settled(&dev, job, 3).await;
    apply(&dev, &service("two", 3, update)).await;
    let mut dev = dev;
    for replaced in 1..=2 {
        eventually("some instances are new", async || {
            let new = versions(&dev, job).await.iter().filter(|(version, _)| *version == 2).count();
            (new >= replaced).then_some(())
        })
        .await;
        dev.kill().await;
        dev = Dev::start(dir.path()).await;
    }
    settled(&dev, job, 3).await;
    assert!(versions(&dev, job).await.iter().all(|(version, _)| *version == 2));
}

#[tokio::test]
async fn canaries_are_looked_at_before_the_others_are_replaced() {
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    let update = json!({"healthy_for": "0s", "canary": 1, "parallel": 2, "auto_promote": false});
    let job = apply(&dev, &service("one", 3, update.clone())).await.1.id.0;
    settled(&dev, job, 3).await;
    assert_eq!(
        dev.client.post(&format!("/jobs/{job}/promote"), &json!({})).await.status,
        StatusCode::CONFLICT
    );
    apply(&dev, &service("two", 3, update)).await;
    let all = |found: Vec<(u32, u32)>| found.iter().map(|(version, _)| *version).collect::<Vec<_>>();
    eventually("the canary runs", async || (all(versions(&dev, job).await) == [1, 1, 1, 2]).then_some(()))
        .await;
    assert!(dev.cli(&["promote", "web"]).output().await.unwrap().status.success());
    settled(&dev, job, 3).await;
    assert_eq!(all(versions(&dev, job).await), [2, 2, 2]);
}

#[tokio::test]
async fn a_fixed_port_is_given_up_before_the_new_instance_takes_it() {
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    let mut spec = service("one", 1, quick());
    spec["ports"] = json!(["http=29417"]);
    let job = apply(&dev, &spec).await.1.id.0;
    settled(&dev, job, 1).await;
    spec["env"]["VERSION"] = json!("two");
    apply(&dev, &spec).await;
    settled(&dev, job, 1).await;
    assert_eq!(versions(&dev, job).await, [(2, 2)]);
}

#[tokio::test]
async fn commands_show_what_an_update_changes_and_take_it_back() {
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    let file = dir.path().join("web.json");
    let write = |spec: &Value| std::fs::write(&file, spec.to_string()).unwrap();
    let path = file.to_str().unwrap().to_owned();
    let output_of = async |args: &[&str]| {
        let output = dev.cli(args).output().await.unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    };
    write(&service("one", 1, quick()));
    let (code, number) = output_of(&["submit", &path]).await;
    let job: i64 = number.trim().parse().unwrap();
    assert_eq!(code, 0);
    settled(&dev, job, 1).await;
    assert_eq!(output_of(&["diff", &path]).await, (0, String::new()));
    write(&service("two", 1, quick()));
    let change = "tasks.main.env.VERSION: \"one\" → \"two\"\n";
    assert_eq!(output_of(&["diff", &path]).await, (1, change.to_owned()));
    assert_eq!(output_of(&["submit", "--dry-run", &path]).await, (0, change.to_owned()));
    assert_eq!(dev.client.job(job).await.version, 1);
    assert_eq!(output_of(&["submit", &path]).await, (0, number.clone()));
    settled(&dev, job, 1).await;
    let (_, listed) = output_of(&["versions", "web"]).await;
    assert!(listed.contains("tasks.main.env.VERSION"), "{listed}");
    assert_eq!(output_of(&["rollback", "web"]).await, (0, number.clone()));
    let back = settled(&dev, job, 1).await;
    assert_eq!((back.version, &back.spec["tasks"][0]["env"]["VERSION"]), (3, &json!("one")));
    let (_, other) = output_of(&["submit", "--new", &path]).await;
    assert_ne!(other, number);
    assert_eq!(output_of(&["diff", number.trim(), other.trim()]).await, (1, change.to_owned()));

    let mut other_name = service("two", 1, quick());
    other_name["name"] = json!("shop");
    let refused = dev.client.post("/services/web", &other_name).await;
    assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", refused.text);
    let renamed =
        json!({"name": "web", "type": "service", "tasks": [{"name": "app", "script": "sleep 1000"}]});
    let refused = dev.client.post("/services/web", &renamed).await;
    assert!(refused.text.contains("the new version has no task main"), "{}", refused.text);
}

#[tokio::test]
async fn other_values_of_parameters_are_another_version() {
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    let mut spec = service("one", 1, quick());
    spec["script"] = json!("echo up $GAFFER_PARAM_MODE; exec sleep 1000");
    spec["parameters"] = json!({"mode": {"default": "a"}});
    spec["labels"] = json!({"mode": "{{ mode }}"});
    let with = |value: &str| json!({"spec": spec, "parameters": {"mode": value}});
    let job = apply(&dev, &with("a")).await.1.id.0;
    settled(&dev, job, 1).await;
    apply(&dev, &with("b")).await;
    let found = settled(&dev, job, 1).await;
    assert_eq!((found.version, found.labels["mode"].as_str()), (2, "b"));
    let task = running(&dev, job).await.remove(0);
    let output = dev.client.get(&format!("/jobs/{job}/tasks/{}/output", task.address)).await.text;
    assert_eq!(output, "up b\n");
    // A rerun has the present values, and may have others.
    let source = dev.client.get(&format!("/jobs/{job}/source")).await.body;
    assert_eq!(
        (&source["parameters"]["mode"], &source["spec"]["labels"]["mode"]),
        (&json!("b"), &json!("{{ mode }}"))
    );

    let from_template = dev.client.post("/services/web", &json!({"template": "web"})).await;
    assert_eq!(from_template.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", from_template.text);
}

/// A service of two with a canary of its second version beside them.
pub async fn awaiting_promotion(dev: &Dev) -> i64 {
    let update = json!({"healthy_for": "0s", "canary": 1, "auto_promote": false});
    let job = apply(dev, &service("one", 2, update.clone())).await.1.id.0;
    settled(dev, job, 2).await;
    apply(dev, &service("two", 2, update)).await;
    eventually("the canary runs", async || (versions(dev, job).await.len() == 3).then_some(())).await;
    job
}

#[tokio::test]
async fn an_instance_that_crashes_before_its_turn_runs_again_with_its_own_version() {
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    let job = awaiting_promotion(&dev).await;
    let killed =
        dev.client.post(&format!("/jobs/{job}/tasks/main.0/signal"), &json!({"signal": "SIGKILL"})).await;
    assert!(killed.status.is_success(), "{}", killed.text);
    eventually("it runs again, as it was", async || {
        (versions(&dev, job).await == [(1, 2), (1, 1), (2, 1)]).then_some(())
    })
    .await;
    let output = dev.client.get(&format!("/jobs/{job}/tasks/main.0/output")).await.text;
    assert_eq!(output, "up one\n");
}
