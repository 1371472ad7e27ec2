-- Who changed what, from where, with which key: one chain of entries for each project, and one for the installation.

CREATE TABLE audit_entries (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- Not a reference: entries outlive their project. 0 is the installation.
    project_id bigint NOT NULL,
    at timestamptz NOT NULL,
    user_name text NOT NULL,
    -- What the user has shown; none for the master itself.
    credential text,
    address text,
    action text NOT NULL,
    target text NOT NULL,
    -- None while it is under way.
    outcome text CHECK (outcome IN ('done', 'refused', 'failed', 'unknown')),
    -- What its line says beside the columns, until it has one.
    rest jsonb,
    -- Place in its chain, line and hash of the line: never changed after that.
    number bigint,
    line text,
    sha256 bytea CHECK (length(sha256) = 32),
    CHECK ((number IS NULL) = (line IS NULL) AND (number IS NULL) = (sha256 IS NULL)),
    CHECK (number IS NULL OR outcome IS NOT NULL)
);
CREATE INDEX audit_entries_of_project ON audit_entries (project_id, id);
CREATE UNIQUE INDEX audit_entries_chains ON audit_entries (project_id, number) WHERE number IS NOT NULL;
CREATE INDEX audit_entries_without_line ON audit_entries (id) WHERE number IS NULL;
