-- What stands in a lane, by comparisons: for a list of this length a table is
-- made each time that a run is written.
DROP INDEX runs_lane;
CREATE INDEX runs_lane ON runs (lane, id)
	WHERE state <> 'failed' AND state <> 'skipped' AND state <> 'superseded' AND state <> 'rejected' AND state <> 'expired' AND state <> 'rolled-back';
