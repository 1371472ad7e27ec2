-- Secrets of projects. A value is encrypted with a random key of its own, and that with a master key, which is not in the
-- database.

CREATE TABLE secrets (
    project_id bigint NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    name text NOT NULL,
    -- Counts the values that it had. 0 only within the transaction that makes the row.
    version bigint NOT NULL DEFAULT 0,
    -- The master key that opens `data_key`.
    key_id text NOT NULL DEFAULT '',
    data_key bytea NOT NULL DEFAULT '',
    value bytea NOT NULL DEFAULT '',
    created_by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_by text NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now(),
    -- When an attempt last got it, to within a minute.
    last_used_at timestamptz,
    PRIMARY KEY (project_id, name)
);

-- What a new master key has still to be applied to.
CREATE INDEX secrets_by_key ON secrets (key_id, project_id, name);

-- The master keys that were in use here, and what shows that a key is one of them.
CREATE TABLE secret_keys (
    id text PRIMARY KEY,
    proof bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
