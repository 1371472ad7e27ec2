-- After a restore from a backup: what workers may have done since the backup is known to nobody here.

ALTER TABLE installation
    ADD COLUMN restored_at timestamptz,
    -- Tasks with lower numbers are older than the restore.
    ADD COLUMN restored_before_task bigint,
    ADD CHECK ((restored_at IS NULL) = (restored_before_task IS NULL));

-- Of an attempt: whether it was placed before the installation was restored.
CREATE FUNCTION is_of_backup(task bigint, placed_at timestamptz) RETURNS boolean LANGUAGE sql STABLE PARALLEL SAFE AS
    'SELECT EXISTS (SELECT FROM installation WHERE task < restored_before_task AND placed_at < restored_at)';

ALTER TABLE live_tasks
    -- Workers may know attempts up to this number.
    ADD COLUMN unseen_attempts integer NOT NULL DEFAULT 0 CHECK (unseen_attempts >= 0),
    -- Until then one of them may execute.
    ADD COLUMN unseen_until timestamptz;
