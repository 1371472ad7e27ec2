-- Fails a statement that has written some of the tasks that it was to write, but not all: somebody else has changed them.
CREATE FUNCTION all_written_check(are_all boolean) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF NOT are_all THEN
        RAISE EXCEPTION 'tasks are not as they were when they were read' USING ERRCODE = 'LT002';
    END IF;
END $$;
