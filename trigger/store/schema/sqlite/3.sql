ALTER TABLE runs ADD COLUMN deadline      INTEGER NOT NULL DEFAULT 0;
ALTER TABLE runs ADD COLUMN first_backoff INTEGER NOT NULL DEFAULT 0;
ALTER TABLE runs ADD COLUMN most_backoff  INTEGER NOT NULL DEFAULT 0;
ALTER TABLE runs ADD COLUMN hold_failed   INTEGER NOT NULL DEFAULT 0;
ALTER TABLE runs ADD COLUMN approvals     INTEGER NOT NULL DEFAULT 0; -- how many it needs
ALTER TABLE runs ADD COLUMN approved      INTEGER NOT NULL DEFAULT 0; -- how many it has
ALTER TABLE runs ADD COLUMN approvers     TEXT    NOT NULL DEFAULT ''; -- JSON; '' for anybody
ALTER TABLE runs ADD COLUMN approve_by    INTEGER NOT NULL DEFAULT 0;
ALTER TABLE runs ADD COLUMN tells         INTEGER NOT NULL DEFAULT 0;
ALTER TABLE runs ADD COLUMN first_at      INTEGER NOT NULL DEFAULT 0;
ALTER TABLE runs ADD COLUMN owner         INTEGER NOT NULL DEFAULT 0; -- the replica that runs it, or did

-- Where runs come from. That does not change, and so it stands apart from what
-- does.
CREATE TABLE origins (
	run_id     INTEGER PRIMARY KEY,
	event_id   INTEGER NOT NULL,
	repository TEXT    NOT NULL,
	-- Who has been here: one run for each redelivery of an event.
	dedupe     BLOB
);
INSERT INTO origins SELECT id, event_id, repository, dedupe FROM runs ORDER BY id;
CREATE UNIQUE INDEX origins_dedupe ON origins (dedupe) WHERE dedupe IS NOT NULL;
CREATE INDEX origins_event ON origins (event_id);
CREATE INDEX origins_repository ON origins (repository, run_id);
DROP INDEX runs_dedupe;
DROP INDEX runs_event;
DROP INDEX runs_repository;
ALTER TABLE runs DROP COLUMN dedupe;
ALTER TABLE runs DROP COLUMN repository;

-- Outcomes that change nothing do not stand in a lane.
DROP INDEX runs_lane;
CREATE INDEX runs_lane ON runs (lane, id) WHERE state NOT IN ('failed', 'skipped', 'superseded', 'rejected', 'expired', 'rolled-back');

-- A truth of its own, as every engine understands it.
DROP INDEX events_observed;
CREATE INDEX events_observed ON events (repository, tag) WHERE observed;

-- Who said what to a run that needs approval: each person once.
CREATE TABLE votes (
	run_id INTEGER NOT NULL,
	voter  TEXT    NOT NULL,
	yes    INTEGER NOT NULL,
	at     INTEGER NOT NULL,
	PRIMARY KEY (run_id, voter)
) WITHOUT ROWID;

-- What was decided about a run and stands nowhere else.
CREATE TABLE notes (
	id     INTEGER PRIMARY KEY,
	run_id INTEGER NOT NULL,
	at     INTEGER NOT NULL,
	note   TEXT    NOT NULL
);
CREATE INDEX notes_run ON notes (run_id, id);

CREATE TABLE holds (
	id          INTEGER PRIMARY KEY,
	lane        TEXT    NOT NULL, -- '' for all lanes
	digest      TEXT    NOT NULL, -- '' for all digests: the lane's runs wait
	reason      TEXT    NOT NULL,
	held_by     TEXT    NOT NULL,
	run_id      INTEGER NOT NULL, -- that failed; 0 where a person holds
	at          INTEGER NOT NULL,
	released_at INTEGER NOT NULL, -- 0 while it holds
	released_by TEXT    NOT NULL
);
CREATE INDEX holds_open ON holds (id) WHERE released_at = 0;

-- Outcomes that nobody has been told of yet.
CREATE TABLE notices (
	id     INTEGER PRIMARY KEY,
	run_id INTEGER NOT NULL,
	state  TEXT    NOT NULL,
	reason TEXT    NOT NULL
);

-- The dockbells that use the store now.
CREATE TABLE replicas (
	id   INTEGER PRIMARY KEY,
	name TEXT    NOT NULL,
	beat INTEGER NOT NULL -- changes as long as it is alive
);

-- What one replica does for all.
CREATE TABLE duties (
	duty  TEXT    NOT NULL PRIMARY KEY,
	owner INTEGER NOT NULL
) WITHOUT ROWID;
