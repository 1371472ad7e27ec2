-- History is kept in eras, so that an old one is dropped and not deleted row by row.
--
-- An era is a range of task numbers, and all jobs that were submitted in it: era n has the task numbers from n * 2^32 on. What
-- a job leaves behind (finished tasks, earlier attempts, output, events) is in the partitions of its era, whenever it is
-- written. A range is known before anything is in it, so an era has its partitions before its first job.

CREATE FUNCTION first_task(era bigint) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS 'SELECT era << 32';
CREATE FUNCTION era_of_task(task bigint) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS 'SELECT task >> 32';

-- Eras that have partitions. The present one is the one from which the next task gets its number.
CREATE TABLE eras (
    number bigint PRIMARY KEY CHECK (number >= 0),
    -- When its first job could be submitted, and the lowest number of its jobs; none of an era that is made ahead.
    opened_at timestamptz,
    first_job bigint,
    -- Since when no job is submitted to it.
    closed_at timestamptz,
    CHECK ((opened_at IS NULL) = (first_job IS NULL)),
    CHECK (closed_at IS NULL OR opened_at IS NOT NULL)
);
INSERT INTO eras (number, opened_at, first_job) SELECT 0, coalesce(min(created_at), now()), 0 FROM jobs;
INSERT INTO eras (number) VALUES (1);

ALTER TABLE jobs ADD COLUMN era bigint NOT NULL DEFAULT 0;
ALTER TABLE jobs ALTER COLUMN era DROP DEFAULT;
-- How long it is kept by its own specification, in milliseconds by final state; where that says nothing, the server decides.
ALTER TABLE jobs ADD COLUMN retention jsonb NOT NULL DEFAULT '{}';
-- It is kept for as long as this is set.
ALTER TABLE jobs ADD COLUMN pinned boolean NOT NULL DEFAULT false;
CREATE INDEX jobs_to_expire ON jobs (state, retention, finished_at) WHERE finished_at IS NOT NULL AND NOT pinned;

-- What expired jobs leave behind goes with their era.
ALTER TABLE deletions ADD COLUMN era bigint NOT NULL DEFAULT 0;
ALTER TABLE deletions ADD COLUMN tasks bigint NOT NULL DEFAULT 0;
ALTER TABLE deletions ADD COLUMN waits_for_era boolean NOT NULL DEFAULT false;
CREATE INDEX deletions_of_era ON deletions (era) WHERE waits_for_era;

DROP VIEW tasks, attempts;

ALTER TABLE finished_tasks RENAME TO finished_tasks_era_0;
-- The tasks of a job are found by its number. With the range of task numbers beside that, a planner without statistics
-- might read all tasks of the range, so finished tasks say to which era they belong, in no index of their own.
ALTER TABLE finished_tasks_era_0 ADD COLUMN era bigint NOT NULL DEFAULT 0;
ALTER TABLE finished_tasks_era_0 ALTER COLUMN era DROP DEFAULT;
ALTER TABLE finished_tasks_era_0 DROP CONSTRAINT finished_tasks_pkey;
-- A unique constraint would have to include the era. Tasks are unique among the live ones, and end once.
ALTER TABLE finished_tasks_era_0 DROP CONSTRAINT finished_tasks_job_id_position_index_key;
ALTER INDEX finished_tasks_failed RENAME TO finished_tasks_era_0_failed;
CREATE TABLE finished_tasks (LIKE finished_tasks_era_0 INCLUDING CONSTRAINTS INCLUDING STORAGE) PARTITION BY LIST (era);
ALTER TABLE finished_tasks ADD CONSTRAINT finished_tasks_of_era CHECK (era = era_of_task(id));
CREATE INDEX finished_tasks_by_id ON finished_tasks (id);
CREATE INDEX finished_tasks_of_job ON finished_tasks (job_id, position, index);
CREATE INDEX finished_tasks_failed ON finished_tasks (job_id, position, index) WHERE state = 'failed';
ALTER TABLE finished_tasks_era_0 ADD CONSTRAINT finished_tasks_of_era CHECK (era = era_of_task(id));
ALTER TABLE finished_tasks ATTACH PARTITION finished_tasks_era_0 FOR VALUES IN (0);
CREATE TABLE finished_tasks_era_1 PARTITION OF finished_tasks FOR VALUES IN (1);
-- What is kept of eras that were dropped.
CREATE TABLE finished_tasks_rest PARTITION OF finished_tasks DEFAULT;

ALTER TABLE earlier_attempts RENAME TO earlier_attempts_era_0;
ALTER TABLE earlier_attempts_era_0 RENAME CONSTRAINT earlier_attempts_pkey TO earlier_attempts_era_0_pkey;
CREATE TABLE earlier_attempts (LIKE earlier_attempts_era_0 INCLUDING CONSTRAINTS INCLUDING STORAGE)
    PARTITION BY RANGE (task_id);
ALTER TABLE earlier_attempts ADD PRIMARY KEY (task_id, attempt);
ALTER TABLE earlier_attempts ATTACH PARTITION earlier_attempts_era_0 FOR VALUES FROM (MINVALUE) TO (first_task(1));
CREATE TABLE earlier_attempts_era_1 PARTITION OF earlier_attempts FOR VALUES FROM (first_task(1)) TO (first_task(2));
CREATE TABLE earlier_attempts_rest PARTITION OF earlier_attempts DEFAULT;

ALTER TABLE output_chunks RENAME TO output_chunks_era_0;
ALTER TABLE output_chunks_era_0 RENAME CONSTRAINT output_chunks_pkey TO output_chunks_era_0_pkey;
ALTER INDEX output_chunks_by_line RENAME TO output_chunks_era_0_by_line;
CREATE TABLE output_chunks (LIKE output_chunks_era_0 INCLUDING CONSTRAINTS INCLUDING STORAGE)
    PARTITION BY RANGE (task_id);
ALTER TABLE output_chunks ADD PRIMARY KEY (task_id, attempt, start_offset);
CREATE INDEX output_chunks_by_line ON output_chunks (task_id, attempt, lines_before);
ALTER TABLE output_chunks ATTACH PARTITION output_chunks_era_0 FOR VALUES FROM (MINVALUE) TO (first_task(1));
CREATE TABLE output_chunks_era_1 PARTITION OF output_chunks FOR VALUES FROM (first_task(1)) TO (first_task(2));
CREATE TABLE output_chunks_rest PARTITION OF output_chunks DEFAULT;

-- Events say to which era they belong: that of their job. Those of no job belong to none.
ALTER TABLE events RENAME TO events_era_0;
ALTER TABLE events_era_0 ADD COLUMN era bigint DEFAULT 0;
ALTER TABLE events_era_0 ALTER COLUMN era DROP DEFAULT;
ALTER TABLE events_era_0 DROP CONSTRAINT events_pkey;
ALTER INDEX events_of_project RENAME TO events_era_0_of_project;
ALTER INDEX events_of_job RENAME TO events_era_0_of_job;
ALTER INDEX events_notes RENAME TO events_era_0_notes;
ALTER INDEX events_notes_of_job RENAME TO events_era_0_notes_of_job;
-- A sequence of its own: columns of partitions cannot be identities in all versions of Postgres.
ALTER SEQUENCE events_id_seq RENAME TO events_id_seq_before;
CREATE SEQUENCE events_id_seq AS bigint INCREMENT BY 1024;
SELECT setval('events_id_seq', last_value, is_called) FROM events_id_seq_before;
ALTER TABLE events_era_0 ALTER COLUMN id DROP IDENTITY;
CREATE TABLE events (LIKE events_era_0 INCLUDING CONSTRAINTS INCLUDING STORAGE) PARTITION BY LIST (era);
ALTER TABLE events ALTER COLUMN id SET DEFAULT nextval('events_id_seq');
ALTER SEQUENCE events_id_seq OWNED BY events.id;
CREATE INDEX events_of_project ON events (project_id, id);
CREATE INDEX events_of_job ON events (job_id, id) WHERE job_id IS NOT NULL;
CREATE INDEX events_notes ON events (task_id, attempt, id) WHERE kind = 'task.noted';
CREATE INDEX events_notes_of_job ON events (job_id, id) WHERE kind = 'task.noted';
CREATE TABLE events_of_no_job PARTITION OF events FOR VALUES IN (NULL);
INSERT INTO events_of_no_job (id, project_id, at, kind, task_id, attempt, worker_id, actor, message, more)
    SELECT id, project_id, at, kind, task_id, attempt, worker_id, actor, message, more FROM events_era_0
    WHERE job_id IS NULL;
DELETE FROM events_era_0 WHERE job_id IS NULL;
CREATE INDEX events_of_no_job_by_age ON events_of_no_job (at);
ALTER TABLE events ATTACH PARTITION events_era_0 FOR VALUES IN (0);
CREATE TABLE events_era_1 PARTITION OF events FOR VALUES IN (1);
CREATE TABLE events_rest PARTITION OF events DEFAULT;

-- Takes the lock that keeps an era open until the transaction ends, and gives the era of which new tasks get their numbers.
-- All that is submitted in one transaction is of one era.
CREATE FUNCTION present_era() RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(x'67616666657265'::bigint);
    RETURN (SELECT era_of_task(last_value) FROM live_tasks_id_seq);
END $$;

-- Makes the partitions of an era. They are attached when they are made, so nobody waits who only adds rows to others.
CREATE FUNCTION make_era(era bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    history text;
BEGIN
    FOREACH history IN ARRAY ARRAY['finished_tasks', 'earlier_attempts', 'output_chunks', 'events'] LOOP
        EXECUTE format('CREATE TABLE %1$s_era_%2$s (LIKE %1$s INCLUDING CONSTRAINTS INCLUDING STORAGE)', history, era);
        EXECUTE format('ALTER TABLE %1$s ATTACH PARTITION %1$s_era_%2$s FOR VALUES %3$s', history, era,
            CASE WHEN history IN ('events', 'finished_tasks') THEN format('IN (%s)', era)
                ELSE format('FROM (%s) TO (%s)', first_task(era), first_task(era + 1)) END);
    END LOOP;
    INSERT INTO eras (number) VALUES (era);
END $$;

-- As before, over the tables of this version. A statement that names a task or an attempt names its era as well.
CREATE VIEW tasks AS
SELECT id, job_id, position, index, class_id, state, since, not_before, NULL::timestamptz AS finished_at, reason_code,
    reason_message, attempt, worker_id, placement, scheduled_at, started_at, attempt_finished_at, ran_micros, exit_code,
    signal, output_complete, era_of_task(id) AS era
FROM live_tasks
UNION ALL
SELECT id, job_id, position, index, class_id, state, finished_at, NULL::timestamptz, finished_at, reason_code,
    reason_message, attempt, worker_id, placement, scheduled_at, started_at, attempt_finished_at, ran_micros, exit_code,
    signal, output_complete, era
FROM finished_tasks;

CREATE VIEW attempts AS
SELECT id AS task_id, attempt, worker_id, placement, scheduled_at, started_at, attempt_finished_at AS finished_at,
    ran_micros, exit_code, signal, attempt_reason_code AS reason_code, attempt_reason_message AS reason_message,
    output_bytes, output_lines, output_sha256, output_complete, killed, container, era_of_task(id) AS era
FROM live_tasks WHERE attempt > 0
UNION ALL
SELECT id, attempt, worker_id, placement, scheduled_at, started_at, attempt_finished_at, ran_micros, exit_code, signal,
    attempt_reason_code, attempt_reason_message, output_bytes, output_lines, output_sha256, output_complete, killed,
    container, era
FROM finished_tasks WHERE attempt > 0
UNION ALL
SELECT task_id, attempt, worker_id, placement, scheduled_at, started_at, attempt_finished_at, ran_micros, exit_code,
    signal, attempt_reason_code, attempt_reason_message, output_bytes, output_lines, output_sha256, output_complete,
    killed, container, era_of_task(task_id)
FROM earlier_attempts;

-- Drops the partitions of an era. What some jobs and their tasks have there is put with what is kept of earlier eras.
CREATE FUNCTION drop_era(era bigint, jobs bigint[], tasks bigint[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    history text;
    kept text;
BEGIN
    -- All at once, so that nobody who writes to one of them holds another.
    LOCK TABLE ONLY finished_tasks, ONLY earlier_attempts, ONLY output_chunks, ONLY events IN ACCESS EXCLUSIVE MODE;
    FOREACH history IN ARRAY ARRAY['finished_tasks', 'earlier_attempts', 'output_chunks', 'events'] LOOP
        EXECUTE format('ALTER TABLE %1$s DETACH PARTITION %1$s_era_%2$s', history, era);
        kept := CASE history WHEN 'finished_tasks' THEN 'id = ANY($2)' WHEN 'events' THEN 'job_id = ANY($1)'
            ELSE 'task_id = ANY($2)' END;
        EXECUTE format('INSERT INTO %1$s SELECT * FROM %1$s_era_%2$s WHERE %3$s', history, era, kept) USING jobs, tasks;
        EXECUTE format('DROP TABLE %1$s_era_%2$s', history, era);
    END LOOP;
    DELETE FROM eras WHERE number = era;
END $$;
