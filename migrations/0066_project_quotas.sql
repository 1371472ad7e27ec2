-- How much of a project may be live at once.

ALTER TABLE projects
    ADD COLUMN quota_cpu_millis integer CHECK (quota_cpu_millis > 0),
    ADD COLUMN quota_memory_bytes bigint CHECK (quota_memory_bytes > 0),
    ADD COLUMN quota_tasks integer CHECK (quota_tasks > 0);

DROP INDEX projects_with_weight;
CREATE INDEX projects_with_terms ON projects (id) WHERE weight <> 100 OR quota_cpu_millis IS NOT NULL
    OR quota_memory_bytes IS NOT NULL OR quota_tasks IS NOT NULL;
