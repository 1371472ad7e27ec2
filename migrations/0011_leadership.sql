-- Which of several masters leads: exactly one row, whose number changes with each leader.

CREATE TABLE leadership (
    term bigint PRIMARY KEY CHECK (term >= 0),
    only_one boolean NOT NULL DEFAULT true UNIQUE CHECK (only_one),
    -- The leader's machine and process, for people.
    holder text NOT NULL DEFAULT '',
    -- All that follows from the leader's lease follows from its own setting, not from that of the master that replaces it.
    lease_millis bigint NOT NULL DEFAULT 20000 CHECK (lease_millis > 0),
    -- Counts the leader's confirmations. Who wants to replace it changes the row only as it was when it looked.
    confirmations bigint NOT NULL DEFAULT 0,
    taken_at timestamptz NOT NULL DEFAULT now(),
    confirmed_at timestamptz NOT NULL DEFAULT now(),
    -- The leader has stepped down: nothing of it will act any more.
    released boolean NOT NULL DEFAULT false
);
INSERT INTO leadership (term) VALUES (0);

-- Fails unless that term is the present one, and keeps it the present one until the transaction ends: who takes over takes
-- the lock alone. A lock on the row would do the same, and would cost what otherwise writes nothing a flush of the log. The
-- row is read by a statement of its own, after the lock: so it is as of then.
CREATE FUNCTION leader_check(wanted bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(x'676166666573'::bigint);
    PERFORM 1 FROM leadership WHERE term = wanted;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'term % is over: another master leads', wanted USING ERRCODE = 'LT001';
    END IF;
END $$;
