-- What the keys of workers allow them to claim, and enrolment keys, for which workers get keys of their own.

ALTER TABLE keys
    DROP CONSTRAINT keys_kind_check,
    ADD CONSTRAINT keys_kind_check CHECK (kind IN ('worker', 'user', 'enrolment')),
    -- Names, labels and datacenters; none allows all. Of worker keys and enrolment keys.
    ADD COLUMN limits jsonb,
    -- How many workers an enrolment key still makes.
    ADD COLUMN uses_left integer CHECK (uses_left >= 0),
    -- SHA-256 of the identity of the one worker whose key it is.
    ADD COLUMN identity_sha256 bytea CHECK (length(identity_sha256) = 32),
    -- The enrolment key for which the worker got it.
    ADD COLUMN enrolled_by bigint,
    ADD CONSTRAINT keys_uses_check CHECK ((kind = 'enrolment') = (uses_left IS NOT NULL)),
    ADD CONSTRAINT keys_limits_check CHECK (limits IS NULL OR kind <> 'user'),
    ADD CONSTRAINT keys_enrolled_check CHECK (identity_sha256 IS NULL OR kind = 'worker');

CREATE INDEX keys_of_identity ON keys (identity_sha256) WHERE identity_sha256 IS NOT NULL;
