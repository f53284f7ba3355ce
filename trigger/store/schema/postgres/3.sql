-- What stands in a lane changes less often than the states of its runs: claiming
-- a run and its success write no index of lanes.
DROP INDEX runs_lane;
ALTER TABLE origins ADD COLUMN lane   TEXT    NOT NULL DEFAULT '';
ALTER TABLE origins ADD COLUMN stands BOOLEAN NOT NULL DEFAULT TRUE; -- the run has not failed, been skipped or the like
UPDATE origins SET lane = r.lane, stands = r.state NOT IN ('failed', 'skipped', 'superseded', 'rejected', 'expired', 'rolled-back')
	FROM runs r WHERE r.id = origins.run_id;
-- The failed are not in it, or a lane whose action always fails would be read
-- from end to end for each new run.
CREATE INDEX origins_lane ON origins (lane, run_id) WHERE stands;
