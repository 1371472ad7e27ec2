-- Specifications that are saved under a name. A deleted template keeps its row, so that the number of a version is never used
-- for another one: jobs name it.
CREATE TABLE templates (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    project_id bigint NOT NULL REFERENCES projects ON DELETE CASCADE,
    name text NOT NULL,
    -- The number of the latest version.
    latest integer NOT NULL DEFAULT 0 CHECK (latest >= 0),
    deleted boolean NOT NULL DEFAULT false,
    UNIQUE (project_id, name)
);

-- Versions never change. The oldest are removed when there are too many.
CREATE TABLE template_versions (
    template_id bigint NOT NULL REFERENCES templates ON DELETE CASCADE,
    version integer NOT NULL CHECK (version > 0),
    -- As it was written, with its comments.
    language text NOT NULL CHECK (language IN ('yaml', 'toml', 'json')),
    content text NOT NULL,
    created_by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (template_id, version)
);

-- The version that a job was made from.
ALTER TABLE jobs ADD COLUMN template text,
    ADD COLUMN template_version integer,
    ADD CHECK ((template IS NULL) = (template_version IS NULL));
