package store

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/dockbell/dockbell/trigger"
)

// model is what a store must be like, by plain loops over a slice: no index,
// no marker of what is due, no SQL.
type model struct {
	*bench
	rand *rand.Rand
	runs []*trigger.Run // by id-1
	past []trigger.Event
}

// step does one random thing to both and says what it was.
func (m *model) step() string {
	m.now = m.now.Add(time.Duration(m.rand.IntN(3)) * time.Second)
	switch n := m.rand.IntN(20); {
	case n < 9:
		return m.acceptOne()
	case n < 13:
		return m.claimSome()
	case n < 19:
		return m.finishOne()
	}
	m.bench.reopen()
	if _, err := m.Recover(m.Context(), m.now, func(kind string) bool { return kind == "set" }); err != nil {
		m.Fatal(err)
	}
	for _, r := range m.runs {
		if r.State == trigger.Running && r.Kind == "set" {
			m.end(r, trigger.Waiting, m.now)
		} else if r.State == trigger.Running {
			m.end(r, trigger.Unknown, m.now)
		}
	}
	return "crash"
}

func (m *model) acceptOne() string {
	e := m.push(fmt.Sprintf("1.%d.0", m.rand.IntN(4)), func(e *trigger.Event) {
		e.Repository = []string{"shop/web", "shop/api"}[m.rand.IntN(2)]
		e.OccurredAt = e.OccurredAt.Add(-time.Duration(m.rand.IntN(5)) * time.Second)
		if m.rand.IntN(3) == 0 {
			e.Digest = ""
		}
	})
	if len(m.past) > 0 && m.rand.IntN(4) == 0 {
		e = m.past[m.rand.IntN(len(m.past))]
	}
	m.past = append(m.past, e)
	var plan []trigger.Run
	for i := range 1 + m.rand.IntN(3) {
		r := planned(fmt.Sprint("lane", m.rand.IntN(3)), []trigger.Mode{trigger.Latest, trigger.Latest, trigger.Queue, trigger.Parallel}[m.rand.IntN(4)], func(r *trigger.Run) {
			r.Rule, r.Index, r.Kind = []string{"a", "b"}[m.rand.IntN(2)], i, []string{"set", "call"}[m.rand.IntN(2)]
			r.Ordered = r.Kind == "set"
			r.Order = []trigger.Order{trigger.OrderDefault, trigger.OrderTime, trigger.OrderAny}[m.rand.IntN(3)]
			r.NotBefore = m.now.Add(time.Duration(m.rand.IntN(4)-2) * time.Second)
		})
		if m.rand.IntN(12) == 0 {
			r.State, r.FinishedAt = trigger.Failed, m.now
		}
		plan = append(plan, r)
	}
	if m.rand.IntN(3) == 0 {
		plan = append(plan, planned("", "", follower))
	}
	got := m.bench.accept(e, slices.Clone(plan)...)

	live, followed := false, plan[len(plan)-1].After
	for i, r := range plan {
		r.EventID, r.Event, r.CreatedAt, r.Followed = got.ID, e, m.now, followed && !r.After
		if r.NotBefore.IsZero() {
			r.NotBefore = m.now
		}
		if (r.After && !live) || !m.admit(&r) {
			if got.Runs[i].New {
				m.Fatalf("run %d of %+v is new: %+v", i, e, got)
			}
			continue
		}
		live = live || !r.State.Ended()
	}
	return fmt.Sprintf("accept %s %s of %d runs", e.Repository, e.Tag, len(plan))
}

func (m *model) admit(r *trigger.Run) bool {
	r.ID = int64(len(m.runs) + 1)
	if r.State == "" {
		r.State = trigger.Waiting
	}
	for _, o := range m.runs {
		if !r.After && !o.After && o.State != trigger.Failed && o.Event.Key() == r.Event.Key() && o.Rule == r.Rule && o.Index == r.Index && o.Kind == r.Kind {
			return false
		}
	}
	if r.State == trigger.Waiting && !r.After {
		stand := m.standing(r.Lane)
		for _, o := range stand {
			if r.Event.Digest == "" || o.Event.Image != r.Event.Image {
				break
			}
			if o.Rule == r.Rule && o.Index == r.Index {
				return false
			}
		}
		if len(stand) > 0 && r.Ordered && stand[0].Event.Repository == r.Event.Repository &&
			trigger.Backwards(release(stand[0].Event), release(r.Event), r.Order) != "" {
			r.State = trigger.Skipped
		}
	}
	if r.State == trigger.Waiting && r.Mode == trigger.Latest {
		for _, o := range m.runs {
			if o.State == trigger.Waiting && o.Lane == r.Lane && o.Mode == trigger.Latest && o.EventID != r.EventID {
				o.State = trigger.Superseded
			}
		}
	}
	m.runs = append(m.runs, r)
	return true
}

// standing gives the runs that stand in a lane, newest first.
func (m *model) standing(lane string) (stand []*trigger.Run) {
	for _, o := range m.runs {
		if o.Lane == lane && o.State != trigger.Failed && o.State != trigger.Skipped && o.State != trigger.Superseded {
			stand = append(stand, o)
		}
	}
	slices.Reverse(stand)
	return stand
}

func release(e trigger.Event) trigger.Release { return trigger.Release{Tag: e.Tag, At: e.Time()} }

// claimable reports whether nothing but time keeps a run from starting.
func (m *model) claimable(r *trigger.Run) bool {
	if r.State != trigger.Waiting {
		return false
	}
	for _, o := range m.runs {
		switch {
		case o == r || o.State.Ended():
		case r.After && o.EventID == r.EventID && !o.After && r.Attempt == 0:
			return false
		case !r.After && r.Mode != trigger.Parallel && o.Lane == r.Lane && o.Mode != trigger.Parallel && o.ID < r.ID:
			return false
		}
	}
	return true
}

func (m *model) claimSome() string {
	var want []int64
	for _, r := range m.runs {
		if m.claimable(r) && !r.NotBefore.After(m.now) {
			want = append(want, r.ID)
		}
	}
	for _, id := range want {
		r := m.runs[id-1]
		r.State = trigger.Running
		r.Attempt++
	}
	m.bench.claim(want...)
	return fmt.Sprint("claim ", want)
}

func (m *model) finishOne() string {
	var running []*trigger.Run
	for _, r := range m.runs {
		if r.State == trigger.Running {
			running = append(running, r)
		}
	}
	if len(running) == 0 {
		return "nothing to finish"
	}
	r := running[m.rand.IntN(len(running))]
	to := []trigger.State{trigger.Succeeded, trigger.Failed, trigger.Waiting, trigger.Skipped}[m.rand.IntN(4)]
	again := m.now.Add(time.Duration(m.rand.IntN(3)) * time.Second)
	if _, err := m.Finish(m.Context(), *r, trigger.Result{State: to, At: m.now, NotBefore: again}); err != nil {
		m.Fatal(err)
	}
	m.end(r, to, again)
	return fmt.Sprintf("finish %d as %s", r.ID, to)
}

func (m *model) end(r *trigger.Run, to trigger.State, again time.Time) {
	if to == trigger.Waiting && r.Mode == trigger.Latest && !r.After {
		for _, o := range m.runs {
			if o.State == trigger.Waiting && o.Lane == r.Lane && o.Mode == trigger.Latest && o.ID > r.ID && o.EventID != r.EventID {
				to = trigger.Superseded
			}
		}
	}
	r.State = to
	if to == trigger.Waiting {
		r.NotBefore = again
	}
}

// differs gives the first run that is not as the model has it.
func (m *model) differs(runs []trigger.Run) string {
	if len(runs) != len(m.runs) {
		return fmt.Sprintf("%d runs, the model has %d", len(runs), len(m.runs))
	}
	for i, r := range runs {
		if w := m.runs[i]; r.ID != w.ID || r.State != w.State || r.Attempt != w.Attempt {
			return fmt.Sprintf("run %d is %s after %d tries; the model has %d, %s after %d", r.ID, r.State, r.Attempt, w.ID, w.State, w.Attempt)
		}
	}
	return ""
}

// oneAtATime is what is promised of lanes, whatever the model says.
func (m *model) oneAtATime(runs []trigger.Run) {
	running := map[string]int64{}
	for _, r := range runs {
		if r.State != trigger.Running || r.Mode == trigger.Parallel {
			continue
		}
		if other := running[r.Lane]; other != 0 {
			m.Fatalf("runs %d and %d of lane %s at once", other, r.ID, r.Lane)
		}
		running[r.Lane] = r.ID
	}
}

// drain lets time pass until all runs have ended: none may be stuck.
func (m *model) drain() {
	var running []trigger.Run
	for _, r := range m.all() {
		if r.State == trigger.Running {
			running = append(running, r)
		}
	}
	for range m.runs {
		for _, r := range running {
			m.bench.finish(r, trigger.Succeeded)
		}
		m.now = m.now.Add(time.Minute)
		var err error
		if running, _, err = m.Claim(m.Context(), m.now, 1000); err != nil {
			m.Fatal(err)
		}
	}
	if waiting, running, err := m.Live(m.Context()); err != nil || waiting+running != 0 {
		m.Fatalf("%d waiting and %d running are stuck, %v", waiting, running, err)
	}
}
