-- Here a key is the value itself.
ALTER VIEW events_by_repository RENAME COLUMN repository TO key;
ALTER VIEW runs_by_repository RENAME COLUMN repository TO key;
ALTER VIEW runs_by_dedupe RENAME COLUMN dedupe TO key;

-- Whether the body is an S2 block.
ALTER TABLE deliveries ADD COLUMN packed BOOLEAN NOT NULL DEFAULT FALSE;
