-- Versions of services, and rolling updates.

-- The version of the specification, counted from 1.
ALTER TABLE jobs ADD COLUMN version integer NOT NULL DEFAULT 1 CHECK (version > 0);

-- The versions of a service that was updated: all that instances run or wait with, and the latest ones.
CREATE TABLE job_versions (
    job_id bigint NOT NULL REFERENCES jobs ON DELETE CASCADE,
    version integer NOT NULL CHECK (version > 0),
    spec jsonb NOT NULL,
    -- The form in which it is written.
    spec_version smallint NOT NULL,
    created_at timestamptz NOT NULL,
    created_by text NOT NULL,
    -- Why, if it is no plain update: that it takes an earlier version back.
    message text NOT NULL DEFAULT '',
    PRIMARY KEY (job_id, version)
);

ALTER TABLE task_definitions
    -- The version whose definition its instances are to have. A version that does not change the definition leaves this as it is.
    ADD COLUMN version integer NOT NULL DEFAULT 1,
    -- How many further instances there may be while it is updated.
    ADD COLUMN surge integer NOT NULL DEFAULT 0 CHECK (surge >= 0),
    -- Since when it is updated, until all its instances have that version; and from which version of the job.
    ADD COLUMN update_since timestamptz,
    ADD COLUMN update_from integer,
    -- The update takes an earlier version back.
    ADD COLUMN update_reverts boolean NOT NULL DEFAULT false,
    -- Somebody has looked at the canaries and wants the update to go on.
    ADD COLUMN promoted boolean NOT NULL DEFAULT false,
    -- Why the update does not go on.
    ADD COLUMN update_problem text;
CREATE INDEX task_definitions_updating ON task_definitions (job_id, position) WHERE update_since IS NOT NULL;

-- Which version the attempt has; none is the first.
ALTER TABLE live_tasks ADD COLUMN version integer;
ALTER TABLE finished_tasks ADD COLUMN version integer;
ALTER TABLE earlier_attempts ADD COLUMN version integer;
-- Which version the next attempt is to have.
ALTER TABLE live_tasks ADD COLUMN wanted_version integer NOT NULL DEFAULT 1;

-- As before, with the version at the end.
CREATE OR REPLACE VIEW attempts AS
SELECT id AS task_id, attempt, worker_id, placement, scheduled_at, started_at, attempt_finished_at AS finished_at,
    ran_micros, exit_code, signal, attempt_reason_code AS reason_code, attempt_reason_message AS reason_message,
    output_bytes, output_lines, output_sha256, output_complete, killed, container, era_of_task(id) AS era, ports,
    coalesce(version, 1) AS version
FROM live_tasks WHERE attempt > 0
UNION ALL
SELECT id, attempt, worker_id, placement, scheduled_at, started_at, attempt_finished_at, ran_micros, exit_code, signal,
    attempt_reason_code, attempt_reason_message, output_bytes, output_lines, output_sha256, output_complete, killed,
    container, era, ports, coalesce(version, 1)
FROM finished_tasks WHERE attempt > 0
UNION ALL
SELECT task_id, attempt, worker_id, placement, scheduled_at, started_at, attempt_finished_at, ran_micros, exit_code,
    signal, attempt_reason_code, attempt_reason_message, output_bytes, output_lines, output_sha256, output_complete,
    killed, container, era_of_task(task_id), ports, coalesce(version, 1)
FROM earlier_attempts;
