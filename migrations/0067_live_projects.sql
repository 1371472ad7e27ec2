-- What belongs to a project is made only while there is the project: its row stays when it is deleted, so a reference alone
-- does not say that.

CREATE FUNCTION project_is_live() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    wanted bigint[] := ARRAY(SELECT DISTINCT project_id FROM made WHERE project_id IS NOT NULL);
    live bigint;
BEGIN
    -- A deletion holds the row: what waits for it here finds that the project is gone, and what was here first is counted by it.
    SELECT count(*) INTO live FROM (
        SELECT FROM projects WHERE id = ANY (wanted) AND deleted_at IS NULL ORDER BY id FOR KEY SHARE) found;
    IF live < cardinality(wanted) THEN
        RAISE EXCEPTION 'the project was deleted' USING ERRCODE = 'GP001';
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER project_is_live AFTER INSERT ON memberships REFERENCING NEW TABLE AS made EXECUTE FUNCTION project_is_live();
CREATE TRIGGER project_is_live AFTER INSERT ON keys REFERENCING NEW TABLE AS made EXECUTE FUNCTION project_is_live();
CREATE TRIGGER project_is_live AFTER INSERT ON login_links REFERENCING NEW TABLE AS made EXECUTE FUNCTION project_is_live();
CREATE TRIGGER project_is_live AFTER INSERT ON web_sessions REFERENCING NEW TABLE AS made EXECUTE FUNCTION project_is_live();
CREATE TRIGGER project_is_live AFTER INSERT ON invitations REFERENCING NEW TABLE AS made EXECUTE FUNCTION project_is_live();
CREATE TRIGGER project_is_live AFTER INSERT ON secrets REFERENCING NEW TABLE AS made EXECUTE FUNCTION project_is_live();
CREATE TRIGGER project_is_live AFTER INSERT ON templates REFERENCING NEW TABLE AS made EXECUTE FUNCTION project_is_live();
CREATE TRIGGER project_is_live AFTER INSERT ON jobs REFERENCING NEW TABLE AS made EXECUTE FUNCTION project_is_live();
CREATE TRIGGER project_is_live AFTER INSERT ON workers REFERENCING NEW TABLE AS made EXECUTE FUNCTION project_is_live();

DELETE FROM invitations WHERE project_id IN (SELECT id FROM projects WHERE deleted_at IS NOT NULL);
DELETE FROM secrets WHERE project_id IN (SELECT id FROM projects WHERE deleted_at IS NOT NULL);

-- An invitation is as good as the rights of who made it.
ALTER TABLE invitations ADD COLUMN created_by_id bigint REFERENCES users ON DELETE SET NULL;
UPDATE invitations SET created_by_id = (SELECT id FROM users WHERE name = created_by);
