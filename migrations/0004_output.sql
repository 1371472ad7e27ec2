-- Output of attempts, in chunks. A chunk that comes twice meets its own key and does nothing.

CREATE TABLE output_chunks (
    task_id bigint NOT NULL,
    attempt integer NOT NULL,
    -- Offset of the first byte in the attempt's output, both streams together.
    start_offset bigint NOT NULL CHECK (start_offset >= 0),
    payload_bytes integer NOT NULL CHECK (payload_bytes > 0),
    -- Line ends before this chunk and in it: enough to find any line with one indexed read.
    lines_before bigint NOT NULL CHECK (lines_before >= 0),
    lines integer NOT NULL CHECK (lines >= 0),
    encoding smallint NOT NULL,
    body bytea NOT NULL,
    PRIMARY KEY (task_id, attempt, start_offset)
);
CREATE INDEX output_chunks_by_line ON output_chunks (task_id, attempt, lines_before);
-- Bodies are compressed already where that helps.
ALTER TABLE output_chunks ALTER COLUMN body SET STORAGE EXTERNAL;
