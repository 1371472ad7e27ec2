-- Whether the stored output of an attempt is what its worker read, by length and checksum. Null if nobody could compare: the
-- attempt is not over, was lost, or was begun under an earlier master.
ALTER TABLE attempts ADD COLUMN output_complete boolean;
