//! Reports of attempts that have ended by other reports.

use gaffer_domain::reason::{AttemptEnd, Reason};
use gaffer_domain::task::{Rejected, Report, TaskEvent};
use gaffer_domain::{AttemptRef, policy};
use sqlx::{FromRow, PgConnection};

use super::super::StoreError;
use super::super::event_rows::EventRow;
use super::{Batch, Input, Work};

impl Work {
    /// Stores a late report of an attempt as history, unless it repeats what is recorded.
    pub(super) async fn note_late_reports<'a>(
        &mut self,
        tx: &mut PgConnection,
        batch: &'a Batch,
        results: &[Result<(), Rejected>],
    ) -> Result<(), StoreError> {
        let late = |(input, result): (&'a Input, &Result<(), Rejected>)| match (&input.event, result) {
            (_, Ok(()) | Err(Rejected::Busy)) => None,
            (TaskEvent::Ended(report, end), Err(_)) => Some((input, *report, end)),
            _ => None,
        };
        let late: Vec<(&Input, Report, &AttemptEnd)> =
            batch.inputs.iter().zip(results).filter_map(late).collect();
        if late.is_empty() {
            return Ok(());
        }
        let tasks: Vec<i64> = late.iter().map(|(input, ..)| input.task.0).collect();
        let attempts: Vec<i32> = late.iter().map(|(_, report, _)| report.attempt as i32).collect();
        let recorded: Vec<RecordedEnd> = sqlx::query_as(
            "SELECT a.task_id, a.attempt, a.worker_id, a.exit_code, a.signal, a.reason_code, a.reason_message \
             FROM UNNEST($1::bigint[], $2::int[]) AS asked(task_id, attempt) \
             JOIN attempts a ON a.task_id = asked.task_id AND a.attempt = asked.attempt \
                 AND a.era = era_of_task(asked.task_id)",
        )
        .bind(tasks)
        .bind(attempts)
        .fetch_all(&mut *tx)
        .await?;
        for (input, report, end) in late {
            let Some(work) = self.tasks.get(&input.task) else { continue };
            let Some(job) = self.jobs.get(&work.job) else { continue };
            let Some(definition) = job.spec.tasks.get(work.position) else { continue };
            let is_of = |recorded: &&RecordedEnd| {
                (recorded.task_id, recorded.attempt) == (input.task.0, report.attempt as i32)
            };
            let Some(recorded) = recorded.iter().find(is_of) else { continue };
            let attempt = AttemptRef { task: input.task, attempt: report.attempt };
            let update = self.attempts.0.get(&attempt);
            // What this batch has recorded is not written yet.
            if update.is_some_and(|update| update.end.as_ref() == Some(end)) {
                continue;
            }
            let is_known = recorded.is(end, policy::failure(&definition.restart, end));
            if recorded.worker_id != report.worker.0 || is_known {
                continue;
            }
            self.events.push(EventRow {
                project: job.project,
                kind: "task.late_report".to_owned(),
                job: work.job,
                era: job.era,
                task: Some(input.task),
                attempt: Some(report.attempt),
                worker: Some(report.worker),
                actor: input.actor.clone(),
                message: match end.reason() {
                    Some(reason) => format!("late report, ignored: {}", reason.message),
                    None => "late report, ignored: exited with code 0".to_owned(),
                },
            });
        }
        Ok(())
    }
}

/// How an attempt has ended, as it is stored.
#[derive(FromRow)]
struct RecordedEnd {
    task_id: i64,
    attempt: i32,
    worker_id: i64,
    exit_code: Option<i32>,
    signal: Option<i32>,
    reason_code: Option<String>,
    reason_message: Option<String>,
}

impl RecordedEnd {
    /// Whether it is that end, which is a failure for that reason. Without any, it was a success, or given back unstarted.
    fn is(&self, end: &AttemptEnd, failure: Option<Reason>) -> bool {
        let (code, message) = failure.map(|reason| (reason.code.as_str(), reason.message)).unzip();
        (self.reason_code.as_deref(), &self.reason_message) == (code, &message)
            && (self.exit_code, self.signal) == (end.exit_code(), end.signal())
    }
}
