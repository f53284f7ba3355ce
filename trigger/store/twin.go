package store

import (
	"time"

	"github.com/dockbell/dockbell/trigger"
)

// twinTime is for how long a sender that tells no digest may come after a
// poller with the same push.
const twinTime = 10 * time.Minute

// twin finds the run that was made for the same push when it was first heard
// of in the other way: told by a sender, or found by a poller. A push is known
// by its tag and digest. Where the sender tells no digest, it is what a poller
// finds that had not been there when the sender told it, or has just found.
func (w *writer) twin(r trigger.Run) (id int64, err error) {
	e := r.Event
	if r.After {
		return 0, nil
	}
	if !e.Observed {
		if looked, err := w.wasLooked(repoTag{e.Repository, e.Tag}); err != nil || !looked {
			return 0, err
		}
	}
	for _, d := range []*deferred{w.indexes.runs, w.indexes.events} {
		if err := w.settle(d, keyOf(e.Repository)); err != nil {
			return 0, err
		}
	}
	var n twinRun
	const newest = `SELECT r.id, r.state, e.id, e.digest, e.observed, e.received_at FROM runs_by_repository p JOIN runs r ON r.id = p.id JOIN events e ON e.id = r.event_id
		WHERE p.key = ? AND e.repository = ? AND r.rule = ? AND r.idx = ? AND e.registry = ? AND e.tag = ? AND e.action = ?
		ORDER BY p.id DESC LIMIT 1`
	ok, err := w.row(newest, []any{key(w.dialect, e.Repository), e.Repository, r.Rule, r.Index, e.Registry, e.Tag, e.Action}, &n.id, &n.state, &n.event, &n.digest, &n.observed, &n.received)
	if !ok || !n.toldThe(e) {
		return 0, err
	}
	// What happened in between makes it another push. Of those that are told,
	// each found one has one twin.
	const between = `SELECT 1 FROM events_by_repository p JOIN events e ON e.id = p.id
		WHERE p.key = ? AND p.id > ? AND p.id < ? AND repository = ? AND registry = ? AND tag = ? AND (action <> ? OR observed = ? AND (NOT observed OR digest <> ?)) LIMIT 1`
	if other, err := w.row(between, []any{key(w.dialect, e.Repository), n.event, r.EventID, e.Repository, e.Registry, e.Tag, e.Action, e.Observed, e.Digest}, new(int)); other || err != nil {
		return 0, err
	}
	return n.id, nil
}

// wasLooked reports whether a poller has found a tag.
func (w *writer) wasLooked(t repoTag) (bool, error) {
	if looked, asked := w.looked[t]; asked {
		return looked, nil
	}
	if some, err := w.someObserved(); err != nil || !some {
		return false, err
	}
	return w.row("SELECT 1 FROM events WHERE repository = ? AND tag = ? AND observed LIMIT 1", []any{t.repository, t.tag}, new(int))
}

// twinRun is the newest run that a rule's action had for a tag.
type twinRun struct {
	id       int64
	state    trigger.State
	event    int64
	digest   string
	observed bool
	received int64
}

// toldThe reports whether the run may be that of the same push as an event that
// was heard of in the other way.
func (n twinRun) toldThe(e trigger.Event) bool {
	switch {
	case !n.observed && !e.Observed:
		return false // both told by senders
	case !e.Observed && n.state == trigger.Failed:
		return false // who sends again after a failure wants it tried again
	case n.digest != "" && e.Digest != "":
		return n.digest == e.Digest
	case e.Observed && !n.observed:
		// It was told while it was not there yet to be found, or it was
		// another one.
		return !e.Since.IsZero() && timeOf(n.received).After(e.Since)
	case n.observed && !e.Observed:
		return e.ReceivedAt.Sub(timeOf(n.received)) < twinTime
	}
	return false
}
