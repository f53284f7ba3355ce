package store

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/dockbell/dockbell/trigger"
)

// Vote records what a person says to a run that waits for approval. The last
// yes that it needs lets it start; a no ends it. It is refused with a
// [trigger.RefusedError] where the run does not wait for this person, or for
// another digest than the one they were shown.
func (s *Store) Vote(ctx context.Context, id int64, v trigger.Vote, now time.Time) error {
	return s.change(ctx, id, func(w *writer, r trigger.Run) error {
		if err := mayVote(r, v, now); err != nil {
			return err
		}
		said, err := w.row("SELECT 1 FROM votes WHERE run_id = ? AND voter = ?", []any{id, v.By}, new(int))
		if err != nil {
			return err
		}
		if said && v.Yes {
			return trigger.Refuse("%s has approved run %d already; it needs %d people", v.By, id, r.Approvals)
		}
		if !v.Yes {
			return w.end(r, trigger.Rejected, strings.TrimSuffix("rejected by "+v.By+": "+v.Reason, ": "), now)
		}
		if err := w.exec("INSERT INTO votes (run_id, voter, yes, at) VALUES (?, ?, ?, ?)", id, v.By, true, nanos(now)); err != nil {
			return err
		}
		return w.approve(r, v, now)
	})
}

func mayVote(r trigger.Run, v trigger.Vote, now time.Time) error {
	switch {
	case r.Approvals == 0:
		return trigger.Refuse("run %d needs no approval", r.ID)
	case r.State != trigger.Waiting:
		return trigger.Refuse("run %d is %s: only one that waits can be approved or rejected", r.ID, r.State)
	case !r.Awaits():
		return trigger.Refuse("run %d is approved already; `dockbell runs cancel %d` ends it", r.ID, r.ID)
	case now.After(r.ApproveBy):
		return trigger.Refuse("run %d was to be approved by %s", r.ID, r.ApproveBy.Format(time.RFC3339))
	case len(r.Approvers) > 0 && !slices.Contains(r.Approvers, v.By):
		return trigger.Refuse("%s may not decide about run %d; its rule names %s", v.By, r.ID, strings.Join(r.Approvers, ", "))
	case v.Digest != r.Event.Digest && (v.Digest != "" || v.Yes):
		return trigger.Refuse("run %d is for %s, not for %s: look at it again with `dockbell runs show %d`", r.ID, orNone(r.Event.Digest), orNone(v.Digest), r.ID)
	}
	return nil
}

func orNone(digest string) string {
	if digest == "" {
		return "no known digest"
	}
	return digest
}

// approve counts a yes, and lets the run start at its time when it was the
// last one.
func (w *writer) approve(r trigger.Run, v trigger.Vote, now time.Time) error {
	r.Approved++
	why := fmt.Sprintf("approved by %s (%d of %d)", v.By, r.Approved, r.Approvals)
	if v.Reason != "" {
		why += ": " + v.Reason
	}
	if err := w.exec("UPDATE runs SET approved = ?, reason = ? WHERE id = ?", r.Approved, why, r.ID); err != nil {
		return err
	}
	if err := w.note(r.ID, now, why); err != nil {
		return err
	}
	if r.Awaits() {
		return nil
	}
	w.due = true
	return w.exec("UPDATE waiting SET due_at = ?, awaits = FALSE WHERE run_id = ?", dueAt(r), r.ID)
}
