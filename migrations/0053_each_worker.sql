-- Tasks that are for one worker each: `each: worker`.

ALTER TABLE classes
    -- A class of tasks that are for one worker: the class of their definition, and the worker.
    ADD COLUMN base_id bigint REFERENCES classes ON DELETE CASCADE,
    ADD COLUMN worker_id bigint,
    -- Of tasks that look at each other, such a class is of one job, and goes with it. The job comes after it.
    ADD COLUMN job_id bigint REFERENCES jobs ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
    ADD CHECK ((base_id IS NULL) = (worker_id IS NULL)),
    ADD CHECK (job_id IS NULL OR base_id IS NOT NULL);
CREATE UNIQUE INDEX classes_of_workers ON classes (base_id, worker_id) WHERE base_id IS NOT NULL;
CREATE INDEX classes_of_jobs ON classes (job_id) WHERE job_id IS NOT NULL;
