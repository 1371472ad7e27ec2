-- Machines that run tasks. A heartbeat writes nothing here: only changes do.

CREATE TABLE workers (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    project_id bigint NOT NULL REFERENCES projects ON DELETE CASCADE,
    -- SHA-256 of the identity that the worker keeps secret.
    identity_sha256 bytea NOT NULL UNIQUE CHECK (length(identity_sha256) = 32),
    name text NOT NULL CHECK (name <> ''),
    datacenter text NOT NULL,
    labels jsonb NOT NULL,
    cpu_millis integer NOT NULL CHECK (cpu_millis >= 0),
    memory_bytes bigint NOT NULL CHECK (memory_bytes >= 0),
    disk_bytes bigint NOT NULL CHECK (disk_bytes >= 0),
    drivers jsonb NOT NULL,
    arch text NOT NULL,
    os text NOT NULL,
    version text NOT NULL,
    warnings jsonb NOT NULL,
    -- The kernel's boot id and the worker's process at the last hello.
    boot_id text NOT NULL,
    process uuid NOT NULL,
    -- Its operator wants it to take nothing new.
    draining boolean NOT NULL DEFAULT false,
    -- The session that speaks for it; only that one may take it offline.
    session uuid,
    key_id bigint REFERENCES keys ON DELETE SET NULL,
    -- When it was last heard of; none while connected. Leases are judged by this and now().
    offline_since timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (project_id, name),
    CHECK ((session IS NULL) = (offline_since IS NOT NULL))
);
