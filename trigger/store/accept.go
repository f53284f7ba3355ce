package store

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"math"
	"strconv"
	"time"

	"github.com/dockbell/dockbell/trigger"
)

// Accept puts a delivery, its events and their runs on disk in one
// transaction, which is flushed when it returns. For each planned run it
// decides whether there is to be one:
//
//   - An event that made this run before, or a lane whose standing push made
//     one of the same rule and action, makes none.
//   - In an ordered lane a run older than the standing one is recorded, ended
//     as skipped.
//   - A new run of mode latest supersedes those of that mode in its lane that
//     wait for an earlier event.
//   - A run that is given as failed, its template say, is recorded as that
//     and touches no lane.
//
// The standing run of a lane is the newest that has not failed, been skipped
// or superseded: what the lane holds or is about to.
func (s *Store) Accept(ctx context.Context, d trigger.Delivery, planned []trigger.Planned) (trigger.Receipt, error) {
	var receipt trigger.Receipt
	row, err := deliveryRow(d)
	if err != nil {
		return receipt, err
	}
	err = s.writer.doAsking(ctx, questionsOf(planned), func(w *writer) (err error) {
		receipt, err = w.accept(row, planned)
		return err
	})
	if err != nil {
		return trigger.Receipt{}, err
	}
	return receipt, nil
}

// errRehearsed takes back what a rehearsal wrote.
var errRehearsed = errors.New("rehearsed")

// Rehearse says what Accept would do, and does nothing. The ids it gives are
// of no use afterwards, but for those of runs that already stand.
func (s *Store) Rehearse(ctx context.Context, d trigger.Delivery, planned []trigger.Planned) (trigger.Receipt, error) {
	var receipt trigger.Receipt
	row, err := deliveryRow(d)
	if err != nil {
		return receipt, err
	}
	err = s.writer.do(ctx, func(w *writer) (err error) {
		if receipt, err = w.accept(row, planned); err == nil {
			err = errRehearsed
		}
		return err
	})
	if errors.Is(err, errRehearsed) {
		return receipt, nil
	}
	return trigger.Receipt{}, err
}

// questionsOf is what accepting is going to ask.
func questionsOf(planned []trigger.Planned) question {
	q := question{deliveries: 1, events: len(planned)}
	for _, p := range planned {
		q.tags = append(q.tags, repoTag{p.Event.Repository, p.Event.Tag})
		for _, r := range p.Runs {
			q.runs++
			r.Event = p.Event
			if key := dedupeKey(r); key != nil {
				q.keys = append(q.keys, key)
			}
			if !r.After {
				q.lanes = append(q.lanes, r.Lane)
			}
		}
	}
	return q
}

func (w *writer) accept(delivery []any, planned []trigger.Planned) (trigger.Receipt, error) {
	id, err := w.insert(deliveryTable, delivery)
	if err != nil {
		return trigger.Receipt{}, err
	}
	receipt := trigger.Receipt{Delivery: id, Events: make([]trigger.ReceiptEvent, len(planned))}
	for i, p := range planned {
		if receipt.Events[i], err = w.acceptEvent(id, p); err != nil {
			return trigger.Receipt{}, err
		}
	}
	return receipt, nil
}

func (w *writer) acceptEvent(delivery int64, p trigger.Planned) (trigger.ReceiptEvent, error) {
	id, err := w.insertEvent(delivery, p.Event, p.Reason)
	if err != nil {
		return trigger.ReceiptEvent{}, err
	}
	accepted := trigger.ReceiptEvent{ID: id, Runs: make([]trigger.Admitted, len(p.Runs))}
	followed, live := false, false
	for _, r := range p.Runs {
		followed = followed || r.After
	}
	var sequence sequence
	for i, r := range p.Runs {
		r.EventID, r.Event, r.Followed = id, p.Event, followed && !r.After
		if r.After && !live {
			accepted.Runs[i] = trigger.Admitted{Reason: "there is no run to wait for"}
			continue
		}
		if before, ok := sequence.step(&r); !ok {
			accepted.Runs[i] = before // as the first step stands for this push, so do the others
			continue
		}
		a, state, err := w.admit(r, p.Force)
		if err != nil {
			return trigger.ReceiptEvent{}, err
		}
		accepted.Runs[i] = a
		live = live || a.New && !state.Ended()
		sequence.admitted(r, a)
	}
	for _, rule := range sequence.rules {
		if err := w.advance(id, rule, p.Runs[0].CreatedAt); err != nil {
			return trigger.ReceiptEvent{}, err
		}
	}
	if why := refusal(accepted.Runs); why != "" {
		err = w.exec("UPDATE events SET reason = ? WHERE id = ?", why, id)
	}
	return accepted, err
}

// refusal is why an event made no run although rules planned some, or "".
func refusal(runs []trigger.Admitted) (why string) {
	for _, a := range runs {
		if a.New {
			return ""
		}
		why = cmp.Or(why, a.Reason)
	}
	return why
}

// admit decides about one run and writes it. A run with After set follows the
// live runs of its event and has no lane. One that is forced is made although
// there was one for this push before.
func (w *writer) admit(r trigger.Run, forced bool) (trigger.Admitted, trigger.State, error) {
	r.State = cmp.Or(r.State, trigger.Waiting)
	key := dedupeKey(r)
	if forced {
		key = nil
	} else if before, err := w.before(r, key); err != nil || before != 0 {
		return already(before), "", err
	}
	if err := w.ripen(&r); err != nil {
		return trigger.Admitted{}, "", err
	}
	if r.State == trigger.Waiting && !r.After && !r.Finds && !r.Pending {
		if before, err := w.compare(&r); err != nil || before != 0 && !forced {
			return already(before), "", err
		}
	}
	held, err := w.keepFrom(&r)
	if err != nil {
		return trigger.Admitted{}, "", err
	}
	if held && r.State.Ended() {
		key = nil // once it is released, the same event makes a run
	}
	claimable := r.State == trigger.Waiting && !r.After && !held && !r.Pending
	busy := false
	if r.State == trigger.Waiting && takesTurns(r) && !r.Pending {
		if busy, err = w.busy(r.Lane); err != nil {
			return trigger.Admitted{}, "", err
		}
	}
	if r.ID, err = w.insertRun(r, key, claimable && !busy); err != nil {
		return trigger.Admitted{}, "", err
	}
	w.seeNew(r)
	if busy && r.Mode == trigger.Latest {
		if err := w.supersede(r); err != nil {
			return trigger.Admitted{}, "", err
		}
	}
	if err := w.announce(r); err != nil {
		return trigger.Admitted{}, "", err
	}
	return trigger.Admitted{ID: r.ID, New: true, Reason: r.Reason}, r.State, nil
}

// before finds the run that was made for this push before. Of what was found
// the lane alone can say, of a step the first one.
func (w *writer) before(r trigger.Run, key []byte) (id int64, err error) {
	if r.Parent != 0 || r.Pending {
		return 0, nil
	}
	if id, err = w.duplicate(key); err != nil || id != 0 {
		return id, err
	}
	return w.twin(r)
}

// keepFrom makes a run that something holds wait for the release, or skips it.
func (w *writer) keepFrom(r *trigger.Run) (held bool, err error) {
	if r.State != trigger.Waiting || r.After || r.Tells != 0 || r.Pending {
		return false, nil
	}
	h, err := w.heldBy(r.Lane, r.Event.Digest)
	if h == nil {
		return false, err
	}
	r.Reason = holdReason(*h)
	if h.Digest != "" {
		r.State, r.FinishedAt = trigger.Skipped, r.CreatedAt
	}
	return true, nil
}

// announce notes why a new run waits, and keeps for those who are to be told
// that it has ended at once or waits for people.
func (w *writer) announce(r trigger.Run) error {
	if r.State == trigger.Waiting && r.Reason != "" {
		if err := w.note(r.ID, r.CreatedAt, r.Reason); err != nil {
			return err
		}
	}
	switch {
	case r.State.Ended():
		return w.notice(r, string(r.State), r.Reason)
	case r.Awaits():
		return w.notice(r, approvalNotice, r.Reason)
	}
	return nil
}

// compare holds a run against what stands in its lane. It gives the run that
// already does this, or marks r as skipped when r would be a step back.
func (w *writer) compare(r *trigger.Run) (before int64, err error) {
	view, err := w.lane(r.Lane)
	if err != nil || view.stand == nil {
		return 0, err
	}
	stand := view.stand
	if !stand.sameImage(r.Event) {
		if !r.Ordered {
			return 0, nil // calls of several repositories follow each other
		}
		if stand, err = w.standingOf(*r, stand.id); err != nil || stand == nil {
			return 0, err
		}
	}
	// One push may have made runs of several rules in the lane.
	for s := stand; s != nil && s.samePush(r.Event); {
		if s.rule == r.Rule && s.index == r.Index {
			return s.id, nil
		}
		if s, err = w.standingOf(*r, s.id); err != nil {
			return 0, err
		}
	}
	if why := stand.newerThan(*r); why != "" {
		r.State, r.Reason = trigger.Skipped, "not after run "+strconv.FormatInt(stand.id, 10)+": "+why
		r.FinishedAt = r.CreatedAt
	}
	return 0, nil
}

func already(id int64) trigger.Admitted {
	return trigger.Admitted{ID: id, Reason: fmt.Sprintf("run %d already stands for this push", id)}
}

// dedupeKey tells redeliveries of one event to one action of one rule; NULL
// where the sender gives nothing to tell them by. A run that follows others, is
// a step after others or was found is made whenever one of those is.
func dedupeKey(r trigger.Run) []byte {
	event := r.Event.Key()
	if event == "" || r.After || r.Parent != 0 || r.Pending {
		return nil
	}
	sum := sha256.Sum256([]byte(event + "\x00" + r.Rule + "\x00" + strconv.Itoa(r.Index) + "\x00" + r.Kind))
	return sum[:16]
}

// duplicate finds the run that this event made before. One that failed does not
// count: who sends an event again after that wants it tried again.
func (w *writer) duplicate(key []byte) (id int64, err error) {
	if key == nil {
		return 0, nil
	}
	d, asked := w.keys[string(key)]
	if !asked {
		if d, err = w.madeFrom(key); err != nil {
			return 0, err
		}
	}
	if d.state == trigger.Failed || d.state == trigger.RolledBack {
		return 0, w.isNew(d.id)
	}
	return d.id, nil
}

// madeFrom gives the run that has a key of redelivery.
func (w *writer) madeFrom(dedupe []byte) (d duplicate, err error) {
	if err := w.settle(w.indexes.dedupes, keyOf(dedupe)); err != nil {
		return d, err
	}
	const made = "SELECT r.id, r.state FROM runs_by_dedupe d JOIN origins o ON o.run_id = d.id JOIN runs r ON r.id = d.id WHERE d.key = ? AND o.dedupe = ?"
	_, err = w.row(made, []any{key(w.dialect, dedupe), dedupe}, &d.id, &d.state)
	return d, err
}

// isNew lets the event that made a run make another one.
func (w *writer) isNew(run int64) error {
	if !w.shared {
		var dedupe []byte
		if ok, err := w.row("SELECT dedupe FROM origins WHERE run_id = ? AND dedupe IS NOT NULL", []any{run}, &dedupe); !ok {
			return err
		}
		if err := w.settle(w.indexes.dedupes, keyOf(dedupe)); err != nil {
			return err
		}
	}
	maps.DeleteFunc(w.keys, func(_ string, d duplicate) bool { return d.id == run })
	return w.exec("UPDATE origins SET dedupe = NULL WHERE run_id = ?", run)
}

// ripen makes a run wait until its image has been known for long enough. Only
// what dockbell has seen counts: the times in an image are anybody's.
func (w *writer) ripen(r *trigger.Run) error {
	if r.MinAge <= 0 || r.State != trigger.Waiting {
		return nil
	}
	e := r.Event
	column, value := "digest", e.Digest
	if value == "" {
		column, value = "tag", e.Tag
	}
	if err := w.settle(w.indexes.events, keyOf(e.Repository)); err != nil {
		return err
	}
	var first int64
	ok, err := w.row("SELECT min(e.received_at) FROM events_by_repository p JOIN events e ON e.id = p.id WHERE p.key = ? AND e.repository = ? AND e.registry = ? AND e."+column+" = ?", []any{key(w.dialect, e.Repository), e.Repository, e.Registry, value}, &first)
	if !ok {
		return err
	}
	if ripe := timeOf(first).Add(r.MinAge); ripe.After(r.NotBefore) {
		r.NotBefore, r.Reason = ripe, "too young until "+ripe.Format(time.RFC3339)
	}
	return nil
}

// startFollowers makes the runs claimable that wait for the others of their
// event, once those have ended.
func (w *writer) startFollowers(event int64) error {
	w.due = true
	return w.exec("UPDATE waiting SET head = TRUE WHERE run_id IN (SELECT r.id"+ofEvent+` AND r.after)
		AND NOT EXISTS (SELECT 1`+ofEvent+" AND NOT r.after AND r.tells = 0 AND r.state IN ('waiting', 'running'))", event)
}

// ofEvent are the runs of an event.
const ofEvent = " FROM origins o JOIN runs r ON r.id = o.run_id WHERE o.event_id = ?1"

// nanos is how a time is stored: the range is that of 64 bits, 1678 to 2261.
func nanos(t time.Time) int64 {
	switch {
	case t.IsZero():
		return 0
	case t.Year() > 2261:
		return math.MaxInt64
	case t.Year() < 1678:
		return math.MinInt64
	}
	return t.UnixNano()
}

func timeOf(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n).UTC()
}
