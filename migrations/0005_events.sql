-- History: what changed, when, who or what caused it, and why.

CREATE TABLE events (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    project_id bigint NOT NULL,
    at timestamptz NOT NULL,
    kind text NOT NULL,
    job_id bigint,
    task_id bigint,
    attempt integer,
    worker_id bigint,
    actor text NOT NULL,
    message text NOT NULL,
    -- Numbers are given out before commit, so a reader that wants to miss none stays behind what is still under way.
    written_by xid8 NOT NULL DEFAULT pg_current_xact_id()
);
CREATE INDEX events_of_project ON events (project_id, id);
CREATE INDEX events_of_job ON events (job_id, id) WHERE job_id IS NOT NULL;
