-- What an attempt ran in, if that was a container: its id, exactly which image, and the ports as they were reachable.
ALTER TABLE attempts ADD COLUMN container jsonb;

-- The latest of what workers say about attempts that take long to start.
CREATE INDEX events_notes ON events (task_id, attempt, id) WHERE kind = 'task.noted';
