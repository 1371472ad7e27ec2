-- What is stored says in which form, and durations come from one clock.

-- The version of the form in which `spec` is written. The master reads every version that was ever released.
ALTER TABLE jobs ADD COLUMN spec_version smallint NOT NULL DEFAULT 1 CHECK (spec_version > 0);

-- How long the attempt ran, by a clock of its worker that only goes forward; none while it runs, and where the worker
-- did not report it.
ALTER TABLE attempts ADD COLUMN ran_micros bigint CHECK (ran_micros >= 0);
