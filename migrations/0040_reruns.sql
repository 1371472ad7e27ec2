-- Reruns in part: the new job takes results of the earlier one over.

-- How many of its tasks have the result of an earlier job.
ALTER TABLE jobs ADD COLUMN taken_over integer NOT NULL DEFAULT 0 CHECK (taken_over >= 0);

-- Of a task that did not run in its job: the job, the task and the attempt whose result it has. The job may have been deleted since.
ALTER TABLE finished_tasks ADD COLUMN result_job bigint;
ALTER TABLE finished_tasks ADD COLUMN result_task bigint;
ALTER TABLE finished_tasks ADD COLUMN result_attempt integer;

-- As before, with these at the end.
CREATE OR REPLACE VIEW tasks AS
SELECT id, job_id, position, index, class_id, state, since, not_before, NULL::timestamptz AS finished_at, reason_code,
    reason_message, attempt, worker_id, placement, scheduled_at, started_at, attempt_finished_at, ran_micros, exit_code,
    signal, output_complete, era_of_task(id) AS era, NULL::bigint AS result_job, NULL::bigint AS result_task,
    NULL::integer AS result_attempt
FROM live_tasks
UNION ALL
SELECT id, job_id, position, index, class_id, state, finished_at, NULL::timestamptz, finished_at, reason_code,
    reason_message, attempt, worker_id, placement, scheduled_at, started_at, attempt_finished_at, ran_micros, exit_code,
    signal, output_complete, era, result_job, result_task, result_attempt
FROM finished_tasks;
