package action

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/dockbell/dockbell/trigger"
)

// gitDesks bring together runs that can make one commit: those for the same
// branch, in the same name, that come while another is under way.
type gitDesks struct {
	mu    sync.Mutex
	desks map[string]*gitDesk
}

// gitDesk takes the orders for one branch. Whoever has its turn carries out all
// that have come by then.
type gitDesk struct {
	turn    chan struct{} // holds one while somebody has it
	users   int           // guarded by gitDesks.mu
	mu      sync.Mutex
	waiting []*gitOrder
}

// gitOrder is what one run wants.
type gitOrder struct {
	action *gitAction
	run    trigger.Run

	// Whoever carries it out writes these, until done is closed.
	changes []string // what it sets, a line each
	log     strings.Builder
	text    string // the log without secrets
	err     error  // its outcome
	judged  bool   // that is final
	done    chan struct{}
}

// with finds the desk for a key while do uses it.
func (d *gitDesks) with(key string, do func(*gitDesk) error) error {
	d.mu.Lock()
	if d.desks == nil {
		d.desks = map[string]*gitDesk{}
	}
	desk := d.desks[key]
	if desk == nil {
		desk = &gitDesk{turn: make(chan struct{}, 1)}
		d.desks[key] = desk
	}
	desk.users++
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if desk.users--; desk.users == 0 {
			delete(d.desks, key)
		}
	}()
	return do(desk)
}

// deskKey is the same for runs that may make one commit.
func (s gitSpec) deskKey() string {
	s.Changes, s.Message, s.Pin = nil, "", ""
	if s.Request != nil {
		r := *s.Request
		r.Title, r.Body = "", ""
		s.Request = &r
	}
	key, _ := json.Marshal(s) // it came from something like JSON
	return string(key)
}

// place waits until an order has its outcome. An error says that ctx ended
// before; the change may be made all the same, which does no harm.
func (d *gitDesk) place(ctx context.Context, o *gitOrder, gather time.Duration, carryOut func([]*gitOrder)) error {
	d.mu.Lock()
	d.waiting = append(d.waiting, o)
	d.mu.Unlock()
	select {
	case <-o.done:
		return nil
	case <-ctx.Done():
		d.withdraw(o)
		return trigger.Retry(context.Cause(ctx))
	case d.turn <- struct{}{}:
	}
	defer func() { <-d.turn }()
	if d.has(o) && gather > 0 {
		wait := time.NewTimer(gather)
		defer wait.Stop()
		select {
		case <-wait.C:
		case <-ctx.Done():
			d.withdraw(o)
			return trigger.Retry(context.Cause(ctx))
		}
	}
	d.mu.Lock()
	orders := d.waiting
	d.waiting = nil
	d.mu.Unlock()
	defer func() { // also of a panic
		for _, o := range orders {
			close(o.done)
		}
	}()
	if len(orders) > 0 {
		carryOut(orders)
	}
	return nil
}

func (d *gitDesk) has(o *gitOrder) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Contains(d.waiting, o)
}

func (d *gitDesk) withdraw(o *gitOrder) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.waiting = slices.DeleteFunc(d.waiting, func(w *gitOrder) bool { return w == o })
}
