-- Who submitted an experiment: the name of a token, or "owner" for the owner of the state directory.
-- Empty for experiments of before.
ALTER TABLE experiment ADD COLUMN submitted_by TEXT NOT NULL DEFAULT '' CHECK (length(submitted_by) <= 128);
