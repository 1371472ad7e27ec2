//! What a job and its tasks say, as needs.

use super::*;

/// The needs of the only task of a job with these fields.
fn needs_of(job: serde_json::Value) -> Requirements {
    let job = JobSpec::read(&job).unwrap();
    Requirements::of(&job, &job.tasks[0], DefinitionRef { job: JobId(7), position: 0 })
}

#[test]
fn needs_that_say_nothing_new_are_stored_as_they_always_were() {
    let plain = needs_of(serde_json::json!({"command": ["true"], "datacenters": ["lab"]}));
    let stored = serde_json::json!({
        "driver": "host", "resources": {"cpu": 1, "memory": 0, "disk": 0}, "datacenters": ["lab"],
    });
    assert_eq!(serde_json::to_value(&plain).unwrap(), stored);
    assert_eq!(serde_json::from_value::<Requirements>(stored).unwrap(), plain);
    let old = r#"{"strategy":"spread","workers":1,"feasible":1,"candidates":[{"worker":1,"name":"a","score":0.5}]}"#;
    let receipt: Receipt = serde_json::from_str(old).unwrap();
    assert_eq!((receipt.at, receipt.unmeasured, receipt.candidates[0].parts.len()), (None, 0, 0));
}

#[test]
fn needs_carry_all_that_job_and_task_say() {
    let needs = needs_of(serde_json::json!({
        "constraints": ["os == linux"], "concurrency": {"group": "g", "limit": 2}, "placement": "binpack",
        "affinities": [{"when": "labels.ssd", "weight": 10}],
        "tasks": [{
            "name": "a", "image": "busybox", "ports": ["8080:80", "0:81", "53:53/udp"], "distinct_workers": true,
            "constraints": ["arch == arm64"], "resources": {"gpu": 2, "fpga": 0}, "spread": "labels.rack",
        }],
    }));
    let stored = serde_json::to_value(&needs).unwrap();
    assert_eq!(
        stored,
        serde_json::json!({
            "driver": "docker", "resources": {"cpu": 1, "memory": 0, "disk": 0}, "datacenters": [],
            "countables": {"gpu": 2},
            "ports": [{"port": 53, "protocol": "udp"}, {"port": 8080, "protocol": "tcp"}],
            "constraints": ["arch == arm64", "os == linux"],
            "affinities": [{"when": "labels.ssd", "weight": 10}],
            "spread": "labels.rack", "distinct_workers": true, "definition": {"job": 7, "position": 0},
            "strategy": "binpack", "concurrency": {"group": "g", "limit": 2},
        })
    );
    assert_eq!(serde_json::from_value::<Requirements>(stored).unwrap(), needs);
}

#[test]
fn needs_do_not_depend_on_the_order_in_which_datacenters_were_written() {
    let needs_in = |datacenters: &[&str]| {
        let value = serde_json::json!({"command": ["true"], "datacenters": datacenters});
        let job = JobSpec::read(&value).unwrap();
        Requirements::of(&job, &job.tasks[0], DefinitionRef { job: JobId(1), position: 0 })
    };
    assert_eq!(needs_in(&["lab", "edge"]), needs_in(&["edge", "lab"]));
}
