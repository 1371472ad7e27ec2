-- Where each worker was when it last said hello: tells a worker that was restarted from a copy of its data directory.

ALTER TABLE workers ADD COLUMN place jsonb NOT NULL DEFAULT '{}';
UPDATE workers SET place = jsonb_build_object('boot_id', boot_id);
