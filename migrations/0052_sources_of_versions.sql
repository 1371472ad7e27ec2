-- The specification of a version as it was submitted, before the values of its parameters were put in: a service that goes back to
-- the version gets it back, too.
ALTER TABLE job_versions ADD COLUMN source text;
UPDATE job_versions v SET source = j.source FROM jobs j
WHERE j.id = v.job_id AND j.version = v.version AND j.source IS NOT NULL;

-- Which templates jobs name: the row of a deleted template is kept for these.
CREATE INDEX jobs_template ON jobs (project_id, template) WHERE template IS NOT NULL;
