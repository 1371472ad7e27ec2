-- Tasks that run only under a condition.

-- Those of the cancelled tasks that were not needed, because their condition was not met. They say nothing of the job's end.
ALTER TABLE task_definitions ADD COLUMN skipped bigint NOT NULL DEFAULT 0;

-- A stop is first for all tasks but those that clean up after the others; with this, for these, too.
ALTER TABLE jobs ADD COLUMN stops_everything boolean NOT NULL DEFAULT false;
