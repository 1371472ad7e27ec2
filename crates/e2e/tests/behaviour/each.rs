//! Tasks made of a list of items, or of a matrix.

use std::process::Stdio;

use gaffer_domain::reason::AttemptEnd;
use gaffer_domain::spec::Item;
use gaffer_e2e::eventually;
use gaffer_e2e::gaffer::{Dev, data_dir};
use gaffer_e2e::raw_worker::{RawWorker, hello};
use gaffer_e2e::stage::Stage;
use gaffer_protocol::wire::{Hello, ToWorker};
use serde_json::json;
use tokio::io::AsyncWriteExt;

use crate::texts::Visitor;

#[tokio::test]
async fn each_task_has_its_item_in_its_environment_and_everybody_sees_it() {
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    let spec = json!({"tasks": [
        {"name": "convert", "each": ["a b.png", 1.5, "ä"], "script": "echo \"$GAFFER_TASK_INDEX $GAFFER_ITEM\""},
        {"name": "test", "each": {"python": ["3.11", "3.12"], "os": ["linux", "mac"]}, "array": "%1",
            "script": "echo \"$GAFFER_ITEM_OS $GAFFER_ITEM_PYTHON ${GAFFER_ITEM-none}\""},
    ]});
    let job = dev.client.submit(spec).await;
    assert_eq!(dev.client.finished(job).await.state, "completed");
    let expected = "0 a b.png\n1 1.5\n2 ä\nlinux 3.11 none\nlinux 3.12 none\nmac 3.11 none\nmac 3.12 none\n";
    assert_eq!(String::from_utf8(dev.client.output(job).await).unwrap(), expected);

    let tasks = dev.client.tasks(job).await;
    assert_eq!(tasks[0].item, Some(Item::One("a b.png".to_owned())));
    let shown = dev.client.get(&format!("/jobs/{job}/tasks/test.2")).await.body;
    assert_eq!(shown["item"], json!({"os": "mac", "python": "3.11"}));
    let said = dev.cli(&["job", &job.to_string()]).output().await.unwrap();
    let said = String::from_utf8(said.stdout).unwrap();
    for words in ["ITEM", "a b.png", "os=mac, python=3.12"] {
        assert!(said.contains(words), "{said}");
    }
    let browser = Visitor::of(&dev).await;
    let page = browser.page(&format!("/jobs/{job}?tab=tasks")).await;
    assert!(page.contains("os=linux, python=3.12") && page.contains(">a b.png<"), "{page}");
    let page = browser.page(&format!("/jobs/{job}/tasks/convert.2")).await;
    assert!(page.contains("<span class=\"muted\">ä</span>"), "{page}");

    // Without items, nothing is said of them.
    let plain = dev.client.submit(json!({"command": ["true"]})).await;
    dev.client.finished(plain).await;
    let said = dev.cli(&["job", &plain.to_string()]).output().await.unwrap();
    assert!(!String::from_utf8(said.stdout).unwrap().contains("ITEM"));
    assert_eq!(dev.client.tasks(plain).await[0].item, None);
}

#[tokio::test]
async fn lines_of_a_file_are_items_for_run_and_submit() {
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    let file = dir.path().join("lines");
    std::fs::write(&file, "one\n\ntwo words\n").unwrap();
    let shell = ["--", "sh", "-c", "echo \"<$GAFFER_ITEM>\""];
    let submit = [&["submit", "--each-line", file.to_str().unwrap()], &shell[..]].concat();
    let made = dev.cli(&submit).output().await.unwrap();
    let job: i64 = String::from_utf8(made.stdout).unwrap().trim().parse().unwrap();
    assert_eq!(dev.client.finished(job).await.state, "completed");
    assert_eq!(dev.client.output(job).await, b"<one>\n<two words>\n");

    let mut run = dev.cli(&[&["run", "--each-line", "-", "--array", "%1"], &shell[..]].concat());
    let mut child = run.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"x\ny\n").await.unwrap();
    drop(stdin);
    let output = child.wait_with_output().await.unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(printed.contains("<x>") && printed.contains("<y>"), "{printed}");
    let made = dev.cli(&["submit", "--each", "p", "--each", "q", "--", "true"]).output().await.unwrap();
    let job: i64 = String::from_utf8(made.stdout).unwrap().trim().parse().unwrap();
    let items: Vec<_> = dev.client.tasks(job).await.into_iter().filter_map(|task| task.item).collect();
    assert_eq!(items, ["p", "q"].map(|item| Item::One(item.to_owned())));
}

#[tokio::test]
async fn a_worker_gets_the_item_of_its_task_and_not_those_of_the_others() {
    let stage = Stage::set().await;
    let mut worker = RawWorker::connect(&stage.worker_url(), &stage.worker_key, hello("w")).await;
    let items: Vec<u32> = (500_000..550_000).collect();
    let spec = json!({"command": ["x"], "each": items, "resources": {"cpu": 2}});
    let job = stage.client.submit(spec).await;
    assert_eq!(stage.client.job(job).await.task_counts.values().sum::<i64>(), 50_000);
    for index in 0..3 {
        let start = worker
            .hear_until(|message| match message {
                ToWorker::Start(start) => Some(start),
                _ => None,
            })
            .await;
        assert_eq!((start.index, &start.item), (index, &Some(Item::One((500_000 + index).to_string()))));
        let definition = serde_json::to_string(&*worker.resolve(&start).definition).unwrap();
        assert!(!definition.contains("500001") && definition.len() < 2_000, "{definition}");
        worker.ended(start.attempt, AttemptEnd::Exited { code: 0 }, 0).await;
    }
    stage.client.post(&format!("/jobs/{job}/stop"), &json!({})).await;
}

#[tokio::test]
async fn tasks_with_equal_items_match_by_index_and_a_rerun_finds_them_by_item() {
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    let job = |items: &[&str], fails: &str| {
        json!({"tasks": [
            {"name": "build", "each": items, "script": format!("test $GAFFER_ITEM != {fails}")},
            {"name": "test", "each": items, "script": "true", "depends_on": [{"task": "build", "index": "same"}]},
        ]})
    };
    let first = dev.client.submit(job(&["a", "b", "c"], "b")).await;
    assert_eq!(dev.client.finished(first).await.state, "failed");
    let states = async |job: i64| -> Vec<String> {
        let tasks = dev.client.tasks(job).await;
        tasks.iter().map(|task| format!("{} {}", task.state, task.result_of.is_some())).collect()
    };
    let ended = ["completed", "failed", "completed", "completed", "cancelled", "completed"];
    assert_eq!(states(first).await, ended.map(|state| format!("{state} false")));
    let body = json!({"failed": true, "spec": job(&["a", "b", "x"], "nothing")});
    let again = dev.client.post(&format!("/jobs/{first}/rerun"), &body).await.body["id"].as_i64().unwrap();
    assert_eq!(dev.client.finished(again).await.state, "completed");
    let own = [true, false, false, true, false, false];
    assert_eq!(states(again).await, own.map(|is_taken_over| format!("completed {is_taken_over}")));
}

#[tokio::test]
async fn a_worker_of_a_version_without_items_gets_no_task_with_one() {
    let stage = Stage::set().await;
    let older = Hello { features: Vec::new(), ..hello("old") };
    let mut old = RawWorker::connect(&stage.worker_url(), &stage.worker_key, older.clone()).await;
    let job = stage.client.submit(json!({"command": ["x"], "each": ["a"]})).await;
    let plain = stage.client.submit(json!({"command": ["x"]})).await;
    let start = old.next_start().await;
    assert_eq!(start.definition.job.0, plain, "it takes what it can run");
    let told = eventually("it waits", async || {
        let told = stage.client.get(&format!("/jobs/{job}/explain")).await.body;
        (told["waiting"][0]["workers"][0]["unfit"]["code"] == "outdated").then_some(told)
    })
    .await;
    let waiting = &told["waiting"][0];
    let message = "old runs gaffer 0.0.0-test, which does not support `each`";
    assert_eq!(waiting["workers"][0]["message"], message);
    assert_eq!(waiting["help"], "update gaffer on the workers");
    old.ended(start.attempt, AttemptEnd::Exited { code: 0 }, 0).await;
    stage.client.finished(plain).await;
    old.hang_up();

    // The worker is updated.
    let newer = Hello { features: hello("new").features, process: hello("new").process, ..older };
    let mut new = RawWorker::connect(&stage.worker_url(), &stage.worker_key, newer).await;
    assert_eq!(new.next_start().await.definition.job.0, job);
}
