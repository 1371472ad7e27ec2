//! What the scheduler reads: waiting classes, and the first tasks of a class.

use std::collections::BTreeMap;
use std::sync::Arc;

use gaffer_domain::quantity::Span;
use gaffer_domain::{JobId, ProjectId, TaskId, Time, WorkerId};
use gaffer_protocol::trace::Arrival;

use super::classes::SchedulingClass;
use super::{ReadStore, Store, StoreError};
use crate::records::PlaceInQueue;

/// A statement about `waiting`: the classes with pending tasks. It costs one index look-up for each of them, however many tasks wait.
macro_rules! waiting_classes {
    ($select:literal) => {
        concat!(
            "WITH RECURSIVE waiting AS ( \
                 (SELECT class_id FROM live_tasks WHERE state = 'pending' ORDER BY class_id LIMIT 1) \
                 UNION ALL \
                 SELECT next.class_id FROM waiting, LATERAL ( \
                     SELECT class_id FROM live_tasks WHERE state = 'pending' \
                     AND class_id > waiting.class_id ORDER BY class_id LIMIT 1) next) ",
            $select
        )
    };
}
pub(super) use waiting_classes;

/// A class of which at least one task waits.
#[derive(Debug, Clone)]
pub struct PendingClass {
    pub id: i64,
    /// What its tasks have in common.
    pub of: Arc<SchedulingClass>,
    /// When the first of them may be placed.
    pub first: Time,
}

/// The first waiting tasks of a class, in the order in which they are placed.
#[derive(Debug, Clone)]
pub struct ClassHeads {
    pub class: PendingClass,
    pub heads: Vec<PlaceInQueue>,
}

/// Which waiting tasks of a class are wanted: the first so many from a position on.
#[derive(Debug, Clone, Copy)]
pub struct WantedHeads {
    pub class: i64,
    pub from: PlaceInQueue,
    pub most: usize,
}

/// A class of which tasks wait, with what people want to know of it.
#[derive(Debug, Clone)]
pub struct QueuedClass {
    pub class: PendingClass,
    /// Number of waiting tasks.
    pub count: i64,
    /// The first job of which some wait, and its name.
    pub job: (JobId, String),
    /// If each of its tasks is for one worker: these, by number, with the class of their tasks.
    pub workers: Option<Vec<(WorkerId, i64)>>,
}

impl ReadStore {
    /// What waits in a project, by class. Costs a look at each unfinished job.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn queue(&self, project: ProjectId) -> Result<Vec<QueuedClass>, StoreError> {
        let rows: Vec<(i64, Time, i64, i64, String)> = sqlx::query_as(
            "WITH waiting AS ( \
                 SELECT d.class_id, sum(d.pending)::bigint AS count, min(j.id) AS job \
                 FROM jobs j JOIN task_definitions d ON d.job_id = j.id AND d.pending > 0 \
                 WHERE j.project_id = $1 AND j.finished_at IS NULL GROUP BY d.class_id) \
             SELECT waiting.class_id, head.first, waiting.count, j.id, j.name \
             FROM waiting JOIN jobs j ON j.id = waiting.job, \
             LATERAL (SELECT min(first.at) AS first FROM (SELECT waiting.class_id AS id \
                     UNION ALL SELECT id FROM classes WHERE base_id = waiting.class_id) of, \
                 LATERAL (SELECT min(not_before) AS at FROM live_tasks WHERE state = 'pending' AND class_id = of.id) first) head \
             WHERE head.first IS NOT NULL",
        )
        .bind(project.0)
        .fetch_all(&self.pool)
        .await?;
        let classes = self.classes(rows.iter().map(|(id, ..)| *id)).await?;
        let mut queue = Vec::with_capacity(rows.len());
        for (id, first, count, job, name) in rows {
            let Some(of) = classes.get(&id).cloned() else { continue };
            let workers = match of.needs.each_worker {
                true => Some(self.workers_waited_for(id, None).await?),
                false => None,
            };
            let class = PendingClass { id, of, first };
            queue.push(QueuedClass { class, count, job: (JobId(job), name), workers });
        }
        Ok(queue)
    }

    /// The tasks of a project that were submitted at `from` or later and have run to a good end, as a load; the latest if
    /// there are more than `limit`. Tasks of one submission that reserve equally much and ran equally long, to a tenth of
    /// a second, are one line.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn trace(
        &self,
        project: ProjectId,
        from: Time,
        limit: u32,
    ) -> Result<Vec<Arrival>, StoreError> {
        let rows: Vec<(Time, i64, i64, i16, String, i64, String)> = sqlx::query_as(
            "WITH done AS ( \
                 SELECT j.created_at, t.class_id, \
                     coalesce(round(t.ran_micros / 100000.0), \
                         greatest(round(extract(epoch FROM t.attempt_finished_at - t.started_at) * 10), 0))::bigint * 100 AS millis \
                 FROM jobs j, LATERAL (SELECT * FROM finished_tasks WHERE job_id = j.id AND era = j.era \
                     AND state = 'completed' AND started_at IS NOT NULL OFFSET 0) t \
                 WHERE j.project_id = $1 AND j.created_at >= $2 ORDER BY j.created_at DESC LIMIT $3) \
             SELECT done.created_at, done.millis, count(*), c.priority, c.owner, c.id, c.needs::text \
             FROM done JOIN classes c ON c.id = done.class_id \
             GROUP BY done.created_at, done.millis, c.id ORDER BY done.created_at, c.id, done.millis",
        )
        .bind(project.0)
        .bind(from)
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await?;
        let Some(begin) = rows.first().map(|(submitted, ..)| *submitted) else { return Ok(Vec::new()) };
        let mut arrivals = Vec::with_capacity(rows.len());
        for (submitted, millis, count, priority, owner, class, needs) in rows {
            let Some(needs) = self.class_needs(class, &needs).await? else { continue };
            arrivals.push(Arrival {
                submit: Span::from_millis((submitted - begin).num_milliseconds().unsigned_abs()),
                duration: Span::from_millis(millis.unsigned_abs()),
                cpu: needs.resources.cpu,
                memory: needs.resources.memory,
                disk: needs.resources.disk,
                count: u32::try_from(count).unwrap_or(u32::MAX),
                priority: u8::try_from(priority).unwrap_or(0),
                project: if owner.is_empty() { "-".to_owned() } else { owner },
            });
        }
        Ok(arrivals)
    }
}

impl Store {
    /// The classes with pending tasks, in any order. Costs one index look-up a class, however many tasks wait, if nobody keeps
    /// the rows of others from being tidied up.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn classes_pending(&self) -> Result<Vec<i64>, StoreError> {
        Ok(sqlx::query_scalar(waiting_classes!("SELECT class_id FROM waiting")).fetch_all(&self.pool).await?)
    }

    /// The first waiting tasks of these classes, of each up to its number, also of those that may be placed only later. Without
    /// classes of which none waits, tasks of unreadable jobs and of those in `except`. None where it cannot be read what
    /// the tasks of the class need.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn class_heads(
        &self,
        wanted: &[WantedHeads],
        except: &[JobId],
    ) -> Result<BTreeMap<i64, Option<ClassHeads>>, StoreError> {
        if wanted.is_empty() {
            return Ok(BTreeMap::new());
        }
        let except: Vec<i64> =
            except.iter().copied().chain(self.specs_unreadable()).map(|job| job.0).collect();
        let rows: Vec<(i64, i64, Time)> = sqlx::query_as(
            "SELECT wanted.class_id, head.id, head.not_before \
             FROM UNNEST($1::bigint[], $2::timestamptz[], $3::bigint[], $4::bigint[]) \
                 AS wanted(class_id, not_before, id, most), \
             LATERAL (SELECT id, not_before FROM live_tasks WHERE state = 'pending' AND class_id = wanted.class_id \
                 AND (not_before, id) >= (wanted.not_before, wanted.id) AND job_id <> ALL($5) \
                 ORDER BY not_before, id LIMIT wanted.most) head \
             ORDER BY wanted.class_id, head.not_before, head.id",
        )
        .bind(wanted.iter().map(|wanted| wanted.class).collect::<Vec<i64>>())
        .bind(wanted.iter().map(|wanted| wanted.from.not_before).collect::<Vec<Time>>())
        .bind(wanted.iter().map(|wanted| wanted.from.task.0).collect::<Vec<i64>>())
        .bind(wanted.iter().map(|wanted| i64::try_from(wanted.most).unwrap_or(i64::MAX)).collect::<Vec<i64>>())
        .bind(except)
        .fetch_all(&self.pool)
        .await?;
        let classes = self.classes(rows.iter().map(|(class, ..)| *class)).await?;
        let mut found: BTreeMap<i64, Option<ClassHeads>> = BTreeMap::new();
        for (id, task, not_before) in rows {
            let entry = found.entry(id).or_insert_with(|| {
                let class = PendingClass { id, of: classes.get(&id)?.clone(), first: not_before };
                Some(ClassHeads { class, heads: Vec::new() })
            });
            if let Some(class) = entry {
                class.heads.push(PlaceInQueue { not_before, task: TaskId(task) });
            }
        }
        Ok(found)
    }
}
