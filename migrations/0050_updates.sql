-- Updates of definitions whose instances are what the specification says, and versions that go back to earlier ones.

-- Tasks may be as many as specified, and not yet as many as they are to be.
ALTER TABLE task_definitions DROP CONSTRAINT task_definitions_check;

-- The earlier version that it goes back to, if it does.
ALTER TABLE job_versions ADD COLUMN goes_back_to integer CHECK (goes_back_to < version);
UPDATE job_versions SET goes_back_to = substring(message FROM '^back to version ([0-9]{1,9})')::integer
    WHERE message ~ '^back to version [0-9]';
