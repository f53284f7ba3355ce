-- What a claim asks for, and what changes with each step of a run, stands in two
-- small tables: a run that is written has its key for an index, and no other.
CREATE TABLE waiting (
	run_id INTEGER PRIMARY KEY,
	lane   TEXT,             -- where it takes its turn; NULL for one that takes none
	due_at INTEGER NOT NULL, -- when it may start, or ends where it awaits people
	head   INTEGER NOT NULL, -- it is its turn. A claim reads nothing else, whatever the backlog.
	awaits INTEGER NOT NULL  -- not enough people have approved it
);
INSERT INTO waiting
	SELECT id, live_lane, coalesce(due_at, CASE WHEN approved < approvals THEN approve_by ELSE not_before END), due_at IS NOT NULL, approved < approvals
	FROM runs WHERE state = 'waiting' AND state <> 'succeeded' ORDER BY id;
CREATE INDEX waiting_lane ON waiting (lane, run_id) WHERE lane IS NOT NULL;
CREATE INDEX waiting_due ON waiting (due_at, run_id) WHERE head AND NOT awaits;
CREATE INDEX waiting_late ON waiting (due_at, run_id) WHERE head AND awaits;

CREATE TABLE running (
	run_id INTEGER PRIMARY KEY,
	lane   TEXT UNIQUE,     -- one at a time in a lane, whatever the program believes
	owner  INTEGER NOT NULL -- the replica that runs it
);
INSERT INTO running SELECT id, live_lane, owner FROM runs WHERE state = 'running' AND state <> 'succeeded' ORDER BY id;

DROP INDEX runs_due;
DROP INDEX runs_live;
DROP INDEX runs_one;
DROP INDEX runs_state;
ALTER TABLE runs DROP COLUMN live_lane;
ALTER TABLE runs DROP COLUMN due_at;
ALTER TABLE runs DROP COLUMN owner;

ALTER TABLE origins ADD COLUMN outcome TEXT NOT NULL DEFAULT ''; -- the state of a run that has ended and not succeeded
UPDATE origins SET outcome = r.state FROM runs r WHERE r.id = origins.run_id AND r.state NOT IN ('waiting', 'running', 'succeeded');
DROP INDEX origins_lane;
ALTER TABLE origins DROP COLUMN stands;
-- What stands in a lane. The failed are not in it, or a lane whose action always
-- fails would be read from end to end for each new run.
CREATE INDEX origins_lane ON origins (lane, run_id) WHERE outcome = '' OR outcome = 'unknown';
CREATE INDEX origins_outcome ON origins (outcome, run_id) WHERE outcome <> '';
