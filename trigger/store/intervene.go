package store

import (
	"context"
	"fmt"
	"time"

	"github.com/dockbell/dockbell/trigger"
)

// Cancel ends a run that waits. One that runs or has ended is refused with a
// [trigger.RefusedError].
func (s *Store) Cancel(ctx context.Context, id int64, why string, now time.Time) error {
	return s.change(ctx, id, func(w *writer, r trigger.Run) error {
		if r.State != trigger.Waiting {
			return trigger.Refuse("run %d is %s: only one that waits can be cancelled", id, r.State)
		}
		return w.end(r, trigger.Skipped, why, now)
	})
}

// Retry makes a run wait again that has failed or whose end is not known, with
// as many tries as it had. It is refused with a [trigger.RefusedError] for any
// other, where a newer run has taken its place, which would be a step back, and
// where its digest is held.
func (s *Store) Retry(ctx context.Context, id int64, why string, now time.Time) error {
	return s.change(ctx, id, func(w *writer, r trigger.Run) error {
		if r.State != trigger.Failed && r.State != trigger.Unknown && r.State != trigger.RolledBack {
			return trigger.Refuse("run %d is %s: only one that has failed, or whose end is not known, can be tried again", id, r.State)
		}
		if r.Attempt == 0 {
			return trigger.Refuse("run %d could not be made: %s", id, r.Reason)
		}
		head := true
		h, err := w.heldBy(r.Lane, r.Event.Digest)
		if err != nil {
			return err
		}
		if h != nil && r.Tells == 0 && !r.After {
			if h.Digest != "" {
				return trigger.Refuse("%s; release it first, with `dockbell release %d`", holdReason(*h), h.ID)
			}
			head = false // until the lane is released
		}
		if takesTurns(r) {
			var newer int64
			const placed = "SELECT o.run_id FROM origins o WHERE o.lane = ? AND o.run_id > ? AND " + areStanding + " ORDER BY o.run_id DESC LIMIT 1"
			if taken, err := w.row(placed, []any{r.Lane, id}, &newer); err != nil {
				return err
			} else if taken && (r.Mode == trigger.Latest || r.Ordered) {
				return trigger.Refuse("run %d has taken its place", newer)
			}
			busy, err := w.laneBusy(r.Lane)
			if err != nil {
				return err
			}
			head = head && !busy
		}
		delete(w.lanes, r.Lane) // in which it stands again
		w.due = true
		attempts := r.Attempts
		if attempts > 0 {
			attempts += r.Attempt
		}
		err = w.exec("UPDATE runs SET state = 'waiting', reason = ?, attempts = ?, not_before = ?, finished_at = 0, first_at = 0, begun = '' WHERE id = ?",
			why, attempts, nanos(now), id)
		if err != nil {
			return err
		}
		if err := w.setOutcome(trigger.Waiting, id); err != nil {
			return err
		}
		r.NotBefore = now
		w.insertWaiting(r, head)
		if err := w.note(id, now, why); err != nil || r.When == trigger.NoStep {
			return err
		}
		return w.rewind(r)
	})
}

// change does something about a run that is there.
func (s *Store) change(ctx context.Context, id int64, do func(w *writer, r trigger.Run) error) error {
	return s.writer.do(ctx, func(w *writer) error {
		var r trigger.Run
		ok, err := w.row(selectRuns+" WHERE r.id = ?", []any{id}, runColumns(&r)...)
		if err != nil {
			return err
		}
		if !ok {
			return fmt.Errorf("run %d: %w", id, trigger.ErrNotFound)
		}
		return do(w, r)
	})
}
