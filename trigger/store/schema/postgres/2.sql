ALTER TABLE runs ADD COLUMN begun  TEXT   NOT NULL DEFAULT ''; -- what its action waits for
ALTER TABLE runs ADD COLUMN parent BIGINT NOT NULL DEFAULT 0;  -- the run that found what this one changes
