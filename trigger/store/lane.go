package store

import (
	"fmt"

	"github.com/dockbell/dockbell/trigger"
)

// standing is what a lane holds or is about to.
type standing struct {
	id                   int64
	rule                 string
	index                int
	registry, repository string
	digest               string
	release              trigger.Release
}

// standing gives the newest standing run of a lane.
func (w *writer) standing(lane string) (*standing, error) {
	return w.stand("SELECT "+standingFields+" FROM origins o JOIN runs r ON r.id = o.run_id JOIN events e ON e.id = o.event_id WHERE o.lane = ? AND "+areStanding+" ORDER BY o.run_id DESC LIMIT 1", lane)
}

// longAgo is after how many runs of whatever lane it is not looked any further
// for one that stands.
const longAgo = 20_000

// standingOf gives the newest standing run in the lane of a run, and of the same
// repository, that is older than the run before. Runs of the same event do not
// count where they are known by it. Lanes of several repositories may be long,
// so it is looked for among the runs of this one.
func (w *writer) standingOf(r trigger.Run, before int64) (*standing, error) {
	if err := w.settle(w.indexes.runs, keyOf(r.Event.Repository)); err != nil {
		return nil, err
	}
	return w.stand("SELECT "+standingFields+` FROM runs_by_repository p JOIN origins o ON o.run_id = p.id JOIN runs r ON r.id = p.id JOIN events e ON e.id = o.event_id
		WHERE p.key = ? AND p.id < ? AND p.id > (SELECT max(id) FROM runs) - ?
		AND (o.repository = ?) IS TRUE AND (o.lane = ?) IS TRUE AND `+areStanding+` IS TRUE AND o.event_id <> ? AND e.registry = ? ORDER BY p.id DESC LIMIT 1`,
		key(w.dialect, r.Event.Repository), before, longAgo, r.Event.Repository, r.Lane, r.EventID, r.Event.Registry)
}

const standingFields = "r.id, r.rule, r.idx, e.registry, e.repository, e.tag, e.digest, e.occurred_at, e.received_at"

func (w *writer) stand(query string, args ...any) (*standing, error) {
	var s standing
	var occurred, received int64
	ok, err := w.row(query, args, &s.id, &s.rule, &s.index, &s.registry, &s.repository, &s.release.Tag, &s.digest, &occurred, &received)
	if !ok {
		return nil, err
	}
	s.release = releaseOf(s.release.Tag, occurred, received)
	return &s, nil
}

// sameImage reports whether the run is of the repository that an event is of.
func (s *standing) sameImage(e trigger.Event) bool {
	return s.registry == e.Registry && s.repository == e.Repository
}

// samePush reports whether the event is of the push that the run was made for.
func (s *standing) samePush(e trigger.Event) bool {
	return e.Digest != "" && s.digest == e.Digest && s.release.Tag == e.Tag && s.sameImage(e)
}

// newerThan says why a run of the same repository would be a step back, or "".
func (s *standing) newerThan(r trigger.Run) string {
	if !r.Ordered {
		return ""
	}
	return trigger.Backwards(s.release, trigger.Release{Tag: r.Event.Tag, At: r.Event.Time()}, r.Order)
}

// supersede ends the runs that wait in the lane of a newer run in its favour,
// and makes it the head when nothing of the lane is live any more. Runs of the
// same event stay, one push made them all, and so do those of mode queue.
func (w *writer) supersede(by trigger.Run) error {
	var all []trigger.Run
	why := supersededBy(by.ID)
	err := w.rows(`UPDATE runs SET state = 'superseded', reason = ?, finished_at = ?
		WHERE id IN (SELECT run_id FROM waiting WHERE lane = ? AND run_id < ?) AND mode = 'latest' AND event_id <> ? RETURNING id, event_id, followed, tells`,
		[]any{why, nanos(by.CreatedAt), by.Lane, by.ID, by.EventID}, func(rows rowScanner) error {
			var r trigger.Run
			err := rows.Scan(&r.ID, &r.EventID, &r.Followed, &r.Tells)
			all = append(all, r)
			return err
		})
	if err != nil {
		return err
	}
	if len(all) == 0 {
		return w.reseat(by.Lane)
	}
	ids := make([]int64, len(all))
	for i, r := range all {
		ids[i] = r.ID
	}
	if err := w.exec("DELETE FROM waiting WHERE "+w.among("run_id"), w.list(ids)); err != nil {
		return err
	}
	if err := w.setOutcome(trigger.Superseded, ids...); err != nil {
		return err
	}
	for _, r := range all {
		if err := w.notice(r, string(trigger.Superseded), why); err != nil {
			return err
		}
		if r.Followed {
			if err := w.startFollowers(r.EventID); err != nil {
				return err
			}
		}
	}
	return w.reseat(by.Lane)
}

// setOutcome makes what is known of where runs come from follow their state.
func (w *writer) setOutcome(state trigger.State, runs ...int64) error {
	return w.exec("UPDATE origins SET outcome = ? WHERE "+w.among("run_id"), outcome(state), w.list(runs))
}

func supersededBy(id int64) string { return fmt.Sprintf("superseded by run %d", id) }

// promote makes the oldest live run of a lane claimable, unless it runs or the
// lane is held.
func (w *writer) promote(lane string) error {
	if held, err := w.laneHeld(lane); err != nil || held {
		return err
	}
	w.due = true
	if w.shared {
		w.promoted = append(w.promoted, lane)
		w.pending = true
		return nil
	}
	return w.exec(`UPDATE waiting SET head = TRUE WHERE run_id = (SELECT run_id FROM waiting WHERE lane = ?1 ORDER BY lane, run_id LIMIT 1)
		AND NOT EXISTS (SELECT 1 FROM running WHERE lane = ?1)`, lane)
}

// reseat is promote where the lane may have a head still. That stays: one that
// is tried again by hand goes behind it, and before what waits.
func (w *writer) reseat(lane string) error {
	if headed, err := w.row("SELECT 1 FROM waiting WHERE lane = ? AND head LIMIT 1", []any{lane}, new(int)); err != nil || headed {
		return err
	}
	return w.promote(lane)
}
