-- System jobs: services with one instance on every worker that matches.

ALTER TABLE jobs DROP CONSTRAINT jobs_kind_check, ADD CONSTRAINT jobs_kind_check CHECK (kind IN ('batch', 'service', 'system'));
CREATE INDEX jobs_system ON jobs (id) WHERE kind = 'system' AND finished_at IS NULL;

-- The running job of a name that is kept running, whatever its type.
DROP INDEX jobs_services_by_name;
CREATE INDEX jobs_kept_by_name ON jobs (project_id, name, id DESC) WHERE kind <> 'batch' AND finished_at IS NULL;
