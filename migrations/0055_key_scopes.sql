-- What user keys may be used for, from where keys were used, and by what they were replaced.

ALTER TABLE keys
    -- Keys of before may do all that their users may.
    ADD COLUMN scopes text[] NOT NULL DEFAULT '{read,submit,operate,admin}',
    -- The address of the connection, or of its proxy.
    ADD COLUMN last_used_from text,
    -- The key that a rotation made in its place.
    ADD COLUMN replaced_by bigint;
UPDATE keys SET scopes = '{}' WHERE kind = 'worker';

-- When the next key expires.
CREATE INDEX keys_by_expiry ON keys (expires_at) WHERE revoked_at IS NULL;
