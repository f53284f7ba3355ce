-- Keys grow with time, so that inserts stay at the end of their tables.
-- Times are nanoseconds since 1970; 0 stands for "not known".

CREATE TABLE deliveries (
	id          INTEGER PRIMARY KEY,
	source      TEXT    NOT NULL,
	received_at INTEGER NOT NULL,
	header      TEXT    NOT NULL, -- JSON, without secrets
	body        BLOB    NOT NULL
);

CREATE TABLE events (
	id          INTEGER PRIMARY KEY,
	delivery_id INTEGER NOT NULL,
	source      TEXT    NOT NULL,
	sender_id   TEXT    NOT NULL, -- the sender's own id of the event
	action      TEXT    NOT NULL,
	registry    TEXT    NOT NULL,
	repository  TEXT    NOT NULL,
	tag         TEXT    NOT NULL,
	digest      TEXT    NOT NULL,
	media_type  TEXT    NOT NULL,
	actor       TEXT    NOT NULL,
	occurred_at INTEGER NOT NULL,
	received_at INTEGER NOT NULL,
	reason      TEXT    NOT NULL  -- why it made no run
);
CREATE INDEX events_repository ON events (repository, id);

CREATE TABLE runs (
	id          INTEGER PRIMARY KEY,
	event_id    INTEGER NOT NULL,
	rule        TEXT    NOT NULL,
	idx         INTEGER NOT NULL,
	kind        TEXT    NOT NULL,
	target      TEXT    NOT NULL,
	spec        TEXT    NOT NULL,
	repository  TEXT    NOT NULL,
	lane        TEXT    NOT NULL,
	mode        TEXT    NOT NULL,
	ordered     INTEGER NOT NULL,
	ordering    TEXT    NOT NULL,
	attempts    INTEGER NOT NULL,
	timeout     INTEGER NOT NULL,
	after       INTEGER NOT NULL, -- starts when the other runs of its event have ended
	followed    INTEGER NOT NULL, -- its event has a run with after=1
	state       TEXT    NOT NULL,
	reason      TEXT    NOT NULL,
	attempt     INTEGER NOT NULL,
	not_before  INTEGER NOT NULL,
	created_at  INTEGER NOT NULL,
	started_at  INTEGER NOT NULL,
	finished_at INTEGER NOT NULL,

	-- Who has been here: one run for each redelivery of an event.
	dedupe      BLOB,
	-- The lane while the run is waiting or running in one that takes turns,
	-- NULL otherwise.
	live_lane   TEXT,
	-- Set only for what may be claimed: the head of its lane. A claim reads
	-- nothing else, whatever the backlog.
	due_at      INTEGER
);
CREATE UNIQUE INDEX runs_dedupe ON runs (dedupe) WHERE dedupe IS NOT NULL;
CREATE INDEX runs_due ON runs (due_at, id) WHERE due_at IS NOT NULL;
CREATE INDEX runs_live ON runs (live_lane, id) WHERE live_lane IS NOT NULL;
-- One at a time in a lane, whatever the program believes.
CREATE UNIQUE INDEX runs_one ON runs (live_lane) WHERE live_lane IS NOT NULL AND state = 'running';
-- What did not simply succeed: the few that lists and counts ask for by state.
CREATE INDEX runs_state ON runs (state, id) WHERE state <> 'succeeded';
-- What stands in a lane. The failed are not in it, or a lane whose action
-- always fails would be read from end to end for each new run.
CREATE INDEX runs_lane ON runs (lane, id) WHERE state NOT IN ('failed', 'skipped', 'superseded');
CREATE INDEX runs_event ON runs (event_id);
CREATE INDEX runs_repository ON runs (repository, id);

CREATE TABLE attempts (
	run_id      INTEGER NOT NULL,
	n           INTEGER NOT NULL,
	started_at  INTEGER NOT NULL,
	finished_at INTEGER NOT NULL,
	state       TEXT    NOT NULL,
	reason      TEXT    NOT NULL,
	log         TEXT    NOT NULL,
	PRIMARY KEY (run_id, n)
) WITHOUT ROWID;
