package store

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"time"

	"github.com/dockbell/dockbell/trigger"
)

// Claim marks due runs as running and returns them, as many as ready says when
// it comes to that: more may be ready for them by then. None that is not on
// disk as running is ever started. next is when it is worth asking again: at
// once when all who are ready have one, else when another one falls due; zero
// when none is known of. Runs that were to be approved before now, and are not,
// end as expired when it is asked again.
func (s *Store) Claim(ctx context.Context, now time.Time, ready func() int) (runs []trigger.Run, next time.Time, err error) {
	c := &claiming{}
	err = s.writer.do(ctx, func(w *writer) error {
		*c = claiming{now: now, ready: ready}
		return w.claim(c)
	})
	if err != nil {
		return nil, time.Time{}, err
	}
	return c.runs, c.next, nil
}

// claiming is what those get who are ready for runs.
type claiming struct {
	now   time.Time
	ready func() int
	n     int // that were ready
	runs  []trigger.Run
	next  time.Time // when it is worth asking again
	late  bool      // there are runs that people were to approve before now
}

// claim takes what is due, now or with the commit.
func (w *writer) claim(c *claiming) error {
	late := w.late
	if before := len(w.claims); before > 0 {
		if err := w.flush(); err != nil {
			return err
		}
		late = w.claims[before-1].late
	} else if w.doubt {
		if err := w.undoubted(c); err != nil {
			return err
		}
	}
	if late {
		if err := w.expire(c.now); err != nil {
			return err
		}
	}
	w.claims = append(w.claims, c)
	if w.shared {
		w.pending = true
		return nil
	}
	return w.takeDue(c)
}

// undoubted gives the runs of a claim that turned out to be on disk although
// its answer was lost: they are ours, and nobody has started them.
func (w *writer) undoubted(c *claiming) error {
	ours, err := w.idsOf("SELECT run_id FROM running WHERE owner = ?", w.me)
	if err != nil {
		return err
	}
	c.runs, err = w.load(slices.DeleteFunc(ours, func(id int64) bool {
		_, started := w.handed[id]
		return started
	}))
	return err
}

// handOut keeps in mind who has what, once that is on disk.
func (w *writer) handOut() {
	for _, id := range w.finished {
		delete(w.handed, id)
	}
	for _, c := range w.claims {
		for _, r := range c.runs {
			w.handed[r.ID] = struct{}{}
		}
		w.late, w.doubt = c.late, false
	}
}

// expireAtOnce is how many runs end together because nobody has approved them:
// others wait for that.
const expireAtOnce = 100

// expire ends runs that people were to approve before now.
func (w *writer) expire(now time.Time) error {
	ids, err := w.idsOf("SELECT run_id FROM waiting WHERE head AND awaits AND due_at < ? ORDER BY due_at, run_id LIMIT ?", now.UnixNano(), expireAtOnce)
	if err != nil || len(ids) == 0 {
		return err
	}
	runs, err := w.load(ids)
	if err != nil {
		return err
	}
	for _, r := range runs {
		why := fmt.Sprintf("%d of %d approvals by %s", r.Approved, r.Approvals, r.ApproveBy.Format(time.RFC3339))
		if err := w.end(r, trigger.Expired, why, now); err != nil {
			return err
		}
	}
	return nil
}

// A try is known by when it began, since the number of one that was none is
// used again: no two of a run begin at the same time, whatever the clock says.
const (
	markRunning = `SET state = 'running', attempt = attempt + 1, started_at = CASE WHEN started_at < ?1 THEN ?1 ELSE started_at + 1 END, reason = '',
			first_at = CASE WHEN first_at = 0 THEN ?1 ELSE first_at END`
	areDue = "SELECT run_id FROM waiting WHERE head AND NOT awaits AND due_at <= ?1 ORDER BY due_at, run_id LIMIT ?2"
	// When another one falls due, and when one is to be approved by.
	nextDue = `SELECT (SELECT due_at FROM waiting WHERE head AND NOT awaits AND due_at > ? ORDER BY due_at, run_id LIMIT 1),
		(SELECT due_at FROM waiting WHERE head AND awaits ORDER BY due_at, run_id LIMIT 1)`
)

// see makes a claim know when something else is to be done.
func (c *claiming) see(due, late sql.NullInt64) {
	for _, at := range []sql.NullInt64{due, late} {
		if t := time.Unix(0, at.Int64); at.Valid && (c.next.IsZero() || t.Before(c.next)) {
			c.next = t
		}
	}
	if len(c.runs) >= c.n && (c.next.IsZero() || c.next.After(c.now)) {
		c.next = c.now
	}
	c.late = late.Valid && late.Int64 < c.now.UnixNano()
}

// takeDue marks what is due as running.
func (w *writer) takeDue(c *claiming) error {
	c.n = c.ready()
	ids, err := w.idsOf(areDue, c.now.UnixNano(), c.n)
	if err == nil && len(ids) > 0 {
		err = w.take(ids, c)
	}
	if err != nil {
		return err
	}
	var due, late sql.NullInt64
	_, err = w.row(nextDue, []any{c.now.UnixNano()}, &due, &late)
	c.see(due, late)
	return err
}

func (w *writer) take(ids []int64, c *claiming) error {
	list := w.list(ids)
	if err := w.exec("INSERT INTO running (run_id, lane, owner) SELECT run_id, lane, ? FROM waiting WHERE "+w.among("run_id"), w.me, list); err != nil {
		return err
	}
	if err := w.exec("DELETE FROM waiting WHERE "+w.among("run_id"), list); err != nil {
		return err
	}
	if err := w.exec("UPDATE runs "+markRunning+" WHERE "+w.among("id"), c.now.UnixNano(), list); err != nil {
		return err
	}
	runs, err := w.load(ids)
	c.runs = append(c.runs, runs...)
	w.seeClaimed(runs)
	return err
}

// load reads runs by their ids.
func (w *writer) load(ids []int64) (runs []trigger.Run, err error) {
	err = w.rows(selectRuns+" WHERE "+w.among("r.id")+" ORDER BY r.id", []any{w.list(ids)}, addTo(&runs))
	return runs, err
}

// Finish writes back how a try of a claimed run ended, and makes the next run
// of its lane claimable. A run that is to be tried again stays the head of
// its lane, unless it is of mode latest and a newer one of that mode waits. A
// run that is not, or no longer, running this try here is left as it is.
// Finish returns the state that the run now has.
func (s *Store) Finish(ctx context.Context, r trigger.Run, res trigger.Result) (trigger.State, error) {
	var state trigger.State
	err := s.writer.doAsking(ctx, question{tries: []int64{r.ID}}, func(w *writer) error {
		w.finished = append(w.finished, r.ID)
		p, err := w.progressOf(r.ID)
		if err != nil {
			return err
		}
		if state = p.state; state != trigger.Running || p.started != nanos(r.StartedAt) || p.owner != w.me {
			return nil
		}
		res, err := w.finish(r, res)
		state = res.State
		return err
	})
	return state, err
}

// progressOf tells how far a run is.
func (w *writer) progressOf(id int64) (p progress, err error) {
	if p, asked := w.runs[id]; asked {
		return p, nil
	}
	if p, known := w.running[id]; known {
		return p, nil
	}
	ok, err := w.row("SELECT r.state, r.started_at, coalesce(x.owner, 0) FROM runs r LEFT JOIN running x ON x.run_id = r.id WHERE r.id = ?", []any{id}, &p.state, &p.started, &p.owner)
	if err == nil && !ok {
		err = fmt.Errorf("there is no run %d", id)
	}
	return p, err
}

// setProgress makes what was asked follow what is written.
func (w *writer) setProgress(id int64, state trigger.State) {
	delete(w.running, id)
	if p, asked := w.runs[id]; asked {
		p.state = state
		w.runs[id] = p
	}
}

// finish returns the result as it was written.
func (w *writer) finish(r trigger.Run, res trigger.Result) (trigger.Result, error) {
	if err := w.record(r, res); err != nil {
		return res, err
	}
	if res.Hold != "" && r.Event.Digest != "" && r.Tells == 0 {
		h := trigger.Hold{Lane: r.Lane, Digest: r.Event.Digest, Reason: res.Hold, By: "dockbell", Run: r.ID, At: res.At}
		if _, err := w.hold(h); err != nil {
			return res, err
		}
	}
	if res.State == trigger.Waiting {
		return w.putBack(r, res)
	}
	if len(res.Runs) > 0 {
		var err error
		if res.Reason, err = w.spread(r, res); err != nil {
			return res, err
		}
	}
	return res, w.end(r, res.State, res.Reason, res.At)
}

// spread makes the runs of what a run has found, and says which.
func (w *writer) spread(r trigger.Run, res trigger.Result) (made string, err error) {
	var ids []int64
	for _, child := range res.Runs {
		a, _, err := w.admit(child, false)
		if err == nil && !a.New {
			err = w.note(r.ID, res.At, child.Target+": "+a.Reason)
		}
		if err != nil {
			return "", err
		}
		if a.New {
			ids = append(ids, a.ID)
		}
	}
	switch n := len(ids); n {
	case 0:
		return fmt.Sprintf("found %d, each of which has a run for this push already", len(res.Runs)), nil
	case 1:
		return fmt.Sprintf("found %d, of which one is new: run %d", len(res.Runs), ids[0]), nil
	default: // their ids follow each other
		return fmt.Sprintf("found %d: runs %d to %d", len(res.Runs), ids[0], ids[n-1]), nil
	}
}

// Begin keeps what the action of a claimed run has begun and waits for. It does
// nothing for a run that is not, or no longer, running this try here.
func (s *Store) Begin(ctx context.Context, r trigger.Run, begun string) error {
	return s.writer.do(ctx, func(w *writer) error {
		return w.exec("UPDATE runs SET begun = ? WHERE id = ? AND started_at = ? AND id IN (SELECT run_id FROM running WHERE owner = ?)", begun, r.ID, nanos(r.StartedAt), w.me)
	})
}

// putBack makes a run wait for its next try, unless something that came
// meanwhile makes that one needless.
func (w *writer) putBack(r trigger.Run, res trigger.Result) (trigger.Result, error) {
	h, err := w.heldBy(r.Lane, r.Event.Digest)
	if err != nil {
		return res, err
	}
	if r.After || r.Tells != 0 {
		h = nil // they deploy nothing
	}
	if h != nil && h.Digest != "" {
		res.State, res.Reason = trigger.Skipped, holdReason(*h)+"; before that: "+res.Reason
		if err := w.end(r, res.State, res.Reason, res.At); err != nil {
			return res, err
		}
		return res, w.isNew(r.ID)
	}
	if newer, err := w.newerLatest(r); err != nil {
		return res, err
	} else if newer != 0 {
		res.State, res.Reason = trigger.Superseded, supersededBy(newer)+"; before that: "+res.Reason
		return res, w.end(r, res.State, res.Reason, res.At)
	}
	w.setProgress(r.ID, res.State)
	if err := w.exec("DELETE FROM running WHERE run_id = ?", r.ID); err != nil {
		return res, err
	}
	if err := w.exec("UPDATE runs SET state = 'waiting', reason = ?, not_before = ? WHERE id = ?", res.Reason, nanos(res.NotBefore), r.ID); err != nil {
		return res, err
	}
	r.NotBefore = res.NotBefore
	w.insertWaiting(r, h == nil)
	return res, nil
}

// newerLatest gives the run that makes one of mode latest needless: a newer one
// of that mode that waits in its lane. 0 when there is none.
func (w *writer) newerLatest(r trigger.Run) (newer int64, err error) {
	if !takesTurns(r) || r.Mode != trigger.Latest {
		return 0, nil
	}
	_, err = w.row("SELECT r.id FROM waiting w JOIN runs r ON r.id = w.run_id WHERE w.lane = ? AND w.run_id > ? AND r.mode = 'latest' AND r.event_id <> ? ORDER BY w.lane, w.run_id DESC LIMIT 1",
		[]any{r.Lane, r.ID, r.EventID}, &newer)
	return newer, err
}

// end writes the outcome of a live run, and lets those go on that waited for
// it.
func (w *writer) end(r trigger.Run, state trigger.State, reason string, at time.Time) error {
	if err := w.writeEnd(ending{r.ID, r.State, state, reason, nanos(at)}); err != nil {
		return err
	}
	w.seeEnd(r.Lane, state)
	if err := w.notice(r, string(state), reason); err != nil {
		return err
	}
	if r.Parent != 0 && (state == trigger.Failed || state == trigger.RolledBack) {
		// Who sends the event again wants it tried again.
		if err := w.isNew(r.Parent); err != nil {
			return err
		}
	}
	if takesTurns(r) {
		next := w.promote
		if r.State == trigger.Waiting {
			next = w.reseat // another one may be the head
		}
		if err := next(r.Lane); err != nil {
			return err
		}
	}
	if r.When != trigger.NoStep {
		if err := w.advance(r.EventID, r.Rule, at); err != nil {
			return err
		}
	}
	if r.Followed {
		return w.startFollowers(r.EventID)
	}
	return nil
}

func (w *writer) writeEnd(e ending) error {
	w.setProgress(e.id, e.state)
	if w.shared {
		w.ended = append(w.ended, e)
		w.pending = true
		return nil
	}
	query := "DELETE FROM running WHERE run_id = ?"
	if e.from == trigger.Waiting {
		query = "DELETE FROM waiting WHERE run_id = ?"
	}
	if err := w.exec(query, e.id); err != nil {
		return err
	}
	if err := w.exec("UPDATE runs SET state = ?, reason = ?, finished_at = ? WHERE id = ?", string(e.state), e.reason, e.at, e.id); err != nil || outcome(e.state) == "" {
		return err
	}
	return w.setOutcome(e.state, e.id)
}

// record keeps a try, or takes back that there was one.
func (w *writer) record(r trigger.Run, res trigger.Result) error {
	if res.Postponed {
		err := w.exec("UPDATE runs SET attempt = attempt - 1, first_at = CASE WHEN attempt < 2 THEN 0 ELSE first_at END WHERE id = ?", r.ID)
		if err != nil || res.State != trigger.Waiting {
			return err
		}
		return w.note(r.ID, res.At, res.Reason)
	}
	w.keep(attemptTable, r.ID, r.Attempt, nanos(r.StartedAt), nanos(res.At), string(res.State), res.Reason, []byte(res.Log))
	return nil
}
