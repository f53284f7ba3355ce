package store

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/dockbell/dockbell/trigger"
)

// sequence makes steps of the runs that an event makes. The first one of each
// rule stands for the others.
type sequence struct {
	rules []string
	first trigger.Admitted // of the last rule
}

// step marks a run that has to wait for others. ok is false when there is to be
// no run, since the first one of its rule is not new.
func (s *sequence) step(r *trigger.Run) (first trigger.Admitted, ok bool) {
	if r.When == trigger.NoStep || !slices.Contains(s.rules, r.Rule) {
		return trigger.Admitted{}, true
	}
	if !s.first.New {
		return trigger.Admitted{Reason: s.first.Reason}, false
	}
	if r.Pending = true; !r.State.Ended() {
		r.Reason = stepWaits
	}
	return trigger.Admitted{}, true
}

const stepWaits = "waits for the step before it"

func (s *sequence) admitted(r trigger.Run, a trigger.Admitted) {
	if r.When != trigger.NoStep && !slices.Contains(s.rules, r.Rule) {
		s.rules, s.first = append(s.rules, r.Rule), a
	}
}

// stepResult is what came of one action of a rule for an event: of its run, and of
// those that this one has found.
type stepResult struct {
	index   int
	when    trigger.When
	pending int64 // the run that waits for the steps before it, 0 when it does not
	live    bool
	states  []trigger.State
}

// advance starts the next step of a rule for an event when those before it have
// ended, or ends it when its condition is not met.
func (w *writer) advance(event int64, rule string, now time.Time) error {
	steps, err := w.steps(event, rule)
	if err != nil {
		return err
	}
	for i, s := range steps {
		switch {
		case s.pending != 0 && !started(steps[:i]):
			return nil
		case s.pending == 0:
			continue
		}
		var r trigger.Run
		if _, err := w.row(selectRuns+" WHERE r.id = ?", []any{s.pending}, runColumns(&r)...); err != nil {
			return err
		}
		if why := unmet(s.when, steps[:i]); why != "" {
			return w.end(r, trigger.Skipped, why, now) // and so on with the next
		}
		return w.enter(r, now)
	}
	return nil
}

// started reports whether all these steps have come to their ends.
func started(steps []stepResult) bool {
	return !slices.ContainsFunc(steps, func(s stepResult) bool { return s.live })
}

func (w *writer) steps(event int64, rule string) (steps []stepResult, err error) {
	const query = "SELECT r.id, r.idx, r.step, r.pending, r.state" + ofEvent + " AND r.rule = ?2 AND r.step <> '' ORDER BY r.idx, r.id"
	err = w.rows(query, []any{event, rule}, func(rows rowScanner) error {
		var id int64
		var s stepResult
		var pending bool
		var state trigger.State
		if err := rows.Scan(&id, &s.index, &s.when, &pending, &state); err != nil {
			return err
		}
		if n := len(steps); n == 0 || steps[n-1].index != s.index {
			steps = append(steps, s)
		}
		last := &steps[len(steps)-1]
		if pending && !state.Ended() {
			last.pending = id
		}
		last.live = last.live || !state.Ended()
		last.states = append(last.states, state)
		return nil
	})
	return steps, err
}

// unmet says why a step is not to start, by what came of those before it; ""
// when it is.
func unmet(when trigger.When, before []stepResult) string {
	if when == trigger.Always {
		return ""
	}
	var failed []string
	for i, s := range before {
		if unmet(s.when, before[:i]) != "" {
			continue // it was not to start
		}
		for _, state := range s.states {
			bad := state != trigger.Succeeded
			if when == trigger.WhenFailed {
				bad = state == trigger.Failed || state == trigger.RolledBack || state == trigger.Unknown
			}
			if bad {
				failed = append(failed, fmt.Sprintf("step %d is %s", s.index+1, state))
				break
			}
		}
	}
	switch {
	case when == trigger.WhenFailed && len(failed) == 0:
		return "no step before it has failed"
	case when != trigger.WhenFailed && len(failed) > 0:
		return strings.Join(failed, ", ")
	}
	return ""
}

// enter lets a step take its turn in its lane, by what stands there now.
func (w *writer) enter(r trigger.Run, now time.Time) error {
	r.Pending, r.Reason, r.NotBefore = false, "", later(r.NotBefore, now)
	stand, err := w.standingOf(r, math.MaxInt64)
	if err != nil {
		return err
	}
	if stand != nil && !r.Finds {
		if why := stand.newerThan(r); why != "" {
			return w.end(r, trigger.Skipped, fmt.Sprintf("not after run %d: %s", stand.id, why), now)
		}
	}
	held, err := w.keepFrom(&r)
	if err != nil {
		return err
	}
	if r.State.Ended() {
		return w.end(r, r.State, r.Reason, now)
	}
	newer, err := w.newerLatest(r)
	if err != nil {
		return err
	}
	if newer != 0 {
		return w.end(r, trigger.Superseded, supersededBy(newer), now)
	}
	w.due = true
	delete(w.lanes, r.Lane)
	if err := w.note(r.ID, now, "the steps before it have ended"); err != nil {
		return err
	}
	if err := w.exec("UPDATE runs SET pending = FALSE, reason = ?, not_before = ? WHERE id = ?", r.Reason, nanos(r.NotBefore), r.ID); err != nil {
		return err
	}
	err = w.exec("UPDATE waiting SET lane = ?, due_at = ?, head = ? WHERE run_id = ?", turnIn(r), dueAt(r), turnIn(r) == nil && !held, r.ID)
	if err != nil || !takesTurns(r) {
		return err
	}
	if r.Mode == trigger.Latest {
		r.CreatedAt = now // when it takes the place of others
		return w.supersede(r)
	}
	return w.reseat(r.Lane)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// rewind lets the steps after one that is tried again wait for it once more.
func (w *writer) rewind(r trigger.Run) error {
	ids, err := w.idsOf(`UPDATE runs SET state = 'waiting', pending = TRUE, finished_at = 0, reason = ?
		WHERE id IN (SELECT run_id FROM origins WHERE event_id = ?) AND rule = ? AND step <> '' AND idx > ? AND state = 'skipped' AND attempt = 0 AND pending RETURNING id`,
		stepWaits, r.EventID, r.Rule, r.Index)
	if err != nil || len(ids) == 0 {
		return err
	}
	w.lanes = nil // in which they stand again
	if err := w.setOutcome(trigger.Waiting, ids...); err != nil {
		return err
	}
	return w.exec(`INSERT INTO waiting (run_id, due_at, head, awaits)
		SELECT id, CASE WHEN approved < approvals THEN approve_by ELSE not_before END, FALSE, approved < approvals FROM runs WHERE `+w.among("id"), w.list(ids))
}
