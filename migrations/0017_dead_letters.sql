-- What was set aside is looked for by task when output is shown, and when a job is deleted.

CREATE INDEX dead_letters_of_task ON dead_letters (task_id, attempt);
