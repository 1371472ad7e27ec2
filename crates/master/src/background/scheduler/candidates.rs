//! Builds the worker snapshots of a placement pass.

use std::collections::BTreeMap;
use std::time::Instant;

use gaffer_domain::placement::{Measured, WorkerSnapshot};
use gaffer_domain::quantity::Span;
use gaffer_domain::spec::Resources;
use gaffer_domain::system_jobs::expected;
use gaffer_domain::{Time, WorkerId};

use crate::hub::Hub;
use crate::records::Worker;

/// The last measurement of a worker's machine, with resources reserved `since` then.
pub fn measured(hub: &Hub, worker: WorkerId, since: impl FnOnce(Instant) -> Resources) -> Option<Measured> {
    let (at, stats) = hub.get(worker)?.reading()?;
    Some(Measured {
        cpu: stats.cpu?,
        memory_used: stats.memory_used,
        memory_total: stats.memory_total,
        age: Span::from_millis(u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX)),
        since: since(at),
    })
}

/// A worker as system jobs and `each: worker` judge it.
pub fn expected_worker(worker: &Worker, now: Time) -> WorkerSnapshot {
    expected(worker_snapshot(worker, now), worker.intake)
}

/// The capacity and facts of a worker, without backlog and measurements.
pub fn worker_snapshot(worker: &Worker, now: Time) -> WorkerSnapshot {
    WorkerSnapshot {
        worker: worker.id,
        name: worker.name.clone(),
        project: worker.project,
        sharing: worker.sharing.clone(),
        state: worker.state(now),
        datacenter: worker.datacenter.clone(),
        arch: worker.arch.clone(),
        os: worker.os.clone(),
        version: worker.version.clone(),
        labels: worker.labels.clone(),
        drivers: worker.drivers.iter().filter(|driver| driver.healthy).map(|driver| driver.driver).collect(),
        broken_drivers: worker
            .drivers
            .iter()
            .filter(|driver| !driver.healthy)
            .map(|driver| (driver.driver, driver.detail.clone().unwrap_or_default()))
            .collect(),
        features: worker.features.clone(),
        capacity: worker.capacity,
        countables: worker.countables.clone(),
        reserved: worker.reserved,
        taken: worker.taken.clone(),
        lasting: worker.lasting.clone(),
        kept: false,
        paused: BTreeMap::new(),
        unhealthy: BTreeMap::new(),
        running: (worker.running + worker.of_others.running).try_into().unwrap_or(u32::MAX),
        waiting: (worker.waiting + worker.of_others.waiting).try_into().unwrap_or(u32::MAX),
        finished_lately: 0,
        measured: None,
    }
}
