package store

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/dockbell/dockbell/trigger"
)

const selectHolds = "SELECT id, lane, digest, reason, held_by, run_id, at, released_at, released_by FROM holds"

// holdColumns are where the columns of selectHolds go.
func holdColumns(h *trigger.Hold) []any {
	return []any{&h.ID, &h.Lane, &h.Digest, &h.Reason, &h.By, &h.Run, (*nanoTime)(&h.At), (*nanoTime)(&h.ReleasedAt), &h.ReleasedBy}
}

// holdReason says why a run waits or is skipped.
func holdReason(h trigger.Hold) string {
	what := "the lane is held"
	if h.Digest != "" {
		what = "the digest is held"
	}
	return fmt.Sprintf("%s by %s since %s (hold %d): %s", what, h.By, h.At.Format(time.RFC3339), h.ID, h.Reason)
}

// Hold keeps a digest, or what waits in a lane, from being deployed and gives
// the hold's id. Runs of a digest that wait are skipped; those of a lane go on
// waiting. What runs already is not stopped.
func (s *Store) Hold(ctx context.Context, h trigger.Hold) (id int64, err error) {
	err = s.writer.do(ctx, func(w *writer) (err error) {
		id, err = w.hold(h)
		return err
	})
	return id, err
}

func (w *writer) hold(h trigger.Hold) (id int64, err error) {
	query := "INSERT INTO holds (lane, digest, reason, held_by, run_id, at, released_at, released_by) VALUES (?, ?, ?, ?, ?, ?, 0, '') RETURNING id"
	if _, err := w.row(query, []any{h.Lane, h.Digest, h.Reason, h.By, h.Run, nanos(h.At)}, &id); err != nil {
		return 0, err
	}
	h.ID = id
	w.held = false
	if h.Digest != "" {
		return id, w.skipHeld(h)
	}
	return id, w.stopHeld(h)
}

// skipHeld ends the runs that wait for a digest.
func (w *writer) skipHeld(h trigger.Hold) error {
	query, args := " WHERE r.id IN (SELECT run_id FROM waiting) AND NOT r.after AND r.tells = 0 AND e.digest = ?", []any{h.Digest}
	if h.Lane != "" {
		query, args = query+" AND r.lane = ?", append(args, h.Lane)
	}
	var all []trigger.Run
	err := w.rows(selectRuns+query+" ORDER BY r.id", args, addTo(&all))
	for _, r := range all {
		if err == nil {
			err = w.end(r, trigger.Skipped, holdReason(h), h.At)
		}
		if err == nil {
			// Once it is released, the same event makes a run.
			err = w.isNew(r.ID)
		}
	}
	return err
}

// ofLane are the runs that wait in a lane that is held, or was. Steps that wait
// for others come to that later.
const ofLane = " WHERE id IN (SELECT run_id FROM waiting) AND (lane = ?) IS TRUE AND NOT after AND NOT pending AND tells = 0"

// stopHeld makes the runs that wait in a lane wait for its release.
func (w *writer) stopHeld(h trigger.Hold) error {
	why := holdReason(h)
	if err := w.exec("INSERT INTO notes (run_id, at, note) SELECT id, ?, ? FROM runs"+ofLane, nanos(h.At), why, h.Lane); err != nil {
		return err
	}
	if err := w.exec("UPDATE runs SET reason = ?"+ofLane, why, h.Lane); err != nil {
		return err
	}
	return w.exec("UPDATE waiting SET head = FALSE WHERE run_id IN (SELECT id FROM runs"+ofLane+")", h.Lane)
}

// Release ends a hold. It is refused with a [trigger.RefusedError] where that
// was done before.
func (s *Store) Release(ctx context.Context, id int64, by string, now time.Time) error {
	return s.writer.do(ctx, func(w *writer) error {
		var h trigger.Hold
		ok, err := w.row(selectHolds+" WHERE id = ?", []any{id}, holdColumns(&h)...)
		switch {
		case err != nil:
			return err
		case !ok:
			return fmt.Errorf("hold %d: %w", id, trigger.ErrNotFound)
		case !h.ReleasedAt.IsZero():
			return trigger.Refuse("hold %d was released by %s at %s", id, h.ReleasedBy, h.ReleasedAt.Format(time.RFC3339))
		}
		if err := w.exec("UPDATE holds SET released_at = ?, released_by = ? WHERE id = ?", nanos(now), by, id); err != nil {
			return err
		}
		w.held = false
		if h.Digest != "" {
			return nil
		}
		return w.resume(h.Lane, "released by "+by+" (hold "+strconv.FormatInt(id, 10)+")", now)
	})
}

// resume lets the runs of a lane go on that waited for its release, unless
// another hold keeps them.
func (w *writer) resume(lane, why string, now time.Time) error {
	if held, err := w.laneHeld(lane); err != nil || held {
		return err
	}
	if err := w.exec("INSERT INTO notes (run_id, at, note) SELECT id, ?, ? FROM runs"+ofLane, nanos(now), why, lane); err != nil {
		return err
	}
	if err := w.exec("UPDATE runs SET reason = ?"+ofLane, why, lane); err != nil {
		return err
	}
	if err := w.exec("UPDATE waiting SET head = lane IS NULL WHERE run_id IN (SELECT id FROM runs"+ofLane+")", lane); err != nil {
		return err
	}
	return w.reseat(lane)
}

// Holds lists the holds that are not released, newest first; all of them when
// released is true.
func (s *Store) Holds(ctx context.Context, released bool) ([]trigger.Hold, error) {
	query := selectHolds
	if !released {
		query += " WHERE released_at = 0"
	}
	holds := []trigger.Hold{}
	err := each(s.query(ctx, query+" ORDER BY id DESC"))(func(rows rowScanner) error {
		var h trigger.Hold
		err := rows.Scan(holdColumns(&h)...)
		holds = append(holds, h)
		return err
	})
	return holds, err
}
