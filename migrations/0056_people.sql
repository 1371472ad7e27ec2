-- Roles of members, administrators of the installation, personal projects.

ALTER TABLE memberships DROP CONSTRAINT memberships_role_check;
ALTER TABLE memberships
    ADD CHECK (role IN ('viewer', 'operator', 'admin')),
    ADD COLUMN since timestamptz NOT NULL DEFAULT now();
CREATE INDEX memberships_of_project ON memberships (project_id, user_id);

ALTER TABLE users
    -- Administers the installation: its users and all projects.
    ADD COLUMN is_admin boolean NOT NULL DEFAULT false,
    -- From then on neither sessions nor keys of this user are good.
    ADD COLUMN disabled_at timestamptz;
-- The user of a key was not asked for a membership before.
INSERT INTO memberships (project_id, user_id, role) SELECT DISTINCT project_id, user_id, 'admin' FROM keys
    WHERE user_id IS NOT NULL ON CONFLICT DO NOTHING;
-- Members of the first project were operators of the installation before.
UPDATE users SET is_admin = true
    WHERE id IN (SELECT user_id FROM memberships WHERE project_id = (SELECT min(id) FROM projects));

ALTER TABLE projects
    -- The user whose personal project it is.
    ADD COLUMN personal_of bigint UNIQUE REFERENCES users ON DELETE SET NULL,
    -- It is invisible from then on; its jobs are deleted in the background. Its name is free again.
    ADD COLUMN deleted_at timestamptz,
    -- Nothing is left of it. The row stays, so that its number is not used again.
    ADD COLUMN emptied_at timestamptz;
CREATE INDEX projects_to_empty ON projects (id) WHERE deleted_at IS NOT NULL AND emptied_at IS NULL;
-- A number beside the name where a project has that name already.
INSERT INTO projects (name, personal_of)
    SELECT CASE WHEN EXISTS (SELECT FROM projects WHERE name = users.name) THEN name || '-' || id ELSE name END, id
    FROM users ORDER BY id;
INSERT INTO memberships (project_id, user_id, role) SELECT id, personal_of, 'admin' FROM projects
    WHERE personal_of IS NOT NULL;

-- What a key was exchanged for is for the key's project only; none means all projects of the user.
ALTER TABLE login_links ADD COLUMN project_id bigint REFERENCES projects ON DELETE CASCADE;
ALTER TABLE web_sessions ADD COLUMN project_id bigint REFERENCES projects ON DELETE CASCADE;
CREATE INDEX web_sessions_of_user ON web_sessions (user_id);
CREATE INDEX keys_of_user ON keys (user_id) WHERE user_id IS NOT NULL;
