package store

import (
	"context"

	"github.com/dockbell/dockbell/trigger"
)

// TellOf makes the store keep notices of these outcomes, "approval" for a run
// that waits for people. It is to be called before anything is accepted.
func (s *Store) TellOf(ctx context.Context, outcomes []string) error {
	return s.writer.do(ctx, func(w *writer) error {
		w.tells = map[string]bool{}
		for _, o := range outcomes {
			w.tells[o] = true
		}
		return nil
	})
}

// Notices gives up to n outcomes that nobody has been told of, oldest first.
// Those of runs that are not kept any more are dropped.
func (s *Store) Notices(ctx context.Context, n int) ([]trigger.Notice, error) {
	notices := []trigger.Notice{}
	query := "SELECT n.id, n.state, n.reason, x.* FROM (SELECT * FROM notices ORDER BY id LIMIT ?) n JOIN (" + selectRuns + ") x ON x.id = n.run_id ORDER BY n.id"
	err := each(s.query(ctx, query, n))(func(rows rowScanner) error {
		var notice trigger.Notice
		var state, reason string
		err := rows.Scan(append([]any{&notice.ID, &state, &reason}, runColumns(&notice.Run)...)...)
		if notice.Run.Reason = reason; state != approvalNotice {
			notice.Run.State = trigger.State(state)
		}
		notices = append(notices, notice)
		return err
	})
	return notices, err
}

// Tell replaces a notice by the runs that tell people of it. It does nothing
// when that was done before.
func (s *Store) Tell(ctx context.Context, n trigger.Notice, runs []trigger.Run) error {
	return s.writer.do(ctx, func(w *writer) error {
		if there, err := w.change("DELETE FROM notices WHERE id = ?", n.ID); err != nil || there == 0 {
			return err
		}
		for _, r := range runs {
			r.EventID, r.Event = n.Run.EventID, n.Run.Event
			if _, _, err := w.admit(r, true); err != nil {
				return err
			}
		}
		return nil
	})
}
