-- What is to be done, and how far it is. States and their rules are those of the domain; the checks restate them.

CREATE TYPE task_state AS ENUM
    ('blocked', 'pending', 'scheduled', 'running', 'stopping', 'completed', 'failed', 'cancelled');
CREATE TYPE job_state AS ENUM ('pending', 'running', 'stopping', 'completed', 'failed', 'cancelled');

-- Tasks with equal needs, priority and project are placed together.
CREATE TABLE classes (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    project_id bigint NOT NULL REFERENCES projects ON DELETE CASCADE,
    priority smallint NOT NULL,
    needs jsonb NOT NULL,
    needs_sha256 bytea NOT NULL CHECK (length(needs_sha256) = 32),
    UNIQUE (project_id, priority, needs_sha256)
);

CREATE TABLE jobs (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    project_id bigint NOT NULL REFERENCES projects ON DELETE CASCADE,
    name text NOT NULL,
    kind text NOT NULL CHECK (kind IN ('batch', 'service')),
    state job_state NOT NULL DEFAULT 'pending',
    priority smallint NOT NULL CHECK (priority BETWEEN 0 AND 100),
    labels jsonb NOT NULL,
    -- The normal form of the specification.
    spec jsonb NOT NULL,
    lost_after_millis bigint NOT NULL CHECK (lost_after_millis > 0),
    created_by text NOT NULL,
    rerun_of bigint,
    -- Who asked it to stop; none if nobody did.
    stop_message text,
    reason_code text,
    reason_message text,
    created_at timestamptz NOT NULL DEFAULT now(),
    started_at timestamptz,
    finished_at timestamptz,
    CHECK ((state IN ('completed', 'failed', 'cancelled')) = (finished_at IS NOT NULL)),
    CHECK ((reason_code IS NULL) = (reason_message IS NULL))
);
CREATE INDEX jobs_of_project ON jobs (project_id, id DESC);
CREATE INDEX jobs_unfinished ON jobs (project_id, id DESC) WHERE finished_at IS NULL;
CREATE INDEX jobs_failed ON jobs (project_id, id DESC) WHERE state = 'failed';
CREATE INDEX jobs_by_label ON jobs USING gin (labels jsonb_path_ops);

-- Task definitions, with the number of tasks in each state: kept by adding and subtracting, never by counting.
CREATE TABLE task_definitions (
    job_id bigint NOT NULL REFERENCES jobs ON DELETE CASCADE,
    position smallint NOT NULL,
    name text NOT NULL,
    class_id bigint NOT NULL REFERENCES classes,
    driver text NOT NULL,
    -- Only the task with index 0, addressed by the bare name.
    single boolean NOT NULL,
    blocked bigint NOT NULL DEFAULT 0 CHECK (blocked >= 0),
    pending bigint NOT NULL DEFAULT 0 CHECK (pending >= 0),
    scheduled bigint NOT NULL DEFAULT 0 CHECK (scheduled >= 0),
    running bigint NOT NULL DEFAULT 0 CHECK (running >= 0),
    stopping bigint NOT NULL DEFAULT 0 CHECK (stopping >= 0),
    completed bigint NOT NULL DEFAULT 0 CHECK (completed >= 0),
    failed bigint NOT NULL DEFAULT 0 CHECK (failed >= 0),
    cancelled bigint NOT NULL DEFAULT 0 CHECK (cancelled >= 0),
    PRIMARY KEY (job_id, position),
    UNIQUE (job_id, name)
);

-- Only the gate changes a task, in one statement, holding the lock on its job's row. Rows here are written by the ten
-- thousand, so what refers to what is kept by the gate and by deletion, not by foreign keys.
CREATE TABLE tasks (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job_id bigint NOT NULL,
    position smallint NOT NULL,
    index integer NOT NULL,
    class_id bigint NOT NULL,
    state task_state NOT NULL,
    -- When it came into this state, by the master's clock.
    since timestamptz NOT NULL,
    -- Number of the latest attempt: the fence.
    attempt integer NOT NULL DEFAULT 0 CHECK (attempt >= 0),
    repeats integer NOT NULL DEFAULT 0 CHECK (repeats >= 0),
    repeats_since timestamptz,
    not_before timestamptz,
    worker_id bigint,
    started_at timestamptz,
    stop_message text,
    reason_code text,
    reason_message text,
    finished_at timestamptz,
    UNIQUE (job_id, position, index),
    CHECK ((state IN ('scheduled', 'running', 'stopping')) = (worker_id IS NOT NULL)),
    CHECK ((state = 'pending') = (not_before IS NOT NULL)),
    CHECK ((state = 'stopping') = (stop_message IS NOT NULL)),
    CHECK ((state IN ('completed', 'failed', 'cancelled')) = (finished_at IS NOT NULL)),
    CHECK (state <> 'running' OR started_at IS NOT NULL),
    CHECK (state NOT IN ('failed', 'cancelled') OR reason_code IS NOT NULL),
    CHECK ((reason_code IS NULL) = (reason_message IS NULL)),
    CHECK (state NOT IN ('scheduled', 'running', 'stopping') OR attempt > 0)
);
CREATE INDEX tasks_pending ON tasks (class_id, not_before, id) WHERE state = 'pending';
CREATE INDEX tasks_live ON tasks (worker_id, class_id, state) WHERE state IN ('scheduled', 'running', 'stopping');

CREATE TABLE attempts (
    task_id bigint NOT NULL,
    attempt integer NOT NULL CHECK (attempt > 0),
    worker_id bigint NOT NULL,
    -- How the worker was chosen.
    placement jsonb,
    scheduled_at timestamptz NOT NULL,
    started_at timestamptz,
    -- When its end was recorded; without an `ending` it was given back unstarted.
    finished_at timestamptz,
    ending jsonb,
    exit_code integer,
    signal integer,
    reason_code text,
    reason_message text,
    output_bytes bigint,
    output_lines bigint,
    output_sha256 text,
    killed jsonb,
    PRIMARY KEY (task_id, attempt),
    CHECK (ending IS NULL OR finished_at IS NOT NULL)
);

-- A repeated request with the same key gets the same job.
CREATE TABLE idempotency_keys (
    project_id bigint NOT NULL REFERENCES projects ON DELETE CASCADE,
    key text NOT NULL,
    request_sha256 bytea NOT NULL CHECK (length(request_sha256) = 32),
    job_id bigint NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (project_id, key)
);
CREATE INDEX idempotency_keys_by_age ON idempotency_keys (created_at);
