ALTER TABLE runs ADD COLUMN begun  TEXT   NOT NULL DEFAULT ''; -- what its action waits for
ALTER TABLE runs ADD COLUMN parent BIGINT NOT NULL DEFAULT 0;  -- the run that found what this one changes
ALTER TABLE runs ADD COLUMN step    TEXT    NOT NULL DEFAULT ''; -- when it starts, as a step of a sequence
ALTER TABLE runs ADD COLUMN pending BOOLEAN NOT NULL DEFAULT FALSE; -- it waits for the steps before it
