-- An index by what comes in no order, as a key or a repository does, takes a page
-- of the log for each row, however short that is. These are written many rows at
-- a time, in their own order. Until then a row stands in memory, and in its table
-- alone.
DROP INDEX events_repository;
DROP INDEX origins_repository;
DROP INDEX origins_dedupe;

CREATE TABLE events_by_repository (
	repository TEXT    NOT NULL,
	id         INTEGER NOT NULL,
	PRIMARY KEY (repository, id)
) WITHOUT ROWID;
CREATE TABLE runs_by_repository (
	repository TEXT    NOT NULL,
	id         INTEGER NOT NULL,
	PRIMARY KEY (repository, id)
) WITHOUT ROWID;
CREATE TABLE runs_by_dedupe (
	dedupe BLOB    NOT NULL,
	id     INTEGER NOT NULL,
	PRIMARY KEY (dedupe, id)
) WITHOUT ROWID;

-- Up to which row of its table each of them is whole.
CREATE TABLE deferred (
	name TEXT    PRIMARY KEY,
	upto INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TRIGGER event_gone AFTER DELETE ON events BEGIN
	DELETE FROM events_by_repository WHERE repository = OLD.repository AND id = OLD.id;
END;
CREATE TRIGGER origin_gone AFTER DELETE ON origins BEGIN
	DELETE FROM runs_by_repository WHERE repository = OLD.repository AND id = OLD.run_id;
	DELETE FROM runs_by_dedupe WHERE dedupe = OLD.dedupe AND id = OLD.run_id;
END;
CREATE TRIGGER dedupe_gone AFTER UPDATE OF dedupe ON origins BEGIN
	DELETE FROM runs_by_dedupe WHERE dedupe = OLD.dedupe AND id = OLD.run_id;
END;
