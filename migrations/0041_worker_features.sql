-- What the program of a worker can do that earlier versions could not: names, from its hello. None for those before this.
ALTER TABLE workers ADD COLUMN features text[] NOT NULL DEFAULT '{}';
