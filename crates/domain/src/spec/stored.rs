//! The normal form of a specification as the master has stored it: every form that was ever released can be read.
//!
//! What is stored was accepted once, so it is never judged by the rules for new input ([`JobSpec::read`]): a rule that is
//! tightened must not take a job away that runs already. Fields that mean nothing here are passed over. Only what can't
//! be understood is refused: a field without which nobody knows what to do is missing, or a word has no meaning.
//!
//! A form changes when a field that has always been there changes its meaning or goes. Then [`STORED_VERSION`] is
//! counted up, the types below stay as the reader of the old form, and `stored/` gets a file with examples of the new one.
//! A field that joins is `Option`, or has a default that says what its absence meant.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::{
    Action, Affinity, Backoff, Concurrency, Container, Dependency, DriverKind, Each, ExitCodes, HealthCheck,
    Indices, JobKind, JobSpec, OnDrain, OnLost, OutputLimit, Placement, Port, Reservation, Resources,
    Restart, RestartPolicy, Retention, SecretUse, StopSignal, StopSpec, Strategy, TaskSpec, Update, When,
};
use crate::constraint::{Constraint, Fact};
use crate::parameters::Parameters;
use crate::quantity::{Bytes, Cpu, Span};

/// The version of the form that serialising a [`JobSpec`] gives.
pub const STORED_VERSION: u16 = 1;

/// A stored specification that this version does not understand.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UnreadableSpec(String);

impl JobSpec {
    /// Reads what was stored in the form of that version.
    ///
    /// # Errors
    /// When it can't be understood.
    pub fn read_stored(version: u16, value: &Value) -> Result<JobSpec, UnreadableSpec> {
        match version {
            1 => read_first(value).map_err(UnreadableSpec),
            _ => Err(UnreadableSpec(format!(
                "it is stored in format {version}; this version of gaffer reads formats up to {STORED_VERSION}"
            ))),
        }
    }
}

impl JobSpec {
    /// What stands for a specification that can't be read.
    pub fn stand_in(name: String, kind: JobKind, tasks: Vec<TaskSpec>) -> JobSpec {
        JobSpec {
            name,
            kind,
            priority: 0,
            labels: BTreeMap::new(),
            datacenters: Vec::new(),
            constraints: Vec::new(),
            affinities: Vec::new(),
            placement: None,
            concurrency: None,
            max_failures: None,
            lost_after: Span::from_secs(120),
            retention: Retention::default(),
            pin: false,
            update: None,
            parameters: Parameters::new(),
            tasks,
        }
    }
}

impl TaskSpec {
    /// What stands for a definition that can't be read: it runs nothing, and reserves nothing.
    pub fn stand_in(name: String, driver: DriverKind, indices: Indices) -> TaskSpec {
        TaskSpec {
            name,
            driver,
            container: None,
            workdir: None,
            ports: Vec::new(),
            nice: 0,
            stdin: false,
            action: Action::Command(Vec::new()),
            env: BTreeMap::new(),
            secrets: Vec::new(),
            depends_on: Vec::new(),
            when: When::Success,
            indices,
            each: None,
            resources: Reservation {
                amounts: Resources { cpu: Cpu::from_millis(0), memory: Bytes(0), disk: Bytes(0) },
                countables: BTreeMap::new(),
            },
            constraints: Vec::new(),
            affinities: Vec::new(),
            spread: None,
            distinct_workers: false,
            timeout: None,
            output: None,
            max_failures: None,
            restart: Restart {
                policy: RestartPolicy::Never,
                on_exit: ExitCodes::default(),
                not_on_exit: ExitCodes::default(),
                success: ExitCodes::default(),
                limit: 0,
                within: None,
                delay: Span::from_secs(1),
                backoff: Backoff::Constant,
                on_lost: OnLost::Fail,
            },
            stop: StopSpec { signal: StopSignal::Sigterm, grace: Span::from_secs(10) },
            health: None,
            readiness: None,
        }
    }
}

/// A job in form 1.
#[derive(Deserialize)]
struct FirstJob {
    name: String,
    #[serde(rename = "type")]
    kind: JobKind,
    priority: u8,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    datacenters: Vec<String>,
    #[serde(default)]
    constraints: Vec<Constraint>,
    #[serde(default)]
    affinities: Vec<Affinity>,
    #[serde(default)]
    placement: Option<FirstPlacement>,
    #[serde(default)]
    concurrency: Option<Concurrency>,
    #[serde(default)]
    max_failures: Option<u32>,
    lost_after: Span,
    #[serde(default)]
    retention: Retention,
    #[serde(default)]
    pin: bool,
    #[serde(default)]
    update: Option<Update>,
    #[serde(default)]
    parameters: Parameters,
    tasks: Vec<Value>,
}

#[derive(Deserialize)]
struct FirstPlacement {
    #[serde(default)]
    strategy: Option<Strategy>,
    on_drain: OnDrain,
    rebalance: bool,
}

/// A task definition in form 1, beside the fields of its container, which stand among these.
#[derive(Deserialize)]
struct FirstTask {
    name: String,
    driver: DriverKind,
    #[serde(default)]
    command: Option<Vec<String>>,
    #[serde(default)]
    script: Option<String>,
    #[serde(default)]
    workdir: Option<String>,
    #[serde(default)]
    ports: Vec<Port>,
    #[serde(default)]
    nice: u8,
    #[serde(default)]
    stdin: bool,
    #[serde(default)]
    env: BTreeMap<String, String>,
    #[serde(default)]
    secrets: Vec<SecretUse>,
    #[serde(default)]
    depends_on: Vec<Dependency>,
    #[serde(default)]
    when: When,
    #[serde(default)]
    count: Option<u32>,
    #[serde(default)]
    array: Option<String>,
    #[serde(default)]
    each: Option<Each>,
    resources: FirstResources,
    #[serde(default)]
    constraints: Vec<Constraint>,
    #[serde(default)]
    affinities: Vec<Affinity>,
    #[serde(default)]
    spread: Option<Fact>,
    #[serde(default)]
    distinct_workers: bool,
    #[serde(default)]
    timeout: Option<Span>,
    #[serde(default)]
    output: Option<OutputLimit>,
    #[serde(default)]
    max_failures: Option<u32>,
    restart: FirstRestart,
    stop: StopSpec,
    #[serde(default)]
    health: Option<HealthCheck>,
    #[serde(default)]
    readiness: Option<HealthCheck>,
}

#[derive(Deserialize)]
struct FirstResources {
    cpu: Cpu,
    memory: Bytes,
    disk: Bytes,
    /// Countable resources by name.
    #[serde(flatten)]
    others: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
struct FirstRestart {
    policy: RestartPolicy,
    #[serde(default)]
    on_exit: ExitCodes,
    #[serde(default)]
    not_on_exit: ExitCodes,
    #[serde(default)]
    success: ExitCodes,
    limit: u32,
    #[serde(default)]
    within: Option<Span>,
    delay: Span,
    backoff: Backoff,
    on_lost: OnLost,
}

fn read_first(value: &Value) -> Result<JobSpec, String> {
    let job = FirstJob::deserialize(value).map_err(|error| error.to_string())?;
    let read =
        |(at, task): (usize, &Value)| first_task(task).map_err(|why| format!("task {}: {why}", at + 1));
    let tasks: Vec<TaskSpec> = job.tasks.iter().enumerate().map(read).collect::<Result<_, _>>()?;
    if tasks.is_empty() {
        return Err("it has no tasks".to_owned());
    }
    Ok(JobSpec {
        name: job.name,
        kind: job.kind,
        priority: job.priority,
        labels: job.labels,
        datacenters: job.datacenters,
        constraints: job.constraints,
        affinities: job.affinities,
        placement: job.placement.map(|FirstPlacement { strategy, on_drain, rebalance }| Placement {
            strategy,
            on_drain,
            rebalance,
        }),
        concurrency: job.concurrency,
        max_failures: job.max_failures,
        lost_after: job.lost_after,
        retention: job.retention,
        pin: job.pin,
        update: job.update,
        parameters: job.parameters,
        tasks,
    })
}

fn first_task(value: &Value) -> Result<TaskSpec, String> {
    let task = FirstTask::deserialize(value).map_err(|error| error.to_string())?;
    // Read apart: among the other fields, one that can't be understood would make the container vanish.
    let container = match task.driver {
        DriverKind::Docker => Some(Container::deserialize(value).map_err(|error| error.to_string())?),
        DriverKind::Host | DriverKind::Scripted => None,
    };
    let action = match (task.command, task.script) {
        (Some(command), None) => Action::Command(command),
        (None, Some(script)) => Action::Script(script),
        _ => return Err("it has not exactly one of `command` and `script`".to_owned()),
    };
    let countable = |(name, count): (String, Value)| Some((name, u32::try_from(count.as_u64()?).ok()?));
    let FirstResources { cpu, memory, disk, others } = task.resources;
    let FirstRestart { policy, on_exit, not_on_exit, success, limit, within, delay, backoff, on_lost } =
        task.restart;
    Ok(TaskSpec {
        name: task.name,
        driver: task.driver,
        container,
        // A container has read its own.
        workdir: task.workdir.filter(|_| task.driver == DriverKind::Host),
        ports: if task.driver == DriverKind::Host { task.ports } else { Vec::new() },
        nice: task.nice,
        stdin: task.stdin,
        action,
        env: task.env,
        secrets: task.secrets,
        depends_on: task.depends_on,
        when: task.when,
        indices: match task.each {
            Some(Each::Workers) if task.count.is_none() && task.array.is_none() => Indices::Workers,
            _ => first_indices(task.count, task.array.as_deref())
                .ok_or("its `count` or `array` has no meaning")?,
        },
        each: task.each,
        resources: Reservation {
            amounts: Resources { cpu, memory, disk },
            countables: others.into_iter().filter_map(countable).collect(),
        },
        constraints: task.constraints,
        affinities: task.affinities,
        spread: task.spread,
        distinct_workers: task.distinct_workers,
        timeout: task.timeout,
        output: task.output,
        max_failures: task.max_failures,
        restart: Restart { policy, on_exit, not_on_exit, success, limit, within, delay, backoff, on_lost },
        stop: task.stop,
        health: task.health,
        readiness: task.readiness,
    })
}

fn first_indices(count: Option<u32>, array: Option<&str>) -> Option<Indices> {
    match (count, array) {
        (Some(count), None) if count > 0 => Some(Indices::Count(count)),
        (None, Some(array)) => {
            let (range, at_once) = match array.split_once('%') {
                Some((range, at_once)) => (range, Some(at_once.parse().ok()?)),
                None => (array, None),
            };
            let (first, last) = range.split_once('-')?;
            let (first, last) = (first.parse().ok()?, last.parse().ok()?);
            (first <= last).then_some(Indices::Array { first, last, at_once })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
