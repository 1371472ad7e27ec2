-- How much a task's latest attempt has written, for readers that pass over those that wrote nothing.
CREATE OR REPLACE VIEW tasks AS
SELECT id, job_id, position, index, class_id, state, since, not_before, NULL::timestamptz AS finished_at, reason_code,
    reason_message, attempt, worker_id, placement, scheduled_at, started_at, attempt_finished_at, ran_micros, exit_code,
    signal, output_complete, era_of_task(id) AS era, NULL::bigint AS result_job, NULL::bigint AS result_task,
    NULL::integer AS result_attempt, output_bytes
FROM live_tasks
UNION ALL
SELECT id, job_id, position, index, class_id, state, finished_at, NULL::timestamptz, finished_at, reason_code,
    reason_message, attempt, worker_id, placement, scheduled_at, started_at, attempt_finished_at, ran_micros, exit_code,
    signal, output_complete, era, result_job, result_task, result_attempt, output_bytes
FROM finished_tasks;
