-- What SQLite keeps in indexes of its own is here in the tables' indexes.
CREATE VIEW events_by_repository AS SELECT repository, id FROM events;
CREATE VIEW runs_by_repository AS SELECT repository, run_id AS id FROM origins;
CREATE VIEW runs_by_dedupe AS SELECT dedupe, run_id AS id FROM origins WHERE dedupe IS NOT NULL;
