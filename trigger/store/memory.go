package store

import (
	"github.com/dockbell/dockbell/trigger"
)

// memory is what the writer knows without asking again. On a database that
// others write too it lasts for one transaction.
type memory struct {
	lanes    map[string]*laneView
	holds    []trigger.Hold // that are not released
	held     bool           // holds is known
	observes *bool          // there are events that pollers found; nil when not known

	running map[int64]progress // the runs that were claimed and have not been written since
}

// laneView is what a new run needs to know of its lane.
type laneView struct {
	stand *standing // the newest that stands; nil when nothing does
	busy  *bool     // something waits or runs in it; nil when not known
}

// mostLanes bounds the memory.
const mostLanes = 10_000

// forget drops what the writer knows, and what it has not written.
func (w *writer) forget() {
	w.memory = memory{}
	w.ahead.drop()
}

// lane tells of a lane.
func (w *writer) lane(lane string) (*laneView, error) {
	if v, ok := w.lanes[lane]; ok {
		return v, nil
	}
	stand, err := w.standing(lane)
	if err != nil {
		return nil, err
	}
	v := &laneView{stand: stand}
	w.see(lane, v)
	return v, nil
}

func (w *writer) see(lane string, v *laneView) {
	if w.lanes == nil || len(w.lanes) >= mostLanes {
		w.lanes = map[string]*laneView{}
	}
	w.lanes[lane] = v
}

// busy reports whether something waits or runs in a lane.
func (w *writer) busy(lane string) (bool, error) {
	v, err := w.lane(lane)
	if err != nil {
		return false, err
	}
	if v.busy == nil {
		busy, err := w.laneBusy(lane)
		if err != nil {
			return false, err
		}
		v.busy = &busy
	}
	return *v.busy, nil
}

// laneBusy is busy without what is remembered.
func (w *writer) laneBusy(lane string) (bool, error) {
	return w.row("SELECT 1 FROM waiting WHERE lane = ?1 UNION ALL SELECT 1 FROM running WHERE lane = ?1 LIMIT 1", []any{lane}, new(int))
}

// seeClaimed keeps in mind how far the runs are that were claimed.
func (w *writer) seeClaimed(runs []trigger.Run) {
	if w.running == nil {
		w.running = map[int64]progress{}
	}
	for _, r := range runs {
		w.running[r.ID] = progress{trigger.Running, nanos(r.StartedAt), w.me}
	}
}

// seeNew makes the memory of a lane follow a new run in it.
func (w *writer) seeNew(r trigger.Run) {
	v, ok := w.lanes[r.Lane]
	if !ok {
		return
	}
	if takesTurns(r) && r.State == trigger.Waiting && !r.Pending {
		v.busy = new(true)
	}
	if stands(r.State) {
		v.stand = &standing{
			id: r.ID, rule: r.Rule, index: r.Index, registry: r.Event.Registry, repository: r.Event.Repository, digest: r.Event.Digest,
			release: trigger.Release{Tag: r.Event.Tag, At: r.Event.Time()},
		}
	}
}

// seeEnd makes the memory of a lane follow the end of a run in it.
func (w *writer) seeEnd(lane string, state trigger.State) {
	v, ok := w.lanes[lane]
	if !ok {
		return
	}
	v.busy = nil
	if !stands(state) {
		delete(w.lanes, lane)
	}
}

// stands reports whether a run in that state says what its lane holds, or is
// about to.
func stands(s trigger.State) bool { return outcome(s) == "" || s == trigger.Unknown }

// areStanding is the condition of origins of runs of which stands is true.
const areStanding = "(o.outcome = '' OR o.outcome = 'unknown')"

// outcome is what a run has ended as, unless it succeeded: "" for one that did,
// and while it has not ended. The column of that name has an index, which is not
// written with each step of a run.
func outcome(s trigger.State) string {
	switch s {
	case trigger.Waiting, trigger.Running, trigger.Succeeded:
		return ""
	}
	return string(s)
}

// takesTurns reports whether a run is one of those that go through their lane
// one at a time.
func takesTurns(r trigger.Run) bool { return r.Mode != trigger.Parallel && !r.After }

// heldBy finds the hold that keeps a run from its lane: by its digest, or
// because the whole lane is held. nil when there is none.
func (w *writer) heldBy(lane, digest string) (*trigger.Hold, error) {
	holds, err := w.openHolds()
	if err != nil {
		return nil, err
	}
	var waits *trigger.Hold
	for i, h := range holds {
		switch {
		case h.Digest != "" && h.Digest == digest && (h.Lane == "" || h.Lane == lane):
			return &holds[i], nil
		case h.Digest == "" && h.Lane == lane:
			waits = &holds[i]
		}
	}
	return waits, nil
}

// laneHeld reports whether nothing may start in a lane.
func (w *writer) laneHeld(lane string) (bool, error) {
	h, err := w.heldBy(lane, "")
	return h != nil, err
}

func (w *writer) openHolds() ([]trigger.Hold, error) {
	if w.held {
		return w.holds, nil
	}
	w.holds = nil
	err := w.rows(selectHolds+" WHERE released_at = 0 ORDER BY id", nil, func(rows rowScanner) error {
		var h trigger.Hold
		err := rows.Scan(holdColumns(&h)...)
		w.holds = append(w.holds, h)
		return err
	})
	w.held = err == nil
	return w.holds, err
}

// someObserved reports whether there are events that pollers found.
func (w *writer) someObserved() (bool, error) {
	if w.observes == nil {
		ok, err := w.row("SELECT 1 FROM events WHERE observed LIMIT 1", nil, new(int))
		if err != nil {
			return false, err
		}
		w.observes = &ok
	}
	return *w.observes, nil
}
