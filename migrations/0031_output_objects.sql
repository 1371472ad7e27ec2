-- Output of finished jobs can be moved to object storage. An object has some consecutive chunks of an attempt; a row here says
-- what is in it, and takes the place of these chunks.

CREATE TABLE output_objects (
    task_id bigint NOT NULL,
    attempt integer NOT NULL,
    start_offset bigint NOT NULL CHECK (start_offset >= 0),
    payload_bytes bigint NOT NULL CHECK (payload_bytes > 0),
    -- Line ends in the attempt's output before this object, and in it.
    lines_before bigint NOT NULL CHECK (lines_before >= 0),
    lines bigint NOT NULL CHECK (lines >= 0),
    -- Below the address of the store. It is never given to another object.
    name text NOT NULL,
    object_bytes bigint NOT NULL CHECK (object_bytes > 0),
    sha256 bytea NOT NULL CHECK (octet_length(sha256) = 32),
    PRIMARY KEY (task_id, attempt, start_offset)
);

-- What each era has in object storage. Objects have to be deleted one by one, so their rows are not partitioned: after an era
-- was dropped, its rows are looked through once, and those of tasks that are not kept are removed.
CREATE TABLE output_object_eras (
    era bigint PRIMARY KEY,
    objects bigint NOT NULL,
    object_bytes bigint NOT NULL,
    looked_through boolean NOT NULL DEFAULT false
);

-- Objects whose rows were removed, until they are deleted from the store.
CREATE TABLE unused_objects (name text PRIMARY KEY);

-- Whether all output of the job that can be moved was moved.
ALTER TABLE jobs ADD COLUMN output_moved boolean NOT NULL DEFAULT false;
CREATE INDEX jobs_with_output_to_move ON jobs (finished_at, id) WHERE finished_at IS NOT NULL AND NOT output_moved;

-- New objects are put into this directory of the store. A restored installation gets another one, so it never takes objects of
-- the installation that the backup is of for unused ones.
ALTER TABLE installation ADD COLUMN output_directory uuid NOT NULL DEFAULT gen_random_uuid();
