//! What a job says about where and when its tasks are placed.

use super::*;

#[test]
fn all_that_a_job_says_about_placing_is_read_as_it_is_written() {
    let full = json!({
        "name": "train",
        "type": "batch",
        "priority": 50,
        "constraints": ["arch == arm64", "memory >= 8GiB"],
        "affinities": [{"when": "labels.ssd", "weight": 50}],
        "placement": {"strategy": "epvm", "on_drain": "move", "rebalance": false},
        "concurrency": {"group": "nightly", "limit": 1},
        "lost_after": "2m",
        "tasks": [{
            "name": "main",
            "driver": "host",
            "command": ["true"],
            "count": 4,
            "resources": {"cpu": 1, "memory": 0, "disk": 0, "gpu": 1},
            "constraints": ["not labels.spot"],
            "affinities": [{"when": "datacenter == lab", "weight": -100}],
            "spread": "labels.rack",
            "distinct_workers": true,
            "restart": {"policy": "never", "limit": 0, "delay": "1s", "backoff": "exponential", "on_lost": "fail"},
            "stop": {"signal": "SIGTERM", "grace": "10s"},
        }],
    });
    assert_eq!(serde_json::to_value(read(full.clone())).unwrap(), full);
}

#[test]
fn a_job_of_one_task_writes_it_all_side_by_side() {
    let spec = read(with(json!({
        "constraints": ["cpu>=4"], "spread": "labels.rack", "distinct_workers": true, "placement": "round_robin",
        "resources": {"gpu": 2, "fpga": 0, "tpu": null},
    })));
    assert_eq!(spec.constraints[0].to_string(), "cpu >= 4");
    assert_eq!(spec.tasks[0].constraints, []);
    assert_eq!(spec.placement.unwrap().strategy, Some(Strategy::RoundRobin));
    let countables: Vec<_> = spec.tasks[0].resources.countables.iter().collect();
    assert_eq!(countables, [(&"gpu".to_owned(), &2)]);
    assert!(spec.tasks[0].distinct_workers);
}

#[test]
fn mistakes_in_it_are_all_told_each_with_its_place() {
    assert_eq!(
        mistakes(json!({
            "constraints": ["memroy >= 8GiB", [7], "arch = x"],
            "affinities": [{"when": "labels.ssd"}, {"when": "(", "weight": 101}, {"weight": 1, "wen": "x"}],
            "placement": {"strategy": "binpak", "on_drain": "stay", "rebalance": 1},
            "concurrency": {"group": "a b", "limit": 0},
            "spread": "labels.rack",
            "tasks": [{
                "name": "a", "command": ["true"], "constraints": "x", "spread": "rack", "distinct_workers": "yes",
                "placement": "epvm", "resources": {"mem": 1, "memmory": 1, "GPU": 1, "gpu": -1, "cpus": 2},
            }],
        })),
        [
            "/constraints/0: column 1: `memroy` is not a fact of a worker (did you mean `memory`?)",
            "/constraints/1: expected a constraint such as `memory >= 8GiB`, found a list",
            "/constraints/2: column 6: `=` is not an operator (write `==`)",
            "/affinities/0: an affinity needs a `weight` from -100 to 100",
            "/affinities/1/when: column 2: expected a fact such as `arch` or `labels.gpu`, found the end",
            "/affinities/1/weight: expected a whole number from -100 to 100, found 101",
            "/affinities/2: an affinity needs a `when`: the constraint that the preferred workers meet",
            "/affinities/2/wen: unknown field `wen` (did you mean `when`?)",
            "/placement/strategy: expected `spread`, `binpack`, `round_robin`, `greedy`, `epvm` or `epvm_lieb`, \
             found `binpak` (did you mean `binpack`?)",
            "/placement/on_drain: expected `finish` or `move`, found `stay`",
            "/placement/rebalance: expected true or false, found 1",
            "/concurrency/group: `a b` cannot be the name of a group: write 1 to 63 of the characters \
             a-z A-Z 0-9 . _ / - and begin with a letter or digit",
            "/concurrency/limit: expected a whole number from 1 to 100000, found 0",
            "/spread: `spread` belongs to a task: write it in an entry of `tasks`",
            "/tasks/0/placement: `placement` belongs to the job: write it outside `tasks`",
            "/tasks/0/resources/GPU: `GPU` cannot be the name of a resource: write small letters, digits, _ and - \
             and begin with a letter",
            "/tasks/0/resources/cpus: unknown resource `cpus` (did you mean `cpu`?)",
            "/tasks/0/resources/gpu: expected a whole number from 0 to 1000000, found -1",
            "/tasks/0/resources/mem: unknown resource `mem` (did you mean `memory`?)",
            "/tasks/0/resources/memmory: unknown resource `memmory` (did you mean `memory`?)",
            "/tasks/0/spread: `rack` is not a fact of a worker (write `labels.rack` for a label; there are `arch`, \
             `os`, `version`, `datacenter`, `name`, `cpu`, `memory`, `disk`, `labels.KEY` and `resources.NAME`)",
            "/tasks/0/distinct_workers: expected true or false, found a string",
            "/tasks/0/constraints: expected a list of constraints such as [\"arch == arm64\"], found a string",
        ]
    );
}
