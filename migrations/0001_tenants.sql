-- Who there is: projects, users, keys, sign-ins.

CREATE TABLE installation (
    -- Exactly one row.
    only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    -- Marks what belongs to this installation on machines it shares with others.
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    created_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO installation DEFAULT VALUES;

-- The wall between tenants: every row that belongs to one says so.
CREATE TABLE projects (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE CHECK (name <> ''),
    created_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO projects (name) VALUES ('default');

CREATE TABLE users (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE CHECK (name <> ''),
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE memberships (
    project_id bigint NOT NULL REFERENCES projects ON DELETE CASCADE,
    user_id bigint NOT NULL REFERENCES users ON DELETE CASCADE,
    role text NOT NULL CHECK (role IN ('admin')),
    PRIMARY KEY (user_id, project_id)
);

CREATE TABLE keys (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    project_id bigint NOT NULL REFERENCES projects ON DELETE CASCADE,
    -- Whose it is; a worker key is nobody's.
    user_id bigint REFERENCES users ON DELETE CASCADE,
    kind text NOT NULL CHECK (kind IN ('worker', 'user')),
    name text NOT NULL CHECK (name <> ''),
    prefix text NOT NULL,
    -- SHA-256 of the whole key: it has 256 random bits, so a slow hash would add nothing.
    sha256 bytea NOT NULL UNIQUE CHECK (length(sha256) = 32),
    created_at timestamptz NOT NULL DEFAULT now(),
    last_used_at timestamptz,
    expires_at timestamptz,
    revoked_at timestamptz,
    CHECK ((kind = 'user') = (user_id IS NOT NULL))
);
CREATE INDEX keys_of_project ON keys (project_id, id);

-- One-time links that sign in.
CREATE TABLE login_links (
    sha256 bytea PRIMARY KEY CHECK (length(sha256) = 32),
    user_id bigint NOT NULL REFERENCES users ON DELETE CASCADE,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    used_at timestamptz
);

-- Browsers that are signed in.
CREATE TABLE web_sessions (
    sha256 bytea PRIMARY KEY CHECK (length(sha256) = 32),
    user_id bigint NOT NULL REFERENCES users ON DELETE CASCADE,
    created_at timestamptz NOT NULL DEFAULT now(),
    last_used_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL
);
