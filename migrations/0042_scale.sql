-- Services that are scaled while they run.

ALTER TABLE task_definitions
    -- At how many instances it is kept, if it was scaled; else its specification says so.
    ADD COLUMN count integer CHECK (count >= 0),
    -- Who asked for that, as long as its tasks are not as many yet.
    ADD COLUMN scaled_by text CHECK (scaled_by IS NULL OR count IS NOT NULL);
CREATE INDEX task_definitions_scaling ON task_definitions (job_id) WHERE scaled_by IS NOT NULL;

-- Its attempt is being stopped, and it ends until its service has so many instances again.
ALTER TABLE live_tasks ADD COLUMN scaled_down boolean NOT NULL DEFAULT false
    CHECK (NOT scaled_down OR (state = 'stopping' AND NOT moving));

-- Tasks that a job gets after it was submitted belong to the era of the job, like all others of it. Their numbers come from the
-- end of the range of that era: how many of them were given out.
CREATE TABLE late_tasks (
    era bigint PRIMARY KEY,
    given bigint NOT NULL CHECK (given BETWEEN 0 AND 1::bigint << 31)
);

-- How many numbers of attempts are left out of a task that ended before the installation was restored, and has another attempt
-- nevertheless.
ALTER TABLE installation ADD COLUMN attempts_left_out bigint NOT NULL DEFAULT 0;
