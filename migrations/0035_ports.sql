-- Named ports of an attempt, with the address by which others reach them.
ALTER TABLE live_tasks ADD COLUMN ports jsonb;
ALTER TABLE finished_tasks ADD COLUMN ports jsonb;
ALTER TABLE earlier_attempts ADD COLUMN ports jsonb;

-- As before, with the ports at the end.
CREATE OR REPLACE VIEW attempts AS
SELECT id AS task_id, attempt, worker_id, placement, scheduled_at, started_at, attempt_finished_at AS finished_at,
    ran_micros, exit_code, signal, attempt_reason_code AS reason_code, attempt_reason_message AS reason_message,
    output_bytes, output_lines, output_sha256, output_complete, killed, container, era_of_task(id) AS era, ports
FROM live_tasks WHERE attempt > 0
UNION ALL
SELECT id, attempt, worker_id, placement, scheduled_at, started_at, attempt_finished_at, ran_micros, exit_code, signal,
    attempt_reason_code, attempt_reason_message, output_bytes, output_lines, output_sha256, output_complete, killed,
    container, era, ports
FROM finished_tasks WHERE attempt > 0
UNION ALL
SELECT task_id, attempt, worker_id, placement, scheduled_at, started_at, attempt_finished_at, ran_micros, exit_code,
    signal, attempt_reason_code, attempt_reason_message, output_bytes, output_lines, output_sha256, output_complete,
    killed, container, era_of_task(task_id), ports
FROM earlier_attempts;

-- The running tasks of a job that have some, however many tasks it has.
CREATE INDEX live_tasks_with_ports ON live_tasks (job_id, position, index) WHERE ports IS NOT NULL;

-- The running service of a name.
CREATE INDEX jobs_services_by_name ON jobs (project_id, name, id DESC) WHERE kind = 'service' AND finished_at IS NULL;
