-- Passwords, what is known of browser sessions, invitations.

ALTER TABLE users
    -- Argon2id with its parameters and salt, as one text. None: no password opens a session.
    ADD COLUMN password text;

ALTER TABLE web_sessions
    -- To name it without its secret.
    ADD COLUMN id bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    -- The address of the connection that signed in, or of its proxy.
    ADD COLUMN address text,
    -- What the browser said it is.
    ADD COLUMN browser text;

-- A link that lets its user choose a password, instead of one that signs in.
ALTER TABLE login_links ADD COLUMN resets_password boolean NOT NULL DEFAULT false;

-- One-time links that make somebody a member.
CREATE TABLE invitations (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    sha256 bytea NOT NULL UNIQUE CHECK (length(sha256) = 32),
    project_id bigint NOT NULL REFERENCES projects ON DELETE CASCADE,
    role text NOT NULL CHECK (role IN ('viewer', 'operator', 'admin')),
    created_by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    revoked_at timestamptz,
    used_at timestamptz,
    -- Who has become a member with it.
    used_by text
);
CREATE INDEX invitations_of_project ON invitations (project_id, id);
