-- The specification of a job with parameters as it was submitted, before their values were put in: JSON that keeps how numbers
-- were written. None for a job without parameters.
ALTER TABLE jobs ADD COLUMN source text;
