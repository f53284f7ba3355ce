-- What pollers have seen: for each tag its digest, '' while that has not been
-- looked up. A row without a tag says that the repository has been looked at.
CREATE TABLE polled (
	source     TEXT NOT NULL,
	repository TEXT NOT NULL, -- with its registry
	tag        TEXT NOT NULL,
	digest     TEXT NOT NULL,
	PRIMARY KEY (source, repository, tag)
) WITHOUT ROWID;

-- Found by looking into the registry, and not told by a sender.
ALTER TABLE events ADD COLUMN observed INTEGER NOT NULL DEFAULT 0;
CREATE INDEX events_observed ON events (repository, tag) WHERE observed = 1;
