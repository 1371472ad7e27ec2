-- Workers that take tasks of other projects, too. The key says so, and a worker has it from the key that it connected with.

ALTER TABLE keys
    ADD COLUMN shared boolean NOT NULL DEFAULT false,
    -- The projects whose tasks its workers take, beside their own; none: all.
    ADD COLUMN shared_with bigint[],
    ADD CHECK (shared OR shared_with IS NULL),
    ADD CHECK (kind = 'worker' OR NOT shared);
ALTER TABLE workers
    ADD COLUMN shared boolean NOT NULL DEFAULT false,
    ADD COLUMN shared_with bigint[],
    ADD CHECK (shared OR shared_with IS NULL);

-- What a project may use beside its own.
CREATE INDEX workers_shared ON workers (id) WHERE shared AND removed_at IS NULL;
