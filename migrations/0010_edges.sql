-- What the database refused, what is being deleted, and how unfinished work of large jobs is found.

-- What a worker sent and the database refused by itself (a value out of range, a constraint): kept before it is
-- acknowledged, shown, and tried again. Bodies are bytes, for the text in them may be what was refused.
CREATE TABLE dead_letters (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT now(),
    tried_at timestamptz NOT NULL DEFAULT now(),
    kind text NOT NULL CHECK (kind IN ('output', 'report')),
    project_id bigint,
    job_id bigint,
    task_id bigint NOT NULL,
    attempt integer NOT NULL,
    worker_id bigint,
    -- Of output: where it belongs, as in output_chunks.
    start_offset bigint,
    payload_bytes integer,
    lines_before bigint,
    lines integer,
    encoding smallint,
    body bytea NOT NULL,
    reason text NOT NULL
);
CREATE INDEX dead_letters_of_project ON dead_letters (project_id, id);
CREATE INDEX dead_letters_of_job ON dead_letters (job_id);

-- Jobs that are deleted, while what belonged to them is removed slice by slice.
CREATE TABLE deletions (
    job_id bigint PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX jobs_stopping ON jobs (id) WHERE stop_message IS NOT NULL AND finished_at IS NULL;
CREATE INDEX definitions_blocked ON task_definitions (job_id) WHERE blocked > 0;
