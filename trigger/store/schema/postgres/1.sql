-- Ids are taken from the sequences while the row of table writer is locked, so
-- that they grow in the order of commits. Times are nanoseconds since 1970; 0
-- stands for "not known".

-- Whoever changes something locks its only row first.
CREATE TABLE writer (one BOOLEAN PRIMARY KEY);
INSERT INTO writer VALUES (TRUE);

CREATE SEQUENCE deliveries_id;
CREATE TABLE deliveries (
	id          BIGINT PRIMARY KEY,
	source      TEXT   NOT NULL,
	received_at BIGINT NOT NULL,
	header      TEXT   NOT NULL, -- JSON, without secrets
	body        BYTEA  NOT NULL
);

CREATE SEQUENCE events_id;
CREATE TABLE events (
	id          BIGINT  PRIMARY KEY,
	delivery_id BIGINT  NOT NULL,
	source      TEXT    NOT NULL,
	sender_id   TEXT    NOT NULL, -- the sender's own id of the event
	action      TEXT    NOT NULL,
	registry    TEXT    NOT NULL,
	repository  TEXT    NOT NULL,
	tag         TEXT    NOT NULL,
	digest      TEXT    NOT NULL,
	media_type  TEXT    NOT NULL,
	actor       TEXT    NOT NULL,
	occurred_at BIGINT  NOT NULL,
	received_at BIGINT  NOT NULL,
	reason      TEXT    NOT NULL, -- why it made no run
	observed    BOOLEAN NOT NULL  -- found by looking into the registry, and not told by a sender
);
CREATE INDEX events_repository ON events (repository, id);
CREATE INDEX events_observed ON events (repository, tag) WHERE observed;

CREATE SEQUENCE runs_id;
CREATE TABLE runs (
	id            BIGINT  PRIMARY KEY,
	event_id      BIGINT  NOT NULL,
	rule          TEXT    NOT NULL,
	idx           BIGINT  NOT NULL,
	kind          TEXT    NOT NULL,
	target        TEXT    NOT NULL,
	spec          TEXT    NOT NULL,
	lane          TEXT    NOT NULL,
	mode          TEXT    NOT NULL,
	ordered       BOOLEAN NOT NULL,
	ordering      TEXT    NOT NULL,
	attempts      BIGINT  NOT NULL,
	timeout       BIGINT  NOT NULL,
	after         BOOLEAN NOT NULL, -- starts when the other runs of its event have ended
	followed      BOOLEAN NOT NULL, -- its event has a run with after
	state         TEXT    NOT NULL,
	reason        TEXT    NOT NULL,
	attempt       BIGINT  NOT NULL,
	not_before    BIGINT  NOT NULL,
	created_at    BIGINT  NOT NULL,
	started_at    BIGINT  NOT NULL,
	finished_at   BIGINT  NOT NULL,
	deadline      BIGINT  NOT NULL,
	first_backoff BIGINT  NOT NULL,
	most_backoff  BIGINT  NOT NULL,
	hold_failed   BOOLEAN NOT NULL,
	approvals     BIGINT  NOT NULL, -- how many it needs
	approved      BIGINT  NOT NULL, -- how many it has
	approvers     TEXT    NOT NULL, -- JSON; '' for anybody
	approve_by    BIGINT  NOT NULL,
	tells         BIGINT  NOT NULL,
	first_at      BIGINT  NOT NULL,
	owner         BIGINT  NOT NULL, -- the replica that runs it, or did

	-- The lane while the run is waiting or running in one that takes turns,
	-- NULL otherwise.
	live_lane     TEXT,
	-- Set only for what may be claimed: the head of its lane. A claim reads
	-- nothing else, whatever the backlog.
	due_at        BIGINT
) WITH (
	-- A run is written three times or more: room beside it, and an early
	-- cleaning, keep the indexes of what is due short.
	fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000
);
CREATE INDEX runs_due ON runs (due_at, id) WHERE due_at IS NOT NULL;
CREATE INDEX runs_live ON runs (live_lane, id) WHERE live_lane IS NOT NULL;
-- One at a time in a lane, whatever the program believes.
CREATE UNIQUE INDEX runs_one ON runs (live_lane) WHERE live_lane IS NOT NULL AND state = 'running';
-- What did not simply succeed: the few that lists and counts ask for by state.
CREATE INDEX runs_state ON runs (state, id) WHERE state <> 'succeeded';
-- What stands in a lane. Outcomes that change nothing are not in it, or a lane
-- whose action always fails would be read from end to end for each new run.
CREATE INDEX runs_lane ON runs (lane, id) WHERE state NOT IN ('failed', 'skipped', 'superseded', 'rejected', 'expired', 'rolled-back');

-- Where runs come from. That does not change, and so it stands apart from what
-- does: each change of a row writes all indexes of its table anew.
CREATE TABLE origins (
	run_id     BIGINT PRIMARY KEY,
	event_id   BIGINT NOT NULL,
	repository TEXT   NOT NULL,
	-- Who has been here: one run for each redelivery of an event.
	dedupe     BYTEA
);
CREATE UNIQUE INDEX origins_dedupe ON origins (dedupe) WHERE dedupe IS NOT NULL;
CREATE INDEX origins_event ON origins (event_id, run_id);
CREATE INDEX origins_repository ON origins (repository, run_id);

CREATE TABLE attempts (
	run_id      BIGINT NOT NULL,
	n           BIGINT NOT NULL,
	started_at  BIGINT NOT NULL,
	finished_at BIGINT NOT NULL,
	state       TEXT   NOT NULL,
	reason      TEXT   NOT NULL,
	log         BYTEA  NOT NULL,
	PRIMARY KEY (run_id, n)
);

-- Who said what to a run that needs approval: each person once.
CREATE TABLE votes (
	run_id BIGINT  NOT NULL,
	voter  TEXT    NOT NULL,
	yes    BOOLEAN NOT NULL,
	at     BIGINT  NOT NULL,
	PRIMARY KEY (run_id, voter)
);

-- What was decided about a run and stands nowhere else.
CREATE SEQUENCE notes_id;
CREATE TABLE notes (
	id     BIGINT PRIMARY KEY DEFAULT nextval('notes_id'),
	run_id BIGINT NOT NULL,
	at     BIGINT NOT NULL,
	note   TEXT   NOT NULL
);
CREATE INDEX notes_run ON notes (run_id, id);

CREATE SEQUENCE holds_id;
CREATE TABLE holds (
	id          BIGINT PRIMARY KEY DEFAULT nextval('holds_id'),
	lane        TEXT   NOT NULL, -- '' for all lanes
	digest      TEXT   NOT NULL, -- '' for all digests: the lane's runs wait
	reason      TEXT   NOT NULL,
	held_by     TEXT   NOT NULL,
	run_id      BIGINT NOT NULL, -- that failed; 0 where a person holds
	at          BIGINT NOT NULL,
	released_at BIGINT NOT NULL, -- 0 while it holds
	released_by TEXT   NOT NULL
);
CREATE INDEX holds_open ON holds (id) WHERE released_at = 0;

-- Outcomes that nobody has been told of yet.
CREATE SEQUENCE notices_id;
CREATE TABLE notices (
	id     BIGINT PRIMARY KEY DEFAULT nextval('notices_id'),
	run_id BIGINT NOT NULL,
	state  TEXT   NOT NULL,
	reason TEXT   NOT NULL
);

-- The dockbells that use the store now.
CREATE TABLE replicas (
	id   BIGINT PRIMARY KEY,
	name TEXT   NOT NULL,
	beat BIGINT NOT NULL -- changes as long as it is alive
);

-- What one replica does for all.
CREATE TABLE duties (
	duty  TEXT   PRIMARY KEY,
	owner BIGINT NOT NULL
);

-- What pollers have seen: for each tag its digest, '' while that has not been
-- looked up. A row without a tag says that the repository has been looked at.
CREATE TABLE polled (
	source     TEXT NOT NULL,
	repository TEXT NOT NULL, -- with its registry
	tag        TEXT NOT NULL,
	digest     TEXT NOT NULL,
	PRIMARY KEY (source, repository, tag)
);
