package store

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/dockbell/dockbell/trigger"
)

// Accept puts a delivery, its events and their runs on disk in one
// transaction, which is flushed when it returns. For each planned run it
// decides whether there is to be one:
//
//   - An event that made this run before, or a lane whose standing run is of
//     the same rule, action and digest, makes none.
//   - In an ordered lane a run older than the standing one is recorded, ended
//     as skipped.
//   - In a lane of mode latest a new run supersedes those that wait.
//
// The standing run of a lane is the newest that has not failed, been skipped
// or superseded: what the lane holds or is about to.
func (s *Store) Accept(ctx context.Context, d trigger.Delivery, planned []trigger.Planned) (trigger.Receipt, error) {
	header, err := json.Marshal(d.Header)
	if err != nil {
		return trigger.Receipt{}, err
	}
	var receipt trigger.Receipt
	err = s.writer.do(ctx, func(w *writer) error {
		receipt = trigger.Receipt{Events: make([]trigger.ReceiptEvent, len(planned))}
		id, err := w.insert("INSERT INTO deliveries (source, received_at, header, body) VALUES (?, ?, ?, ?)",
			d.Source, nanos(d.ReceivedAt), string(header), d.Body)
		if err != nil {
			return err
		}
		receipt.Delivery = id
		for i, p := range planned {
			if receipt.Events[i], err = w.acceptEvent(id, p); err != nil {
				return err
			}
		}
		return nil
	})
	return receipt, err
}

func (w *writer) acceptEvent(delivery int64, p trigger.Planned) (trigger.ReceiptEvent, error) {
	e := p.Event
	id, err := w.insert(`INSERT INTO events (delivery_id, source, sender_id, action, registry, repository, tag, digest, media_type, actor, occurred_at, received_at, reason)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		delivery, e.Source, e.ID, e.Action, e.Registry, e.Repository, e.Tag, e.Digest, e.MediaType, e.Actor, nanos(e.OccurredAt), nanos(e.ReceivedAt), p.Reason)
	if err != nil {
		return trigger.ReceiptEvent{}, err
	}
	accepted := trigger.ReceiptEvent{ID: id, Runs: make([]trigger.Admitted, len(p.Runs))}
	followed, live := false, false
	for _, r := range p.Runs {
		followed = followed || r.After
	}
	for i, r := range p.Runs {
		r.EventID, r.Event, r.Followed = id, e, followed && !r.After
		if r.After && !live {
			accepted.Runs[i] = trigger.Admitted{Reason: "there is no run to wait for"}
			continue
		}
		a, state, err := w.admit(r)
		if err != nil {
			return trigger.ReceiptEvent{}, err
		}
		accepted.Runs[i] = a
		live = live || a.New && !state.Ended()
	}
	return accepted, nil
}

// admit decides about one run and writes it. A run with After set follows the
// live runs of its event and has no lane.
func (w *writer) admit(r trigger.Run) (trigger.Admitted, trigger.State, error) {
	key := dedupeKey(r)
	if before, err := w.duplicate(key); err != nil || before != 0 {
		return already(before), "", err
	}
	r.State = trigger.Waiting
	var stand *standing
	if !r.After {
		var err error
		if stand, err = w.standing(r.Lane); err != nil {
			return trigger.Admitted{}, "", err
		}
	}
	if stand != nil {
		if stand.same(r) {
			return already(stand.id), "", nil
		}
		if why := stand.newerThan(r); why != "" {
			r.State, r.Reason = trigger.Skipped, "older than run "+strconv.FormatInt(stand.id, 10)+": "+why
			r.FinishedAt = r.CreatedAt
		}
	}
	takesTurns := r.Mode != trigger.Parallel && !r.After
	idle := stand == nil || stand.state.Ended()
	var lane, due any
	if r.State == trigger.Waiting {
		if takesTurns {
			lane = r.Lane
		}
		if (!takesTurns || idle) && !r.After {
			due, w.due = nanos(r.NotBefore), true
		}
	}
	id, err := w.insert(`INSERT INTO runs (event_id, rule, idx, kind, target, spec, repository, lane, mode, ordered, ordering, attempts, timeout, after, followed,
			state, reason, attempt, not_before, created_at, started_at, finished_at, dedupe, live_lane, due_at)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, ?, ?, 0, ?, ?, ?, ?)`,
		r.EventID, r.Rule, r.Index, r.Kind, r.Target, string(r.Spec), r.Event.Repository, r.Lane, r.Mode, r.Ordered, r.Order, r.Attempts, int64(r.Timeout), r.After, r.Followed,
		r.State, r.Reason, nanos(r.NotBefore), nanos(r.CreatedAt), nanos(r.FinishedAt), key, lane, due)
	if err != nil {
		return trigger.Admitted{}, "", err
	}
	if r.State == trigger.Waiting && takesTurns && !idle && r.Mode == trigger.Latest {
		if err := w.supersede(r.Lane, id, r.CreatedAt); err != nil {
			return trigger.Admitted{}, "", err
		}
	}
	return trigger.Admitted{ID: id, New: true, Reason: r.Reason}, r.State, nil
}

func already(id int64) trigger.Admitted {
	return trigger.Admitted{ID: id, Reason: fmt.Sprintf("run %d already stands for this push", id)}
}

// dedupeKey tells redeliveries of one event to one action of one rule; NULL
// where the sender gives nothing to tell them by.
func dedupeKey(r trigger.Run) any {
	event := r.Event.Key()
	if event == "" {
		return nil
	}
	sum := sha256.Sum256([]byte(event + "\x00" + r.Rule + "\x00" + strconv.Itoa(r.Index) + "\x00" + r.Kind))
	return sum[:16]
}

// duplicate finds the run that this event made before. A failed one does not
// count: who sends an event again after a failure wants it tried again.
func (w *writer) duplicate(key any) (id int64, err error) {
	if key == nil {
		return 0, nil
	}
	var state trigger.State
	if ok, err := w.row("SELECT id, state FROM runs WHERE dedupe = ?", []any{key}, &id, &state); !ok {
		return 0, err
	}
	if state == trigger.Failed {
		return 0, w.exec("UPDATE runs SET dedupe = NULL WHERE id = ?", id)
	}
	return id, nil
}

// standing is what a lane holds or is about to.
type standing struct {
	id                   int64
	rule                 string
	index                int
	state                trigger.State
	registry, repository string
	digest               string
	release              trigger.Release
}

func (w *writer) standing(lane string) (*standing, error) {
	var s standing
	var occurred, received int64
	ok, err := w.row(`SELECT r.id, r.rule, r.idx, r.state, e.registry, e.repository, e.tag, e.digest, e.occurred_at, e.received_at
		FROM runs r JOIN events e ON e.id = r.event_id
		WHERE r.lane = ? AND r.state NOT IN ('failed', 'skipped', 'superseded') ORDER BY r.id DESC LIMIT 1`,
		[]any{lane}, &s.id, &s.rule, &s.index, &s.state, &s.registry, &s.repository, &s.release.Tag, &s.digest, &occurred, &received)
	if !ok {
		return nil, err
	}
	s.release.At = trigger.Event{OccurredAt: timeOf(occurred), ReceivedAt: timeOf(received)}.Time()
	return &s, nil
}

// same reports whether the run would do what the standing one did.
func (s *standing) same(r trigger.Run) bool {
	e := r.Event
	return s.rule == r.Rule && s.index == r.Index && e.Digest != "" &&
		s.digest == e.Digest && s.release.Tag == e.Tag && s.registry == e.Registry && s.repository == e.Repository
}

// newerThan says why the run would be a step back, or "". Releases of
// different repositories are not compared.
func (s *standing) newerThan(r trigger.Run) string {
	if !r.Ordered || s.registry != r.Event.Registry || s.repository != r.Event.Repository {
		return ""
	}
	return trigger.Backwards(s.release, trigger.Release{Tag: r.Event.Tag, At: r.Event.Time()}, r.Order)
}

// supersede ends the waiting runs of a lane in favour of a newer one, and
// makes that one the head when nothing of the lane is running.
func (w *writer) supersede(lane string, by int64, at time.Time) error {
	type ended struct {
		event    int64
		followed bool
	}
	var all []ended
	err := w.rows(`UPDATE runs SET state = 'superseded', reason = ?, finished_at = ?, live_lane = NULL, due_at = NULL
		WHERE live_lane = ? AND state = 'waiting' AND id < ? RETURNING event_id, followed`,
		[]any{fmt.Sprintf("superseded by run %d", by), nanos(at), lane, by}, func(rows rowScanner) error {
			var e ended
			all = append(all, e)
			return rows.Scan(&all[len(all)-1].event, &all[len(all)-1].followed)
		})
	if err != nil {
		return err
	}
	for _, e := range all {
		if e.followed {
			if err := w.startFollowers(e.event); err != nil {
				return err
			}
		}
	}
	return w.promote(lane)
}

// promote makes the oldest live run of a lane claimable, unless it runs.
func (w *writer) promote(lane string) error {
	w.due = true
	return w.exec(`UPDATE runs SET due_at = not_before
		WHERE state = 'waiting' AND id = (SELECT id FROM runs WHERE live_lane = ? ORDER BY live_lane, id LIMIT 1)`, lane)
}

// startFollowers makes the runs claimable that wait for the others of their
// event, once those have ended.
func (w *writer) startFollowers(event int64) error {
	w.due = true
	return w.exec(`UPDATE runs SET due_at = not_before
		WHERE event_id = ?1 AND after = 1 AND state = 'waiting'
		AND NOT EXISTS (SELECT 1 FROM runs WHERE event_id = ?1 AND after = 0 AND state IN ('waiting', 'running'))`, event)
}

// nanos is how a time is stored.
func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func timeOf(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n).UTC()
}
