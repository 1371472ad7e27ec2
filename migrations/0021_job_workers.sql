-- On which workers tasks of a job were ever placed: "what else ran there?" is asked when something is wrong with a worker. One row
-- for a job and a worker, however many tasks that were, written with the first placement.
CREATE TABLE job_workers (
    job_id bigint NOT NULL REFERENCES jobs ON DELETE CASCADE,
    worker_id bigint NOT NULL,
    PRIMARY KEY (job_id, worker_id)
);
CREATE INDEX jobs_of_worker ON job_workers (worker_id, job_id);

INSERT INTO job_workers (job_id, worker_id)
SELECT t.job_id, t.worker_id FROM tasks t JOIN jobs j ON j.id = t.job_id WHERE t.worker_id IS NOT NULL
UNION
SELECT t.job_id, e.worker_id FROM earlier_attempts e JOIN tasks t ON t.id = e.task_id JOIN jobs j ON j.id = t.job_id;
