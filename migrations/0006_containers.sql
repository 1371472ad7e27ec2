-- What an attempt ran in, if that was a container: its id, exactly which image, and the ports as they were reachable.
ALTER TABLE attempts ADD COLUMN container jsonb;
