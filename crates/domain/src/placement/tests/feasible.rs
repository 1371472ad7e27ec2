//! What keeps a worker out, and how much may wait on one.

use super::*;

#[test]
fn a_worker_is_kept_out_by_the_first_need_that_it_does_not_meet() {
    let mut worker = WorkerSnapshot {
        project: THEIRS,
        state: WorkerState::Lost,
        drivers: vec![DriverKind::Docker],
        capacity: resources(500, 8, 100),
        reserved: resources(500, 8, 0),
        ..offer(1)
    };
    worker.features.clear();
    let (datacenters, features) = (vec!["edge".to_owned()], vec![Feature::Each]);
    let needs = Requirements { datacenters, features, ..one_cpu() };
    let mut verdicts = Vec::new();
    let mut judge = |worker: &WorkerSnapshot| {
        let verdict = feasible(&needs, OURS, worker, 0);
        verdicts.push(verdict.err().map_or("takes it".to_owned(), |unfit| unfit.to_string()));
    };
    judge(&worker);
    worker.project = OURS;
    judge(&worker);
    worker.state = WorkerState::Offline;
    judge(&worker);
    worker.state = WorkerState::Draining;
    judge(&worker);
    worker.state = WorkerState::Cordoned;
    judge(&worker);
    worker.state = WorkerState::Online;
    judge(&worker);
    worker.drivers.push(DriverKind::Host);
    judge(&worker);
    worker.features.push(Feature::Each);
    judge(&worker);
    worker.datacenter = "edge".to_owned();
    judge(&worker);
    worker.capacity.cpu = Cpu::from_millis(1_200);
    judge(&worker);
    worker.reserved.cpu = Cpu::from_millis(0);
    judge(&worker);
    worker.reserved.memory = Bytes(7 * GIB);
    judge(&worker);
    assert_eq!(
        verdicts,
        [
            "belongs to another project",
            "is lost",
            "is offline",
            "is draining and accepts no new tasks",
            "is cordoned and accepts no new tasks",
            "has no healthy host driver",
            "runs gaffer 0.1.0, which does not support `each`",
            "is in datacenter lab",
            "has 0.5 cpu in total, 1 requested",
            "has 0.7 cpu free, 1 requested",
            "has 0B memory free, 1GiB requested",
            "takes it",
        ]
    );
}

#[test]
fn a_verdict_has_a_stable_code_and_the_same_words_as_everywhere() {
    let json = |unfit: Infeasible| serde_json::to_value(unfit).unwrap();
    assert_eq!(
        json(Infeasible::Away { state: WorkerState::Lost }),
        serde_json::json!({"code": "away", "state": "lost"})
    );
    let (wanted, capacity) = ("8GiB".to_owned(), "4GiB".to_owned());
    assert_eq!(
        json(Infeasible::TooSmall { resource: Resource::Memory, wanted, capacity }),
        serde_json::json!({"code": "too_small", "resource": "memory", "wanted": "8GiB", "capacity": "4GiB"})
    );
    for resource in [Resource::Cpu, Resource::Memory, Resource::Disk] {
        assert_eq!(serde_json::to_value(&resource).unwrap(), resource.as_str());
    }
}

#[test]
fn what_is_too_large_for_every_worker_is_said_to_be_and_not_placed() {
    let needs = needs(resources(0, 0, 200));
    let mut offers = [offer(1), offer(2)];
    for offer in &offers {
        assert!(matches!(
            suitable(&needs, OURS, offer),
            Err(Infeasible::TooSmall { resource: Resource::Disk, .. })
        ));
    }
    assert_eq!(place(&needs, OURS, 5, &mut offers, Some(Duration::from_millis(1))), []);
}

#[test]
fn a_busy_worker_is_suitable_but_not_feasible() {
    let busy = WorkerSnapshot { reserved: resources(4_000, 0, 0), ..offer(1) };
    assert_eq!(suitable(&one_cpu(), OURS, &busy), Ok(()));
    assert!(matches!(
        feasible(&one_cpu(), OURS, &busy, 0),
        Err(Infeasible::Busy { resource: Resource::Cpu, .. })
    ));
}

#[test]
fn a_task_that_fills_what_is_left_to_the_last_byte_fits() {
    let almost_full = WorkerSnapshot { reserved: resources(3_000, 7, 100), ..offer(1) };
    assert_eq!(feasible(&one_cpu(), OURS, &almost_full, 0), Ok(()));
    let all_of_it = needs(offer(1).capacity);
    assert_eq!(feasible(&all_of_it, OURS, &offer(1), 0), Ok(()));
}

#[test]
fn a_full_worker_takes_as_many_more_as_its_backlog_may_hold() {
    let full = |waiting| WorkerSnapshot { reserved: resources(4_000, 8, 0), waiting, ..offer(1) };
    assert_eq!(feasible(&one_cpu(), OURS, &full(2), 3), Ok(()));
    assert!(feasible(&one_cpu(), OURS, &full(3), 3).is_err());
    // Room counts as well.
    let roomy = WorkerSnapshot { waiting: 3, ..offer(1) };
    assert_eq!(feasible(&one_cpu(), OURS, &roomy, 3), Ok(()));
}

#[test]
fn the_backlog_is_what_a_worker_gets_through_in_a_second() {
    let limit = |wanted, mean_millis| {
        let mean_run = Some(Duration::from_millis(mean_millis));
        backlog_limit(&needs(wanted), &offer(1), mean_run)
    };
    assert_eq!(limit(resources(1_000, 0, 0), 100), 40); // 4 side by side, 10 turns
    assert_eq!(limit(resources(500, 0, 0), 100), 80);
    assert_eq!(limit(resources(1_000, 4, 0), 100), 20); // memory for 2
    assert_eq!(limit(resources(1_000, 0, 100), 100), 10); // disk for 1
    assert_eq!(limit(resources(1_000, 0, 0), 2_000), 2); // half a turn
    assert_eq!(limit(resources(1_000, 0, 0), 5_000), 0);
    assert_eq!(limit(resources(1_000, 0, 0), 0), MAX_BACKLOG);
    assert_eq!(limit(resources(0, 0, 0), 1_000), MAX_BACKLOG); // as many side by side as one likes
    assert_eq!(limit(resources(0, 0, 0), 4_000), MAX_BACKLOG / 4);
}

#[test]
fn tasks_of_unknown_length_never_wait_on_a_worker() {
    assert_eq!(backlog_limit(&one_cpu(), &offer(1), None), 0);
}

#[test]
fn a_worker_that_is_held_up_gets_no_backlog_however_short_the_tasks_are() {
    let limit = |finished_lately| {
        let worker = WorkerSnapshot { finished_lately, ..offer(1) };
        backlog_limit(&one_cpu(), &worker, Some(Duration::from_millis(1)))
    };
    assert_eq!([limit(0), limit(3), limit(1_000_000)], [0, 3, MAX_BACKLOG]);
}

#[test]
fn constraints_countables_ports_and_distinct_workers_keep_a_worker_out_in_words() {
    let mut worker = offer(1);
    worker.labels.insert("gpu".to_owned(), "v100".to_owned());
    worker.countables.insert("gpu".to_owned(), 2);
    let constrained = Requirements { constraints: vec!["labels.gpu == a100".parse().unwrap()], ..one_cpu() };
    let says = |needs: &Requirements, worker: &WorkerSnapshot| {
        feasible(needs, OURS, worker, 10).unwrap_err().to_string()
    };
    assert_eq!(
        says(&constrained, &worker),
        "does not meet constraint `labels.gpu == a100`: labels.gpu is v100"
    );

    let gpus = |count| Requirements { countables: [("gpu".to_owned(), count)].into(), ..one_cpu() };
    assert_eq!(says(&gpus(3), &worker), "has 2 gpu in total, 3 requested");
    worker.take(&gpus(1));
    assert_eq!(says(&gpus(2), &worker), "has 1 gpu free, 2 requested");
    assert_eq!(suitable(&gpus(2), OURS, &worker), Ok(()));
    let missing = Requirements { countables: [("fpga".to_owned(), 1)].into(), ..one_cpu() };
    assert_eq!(says(&missing, &worker), "has 0 fpga in total, 1 requested");

    let port = HostPort { port: 8080, protocol: crate::spec::PortProtocol::Tcp };
    let published = Requirements { ports: vec![port], ..one_cpu() };
    worker.take(&published);
    assert_eq!(says(&published, &worker), "has port 8080/tcp in use by another task");

    let definition = Some(DefinitionRef { job: JobId(1), position: 0 });
    let distinct = Requirements { distinct_workers: true, definition, ..one_cpu() };
    worker.take(&distinct);
    assert_eq!(says(&distinct, &worker), "already runs a task of the same definition (distinct_workers)");
    let of_another =
        Requirements { definition: Some(DefinitionRef { job: JobId(2), position: 0 }), ..distinct };
    assert_eq!(feasible(&of_another, OURS, &worker, 10), Ok(()));
    for unfit in [
        Infeasible::Port { port },
        Infeasible::DistinctWorkers,
        Infeasible::TooSmall {
            resource: Resource::Countable("gpu".into()),
            wanted: "1".into(),
            capacity: "0".into(),
        },
    ] {
        let json = serde_json::to_value(&unfit).unwrap();
        assert_eq!(serde_json::from_value::<Infeasible>(json).unwrap(), unfit);
    }
}

#[test]
fn a_backlog_never_holds_what_cannot_be_shared() {
    let mut worker = offer(1);
    worker.countables.insert("gpu".to_owned(), 2);
    let quick = Some(Duration::from_millis(1));
    let gpu = Requirements { countables: [("gpu".to_owned(), 1)].into(), ..needs(resources(0, 0, 0)) };
    assert_eq!(place(&gpu, OURS, 100, &mut [worker.clone()], quick).len(), 2);
    let port = HostPort { port: 80, protocol: crate::spec::PortProtocol::Udp };
    let published = Requirements { ports: vec![port], ..needs(resources(0, 0, 0)) };
    assert_eq!(place(&published, OURS, 100, &mut [worker.clone(), offer(2)], quick).len(), 2);
    let definition = Some(DefinitionRef { job: JobId(1), position: 0 });
    let distinct = Requirements { distinct_workers: true, definition, ..needs(resources(0, 0, 0)) };
    assert_eq!(chosen(&place(&distinct, OURS, 100, &mut [worker, offer(2)], quick)), [1, 2]);
}
