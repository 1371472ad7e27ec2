//! Named ports of running tasks, and the job that a service's name means.

use gaffer_domain::{JobId, ProjectId, TaskId, task_address};
use gaffer_protocol::ports::NamedPort;
use serde_json::Value;

use super::forms::understood;
use super::{ReadStore, StoreError};
use crate::records::TaskPorts;

type Row = (i64, i16, i32, String, bool, i32, String, Value);

impl ReadStore {
    /// The running tasks of a job that have named ports, in the order of their definitions and indices, after a position
    /// and at most `limit`.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn task_ports(
        &self,
        job: JobId,
        after: Option<(i16, i32)>,
        limit: u32,
    ) -> Result<Vec<TaskPorts>, StoreError> {
        let (position, index) = after.unwrap_or((-1, -1));
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT t.id, t.position, t.index, d.name, d.single, t.attempt, w.name, t.ports \
             FROM (SELECT * FROM live_tasks WHERE job_id = $1 AND ports IS NOT NULL AND state = 'running' \
                 AND (position, index) > ($2, $3) ORDER BY position, index LIMIT $4) t \
             JOIN task_definitions d ON d.job_id = $1 AND d.position = t.position \
             JOIN workers w ON w.id = t.worker_id ORDER BY t.position, t.index",
        )
        .bind(job.0)
        .bind(position)
        .bind(index)
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await?;
        let found = |(task, position, index, name, single, attempt, worker, ports): Row| TaskPorts {
            task: TaskId(task),
            position,
            index: index as u32,
            address: task_address(&name, index as u32, single),
            attempt: attempt as u32,
            worker,
            ports: understood::<Vec<NamedPort>>("list of ports", Some(ports)).unwrap_or_default(),
            ready: None,
        };
        Ok(rows.into_iter().map(found).collect())
    }

    /// The newest job of a project that is kept running, has this name and has not ended.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn service_named(&self, project: ProjectId, name: &str) -> Result<Option<JobId>, StoreError> {
        let job: Option<i64> = sqlx::query_scalar(
            "SELECT id FROM jobs WHERE project_id = $1 AND finished_at IS NULL AND kind <> 'batch' AND name = $2 \
             ORDER BY id DESC LIMIT 1",
        )
        .bind(project.0)
        .bind(name)
        .fetch_optional(&self.pool)
        .await?;
        Ok(job.map(JobId))
    }
}
