-- Tasks that are not over are apart from those that are: what changes stays small, and history is only added to.
--
-- A task's row holds its latest attempt. When a further attempt is made, the one before moves to `earlier_attempts`; when
-- the task is over, the row moves to `finished_tasks`. So a task that completes with its first attempt is inserted, placed,
-- perhaps started, and moved. Whoever only reads uses the views `tasks` and `attempts`, which are both together.

ALTER TABLE tasks RENAME TO old_tasks;
ALTER TABLE attempts RENAME TO old_attempts;
DROP INDEX tasks_pending, tasks_live, tasks_moving, tasks_moved, tasks_failed;

-- Rows here are written by the ten thousand, so what refers to what is kept by `transitions` and by deletion, not by foreign
-- keys. Only `transitions` changes them, holding the lock on their job's row.
CREATE TABLE live_tasks (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job_id bigint NOT NULL,
    position smallint NOT NULL,
    index integer NOT NULL,
    class_id bigint NOT NULL,
    state task_state NOT NULL,
    -- When it came into this state, by the master's clock.
    since timestamptz NOT NULL,
    repeats integer NOT NULL DEFAULT 0 CHECK (repeats >= 0),
    repeats_since timestamptz,
    not_before timestamptz,
    stop_message text,
    -- Its attempt is being stopped so that another one can execute elsewhere.
    moving boolean NOT NULL DEFAULT false CHECK (NOT moving OR state = 'stopping'),
    reason_code text,
    reason_message text,
    -- Number of the latest attempt: the fence. What follows is about that attempt.
    attempt integer NOT NULL DEFAULT 0 CHECK (attempt >= 0),
    worker_id bigint,
    -- How the worker was chosen.
    placement jsonb,
    scheduled_at timestamptz,
    started_at timestamptz,
    -- When its end was recorded. Without an exit code, a signal and a reason it was given back unstarted.
    attempt_finished_at timestamptz,
    -- How long it ran, by a clock of its worker that only goes forward.
    ran_micros bigint CHECK (ran_micros >= 0),
    exit_code integer,
    signal integer,
    attempt_reason_code text,
    attempt_reason_message text,
    output_bytes bigint,
    output_lines bigint,
    output_sha256 text,
    -- Whether the stored output is what its worker read, by length and checksum; null if nobody could compare.
    output_complete boolean,
    killed jsonb,
    -- What it ran in, if that was a container: its id, exactly which image, and the ports as they were reachable.
    container jsonb,
    UNIQUE (job_id, position, index),
    CHECK (state NOT IN ('completed', 'failed', 'cancelled')),
    CHECK (state NOT IN ('scheduled', 'running', 'stopping') OR attempt > 0),
    CHECK ((state = 'pending') = (not_before IS NOT NULL)),
    CHECK ((state = 'stopping') = (stop_message IS NOT NULL)),
    CHECK (state <> 'running' OR started_at IS NOT NULL),
    CHECK ((reason_code IS NULL) = (reason_message IS NULL)),
    CHECK ((attempt = 0) = (worker_id IS NULL)),
    CHECK ((attempt = 0) = (scheduled_at IS NULL))
);
CREATE INDEX live_tasks_pending ON live_tasks (class_id, not_before, id) WHERE state = 'pending';
CREATE INDEX live_tasks_of_worker ON live_tasks (worker_id, class_id, state)
    WHERE state IN ('scheduled', 'running', 'stopping');
CREATE INDEX live_tasks_moving ON live_tasks (id) WHERE moving;
-- Those that have left a worker and are placed on none yet.
CREATE INDEX live_tasks_moved ON live_tasks (id) WHERE state = 'pending' AND reason_code = 'stopped';
-- Every row comes and goes, so there is always something to tidy up, and never much.
ALTER TABLE live_tasks SET (autovacuum_vacuum_scale_factor = 0.1, autovacuum_vacuum_threshold = 5000);

CREATE TABLE finished_tasks (
    id bigint PRIMARY KEY,
    job_id bigint NOT NULL,
    position smallint NOT NULL,
    index integer NOT NULL,
    class_id bigint NOT NULL,
    state task_state NOT NULL CHECK (state IN ('completed', 'failed', 'cancelled')),
    finished_at timestamptz NOT NULL,
    reason_code text,
    reason_message text,
    -- As in live_tasks. A task can be over without any attempt.
    attempt integer NOT NULL CHECK (attempt >= 0),
    worker_id bigint,
    placement jsonb,
    scheduled_at timestamptz,
    started_at timestamptz,
    attempt_finished_at timestamptz,
    ran_micros bigint,
    exit_code integer,
    signal integer,
    attempt_reason_code text,
    attempt_reason_message text,
    output_bytes bigint,
    output_lines bigint,
    output_sha256 text,
    output_complete boolean,
    killed jsonb,
    container jsonb,
    UNIQUE (job_id, position, index),
    CHECK (state = 'completed' OR reason_code IS NOT NULL),
    CHECK ((reason_code IS NULL) = (reason_message IS NULL))
);
-- A task gets there once, at its end, so nothing else pays for it.
CREATE INDEX finished_tasks_failed ON finished_tasks (job_id, position, index) WHERE state = 'failed';

-- Attempts that were followed by another one of their task.
CREATE TABLE earlier_attempts (
    task_id bigint NOT NULL,
    attempt integer NOT NULL CHECK (attempt > 0),
    worker_id bigint NOT NULL,
    placement jsonb,
    scheduled_at timestamptz NOT NULL,
    started_at timestamptz,
    attempt_finished_at timestamptz,
    ran_micros bigint,
    exit_code integer,
    signal integer,
    attempt_reason_code text,
    attempt_reason_message text,
    output_bytes bigint,
    output_lines bigint,
    output_sha256 text,
    output_complete boolean,
    killed jsonb,
    container jsonb,
    PRIMARY KEY (task_id, attempt)
);

INSERT INTO live_tasks (id, job_id, position, index, class_id, state, since, repeats, repeats_since, not_before,
    stop_message, moving, reason_code, reason_message, attempt, worker_id, placement, scheduled_at, started_at,
    attempt_finished_at, ran_micros, exit_code, signal, attempt_reason_code, attempt_reason_message, output_bytes,
    output_lines, output_sha256, output_complete, killed, container)
OVERRIDING SYSTEM VALUE
SELECT t.id, t.job_id, t.position, t.index, t.class_id, t.state, t.since, t.repeats, t.repeats_since, t.not_before,
    t.stop_message, t.moving, t.reason_code, t.reason_message, t.attempt, a.worker_id, a.placement, a.scheduled_at,
    coalesce(a.started_at, t.started_at), a.finished_at, a.ran_micros, a.exit_code, a.signal, a.reason_code,
    a.reason_message, a.output_bytes, a.output_lines, a.output_sha256, a.output_complete, a.killed, a.container
FROM old_tasks t LEFT JOIN old_attempts a ON a.task_id = t.id AND a.attempt = t.attempt
WHERE t.state NOT IN ('completed', 'failed', 'cancelled');

INSERT INTO finished_tasks (id, job_id, position, index, class_id, state, finished_at, reason_code, reason_message,
    attempt, worker_id, placement, scheduled_at, started_at, attempt_finished_at, ran_micros, exit_code, signal,
    attempt_reason_code, attempt_reason_message, output_bytes, output_lines, output_sha256, output_complete, killed,
    container)
SELECT t.id, t.job_id, t.position, t.index, t.class_id, t.state, t.finished_at, t.reason_code, t.reason_message,
    t.attempt, a.worker_id, a.placement, a.scheduled_at, a.started_at, a.finished_at, a.ran_micros, a.exit_code,
    a.signal, a.reason_code, a.reason_message, a.output_bytes, a.output_lines, a.output_sha256, a.output_complete,
    a.killed, a.container
FROM old_tasks t LEFT JOIN old_attempts a ON a.task_id = t.id AND a.attempt = t.attempt
WHERE t.state IN ('completed', 'failed', 'cancelled');

INSERT INTO earlier_attempts (task_id, attempt, worker_id, placement, scheduled_at, started_at, attempt_finished_at,
    ran_micros, exit_code, signal, attempt_reason_code, attempt_reason_message, output_bytes, output_lines, output_sha256,
    output_complete, killed, container)
SELECT a.task_id, a.attempt, a.worker_id, a.placement, a.scheduled_at, a.started_at, a.finished_at, a.ran_micros,
    a.exit_code, a.signal, a.reason_code, a.reason_message, a.output_bytes, a.output_lines, a.output_sha256,
    a.output_complete, a.killed, a.container
FROM old_attempts a JOIN old_tasks t ON t.id = a.task_id AND a.attempt <> t.attempt;

-- Numbers of tasks are never given out twice, also those of tasks that were deleted: workers and output know them.
SELECT setval(pg_get_serial_sequence('live_tasks', 'id'), last_value, is_called) FROM tasks_id_seq;
DROP TABLE old_tasks, old_attempts;

-- All tasks, whether they are over or not.
CREATE VIEW tasks AS
SELECT id, job_id, position, index, class_id, state, since, not_before, NULL::timestamptz AS finished_at, reason_code,
    reason_message, attempt, worker_id, placement, scheduled_at, started_at, attempt_finished_at, ran_micros, exit_code,
    signal, output_complete
FROM live_tasks
UNION ALL
SELECT id, job_id, position, index, class_id, state, finished_at, NULL::timestamptz, finished_at, reason_code,
    reason_message, attempt, worker_id, placement, scheduled_at, started_at, attempt_finished_at, ran_micros, exit_code,
    signal, output_complete
FROM finished_tasks;

-- All attempts, wherever they are kept.
CREATE VIEW attempts AS
SELECT id AS task_id, attempt, worker_id, placement, scheduled_at, started_at, attempt_finished_at AS finished_at,
    ran_micros, exit_code, signal, attempt_reason_code AS reason_code, attempt_reason_message AS reason_message,
    output_bytes, output_lines, output_sha256, output_complete, killed, container
FROM live_tasks WHERE attempt > 0
UNION ALL
SELECT id, attempt, worker_id, placement, scheduled_at, started_at, attempt_finished_at, ran_micros, exit_code, signal,
    attempt_reason_code, attempt_reason_message, output_bytes, output_lines, output_sha256, output_complete, killed,
    container
FROM finished_tasks WHERE attempt > 0
UNION ALL
SELECT task_id, attempt, worker_id, placement, scheduled_at, started_at, attempt_finished_at, ran_micros, exit_code,
    signal, attempt_reason_code, attempt_reason_message, output_bytes, output_lines, output_sha256, output_complete,
    killed, container
FROM earlier_attempts;
