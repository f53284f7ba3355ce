package store

import (
	"encoding/json"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/dockbell/dockbell/trigger"
)

// insert adds a row, and gives its id, which is the first of its values.
func (w *writer) insert(t *table, values []any) (id int64, err error) {
	if ids := w.ids[t]; len(ids) > 0 {
		values[0], w.ids[t] = ids[0], ids[1:]
		w.keep(t, values...)
		return ids[0], nil
	}
	// More rows than were asked for.
	if b := (&pgx.Batch{}); w.shared && len(w.ids) > 0 {
		if w.giveBack(b); b.Len() > 0 {
			if err := w.send(b); err != nil {
				return 0, err
			}
		}
	}
	if _, err := w.row(w.nextID(t), nil, &id); err != nil {
		return 0, err
	}
	values[0] = id
	return id, w.exec(t.one, values...)
}

func (w *writer) insertEvent(delivery int64, e trigger.Event, reason string) (int64, error) {
	if e.Observed {
		w.observes = new(true)
		w.looked = nil // what was asked before this one
	}
	values := []any{
		nil, delivery, e.Source, e.ID, e.Action, e.Registry, e.Repository, e.Tag, e.Digest, e.MediaType, e.Actor,
		nanos(e.OccurredAt), nanos(e.ReceivedAt), reason, e.Observed,
	}
	id, err := w.insert(eventTable, values)
	if err == nil {
		w.indexes.events.add(keyOf(e.Repository), id)
	}
	return id, err
}

// insertRun adds a run.
func (w *writer) insertRun(r trigger.Run, key []byte, claimable bool) (int64, error) {
	approvers := ""
	if len(r.Approvers) > 0 {
		text, err := json.Marshal(r.Approvers)
		if err != nil {
			return 0, err
		}
		approvers = string(text)
	}
	var dedupe any
	if key != nil {
		dedupe = key
	}
	values := []any{
		nil, r.EventID, r.Rule, r.Index, r.Kind, r.Target, string(r.Spec), r.Lane, string(r.Mode), r.Ordered, string(r.Order), r.Attempts, int64(r.Timeout),
		string(r.State), nanos(r.NotBefore), nanos(r.CreatedAt), r.After, r.Followed, r.Reason, 0, int64(0), nanos(r.FinishedAt),
		int64(r.Deadline), int64(r.FirstBackoff), int64(r.MostBackoff), r.HoldFailed, r.Approvals, 0, approvers, nanos(r.ApproveBy), r.Tells, int64(0),
		"", r.Parent, string(r.When), r.Pending,
	}
	id, err := w.insert(runTable, values)
	if err != nil {
		return 0, err
	}
	w.keep(originTable, id, r.EventID, r.Event.Repository, dedupe, r.Lane, outcome(r.State))
	w.indexes.runs.add(keyOf(r.Event.Repository), id)
	if key != nil {
		w.indexes.dedupes.add(keyOf(key), id)
	}
	if _, asked := w.keys[string(key)]; asked {
		w.keys[string(key)] = duplicate{id, r.State}
	}
	if r.State != trigger.Waiting {
		return id, nil
	}
	r.ID = id
	w.insertWaiting(r, claimable)
	return id, nil
}

// insertWaiting makes a run one of those that wait.
func (w *writer) insertWaiting(r trigger.Run, head bool) {
	w.due = w.due || head
	w.keep(waitingTable, r.ID, turnIn(r), dueAt(r), head, r.Awaits())
}

// dueAt is when a run may start once it is its turn, or ends where it awaits
// people.
func dueAt(r trigger.Run) int64 {
	if r.Awaits() {
		return nanos(r.ApproveBy)
	}
	return nanos(r.NotBefore)
}

// turnIn is the lane in which a run that waits takes its turn, NULL for one that
// takes none or has yet to come to that.
func turnIn(r trigger.Run) any {
	if !takesTurns(r) || r.Pending || r.Lane == "" {
		return nil
	}
	return r.Lane
}

// note keeps a decision about a run.
func (w *writer) note(run int64, at time.Time, text string) error {
	return w.exec("INSERT INTO notes (run_id, at, note) VALUES (?, ?, ?)", run, nanos(at), text)
}

// approvalNotice is what people are told of a run that waits for them.
const approvalNotice = "approval"

// notice keeps an outcome for those who are to be told of it. Nobody is told
// how telling went.
func (w *writer) notice(r trigger.Run, outcome, reason string) error {
	if r.Tells != 0 || !w.tells[outcome] {
		return nil
	}
	w.noticed = true
	return w.exec("INSERT INTO notices (run_id, state, reason) VALUES (?, ?, ?)", r.ID, outcome, reason)
}
