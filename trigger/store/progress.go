package store

import (
	"context"
	"fmt"
	"time"

	"github.com/dockbell/dockbell/trigger"
)

// Claim marks up to n due runs as running and returns them; none that is not
// on disk as running is ever started. next is when another one falls due,
// zero when none is known of.
func (s *Store) Claim(ctx context.Context, now time.Time, n int) (runs []trigger.Run, next time.Time, err error) {
	err = s.writer.do(ctx, func(w *writer) error {
		runs, next = nil, time.Time{}
		err := w.rows(`UPDATE runs SET state = 'running', due_at = NULL, attempt = attempt + 1, started_at = ?1, reason = ''
			WHERE id IN (SELECT id FROM runs WHERE due_at <= ?1 ORDER BY due_at, id LIMIT ?2)
			RETURNING id`, []any{now.UnixNano(), n}, func(rows rowScanner) error {
			var id int64
			err := rows.Scan(&id)
			runs = append(runs, trigger.Run{ID: id})
			return err
		})
		if err != nil {
			return err
		}
		for i := range runs {
			if _, err := w.row(selectRuns+" WHERE r.id = ?", []any{runs[i].ID}, runColumns(&runs[i])...); err != nil {
				return err
			}
		}
		var due int64
		if ok, err := w.row("SELECT due_at FROM runs WHERE due_at IS NOT NULL ORDER BY due_at, id LIMIT 1", nil, &due); err != nil {
			return err
		} else if ok {
			next = time.Unix(0, due)
		}
		return nil
	})
	if err != nil {
		return nil, time.Time{}, err
	}
	return runs, next, nil
}

// Finish writes back how a try of a claimed run ended, and makes the next run
// of its lane claimable. A run that is to be tried again stays the head of
// its lane, unless it is of mode latest and a newer one of that mode waits. A
// run that is not, or no longer, running this try is left as it is. Finish
// returns the state that the run now has.
func (s *Store) Finish(ctx context.Context, r trigger.Run, res trigger.Result) (trigger.State, error) {
	var state trigger.State
	err := s.writer.do(ctx, func(w *writer) error {
		var attempt int
		ok, err := w.row("SELECT state, attempt FROM runs WHERE id = ?", []any{r.ID}, &state, &attempt)
		if err != nil {
			return err
		}
		if !ok {
			return fmt.Errorf("there is no run %d", r.ID)
		}
		if state != trigger.Running || attempt != r.Attempt {
			return nil
		}
		res, err := w.finish(r, res)
		state = res.State
		return err
	})
	return state, err
}

// finish returns the result as it was written.
func (w *writer) finish(r trigger.Run, res trigger.Result) (trigger.Result, error) {
	if err := w.record(r, res); err != nil {
		return res, err
	}
	if res.State == trigger.Waiting && r.Mode == trigger.Latest && !r.After {
		var newer int64
		ok, err := w.row("SELECT id FROM runs WHERE live_lane = ? AND id > ? AND mode = 'latest' AND event_id <> ? ORDER BY live_lane, id DESC LIMIT 1",
			[]any{r.Lane, r.ID, r.EventID}, &newer)
		if err != nil {
			return res, err
		}
		if ok {
			res.State, res.Reason = trigger.Superseded, supersededBy(newer)+"; before that: "+res.Reason
		}
	}
	if res.State == trigger.Waiting {
		w.due = true
		return res, w.exec("UPDATE runs SET state = 'waiting', reason = ?1, not_before = ?2, due_at = ?2 WHERE id = ?3",
			res.Reason, nanos(res.NotBefore), r.ID)
	}
	err := w.exec("UPDATE runs SET state = ?, reason = ?, finished_at = ?, live_lane = NULL, due_at = NULL WHERE id = ?",
		res.State, res.Reason, nanos(res.At), r.ID)
	if err != nil {
		return res, err
	}
	if r.Mode != trigger.Parallel && !r.After {
		if err := w.promote(r.Lane); err != nil {
			return res, err
		}
	}
	if r.Followed {
		return res, w.startFollowers(r.EventID)
	}
	return res, nil
}

// record keeps a try, or takes back that there was one.
func (w *writer) record(r trigger.Run, res trigger.Result) error {
	if res.Postponed {
		return w.exec("UPDATE runs SET attempt = attempt - 1 WHERE id = ?", r.ID)
	}
	return w.exec("INSERT INTO attempts (run_id, n, started_at, finished_at, state, reason, log) VALUES (?, ?, ?, ?, ?, ?, ?)",
		r.ID, r.Attempt, nanos(r.StartedAt), nanos(res.At), res.State, res.Reason, res.Log)
}

// Recover deals with the runs that were running when the program stopped
// without finishing them. Those of a kind that may be repeated run again; the
// others end as unknown, since nobody knows whether they had their effect. It
// must be called before the first Claim, and returns all of them.
func (s *Store) Recover(ctx context.Context, now time.Time, repeatable func(kind string) bool) ([]trigger.Run, error) {
	var runs []trigger.Run
	err := s.writer.do(ctx, func(w *writer) error {
		runs = nil
		err := w.rows(selectRuns+" WHERE r.state = 'running' AND r.state <> 'succeeded' ORDER BY r.id", nil, func(rows rowScanner) error {
			var r trigger.Run
			err := rows.Scan(runColumns(&r)...)
			runs = append(runs, r)
			return err
		})
		if err != nil {
			return err
		}
		for i := range runs {
			r := &runs[i]
			res := trigger.Result{State: trigger.Unknown, At: now, Reason: "dockbell stopped while this ran; whether it had its effect is not known, so it is not repeated"}
			if repeatable(r.Kind) {
				res = trigger.Result{State: trigger.Waiting, At: now, NotBefore: now, Reason: "dockbell stopped while this ran"}
			}
			if res, err = w.finish(*r, res); err != nil {
				return err
			}
			r.State, r.Reason = res.State, res.Reason
		}
		return nil
	})
	return runs, err
}
