-- Sign-in through an identity provider: who is which user, and what groups have made of them.

CREATE TABLE identities (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id bigint NOT NULL REFERENCES users ON DELETE CASCADE,
    -- The two together are somebody at a provider. Names and addresses change hands.
    issuer text NOT NULL,
    subject text NOT NULL,
    -- What the provider called them at the last sign-in.
    name text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    last_used_at timestamptz,
    UNIQUE (issuer, subject),
    -- Whose groups would decide otherwise?
    UNIQUE (user_id, issuer)
);

-- Made by groups of a provider: they go when the groups give them no more. Those made by hand stay.
ALTER TABLE memberships ADD COLUMN by_groups boolean NOT NULL DEFAULT false;
ALTER TABLE users ADD COLUMN admin_by_groups boolean NOT NULL DEFAULT false;
