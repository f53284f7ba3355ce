-- The id of a notice is not given again when that one was told.
CREATE TABLE kept (
	id     INTEGER PRIMARY KEY AUTOINCREMENT,
	run_id INTEGER NOT NULL,
	state  TEXT    NOT NULL,
	reason TEXT    NOT NULL
);
INSERT INTO kept SELECT id, run_id, state, reason FROM notices ORDER BY id;
DROP TABLE notices;
ALTER TABLE kept RENAME TO notices;

ALTER TABLE runs ADD COLUMN begun  TEXT    NOT NULL DEFAULT ''; -- what its action waits for
ALTER TABLE runs ADD COLUMN parent INTEGER NOT NULL DEFAULT 0;  -- the run that found what this one changes
ALTER TABLE runs ADD COLUMN step    TEXT    NOT NULL DEFAULT ''; -- when it starts, as a step of a sequence
ALTER TABLE runs ADD COLUMN pending INTEGER NOT NULL DEFAULT 0;  -- it waits for the steps before it
