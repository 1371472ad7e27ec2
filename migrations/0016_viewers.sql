-- What those who look at jobs ask again and again is found by an index, however large the job is.

-- The latest that workers said of a job's attempts.
CREATE INDEX events_notes_of_job ON events (job_id, id) WHERE kind = 'task.noted';
-- The tasks of a job that failed. A task gets there once, at its end, so nothing else pays for it.
CREATE INDEX tasks_failed ON tasks (job_id, position, index) WHERE state = 'failed';
