//! REST bodies, made of records.

pub mod people;

use std::collections::BTreeMap;

use gaffer_domain::spec::{Declared, FieldError, Resources};
use gaffer_domain::template::TemplateRef;
use gaffer_domain::versions::Difference;
use gaffer_domain::worker::Intake;
use gaffer_protocol::health::CheckResult;
use gaffer_protocol::rest;
use gaffer_protocol::wire::MachineStats;
use serde_json::Value;

use crate::background::driver::Status;
use crate::background::sampler::Sample;
use crate::background::scheduler::stats::{Pass, Passes};
use crate::certificate::CertificateState;
use crate::operations::keys::Created;
use crate::operations::retention::{EraPreview, Preview};
use crate::operations::system::{OutputStoreCheck, SecretsState, System};
use crate::operations::tasks::{Progress, Reading};
use crate::operations::templates::Opened;
use crate::operations::updates::UpdatePreview;
use crate::operations::workers::WorkerView;
use crate::queue::Queue;
use crate::records::{
    Attempt, AttemptHealth, CheckSummary, DeadLetter, Event, Explanation, HealthResult, Job, JobUpdate, Key,
    QueueClass, QueuePosition, ResultOf, Secret, Task, TaskPorts, Template, TemplateVersion, VersionEntry,
    WaitingTasks, WithoutInstance, WorkerVerdict,
};
use crate::store::versions::Version;
use crate::troubles::Trouble;

/// A job; null leaves its specification out.
pub fn job(job: Job, spec: Value) -> rest::Job {
    let parameters = spec.get("parameters").and_then(Value::as_object).into_iter().flatten();
    let value = |(name, parameter): (&String, &Value)| {
        Some((name.clone(), parameter.get("value")?.as_str()?.to_owned()))
    };
    let counted = job.task_counts.iter().filter(|(_, n)| *n != 0);
    let instances = job.running.iter().map(|running| (running.task.clone(), running.kept)).collect();
    rest::Job {
        available: job.available,
        instances,
        version: job.version,
        updates: job.updates.into_iter().map(service_update).collect(),
        task_counts: counted.map(|(state, n)| (state.to_string(), n)).collect(),
        id: job.id,
        name: job.name,
        kind: job.kind.as_str().to_owned(),
        state: job.state.to_string(),
        reason: job.reason,
        problem: job.problem,
        labels: job.labels,
        priority: job.priority,
        pinned: job.pinned,
        created_by: job.created_by,
        rerun_of: job.rerun_of,
        taken_over: job.taken_over,
        template: job.template.map(|TemplateRef { name, version }| rest::JobTemplate { name, version }),
        created_at: job.created_at,
        started_at: job.started_at,
        finished_at: job.finished_at,
        ran_seconds: job.ran_seconds,
        parameters: parameters.filter_map(value).collect(),
        hints: Vec::new(),
        spec,
    }
}

fn service_update(update: JobUpdate) -> rest::ServiceUpdate {
    let JobUpdate { task, version, problem } = update;
    rest::ServiceUpdate { task, version, problem }
}

/// A version of a service.
pub fn version(version: Version) -> rest::JobVersion {
    let Version { version, created_at, created_by, message, goes_back_to, spec } = version;
    rest::JobVersion { version, created_at, created_by, message, goes_back_to, spec }
}

/// What a specification would do to a service.
pub fn diff(preview: UpdatePreview) -> rest::ServiceDiff {
    let (job, version) = preview.service.unzip();
    let difference = |Difference { field, before, after }| rest::FieldDifference { field, before, after };
    rest::ServiceDiff { job, version, differences: preview.differences.into_iter().map(difference).collect() }
}

/// A template.
pub fn template(template: Template) -> rest::Template {
    let Template { name, version, versions, saved_by, saved_at } = template;
    rest::Template { name, version, versions, saved_by, saved_at }
}

/// A secret, without its value.
pub fn secret(secret: Secret) -> rest::Secret {
    let Secret { name, version, created_by, created_at, updated_by, updated_at, last_used_at } = secret;
    rest::Secret {
        name,
        version,
        created_by,
        created_at,
        updated_by,
        updated_at,
        last_used_at,
        warning: None,
    }
}

/// A version of a template, without its specification.
pub fn version_entry(entry: VersionEntry) -> rest::TemplateVersionEntry {
    let VersionEntry { version, saved_by, saved_at } = entry;
    rest::TemplateVersionEntry { version, saved_by, saved_at }
}

/// A version of a template.
pub fn template_version(name: &str, opened: Opened) -> rest::TemplateVersion {
    let TemplateVersion { version, text, saved_by, saved_at } = opened.found;
    let parameter = |Declared { name, declaration, .. }| rest::TemplateParameter {
        name,
        kind: declaration.takes.name().to_owned(),
        takes: declaration.takes.expected(),
        description: declaration.description,
        default: declaration.default,
    };
    rest::TemplateVersion {
        name: name.to_owned(),
        version,
        saved_by,
        saved_at,
        language: text.language.word().to_owned(),
        text: text.text,
        parameters: opened.declared.into_iter().map(parameter).collect(),
        hints: Vec::new(),
    }
}

/// Mistakes in a specification, or what may be some.
pub fn problem_fields(mistakes: Vec<FieldError>) -> Vec<rest::ProblemField> {
    let field =
        |FieldError { pointer, detail, suggestion }| rest::ProblemField { pointer, detail, suggestion };
    mistakes.into_iter().map(field).collect()
}

/// A task.
pub fn task(task: Task) -> rest::Task {
    let ready = task.health.as_ref().map(|health| health.available);
    let (health, readiness) = task.health.map_or((None, None), |found| (found.health, found.readiness));
    rest::Task {
        job: task.job,
        task: task.definition,
        index: task.index,
        address: task.address,
        item: task.item,
        driver: task.driver,
        state: task.state.to_string(),
        reason: task.reason,
        waits_for: task.waits_for,
        exit_code: task.exit_code,
        signal: task.signal,
        attempt: task.attempt,
        worker: task.worker,
        worker_id: task.worker_id,
        not_before: task.not_before,
        output_complete: task.output_complete,
        created_at: task.created_at,
        started_at: task.started_at,
        finished_at: task.finished_at,
        ran_seconds: task.ran_seconds,
        result_of: task.result_of.map(result_of),
        ready,
        health: health.map(check_summary),
        readiness: readiness.map(check_summary),
    }
}

fn check_summary(check: CheckSummary) -> rest::TaskHealth {
    let CheckSummary { state, since, last } = check;
    rest::TaskHealth { state, since, last: last.map(check_result) }
}

fn check_result(result: CheckResult) -> rest::HealthResult {
    rest::HealthResult {
        at: result.at,
        passed: result.passed,
        seconds: result.took_micros as f64 / 1e6,
        detail: result.detail,
    }
}

/// Health of a task and the results of its checks.
pub fn task_checks(health: Option<AttemptHealth>, results: Vec<HealthResult>) -> rest::TaskChecks {
    let ready = health.as_ref().map(|health| health.available);
    let (health, readiness) = health.map_or((None, None), |health| (health.health, health.readiness));
    let result = |HealthResult { check, result }| rest::CheckedResult { check, result: check_result(result) };
    rest::TaskChecks {
        health: health.map(check_summary),
        readiness: readiness.map(check_summary),
        ready,
        results: results.into_iter().map(result).collect(),
    }
}

/// Where a result that was taken over comes from.
pub fn result_of(of: ResultOf) -> rest::ResultOf {
    rest::ResultOf { job: of.job, task: of.address, attempt: of.attempt, is_deleted: of.is_deleted }
}

/// An attempt.
pub fn attempt(attempt: Attempt) -> rest::Attempt {
    rest::Attempt {
        attempt: attempt.attempt,
        worker: attempt.worker,
        worker_id: attempt.worker_id,
        scheduled_at: attempt.scheduled_at,
        started_at: attempt.started_at,
        finished_at: attempt.finished_at,
        ran_seconds: attempt.ran_seconds,
        reason: attempt.reason,
        exit_code: attempt.exit_code,
        signal: attempt.signal,
        output_bytes: attempt.output_bytes,
        output_lines: attempt.output_lines,
        output_sha256: attempt.output_sha256,
        output_complete: attempt.output_complete,
        placement: attempt.placement,
        killed: attempt.killed,
        container: attempt.container,
        ports: attempt.ports,
        version: attempt.version,
    }
}

/// A running task and its ports.
pub fn task_ports(task: TaskPorts) -> rest::TaskPorts {
    let TaskPorts { address, attempt, worker, ports, ready, .. } = task;
    rest::TaskPorts { address, attempt, worker, ports, ready }
}

/// How far a writer to standard input is.
pub fn stdin_position(progress: Progress) -> rest::StdinPosition {
    let state = match progress.state {
        Reading::Waiting => rest::StdinState::Waiting,
        Reading::Open => rest::StdinState::Open,
        Reading::Closed => rest::StdinState::Closed,
    };
    rest::StdinPosition { offset: progress.offset, state }
}

/// A line of history.
pub fn event(event: Event) -> rest::Event {
    rest::Event {
        id: event.id,
        at: event.at,
        kind: event.kind,
        job: event.job,
        task: event.task,
        attempt: event.attempt,
        worker: event.worker,
        actor: event.actor,
        message: event.message,
    }
}

/// A key.
pub fn key(key: Key) -> rest::Key {
    rest::Key {
        id: key.id,
        kind: key.kind.as_str().to_owned(),
        name: key.name,
        scopes: key.scopes.iter().map(|scope| scope.as_str().to_owned()).collect(),
        shared: key.shared_with.is_some(),
        shared_with: key.shared_with.flatten(),
        prefix: key.prefix,
        created_at: key.created_at,
        last_used_at: key.last_used_at,
        last_used_from: key.last_used_from,
        expires_at: key.expires_at,
        revoked_at: key.revoked_at,
        replaced_by: key.replaced_by,
        limits: Some(key.limits).filter(|limits| !limits.is_empty()),
        uses_left: key.uses_left,
        worker: key.worker,
        key: None,
    }
}

/// A key with what it is, once.
pub fn created_key(created: Created) -> rest::Key {
    rest::Key { key: Some(created.secret), ..key(created.key) }
}

/// Something that is set aside.
pub fn dead_letter(letter: DeadLetter) -> rest::DeadLetter {
    rest::DeadLetter {
        id: letter.id,
        at: letter.at,
        tried_at: letter.tried_at,
        kind: letter.kind.as_str().to_owned(),
        job: letter.job,
        task: letter.task,
        attempt: letter.attempt,
        worker: letter.worker,
        offset: letter.offset,
        bytes: letter.bytes,
        reason: letter.reason,
    }
}

/// How the master is doing.
pub fn system(system: System) -> rest::System {
    let SecretsState { problem, key, on_old_keys } = system.secrets;
    rest::System {
        secrets: rest::SecretsState { problem, key, on_old_keys },
        tls: system
            .tls
            .map(|CertificateState { expires_at, problem }| rest::TlsState { expires_at, problem }),
        database_trouble: system.database_trouble.map(trouble),
        change_trouble: system.change_trouble.map(trouble),
        locked_jobs: system
            .locked_jobs
            .into_iter()
            .map(|(job, since)| rest::LockedJob { job, since })
            .collect(),
        has_dead_letters: system.has_dead_letters,
        loops: system.loops.into_iter().map(background_loop).collect(),
    }
}

/// What retention will remove.
pub fn retention(preview: Preview) -> rest::RetentionPreview {
    rest::RetentionPreview {
        retention: preview.retention.to_string(),
        eras: preview.eras.into_iter().map(era).collect(),
    }
}

fn era(era: EraPreview) -> rest::RetentionEra {
    rest::RetentionEra {
        era: era.record.number,
        opened_at: era.record.opened_at,
        closed_at: era.record.closed_at,
        bytes: era.record.bytes.unsigned_abs(),
        objects: era.record.objects,
        object_bytes: era.record.object_bytes.unsigned_abs(),
        waiting_jobs: era.record.waiting_jobs,
        waiting_tasks: era.record.waiting_tasks,
        expiring_jobs: era.expiring.jobs,
        expiring_tasks: era.expiring.tasks,
        expires_from: era.expires.map(|(first, _)| first),
        expires_until: era.expires.map(|(_, last)| last),
        unfinished_jobs: era.unfinished.jobs,
        pinned_jobs: era.pinned.jobs,
        unlimited_jobs: era.unlimited.jobs,
        kept_tasks: era.kept_tasks(),
        is_dropped: era.is_dropped(),
    }
}

/// Whether object storage works.
pub fn output_store_check(check: OutputStoreCheck) -> rest::OutputStoreCheck {
    rest::OutputStoreCheck {
        address: check.address,
        objects: check.moved.objects,
        object_bytes: check.moved.object_bytes.unsigned_abs(),
        problem: check.problem,
    }
}

fn trouble(trouble: Trouble) -> rest::Trouble {
    rest::Trouble { since: trouble.since, message: trouble.message }
}

fn background_loop((name, status): (&'static str, Status)) -> rest::BackgroundLoop {
    let last = status.last.as_ref();
    rest::BackgroundLoop {
        name: name.to_owned(),
        description: status.description.to_owned(),
        period_seconds: status.period.as_secs_f64(),
        runs: status.runs,
        running_since: status.running_since,
        failing_since: status.failing_since,
        last_run_at: last.map(|last| last.at),
        last_run_seconds: last.map(|last| last.took.as_secs_f64()),
        last_run_done: last.and_then(|last| last.result.as_ref().ok().copied()),
        last_run_error: last.and_then(|last| last.result.as_ref().err().cloned()),
    }
}

/// A worker.
pub fn worker(view: WorkerView) -> rest::Worker {
    let (allocated, stats) = (view.allocated(), view.stats());
    let WorkerView { worker, state, is_own, warnings, last_seen_at, connected } = view;
    let clock = connected.and_then(|connected| connected.clock);
    let is_draining = worker.intake == Intake::Draining;
    rest::Worker {
        id: worker.id,
        state: state.to_string(),
        intake: worker.intake.as_str().to_owned(),
        draining: is_draining
            .then_some(rest::Draining { until: worker.drain_until, drained_at: worker.drained_at }),
        capacity: amounts(&worker.capacity, worker.countables.clone()),
        allocated: amounts(&allocated, worker.taken.countables),
        usage: stats.map(usage),
        name: worker.name,
        shared: worker.sharing.is_shared(),
        own: is_own,
        datacenter: worker.datacenter,
        labels: worker.labels,
        drivers: worker.drivers,
        running: worker.running,
        waiting: worker.waiting,
        version: worker.version,
        arch: worker.arch,
        os: worker.os,
        warnings,
        clock_ahead_seconds: clock.map(|clock| clock.ahead.num_milliseconds() as f64 / 1e3),
        created_at: worker.created_at,
        last_seen_at,
    }
}

fn usage(stats: MachineStats) -> rest::Usage {
    rest::Usage {
        cpu: stats.cpu,
        memory_bytes: stats.memory_used.get(),
        memory_total_bytes: stats.memory_total.get(),
        load: stats.load,
        disk_bytes: stats.disk_used.get(),
        disk_total_bytes: stats.disk_total.get(),
    }
}

fn amounts(resources: &Resources, countables: BTreeMap<String, u32>) -> rest::Amounts {
    rest::Amounts {
        cpu: resources.cpu.cores(),
        memory_bytes: resources.memory.get(),
        disk_bytes: resources.disk.get(),
        countables,
    }
}

/// How a worker was doing at a moment.
pub fn sample(sample: Sample) -> rest::Sample {
    rest::Sample {
        at: sample.at,
        cpu_allocated: sample.cpu_allocated,
        cpu_used: sample.cpu_used,
        memory_allocated: sample.memory_allocated,
        memory_used: sample.memory_used,
        running: sample.running,
    }
}

/// Why the tasks of a job wait.
pub fn explanation(explanation: Explanation) -> rest::Explanation {
    let Explanation { job, message, waiting, without_instance: without } = explanation;
    let without_instance = |WithoutInstance { task, message, workers }| rest::WithoutInstance {
        task,
        message,
        workers: workers.into_iter().map(verdict).collect(),
    };
    rest::Explanation {
        job,
        message,
        waiting: waiting.into_iter().map(waiting_tasks).collect(),
        without_instance: without.into_iter().map(without_instance).collect(),
    }
}

fn waiting_tasks(tasks: WaitingTasks) -> rest::WaitingTasks {
    let position = |QueuePosition { ahead, waiting }| rest::PlaceInLine { ahead, waiting };
    rest::WaitingTasks {
        task: tasks.task,
        count: tasks.count,
        message: tasks.message,
        help: tasks.help,
        would_help: tasks.would_help,
        line: tasks.position.map(position),
        workers: tasks.workers.into_iter().map(verdict).collect(),
    }
}

fn verdict(verdict: WorkerVerdict) -> rest::WorkerVerdict {
    let WorkerVerdict { worker_id, worker, infeasible, message } = verdict;
    rest::WorkerVerdict { worker_id, worker, unfit: infeasible, message }
}

/// What waits for workers.
pub fn queue(queue: Queue) -> rest::Queue {
    let Passes { count, recent } = queue.passes;
    let pass = |Pass { at, micros, decision_micros }| rest::Pass { at, micros, decision_micros };
    rest::Queue {
        strategy: queue.strategy.to_string(),
        weight: queue.weight.get(),
        share: queue.share,
        waiting: queue.waiting,
        waiting_since: queue.waiting_since,
        passes: rest::Passes { count, recent: recent.into_iter().map(pass).collect() },
        classes: queue.classes.into_iter().map(queue_class).collect(),
    }
}

fn queue_class(class: QueueClass) -> rest::QueueClass {
    rest::QueueClass {
        class: class.class,
        priority: class.priority,
        owner: class.owner,
        needs: class.needs,
        job: class.job,
        job_name: class.job_name,
        since: class.since,
        why: waiting_tasks(class.why),
    }
}
