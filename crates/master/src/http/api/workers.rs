//! `/workers`: the fleet, with live stats.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes as Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use chrono::{TimeDelta, Utc};
use gaffer_domain::quantity::{Bytes, Span};
use gaffer_domain::spec::Resources;
use gaffer_domain::worker::{Intake, WorkerState};
use gaffer_domain::{ProjectId, Time};
use gaffer_protocol::rest::{Amounts, DrainRequest, Draining, Sample, Usage, Worker};

use super::super::auth::Principal;
use super::super::error::Error;
use super::super::params::{Params, page_of, wrong};
use super::body_as;
use crate::Master;
use crate::snapshot;
use crate::store::ReadStore;
use crate::store::leaving::Removal;
use crate::store::workers::Worker as Record;

/// A week.
const LONGEST_DRAIN: Span = Span::from_millis(7 * 24 * 3_600_000);

/// `GET /workers`
pub async fn list(
    State(master): State<Arc<Master>>,
    caller: Principal,
    params: Params,
) -> Result<Response, Error> {
    let params = params.only(&["limit", "cursor", "driver", "name"], &["state"])?;
    let limit = params.limit()?;
    let after = params.cursor()?.unwrap_or(0);
    let states: Vec<&str> = params.list("state").collect();
    if let Some(unknown) =
        states.iter().find(|state| !WorkerState::ALL.iter().any(|known| known.as_str() == **state))
    {
        let known = WorkerState::ALL.map(WorkerState::as_str).join(", ");
        return Err(wrong("state", &format!("{unknown:?} is no state of a worker: {known}")));
    }
    let workers = all(&master, caller.project, snapshot::NOW).await?;
    let workers = workers
        .into_iter()
        .filter(|worker| worker.id.0 > after)
        .filter(|worker| states.is_empty() || states.contains(&worker.state.as_str()))
        .filter(|worker| params.text("name").is_none_or(|name| worker.name.contains(name)))
        .filter(|worker| {
            params.text("driver").is_none_or(|wanted| {
                worker.drivers.iter().any(|driver| driver.healthy && driver.driver.as_str() == wanted)
            })
        })
        .take(limit as usize + 1)
        .collect();
    Ok(params.answer(&page_of(workers, limit, |worker: &Worker| worker.id.0)))
}

/// All workers of a project, as users see them now, or saw them at most `max_age` ago.
pub async fn all(master: &Master, project: ProjectId, max_age: Duration) -> Result<Vec<Worker>, Error> {
    let now = Utc::now();
    let snapshot = master.snapshots.of(project, max_age).await?;
    Ok(snapshot.workers.iter().map(|record| view(master, record.clone(), now)).collect())
}

/// `GET /workers/{worker}`: by number or name.
pub async fn show(
    State(master): State<Arc<Master>>,
    caller: Principal,
    Path(worker): Path<String>,
) -> Result<Json<Worker>, Error> {
    Ok(Json(one(&master, &caller, &worker).await?))
}

/// `GET /workers/{worker}/samples`: how it was doing in the last hour, every ten seconds, since the master started.
pub async fn samples(
    State(master): State<Arc<Master>>,
    caller: Principal,
    Path(worker): Path<String>,
) -> Result<Json<Vec<Sample>>, Error> {
    let record = find(&master.reads, &caller, &worker).await?;
    Ok(Json(master.samples.of(record.id)))
}

/// One worker of the caller's project, as users see it.
pub async fn one(master: &Master, caller: &Principal, worker: &str) -> Result<Worker, Error> {
    let record = find(&master.reads, caller, worker).await?;
    Ok(view(master, record, Utc::now()))
}

/// `POST /workers/{worker}/drain`: it takes nothing new, and what it has ends or leaves. The body may be empty.
pub async fn drain(
    State(master): State<Arc<Master>>,
    caller: Principal,
    Path(worker): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Worker>, Error> {
    // Whether there is such a worker is no business of others, whatever they send.
    find(&master.writes, &caller, &worker).await?;
    let wanted = if body.is_empty() { DrainRequest::default() } else { body_as(&headers, &body)? };
    Ok(Json(set_intake(&master, &caller, &worker, Intake::Draining, wanted.deadline).await?))
}

/// `POST /workers/{worker}/cordon`: it takes nothing new, and what it has stays.
pub async fn cordon(
    State(master): State<Arc<Master>>,
    caller: Principal,
    Path(worker): Path<String>,
) -> Result<Json<Worker>, Error> {
    Ok(Json(set_intake(&master, &caller, &worker, Intake::Cordoned, None).await?))
}

/// `POST /workers/{worker}/resume`: it takes work again.
pub async fn resume(
    State(master): State<Arc<Master>>,
    caller: Principal,
    Path(worker): Path<String>,
) -> Result<Json<Worker>, Error> {
    Ok(Json(set_intake(&master, &caller, &worker, Intake::Open, None).await?))
}

/// `DELETE /workers/{worker}`: forgets one that is not connected and has nothing left.
pub async fn remove(
    State(master): State<Arc<Master>>,
    caller: Principal,
    Path(worker): Path<String>,
) -> Result<StatusCode, Error> {
    remove_one(&master, &caller, &worker).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Forgets a worker.
pub async fn remove_one(master: &Master, caller: &Principal, worker: &str) -> Result<(), Error> {
    let record = find(&master.writes, caller, worker).await?;
    let name = &record.name;
    let detail = match master.writes.worker_remove(caller.project, record.id, &caller.user).await? {
        Removal::Removed => {
            master.changes.announce(&[]);
            return Ok(());
        }
        Removal::Connected => format!("{name} is connected and would be back at once: stop it there first"),
        Removal::Busy(live) => format!(
            "{name} has {live} attempts that are not known to be over: they are called lost when their time is up"
        ),
    };
    Err(Error::Conflict { detail, state: record.state(Utc::now()).to_string() })
}

/// Sets what a worker takes.
pub async fn set_intake(
    master: &Master,
    caller: &Principal,
    worker: &str,
    intake: Intake,
    deadline: Option<Span>,
) -> Result<Worker, Error> {
    if let Some(longest) = deadline.filter(|deadline| *deadline > LONGEST_DRAIN) {
        let detail = format!("a worker may take {LONGEST_DRAIN} to drain at most, not {longest}");
        return Err(Error::Unprocessable { code: "invalid_body", detail, errors: Vec::new() });
    }
    let record = find(&master.writes, caller, worker).await?;
    let deadline = deadline.map(|deadline| deadline.to_std().as_secs_f64());
    master.writes.worker_intake(caller.project, record.id, intake, deadline, &caller.user).await?;
    master.changes.announce(&[]);
    master.wakes.scheduler.call();
    master.wakes.drain.call();
    let record = find(&master.writes, caller, &record.id.to_string()).await?;
    Ok(view(master, record, Utc::now()))
}

async fn find(reads: &ReadStore, caller: &Principal, worker: &str) -> Result<Record, Error> {
    let shown: String = worker.chars().filter(|char| !char.is_control()).take(100).collect();
    if shown.len() != worker.len() {
        return Err(Error::NotFound(format!("worker {shown}")));
    }
    let found = reads.worker_get(caller.project, worker).await?;
    found.ok_or_else(|| Error::NotFound(format!("worker {shown}")))
}

/// What users see of a worker: what is remembered of it, and what its session knows.
pub fn view(master: &Master, mut record: Record, now: Time) -> Worker {
    let session = master.hub.get(record.id);
    let clock = session.as_ref().and_then(|_| master.clocks.of(record.id));
    let mut warnings = std::mem::take(&mut record.warnings);
    warnings.extend(clock.and_then(|clock| clock.warning()));
    let (last_seen_at, stats) = match (&session, record.offline_since) {
        (Some(session), _) => {
            let (heard, stats) = session.last_seen();
            let ago = TimeDelta::from_std(heard.elapsed()).unwrap_or_default();
            (now - ago, stats)
        }
        // It lies ahead for a few seconds after a master has taken over.
        (None, Some(since)) => (since.min(now), None),
        (None, None) => (now, None),
    };
    Worker {
        id: record.id,
        state: record.state(now).to_string(),
        intake: record.intake.as_str().to_owned(),
        draining: (record.intake == Intake::Draining)
            .then_some(Draining { until: record.drain_until, drained_at: record.drained_at }),
        capacity: amounts(&record.capacity, record.countables.clone()),
        // What waits in its backlog is not allocated: there is no room for it yet.
        allocated: amounts(
            &Resources {
                cpu: record.reserved.cpu.min(record.capacity.cpu),
                memory: Bytes(record.reserved.memory.get().min(record.capacity.memory.get())),
                disk: Bytes(record.reserved.disk.get().min(record.capacity.disk.get())),
            },
            record.taken.countables,
        ),
        usage: stats.map(|stats| Usage {
            cpu: stats.cpu,
            memory_bytes: stats.memory_used.get(),
            memory_total_bytes: stats.memory_total.get(),
            load: stats.load,
            disk_bytes: stats.disk_used.get(),
            disk_total_bytes: stats.disk_total.get(),
        }),
        name: record.name,
        datacenter: record.datacenter,
        labels: record.labels,
        drivers: record.drivers,
        running: record.running,
        waiting: record.waiting,
        version: record.version,
        arch: record.arch,
        os: record.os,
        warnings,
        clock_ahead_seconds: clock.map(|clock| clock.ahead.num_milliseconds() as f64 / 1e3),
        created_at: record.created_at,
        last_seen_at,
    }
}

fn amounts(resources: &Resources, countables: BTreeMap<String, u32>) -> Amounts {
    Amounts {
        cpu: resources.cpu.cores(),
        memory_bytes: resources.memory.get(),
        disk_bytes: resources.disk.get(),
        countables,
    }
}
