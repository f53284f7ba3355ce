package server

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/dockbell/dockbell/trigger"
)

// Change is a run as it was when its state changed.
type Change struct {
	At time.Time `json:"at"`
	RunView
}

// numbered is a change with its number. A number that is left out is that of a
// change that nobody saw.
type numbered struct {
	n int64
	Change
}

// changes finds what has changed by comparing the store with what was there
// before. The store is all that replicas have in common, and asking it costs
// the same however many watch, and nothing when nobody does.
type changes struct {
	store Store

	mu     sync.Mutex
	life   int64 // tells the numbers of this life from those of another
	looked time.Time
	newest int64                 // the last run that was seen
	live   map[int64]trigger.Run // those that had not ended
	recent []numbered            // up to mostRecent
	next   int64                 // the number of the next change
}

// position is where a reader of changes is.
type position struct{ life, n int64 }

// end is the position after the last change.
func (c *changes) end(ctx context.Context, now time.Time) (position, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	err := c.look(ctx, now)
	return position{c.life, c.next}, err
}

// after gives the changes from a position on, how many are missing there, and
// the position after them.
func (c *changes) after(ctx context.Context, p position, now time.Time) (list []numbered, missed int64, next position, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.look(ctx, now); err != nil {
		return nil, 0, p, err
	}
	i, _ := slices.BinarySearchFunc(c.recent, p.n, func(change numbered, n int64) int { return cmp.Compare(change.n, n) })
	list = slices.Clone(c.recent[i:])
	return list, c.next - p.n - int64(len(list)), position{c.life, c.next}, nil
}

// knows reports whether a position is one of this life.
func (c *changes) knows(p position) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return p.life == c.life && p.n <= c.next
}

// look compares the store with what it was, unless that was just done. Nothing
// has changed when it fails.
func (c *changes) look(ctx context.Context, now time.Time) error {
	if now.Sub(c.looked) < lookEvery {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, collectTimeout)
	defer cancel()
	live, err := c.readLive(ctx)
	if err != nil {
		return err
	}
	if c.live == nil {
		newest, err := c.store.Runs(ctx, trigger.RunFilter{Limit: 1})
		if err != nil {
			return err
		}
		if len(newest) > 0 {
			c.newest = newest[0].ID
		}
		c.life, c.live, c.looked = now.UnixNano(), live, now
		return nil
	}
	fresh, unseen, err := c.readNew(ctx)
	if err != nil {
		return err
	}
	found, err := c.compare(ctx, live, fresh, now)
	if err != nil {
		return err
	}
	slices.SortStableFunc(found, func(a, b Change) int { return a.At.Compare(b.At) })
	c.next += unseen
	for _, change := range found {
		c.recent = append(c.recent, numbered{c.next, change})
		c.next++
	}
	c.recent = slices.Delete(c.recent, 0, max(0, len(c.recent)-mostRecent))
	if len(fresh) > 0 {
		c.newest = fresh[0].ID
	}
	c.live, c.looked = live, now
	return nil
}

// readLive gives the runs that have not ended, the newest where there are very
// many.
func (c *changes) readLive(ctx context.Context) (map[int64]trigger.Run, error) {
	live := map[int64]trigger.Run{}
	// First those that wait: one that starts meanwhile is in the second list.
	for _, state := range []trigger.State{trigger.Waiting, trigger.Running} {
		runs, err := c.store.Runs(ctx, trigger.RunFilter{State: state, Limit: maxPage})
		if err != nil {
			return nil, err
		}
		for _, r := range runs {
			live[r.ID] = r
		}
	}
	return live, nil
}

// readNew gives the runs that were not there before, newest first, and about
// how many more there are that it does not read.
func (c *changes) readNew(ctx context.Context) (fresh []trigger.Run, unseen int64, err error) {
	for before := int64(0); ; {
		page, err := c.store.Runs(ctx, trigger.RunFilter{Before: before, Limit: newPage})
		if err != nil {
			return nil, 0, err
		}
		for _, r := range page {
			if r.ID <= c.newest {
				return fresh, 0, nil
			}
			fresh = append(fresh, r)
		}
		if len(page) < newPage {
			return fresh, 0, nil
		}
		before = page[len(page)-1].ID
		if len(fresh) >= mostRecent {
			return fresh, before - c.newest - 1, nil
		}
	}
}

// compare gives the changes that lead from what was live to what is live or
// new now. Live then is what it is after them.
func (c *changes) compare(ctx context.Context, live map[int64]trigger.Run, fresh []trigger.Run, now time.Time) (found []Change, err error) {
	for _, r := range slices.Backward(fresh) {
		found = append(found, between(trigger.Run{}, r, now)...)
		if live[r.ID] = r; r.State.Ended() {
			delete(live, r.ID)
		}
	}
	for id, r := range live {
		if before, known := c.live[id]; known {
			found = append(found, between(before, r, now)...)
		} else if id <= c.newest { // it had ended, and is tried again
			found = append(found, Change{now, viewRun(r)})
		}
	}
	full := len(live) >= maxPage
	for id, before := range c.live {
		if _, still := live[id]; still {
			continue
		}
		r, ok, err := oneRun(ctx, c.store, id)
		if err != nil {
			return nil, err
		}
		if !ok {
			continue // forgotten
		}
		found = append(found, between(before, r, now)...)
		if !r.State.Ended() && !full { // else it is seen again when it starts
			live[id] = r
		}
	}
	return found, nil
}

// oneRun gives a run without its tries. It may be forgotten.
func oneRun(ctx context.Context, store Store, id int64) (trigger.Run, bool, error) {
	runs, err := store.Runs(ctx, trigger.RunFilter{Before: id + 1, Limit: 1})
	if err != nil || len(runs) == 0 || runs[0].ID != id {
		return trigger.Run{}, false, err
	}
	return runs[0], true, nil
}

// between gives the states through which a run has gone: that it was accepted,
// that a try began, how it stands. Of several tries there is the last.
func between(before, after trigger.Run, now time.Time) (list []Change) {
	add := func(at time.Time, state trigger.State, reason string) {
		r := after
		if r.State, r.Reason = state, reason; !state.Ended() {
			r.FinishedAt = time.Time{}
		}
		list = append(list, Change{at, viewRun(r)})
	}
	isNew, began := before.ID == 0, after.Attempt > before.Attempt
	if isNew && (began || after.State != trigger.Waiting) {
		add(after.CreatedAt, trigger.Waiting, "")
	}
	if began {
		add(after.StartedAt, trigger.Running, "")
	}
	switch {
	case began && after.State == trigger.Running:
	case after.State.Ended() && (after.State != before.State || began):
		add(after.FinishedAt, after.State, after.Reason)
	case isNew && after.State == trigger.Waiting && !began:
		add(after.CreatedAt, after.State, after.Reason)
	case began, after.State != before.State, after.Reason != before.Reason, after.Begun != before.Begun, after.Approved != before.Approved:
		add(now, after.State, after.Reason)
	}
	return list
}
