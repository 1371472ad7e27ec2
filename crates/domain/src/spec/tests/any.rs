//! What must hold for any specification and for any JSON, tried with seeded random ones.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::*;
use crate::parameters::{Declaration, Parameter, ParameterType, Parameters};

#[test]
fn any_specification_reads_back_from_its_normal_form() {
    let mut rng = StdRng::seed_from_u64(3);
    for _ in 0..500 {
        let spec = any_spec(&mut rng);
        let normal = serde_json::to_value(&spec).unwrap();
        assert_eq!(read(normal.clone()), spec, "{normal:#}");
        assert_eq!(JobSpec::read_stored(STORED_VERSION, &normal), Ok(spec.clone()), "{normal:#}");
        let text = normal.to_string();
        assert_eq!(read(serde_json::from_str(&text).unwrap()), spec, "{text}");
    }
}

#[test]
fn any_json_is_read_or_refused_with_places_that_exist() {
    let mut rng = StdRng::seed_from_u64(4);
    let mut refused = 0;
    for _ in 0..5_000 {
        let mut value = match rng.random_range(0..10) {
            0 => any_json(&mut rng, 4),
            _ => serde_json::to_value(any_spec(&mut rng)).unwrap(),
        };
        for _ in 0..rng.random_range(1..4) {
            mutate(&mut value, &mut rng);
        }
        match JobSpec::read(&value) {
            Ok(spec) => {
                assert_eq!(read(value), spec);
                assert_eq!(read(serde_json::to_value(&spec).unwrap()), spec);
            }
            Err(_) => {
                // This checks the pointers, and asks the schema.
                mistakes(value);
                refused += 1;
            }
        }
    }
    assert!(
        (1_000..5_000).contains(&refused),
        "{refused} were refused: the mutations are too weak or too strong"
    );
}

#[test]
fn the_largest_and_most_wrong_document_is_refused_with_a_short_list() {
    let unknown: serde_json::Map<_, _> = (0..60_000).map(|n| (format!("x~/{n}"), json!(null))).collect();
    let names: Vec<_> = (0..800).map(|n| n.to_string()).collect();
    let tasks: Vec<_> = (0..200)
        .map(|n| json!({"name": format!("task-{n}"), "command": ["a"], "depends_on": names}))
        .collect();
    for document in [
        with(Value::Object(unknown.clone())),
        with(json!({"env": unknown})),
        with(json!({"labels": unknown})),
        with(json!({"x".repeat(MAX_SPEC_BYTES): 1})),
        json!({"tasks": tasks}),
    ] {
        assert!(mistakes(document).len() <= 51);
    }
    // All wait for all before them: many paths, no circle.
    let names: Vec<_> = (0..200).map(|n| format!("t{n}")).collect();
    let tasks: Vec<_> =
        (0..200).map(|n| json!({"name": names[n], "command": ["a"], "depends_on": names[..n]})).collect();
    assert_eq!(read(json!({"tasks": tasks})).tasks[199].depends_on.len(), 199);
}

fn any_spec(rng: &mut StdRng) -> JobSpec {
    let names: Vec<_> = (0..rng.random_range(1..6)).map(|n| format!("{}-{n}", any_word(rng))).collect();
    let several = names.len() > 1;
    let mut tasks: Vec<TaskSpec> =
        (0..names.len()).map(|n| any_task(rng, &names[n], &names[..n], several)).collect();
    let kind = *JobKind::ALL.choose(rng).unwrap();
    for task in tasks.iter_mut().filter(|task| task.each.is_some() && kind == JobKind::Batch) {
        if rng.random() {
            (task.each, task.spread, task.distinct_workers) = (Some(Each::Workers), None, false);
        }
    }
    for task in tasks.iter_mut().filter(|_| kind.follows_workers()) {
        (task.indices, task.each) = (Indices::Workers, Some(Each::Workers));
        (task.spread, task.distinct_workers) = (None, false);
        (task.depends_on, task.when) = (Vec::new(), When::Success);
    }
    JobSpec {
        name: format!("{} {}", any_word(rng), any_word(rng)),
        kind,
        priority: rng.random_range(0..=100),
        max_failures: rng.random::<bool>().then(|| rng.random_range(0..100)),
        labels: (0..rng.random_range(0..4))
            .map(|_| (any_word(rng), any_text(rng).replace(['\n', '\t'], "")))
            .collect(),
        datacenters: (0..rng.random_range(0..3)).map(|n| format!("{}.{n}", any_word(rng))).collect(),
        constraints: any_constraints(rng),
        affinities: any_affinities(rng),
        placement: rng.random::<bool>().then(|| Placement {
            strategy: Strategy::ALL.choose(rng).copied().filter(|_| rng.random()),
            on_drain: *[OnDrain::Finish, OnDrain::Move].choose(rng).unwrap(),
            rebalance: rng.random(),
        }),
        concurrency: (rng.random_range(0..4) == 0)
            .then(|| Concurrency { group: any_word(rng), limit: rng.random_range(1..100) }),
        lost_after: any_span(rng, 10_000, 604_800_000),
        retention: any_retention(rng),
        pin: rng.random(),
        update: (kind.is_kept_running() && rng.random()).then(|| Update {
            parallel: rng.random_range(1..=100),
            healthy_for: any_span(rng, 0, 3_600_000),
            healthy_within: any_span(rng, 1_000, 86_400_000),
            canary: rng.random_range(0..=100),
            auto_promote: rng.random(),
            auto_revert: rng.random(),
        }),
        parameters: any_parameters(rng),
        tasks,
    }
}

fn any_retention(rng: &mut StdRng) -> Retention {
    let mut period = || rng.random::<bool>().then(|| any_span(rng, 1_000, Span::MAX.as_millis()));
    Retention { completed: period(), failed: period(), cancelled: period() }
}

/// With values that the parameters take.
fn any_parameters(rng: &mut StdRng) -> Parameters {
    let count = rng.random_range(0..3);
    let parameter = |n: usize| {
        let (takes, mut values) = any_type(rng);
        let default = rng.random::<bool>().then(|| values.swap_remove(0));
        let value = values.swap_remove(0);
        let description = rng.random::<bool>().then(|| any_text(rng));
        let declaration = Declaration { takes, description, default };
        (format!("{}-{n}", any_word(rng)), Parameter { declaration, value })
    };
    (0..count).map(parameter).collect()
}

/// A type, and two values that it takes.
fn any_type(rng: &mut StdRng) -> (ParameterType, Vec<String>) {
    let has_limits = rng.random::<bool>();
    let numbers = vec!["7".to_owned(), "12".to_owned()];
    match rng.random_range(0..7) {
        0 => {
            let texts = vec![any_text(rng), format!("{}{{{{ a }}}}", any_text(rng))];
            (ParameterType::String { pattern: None, max_length: has_limits.then_some(80) }, texts)
        }
        1 => {
            (ParameterType::Integer { min: has_limits.then_some(-5), max: has_limits.then_some(12) }, numbers)
        }
        2 => {
            let takes =
                ParameterType::Number { min: has_limits.then_some(1e-3), max: has_limits.then_some(7.5e3) };
            (takes, vec!["1e-3".to_owned(), "0.10".to_owned()])
        }
        3 => (ParameterType::Boolean, vec!["true".to_owned(), "false".to_owned()]),
        4 => {
            let values: Vec<String> = (0..3).map(|n| format!("{}{n}", any_text(rng))).collect();
            (ParameterType::Choice { values: values.clone() }, values)
        }
        5 => {
            let (min, max) =
                (has_limits.then(|| Span::from_secs(7)), has_limits.then(|| Span::from_secs(90)));
            (ParameterType::Duration { min, max }, vec!["1m 30s".to_owned(), "12".to_owned()])
        }
        _ => {
            let (min, max) = (has_limits.then_some(Bytes(7)), has_limits.then_some(Bytes(1 << 31)));
            (ParameterType::Size { min, max }, vec!["2GiB".to_owned(), "12".to_owned()])
        }
    }
}

fn any_items(rng: &mut StdRng) -> Each {
    let texts = |rng: &mut StdRng| (0..rng.random_range(1..5)).map(|_| any_text(rng)).collect::<Texts>();
    match rng.random() {
        true => Each::List(texts(rng)),
        false => {
            Each::Matrix((0..rng.random_range(1..4)).map(|n| (format!("list-{n}"), texts(rng))).collect())
        }
    }
}

fn any_task(rng: &mut StdRng, name: &str, earlier: &[String], several: bool) -> TaskSpec {
    let within = if rng.random() { Some(any_span(rng, 1000, 31_536_000_000)) } else { None };
    let timeout = if rng.random() { Some(any_span(rng, 100, 31_536_000_000)) } else { None };
    let driver = *[DriverKind::Host, DriverKind::Docker, DriverKind::Scripted].choose(rng).unwrap();
    let container = (driver == DriverKind::Docker).then(|| any_container(rng));
    let stdin = driver != DriverKind::Scripted && rng.random_ratio(1, 4);
    let workdir = format!("/{}/{}", any_word(rng), any_word(rng));
    let has_entrypoint = container.as_ref().is_some_and(|container| container.entrypoint.is_some());
    let when = match earlier.is_empty() {
        true => When::Success,
        false => *[When::Success, When::Success, When::Always, When::Failure].choose(rng).unwrap(),
    };
    let mut depends_on = Vec::new();
    for task in earlier.iter().filter(|_| rng.random()).cloned().collect::<Vec<_>>() {
        let on = *[On::Completed, On::Failed, On::Ended].choose(rng).unwrap();
        let on = if when == When::Success { on } else { On::Completed };
        depends_on.push(Dependency { task, on, index: IndexMatch::All });
    }
    // Without one, it would wait for those after it, too, which may wait for it.
    let when = if depends_on.is_empty() { When::Success } else { when };
    let policy = *[RestartPolicy::Never, RestartPolicy::OnFailure, RestartPolicy::Always]
        .choose(rng)
        .filter(|policy| !stdin && (when == When::Success || **policy != RestartPolicy::Always))
        .unwrap_or(&RestartPolicy::Never);
    let mut codes =
        |range: std::ops::Range<u8>| -> ExitCodes { range.filter(|_| rng.random_ratio(1, 50)).collect() };
    let success = codes(1..100);
    let is_repeated = policy != RestartPolicy::Never;
    let [on_exit, not_on_exit] =
        [100..180, 180..255].map(|range| if is_repeated { codes(range) } else { ExitCodes::default() });
    let each = rng.random_ratio(1, 4).then(|| any_items(rng));
    let at_once = rng.random::<bool>().then(|| rng.random_range(1..50));
    let first = rng.random_range(0..999_000);
    TaskSpec {
        name: name.to_owned(),
        driver,
        stdin,
        nice: if driver == DriverKind::Host { rng.random_range(0..20) } else { 0 },
        workdir: (driver == DriverKind::Host && rng.random()).then_some(workdir),
        ports: match driver {
            DriverKind::Host => (0..rng.random_range(0..3)).map(|n| any_port(n, true, rng)).collect(),
            _ => Vec::new(),
        },
        action: if container.is_some() && rng.random_ratio(1, 4) {
            Action::Command(Vec::new())
        } else if has_entrypoint || rng.random() {
            let mut command = vec![any_word(rng)];
            command.extend((0..rng.random_range(0..4)).map(|_| any_text(rng)));
            Action::Command(command)
        } else {
            Action::Script(format!("{}{}", any_text(rng), any_word(rng)))
        },
        container,
        env: (0..rng.random_range(0..4))
            .map(|n| (format!("_{}_{n}", any_word(rng)), any_text(rng)))
            .collect(),
        secrets: match driver {
            DriverKind::Scripted => Vec::new(),
            driver => (0..rng.random_range(0..4)).map(|n| any_secret(n, driver, rng)).collect(),
        },
        depends_on,
        when,
        max_failures: (several && rng.random()).then(|| rng.random_range(0..100)),
        indices: match &each {
            Some(each) => Indices::Array { first, last: first + each.tasks().unwrap() as u32 - 1, at_once },
            None if rng.random() => Indices::Count(rng.random_range(1..1000)),
            None => Indices::Array { first, last: first + rng.random_range(0..1000), at_once },
        },
        each,
        resources: Reservation {
            amounts: Resources {
                cpu: Cpu::from_millis(rng.random_range(0..=4_096_000)),
                memory: any_bytes(rng),
                disk: any_bytes(rng),
            },
            countables: (0..rng.random_range(0..3)).map(|n| (format!("gpu-{n}"), n + 1)).collect(),
        },
        constraints: any_constraints(rng),
        affinities: any_affinities(rng),
        spread: rng.random::<bool>().then(|| "labels.rack".parse().unwrap()),
        distinct_workers: rng.random(),
        timeout,
        output: rng.random::<bool>().then(|| OutputLimit {
            limit: Bytes(any_bytes(rng).get().max(1)),
            on_limit: *[OnLimit::Truncate, OnLimit::Kill].choose(rng).unwrap(),
        }),
        restart: Restart {
            policy,
            on_exit,
            not_on_exit,
            success,
            limit: rng.random_range(0..10),
            within,
            delay: any_span(rng, 0, 3_600_000),
            backoff: *[Backoff::Constant, Backoff::Exponential].choose(rng).unwrap(),
            on_lost: *[OnLost::Restart, OnLost::Fail].choose(rng).filter(|_| !stdin).unwrap_or(&OnLost::Fail),
        },
        health: (driver != DriverKind::Scripted && rng.random()).then(|| any_check(rng)),
        readiness: None,
        stop: StopSpec { signal: *StopSignal::ALL.choose(rng).unwrap(), grace: any_span(rng, 0, 3_600_000) },
    }
}

/// No variable has such a name.
fn any_secret(n: usize, driver: DriverKind, rng: &mut StdRng) -> SecretUse {
    let root = if driver == DriverKind::Docker && rng.random() { "/run/" } else { "" };
    let file = rng.random::<bool>().then(|| format!("{root}{}-{n}/value {n}", any_word(rng)));
    SecretUse { name: format!("S_{n}"), file }
}

fn any_constraints(rng: &mut StdRng) -> Vec<Constraint> {
    const SOME: [&str; 3] = ["memory >= 8GiB", "not labels.spot", "arch in [arm64, amd64] or resources.gpu"];
    (0..rng.random_range(0..3)).map(|_| SOME.choose(rng).unwrap().parse().unwrap()).collect()
}

fn any_affinities(rng: &mut StdRng) -> Vec<Affinity> {
    let affinity =
        |when: Constraint, rng: &mut StdRng| Affinity { when, weight: rng.random_range(-100..=100) };
    any_constraints(rng).into_iter().map(|when| affinity(when, rng)).collect()
}

/// One that needs no port.
fn any_check(rng: &mut StdRng) -> HealthCheck {
    HealthCheck {
        probe: Probe::Command { command: vec![any_word(rng), any_text(rng)] },
        interval: any_span(rng, 1_000, 3_600_000),
        timeout: any_span(rng, 100, 60_000),
        start_period: any_span(rng, 0, 3_600_000),
        failures: rng.random_range(1..=10),
        successes: rng.random_range(1..=10),
    }
}

/// `shared`: of a task with the network of its worker.
fn any_port(n: u16, shared: bool, rng: &mut StdRng) -> Port {
    let name = (shared || rng.random()).then(|| format!("p{n}-{}", any_word(rng)));
    let container = if name.is_some() && rng.random() { 0 } else { 80 + n };
    Port {
        name,
        host: if shared || container == 0 || rng.random() { 0 } else { 8000 + n },
        container,
        protocol: *[PortProtocol::Tcp, PortProtocol::Udp].choose(rng).unwrap(),
    }
}

fn any_container(rng: &mut StdRng) -> Container {
    let path = |rng: &mut StdRng| format!("/{}/{}", any_word(rng), any_word(rng));
    let network = *[Network::Bridge, Network::None, Network::Host].choose(rng).unwrap();
    let ports = if network == Network::None { 0 } else { rng.random_range(0..3) };
    let maybe = |rng: &mut StdRng, value: String| rng.random::<bool>().then_some(value);
    let word = any_word(rng);
    let workdir = path(rng);
    Container {
        image: format!("lab:5000/{}:{}", any_word(rng).to_lowercase(), any_word(rng)),
        pull: *[PullPolicy::Missing, PullPolicy::Always, PullPolicy::Never].choose(rng).unwrap(),
        entrypoint: if rng.random() { None } else { Some(vec![any_word(rng), any_text(rng)]) },
        user: maybe(rng, word),
        workdir: maybe(rng, workdir),
        pids_limit: rng.random_range(1..1_000_000),
        ports: (0..ports).map(|n| any_port(n, network == Network::Host, rng)).collect(),
        volumes: (0..rng.random_range(0..3))
            .map(|n| Volume { source: path(rng), target: format!("/v{n}"), read_only: rng.random() })
            .collect(),
        tmpfs: (0..rng.random_range(0..3)).map(|n| (format!("/t{n}"), Bytes(1 << (20 + n)))).collect(),
        network,
        capabilities: if rng.random() { Vec::new() } else { vec!["CHOWN".to_owned(), "KILL".to_owned()] },
        gpus: *[None, Some(Gpus::All), Some(Gpus::Count(3))].choose(rng).unwrap(),
    }
}

fn any_word(rng: &mut StdRng) -> String {
    const LETTERS: &[u8] = b"abcXYZ019";
    (0..rng.random_range(1..12)).map(|_| char::from(*LETTERS.choose(rng).unwrap())).collect()
}

fn any_text(rng: &mut StdRng) -> String {
    const CHARS: &[char] = &['a', ' ', '"', '\\', '\n', '\t', '~', '/', 'é', '漢', '🦀', '$', '-', '0'];
    (0..rng.random_range(0..20)).map(|_| *CHARS.choose(rng).unwrap()).collect()
}

/// A length of time in a range of milliseconds, as often round as not.
fn any_span(rng: &mut StdRng, shortest: u64, longest: u64) -> Span {
    let millis = rng.random_range(shortest..=longest);
    let unit = *[1, 1000, 60_000, 3_600_000].choose(rng).unwrap();
    Span::from_millis((millis / unit * unit).max(shortest))
}

fn any_bytes(rng: &mut StdRng) -> Bytes {
    let unit: u64 = *[1, 1000, 1024, 1 << 20, 1_000_000_000, 1 << 30].choose(rng).unwrap();
    Bytes(rng.random_range(0..=(1_u64 << 50) / unit) * unit)
}

fn any_json(rng: &mut StdRng, depth: u32) -> Value {
    const FIELDS: &[&str] = &[
        "name",
        "tasks",
        "command",
        "env",
        "restart",
        "stop",
        "signal",
        "resources",
        "constraints",
        "affinities",
        "placement",
        "concurrency",
        "spread",
        "depends_on",
        "parameters",
        "image",
        "ports",
        "volumes",
        "",
        "~/",
        "x",
    ];
    match rng.random_range(0..if depth == 0 { 7 } else { 9 }) {
        0 => Value::Null,
        1 => json!(rng.random::<bool>()),
        2 => json!(rng.random::<i64>() >> rng.random_range(0..64)),
        3 => json!(rng.random::<u64>()),
        // Not all bit patterns are numbers; those that are none become null.
        4 => json!(f64::from_bits(rng.random())),
        5 => json!(any_text(rng)),
        6 => json!(
            (*[
                "5m",
                "1GiB",
                "memory >= 8GiB",
                "labels.rack",
                "binpack",
                "never",
                "SIGINT",
                "0-9",
                "-1",
                "\0"
            ]
            .choose(rng)
            .unwrap())
        ),
        7 => (0..rng.random_range(0..4)).map(|_| any_json(rng, depth - 1)).collect(),
        _ => (0..rng.random_range(0..4))
            .map(|_| ((*FIELDS.choose(rng).unwrap()).to_owned(), any_json(rng, depth - 1)))
            .collect::<serde_json::Map<_, _>>()
            .into(),
    }
}

/// Changes one place somewhere in `value`.
fn mutate(value: &mut Value, rng: &mut StdRng) {
    let goes_deeper = rng.random_bool(0.8);
    match value {
        Value::Object(map) if !map.is_empty() && goes_deeper => {
            let keys: Vec<_> = map.keys().cloned().collect();
            let key = keys.choose(rng).unwrap();
            match rng.random_range(0..8) {
                0 => drop(map.remove(key)),
                1 => {
                    let moved = map.remove(key).unwrap();
                    map.insert(format!("{key}s"), moved);
                }
                _ => mutate(&mut map[key], rng),
            }
        }
        Value::Array(items) if !items.is_empty() && goes_deeper => {
            let position = rng.random_range(0..items.len());
            match rng.random_range(0..8) {
                0 => drop(items.remove(position)),
                1 => items.push(items[position].clone()),
                _ => mutate(&mut items[position], rng),
            }
        }
        _ => *value = any_json(rng, 3),
    }
}
