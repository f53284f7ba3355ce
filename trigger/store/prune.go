package store

import (
	"context"
	"errors"
	"math"
	"time"

	"github.com/dockbell/dockbell/trigger"
)

// pruneStep is how many rows one step looks at: deliveries wait for no more
// than that.
const pruneStep = 200

// Prune forgets what is older than it is to be kept, in steps that let others
// write in between, until ctx ends. It never touches what is unfinished, nor
// the newest finished run of each repository that stands in a lane: by that
// one later pushes are judged. The newest row of each table stays as well,
// since its id must not be given again.
func (s *Store) Prune(ctx context.Context, keep trigger.Keep, now time.Time) (trigger.Pruned, error) {
	var all trigger.Pruned
	for _, t := range []struct {
		step  func(ctx context.Context, after int64, keep trigger.Keep, now time.Time) (next int64, n int, err error)
		count *int
	}{
		{s.pruneRuns, &all.Runs},
		{s.pruneEvents, &all.Events},
		{s.pruneDeliveries, &all.Deliveries},
	} {
		for after := int64(0); after < math.MaxInt64 && ctx.Err() == nil; {
			next, n, err := t.step(ctx, after, keep, now)
			if err != nil {
				return all, err
			}
			*t.count += n
			after = next
			if n > 0 {
				pause(ctx)
			}
		}
	}
	return all, ctx.Err()
}

// prunePause lets those that wait have the disk in between.
const prunePause = 10 * time.Millisecond

func pause(ctx context.Context) {
	select {
	case <-time.After(prunePause):
	case <-ctx.Done():
	}
}

// chunk is the last of the next rows of a table that are older than a moment;
// ok is false when there are none.
func (s *Store) chunk(ctx context.Context, table, column string, after int64, before time.Time) (last int64, ok bool, err error) {
	var n int
	_, err = s.queryRow(ctx, "SELECT coalesce(max(id), 0), count(*) FROM (SELECT id FROM "+table+" WHERE id > ? AND "+column+" < ? ORDER BY id LIMIT ?) AS next",
		[]any{after, nanos(before), pruneStep}, &last, &n)
	return last, n > 0, err
}

func (s *Store) pruneRuns(ctx context.Context, after int64, keep trigger.Keep, now time.Time) (next int64, n int, err error) {
	good, bad := now.Add(-keep.Successes), now.Add(-keep.Failures)
	latest := good
	if bad.After(good) {
		latest = bad
	}
	last, ok, err := s.chunk(ctx, "runs", "created_at", after, latest)
	if !ok {
		return math.MaxInt64, 0, err
	}
	err = s.writer.do(ctx, func(w *writer) error {
		if err := errors.Join(w.settleUpTo(w.indexes.runs, last), w.settleUpTo(w.indexes.dedupes, last)); err != nil {
			return err
		}
		ids, err := w.idsOf(`DELETE FROM runs WHERE id > ?1 AND id <= ?2 AND finished_at > 0
			AND (state IN ('failed', 'unknown', 'rolled-back') AND finished_at < ?4 OR state NOT IN ('failed', 'unknown', 'rolled-back') AND finished_at < ?3)
			AND id < (SELECT max(id) FROM runs) AND (state NOT IN ('succeeded', 'unknown') OR `+outdated+`)
			RETURNING id`, after, last, nanos(good), nanos(bad))
		for _, table := range []string{"origins", "attempts", "notes", "votes", "notices"} {
			if err == nil && len(ids) > 0 {
				err = w.exec("DELETE FROM "+table+" WHERE "+w.among("run_id"), w.list(ids))
			}
		}
		w.lanes = nil
		n = len(ids)
		return err
	})
	return last, n, err
}

// outdated is a condition that a newer run of the same repository has finished
// and stands in the lane.
const outdated = `EXISTS (SELECT 1 FROM origins o JOIN runs s ON s.id = o.run_id JOIN events se ON se.id = o.event_id JOIN events e ON e.id = runs.event_id
	WHERE o.lane = runs.lane AND o.run_id > runs.id AND ` + areStanding + ` AND s.finished_at > 0
	AND se.registry = e.registry AND se.repository = e.repository)`

func (s *Store) pruneEvents(ctx context.Context, after int64, keep trigger.Keep, now time.Time) (next int64, n int, err error) {
	last, ok, err := s.chunk(ctx, "events", "received_at", after, now.Add(-keep.Successes))
	if !ok {
		return math.MaxInt64, 0, err
	}
	err = s.writer.do(ctx, func(w *writer) (err error) {
		if err := w.settleUpTo(w.indexes.events, last); err != nil {
			return err
		}
		n, err = w.change("DELETE FROM events WHERE id > ? AND id <= ? AND received_at < ? AND id < (SELECT max(id) FROM events) AND NOT EXISTS (SELECT 1 FROM origins WHERE event_id = events.id)",
			after, last, nanos(now.Add(-keep.Successes)))
		return err
	})
	return last, n, err
}

// pruneDeliveries stops at the first one that has something unfinished.
func (s *Store) pruneDeliveries(ctx context.Context, after int64, keep trigger.Keep, now time.Time) (next int64, n int, err error) {
	last, ok, err := s.chunk(ctx, "deliveries", "received_at", after, now.Add(-keep.Deliveries))
	if !ok {
		return math.MaxInt64, 0, err
	}
	err = s.writer.do(ctx, func(w *writer) (err error) {
		unfinished := int64(math.MaxInt64)
		const oldest = `SELECT e.delivery_id FROM runs r JOIN events e ON e.id = r.event_id
			WHERE r.id IN (SELECT run_id FROM waiting UNION ALL SELECT run_id FROM running) ORDER BY e.delivery_id LIMIT 1`
		if _, err := w.row(oldest, nil, &unfinished); err != nil {
			return err
		}
		n, err = w.change("DELETE FROM deliveries WHERE id > ? AND id <= ? AND id < ? AND received_at < ? AND id < (SELECT max(id) FROM deliveries)",
			after, last, unfinished, nanos(now.Add(-keep.Deliveries)))
		return err
	})
	return last, n, err
}
