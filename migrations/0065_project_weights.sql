-- How much of the shared workers a project gets beside others.

ALTER TABLE projects ADD COLUMN weight integer NOT NULL DEFAULT 100 CHECK (weight BETWEEN 1 AND 1000);

-- What the scheduler reads: the few for which something was set.
CREATE INDEX projects_with_weight ON projects (id) WHERE weight <> 100;
