-- Workers that are to be left, and the tasks that leave them.

-- What a worker takes: anything, nothing new, or nothing while what it has moves elsewhere.
ALTER TABLE workers ADD COLUMN intake text NOT NULL DEFAULT 'open' CHECK (intake IN ('open', 'cordoned', 'draining'));
UPDATE workers SET intake = 'draining' WHERE draining;
ALTER TABLE workers DROP COLUMN draining;
-- From then on, all that it still has moves.
ALTER TABLE workers ADD COLUMN drain_until timestamptz CHECK (drain_until IS NULL OR intake = 'draining');
-- When it had nothing left.
ALTER TABLE workers ADD COLUMN drained_at timestamptz CHECK (drained_at IS NULL OR intake = 'draining');
-- Since when it is connected without a break; none while it is not.
ALTER TABLE workers ADD COLUMN online_since timestamptz;
UPDATE workers SET online_since = now() WHERE offline_since IS NULL;
ALTER TABLE workers ADD CHECK ((online_since IS NULL) = (offline_since IS NOT NULL));
-- A removed worker is shown nowhere but in history; its name is free.
ALTER TABLE workers ADD COLUMN removed_at timestamptz CHECK (removed_at IS NULL OR offline_since IS NOT NULL);
ALTER TABLE workers DROP CONSTRAINT workers_project_id_name_key;
CREATE UNIQUE INDEX workers_by_name ON workers (project_id, name) WHERE removed_at IS NULL;

-- Its attempt is being stopped so that another one can execute elsewhere.
ALTER TABLE tasks ADD COLUMN moving boolean NOT NULL DEFAULT false CHECK (NOT moving OR state = 'stopping');
CREATE INDEX tasks_moving ON tasks (id) WHERE moving;
-- Those that have left a worker and are placed on none yet.
CREATE INDEX tasks_moved ON tasks (id) WHERE state = 'pending' AND reason_code = 'stopped';
CREATE INDEX jobs_services ON jobs (id) WHERE kind = 'service' AND finished_at IS NULL;
-- What was submitted lately, for simulations.
CREATE INDEX jobs_by_age ON jobs (project_id, created_at);
