-- What workers have of things that are counted, and whose turn it is.

ALTER TABLE workers ADD COLUMN countables jsonb NOT NULL DEFAULT '{}';

-- Turns are taken by owners, so tasks of different owners share no class. Tasks from before have none.
ALTER TABLE classes ADD COLUMN owner text NOT NULL DEFAULT '';
ALTER TABLE classes DROP CONSTRAINT classes_project_id_priority_needs_sha256_key;
ALTER TABLE classes ADD UNIQUE (project_id, priority, owner, needs_sha256);
