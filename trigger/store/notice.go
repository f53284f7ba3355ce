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

// previous is the last run before one in its lane that has succeeded: what
// stood there.
const previous = "SELECT o.run_id FROM origins o JOIN runs r ON r.id = o.run_id WHERE o.lane = x.lane AND o.run_id < x.id AND " + areStanding + " AND r.state = 'succeeded' ORDER BY o.run_id DESC LIMIT 1"

// Notices gives up to n outcomes that nobody has been told of, oldest first.
// Those of runs that are not kept any more are dropped.
func (s *Store) Notices(ctx context.Context, n int) ([]trigger.Notice, error) {
	notices := []trigger.Notice{}
	query := "SELECT n.id, n.state, n.reason, coalesce(f.registry, ''), coalesce(f.repository, ''), coalesce(f.tag, ''), coalesce(f.digest, ''), x.*" +
		" FROM (SELECT * FROM notices ORDER BY id LIMIT ?) n JOIN (" + selectRuns + ") x ON x.id = n.run_id" +
		" LEFT JOIN runs p ON p.id = (" + previous + ") LEFT JOIN events f ON f.id = p.event_id ORDER BY n.id"
	err := each(s.query(ctx, query, n))(func(rows rowScanner) error {
		var notice trigger.Notice
		var state, reason string
		from := &notice.From
		columns := []any{&notice.ID, &state, &reason, &from.Registry, &from.Repository, &from.Tag, &from.Digest}
		err := rows.Scan(append(columns, runColumns(&notice.Run)...)...)
		if notice.Run.Reason = reason; state != approvalNotice {
			notice.Run.State = trigger.State(state)
		}
		notices = append(notices, notice)
		return err
	})
	return notices, err
}

// Tell replaces notices by the runs that tell people of them. It does nothing
// when that was done before for any of them: the rest is to be read again.
func (s *Store) Tell(ctx context.Context, notices []trigger.Notice, runs []trigger.Run) error {
	return s.writer.do(ctx, func(w *writer) error {
		ids, told := make([]int64, len(notices)), map[int64]trigger.Run{}
		for i, n := range notices {
			ids[i], told[n.Run.ID] = n.ID, n.Run
		}
		there, among := 0, w.among("id")
		if _, err := w.row("SELECT count(*) FROM notices WHERE "+among, []any{w.list(ids)}, &there); err != nil || there < len(ids) {
			return err
		}
		if err := w.exec("DELETE FROM notices WHERE "+among, w.list(ids)); err != nil {
			return err
		}
		for _, r := range runs {
			of := told[r.Tells]
			r.EventID, r.Event = of.EventID, of.Event
			if _, _, err := w.admit(r, true); err != nil {
				return err
			}
		}
		return nil
	})
}
