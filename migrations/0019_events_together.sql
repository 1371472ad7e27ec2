-- What one transaction changes of one job is one row of history, however many tasks that concerns.

-- Further events of the same moment and the same job, in their order: objects with `kind`, `task_id`, `attempt`, `worker_id`,
-- `actor` and `message`. The event at place n (from 1) has the number id + n; so a row keeps numbers for all it may hold.
ALTER TABLE events ADD COLUMN more jsonb CHECK (jsonb_array_length(more) < 1024);
ALTER SEQUENCE events_id_seq INCREMENT BY 1024;
-- Readers find by locks what is still being written.
ALTER TABLE events DROP COLUMN written_by;
