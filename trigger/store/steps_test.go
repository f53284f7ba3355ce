package store

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/dockbell/dockbell/trigger"
)

// some draws what is done next: mostly one step.
func (m *machine) some(t *rapid.T) steps {
	plain := []func(*rapid.T) step{
		m.accept, m.claim, m.finish, m.finish, m.claim, m.finish, m.accept, m.again, m.finish, m.vote, m.vote, m.vote,
		m.claim, m.retry, m.hold, m.release, m.cancel, m.retry, m.again,
	}
	alone := []func(*rapid.T) step{m.rehearse, m.tell, m.tell, m.late, m.reopenOne, m.prune, m.tellAgain}
	if len(m.stores) > 1 {
		alone = append(alone, m.killOne, m.killOne, m.late, m.late, m.recover, m.recover, m.lead)
	}
	m.next = m.later(t)
	if chosen(t, 6) == 5 {
		return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) step { return rapid.SampledFrom(plain).Draw(t, "kind")(t) }), 2, 3).Draw(t, "steps")
	}
	return steps{rapid.SampledFrom(append(plain, alone...)).Draw(t, "kind")(t)}
}

// later draws the time of a step, or of those that are done at once.
func (m *machine) later(t *rapid.T) time.Time {
	return m.now.Add([]time.Duration{0, 0, time.Second, time.Second, 2 * time.Second, 5 * time.Second}[chosen(t, 6)])
}

func (m *machine) replica(t *rapid.T) int { return int(chosen(t, len(m.stores))) }

// by names who does something, where there are several.
func (m *machine) by(replica int) string {
	if len(m.stores) == 1 {
		return ""
	}
	return fmt.Sprintf("replica %d: ", replica)
}

// answer says how the store answered.
func answer(err error) string {
	var no *trigger.RefusedError
	switch {
	case err == nil:
		return done
	case errors.As(err, &no):
		return refused
	case errors.Is(err, trigger.ErrNotFound):
		return notFound
	}
	return err.Error()
}

// accept is a delivery of new pushes.
func (m *machine) accept(t *rapid.T) step {
	at := m.next
	var planned []trigger.Planned
	for i := range 1 + chosen(t, 4)/3 {
		e := m.push(t, at, len(m.past)+int(i)+1)
		planned = append(planned, trigger.Planned{Event: e, Runs: m.plan(t, e, at)})
	}
	return m.acceptOf(m.replica(t), at, planned)
}

// again is a push that was delivered before, by the same hook or by another,
// or that is replayed.
func (m *machine) again(t *rapid.T) step {
	if len(m.past) == 0 {
		t.Skip("nothing was pushed")
	}
	at := m.next
	p := recent(m.past).Draw(t, "push")
	p.Event.ReceivedAt = at
	p.Runs = slices.Clone(p.Runs)
	for i := range p.Runs {
		r := &p.Runs[i]
		if r.CreatedAt, r.NotBefore = at, at; r.State == "" {
			r.Reason = ""
		} else {
			r.FinishedAt = at
		}
	}
	switch chosen(t, 6) {
	case 4:
		p.Event.ID = fmt.Sprint("e", len(m.past)+1)
	case 5:
		p.Force = true
	}
	return m.acceptOf(m.replica(t), at, []trigger.Planned{p})
}

func (m *machine) push(t *rapid.T, at time.Time, n int) trigger.Event {
	c := chosen(t, 4*3*3*6)
	e := trigger.Event{Source: "hub", Action: trigger.Push, ReceivedAt: at}
	e.Image = trigger.Image{
		Registry:   "r.example",
		Tag:        []string{"1.0.0", "1.1.0", "1.2.0"}[c.of(3)],
		Digest:     []string{"sha256:a", "sha256:b", ""}[c.of(3)],
		Repository: []string{"shop/web", "shop/web", "shop/web", "shop/api"}[c.of(4)],
	}
	tells := c.of(6)
	if tells != 5 {
		e.ID = fmt.Sprint("e", n)
	}
	if tells < 4 {
		e.OccurredAt = at.Add(-time.Duration(tells) * time.Second)
	}
	return e
}

// plan draws the runs of an event. What has an order in a lane has the same one
// as the others there, and is of one repository.
func (m *machine) plan(t *rapid.T, e trigger.Event, at time.Time) (runs []trigger.Run) {
	c := chosen(t, 4*4)
	n, followed := []int{1, 1, 2, 3}[c.of(4)], c.of(4) == 3
	for i := range n {
		c := chosen(t, 2*5*4*2)
		r := trigger.Run{
			Rule: []string{"a", "b"}[c.of(2)], Index: i,
			Mode:     []trigger.Mode{trigger.Queue, trigger.Latest, trigger.Queue, trigger.Latest, trigger.Parallel}[c.of(5)],
			Lane:     []string{"by version", "by version", "free", "by time"}[c.of(4)],
			Kind:     []string{"set", "call"}[c.of(2)],
			Attempts: 3, CreatedAt: at, NotBefore: at, Spec: []byte("{}"),
		}
		if r.Lane != "free" {
			r.Ordered = true
			if r.Lane == "by time" {
				r.Order = trigger.OrderTime
			}
		}
		switch chosen(t, 12) {
		case 1, 2:
			r.NotBefore, r.Reason = at.Add(3*time.Second), "outside its window"
		case 3, 4:
			r.Approvals, r.ApproveBy = 1, at.Add(4*time.Second)
		case 5, 6:
			r.Approvals, r.ApproveBy, r.Approvers = 2, at.Add(8*time.Second), []string{"ann", "bob"}
		case 7, 8:
			r.MinAge = 4 * time.Second
		case 9:
			r.State, r.Reason, r.FinishedAt = trigger.Failed, "template: no such group", at
		}
		runs = append(runs, r)
	}
	if followed {
		runs = append(runs, trigger.Run{Rule: "callback", Kind: "call", Lane: "callback", Mode: trigger.Parallel, After: true, CreatedAt: at, NotBefore: at, Spec: []byte("{}")})
	}
	return runs
}

// recent draws one of several, the last one most often: it stays the same one
// when rapid leaves out what was before.
func recent[E any](all []E) *rapid.Generator[E] {
	all = slices.Clone(all)
	slices.Reverse(all)
	return rapid.SampledFrom(all)
}

// choices are several in one number: rapid shrinks the faster the less there is
// to draw.
type choices int

func chosen(t *rapid.T, n int) choices {
	return choices(rapid.UintRange(0, uint(n-1)).Draw(t, "choices"))
}

// of takes the next choice of n.
func (c *choices) of(n int) int {
	one := int(*c) % n
	*c /= choices(n)
	return one
}

// tale says in one line what is planned.
func tale(planned []trigger.Planned) string {
	var b strings.Builder
	for _, p := range planned {
		fmt.Fprintf(&b, "%q %s@%s", p.Event.ID, p.Event.Image, strings.TrimPrefix(p.Event.Digest, "sha256:"))
		if !p.Event.OccurredAt.IsZero() {
			b.WriteString(p.Event.OccurredAt.Format(" of 04:05"))
		}
		if p.Force {
			b.WriteString(" by force")
		}
		for _, r := range p.Runs {
			fmt.Fprintf(&b, " [%s/%d %s %s in %q", r.Rule, r.Index, r.Kind, r.Mode, r.Lane)
			if r.State != "" {
				fmt.Fprintf(&b, " %s", r.State)
			}
			if r.MinAge > 0 {
				fmt.Fprintf(&b, " of age %s", r.MinAge)
			}
			if r.Approvals > 0 {
				fmt.Fprintf(&b, " with %d approvals of %v by %s", r.Approvals, r.Approvers, r.ApproveBy.Format("04:05"))
			}
			if r.NotBefore.After(r.CreatedAt) {
				b.WriteString(r.NotBefore.Format(" from 04:05"))
			}
			b.WriteString("]")
		}
	}
	return b.String()
}

func (m *machine) acceptOf(replica int, at time.Time, planned []trigger.Planned) step {
	var got trigger.Receipt
	d := trigger.Delivery{Source: "hub", ReceivedAt: at, Body: fmt.Append(nil, at, tale(planned))}
	return step{m.by(replica) + "accept " + tale(planned), at, func() string {
		var err error
		if got, err = m.stores[replica].Accept(m.test.Context(), d, planned); err != nil {
			return err.Error()
		}
		return fmt.Sprint(got)
	}, func(model *model) string {
		return fmt.Sprint(model.accept(d, planned, got))
	}, func() { m.past = append(m.past, planned...) }}
}

// rehearse is a delivery that is not made.
func (m *machine) rehearse(t *rapid.T) step {
	at, replica := m.next, m.replica(t)
	e := m.push(t, at, len(m.past)+1)
	planned := []trigger.Planned{{Event: e, Runs: m.plan(t, e, at)}}
	var got trigger.Receipt
	return step{m.by(replica) + "rehearse " + tale(planned), at, func() string {
		var err error
		if got, err = m.stores[replica].Rehearse(m.test.Context(), trigger.Delivery{Source: "hub", ReceivedAt: at}, planned); err != nil {
			return err.Error()
		}
		return fmt.Sprint(got)
	}, func(model *model) string {
		return fmt.Sprint(model.clone().accept(trigger.Delivery{}, planned, got))
	}, nil}
}

func (m *machine) claim(t *rapid.T) step {
	return m.claimBy(m.replica(t), m.next, rapid.SampledFrom([]int{100, 1, 2}).Draw(t, "n"))
}

func (m *machine) claimBy(replica int, at time.Time, n int) step {
	const format = "%d, the next at %s"
	var runs []trigger.Run
	return step{fmt.Sprintf("%sclaim up to %d", m.by(replica), n), at, func() (said string) {
		var next time.Time
		var err error
		if runs, next, err = m.stores[replica].Claim(m.test.Context(), at, upTo(n)); err != nil {
			return err.Error()
		}
		return fmt.Sprintf(format, ids(runs), next.UTC())
	}, func(model *model) string {
		ids, next := model.claim(replica, at, n)
		return fmt.Sprintf(format, ids, next)
	}, func() {
		for _, r := range runs {
			m.claims = append(m.claims, claim{replica, r})
		}
	}}
}

func (m *machine) finish(t *rapid.T) step {
	open := m.running()
	if len(open) == 0 {
		t.Skip("nothing runs")
	}
	return m.finishOf(recent(open).Draw(t, "claim"), m.result(t))
}

// late is the result of a try that may have ended already, or was taken over.
func (m *machine) late(t *rapid.T) step {
	if len(m.claims) == 0 {
		t.Skip("nothing ran")
	}
	return m.finishOf(recent(m.claims).Draw(t, "claim"), m.result(t))
}

func (m *machine) result(t *rapid.T) trigger.Result {
	at, c := m.next, chosen(t, 10*3)
	res, state := trigger.Result{At: at, Log: "log"}, c.of(10)
	again := at.Add(time.Duration(c) * time.Second)
	switch state {
	case 0, 1:
		res.State = trigger.Succeeded
	case 2:
		res.State, res.Reason = trigger.Failed, "400"
	case 3, 4:
		res.State, res.Reason, res.NotBefore = trigger.Waiting, "503", again
	case 5:
		res.State, res.Reason = trigger.Skipped, "it runs already"
	case 6:
		res.State, res.Reason = trigger.Unknown, "no answer"
	case 7:
		res.State, res.Reason, res.Hold = trigger.RolledBack, "crash loop", "crash loop"
	case 8:
		res.State, res.Reason, res.NotBefore, res.Postponed = trigger.Waiting, "outside its window", again, true
	case 9:
		res.State, res.Reason, res.Postponed = trigger.Skipped, "its window does not open any more", true
	}
	return res
}

func (m *machine) finishOf(c claim, res trigger.Result) step {
	what := fmt.Sprintf("%sfinish try %d of run %d as %s", m.by(c.replica), c.run.Attempt, c.run.ID, res.State)
	if res.State == trigger.Waiting {
		what += res.NotBefore.Format(" until 04:05")
	}
	if res.Postponed {
		what += ", which was no try"
	}
	if res.Hold != "" {
		what += " with a hold"
	}
	var hold int64
	return step{what, res.At, func() string {
		s := m.stores[c.replica]
		state, err := s.Finish(m.test.Context(), c.run, res)
		if err != nil {
			return err.Error()
		}
		if res.Hold != "" {
			hold, err = holdOf(s, m.test, c.run.ID)
		}
		if err != nil {
			return err.Error()
		}
		return string(state)
	}, func(model *model) string { return model.finish(c.replica, c.run, res, hold) }, nil}
}

// holdOf gives the last hold that a run made.
func holdOf(s *Store, t *testing.T, run int64) (id int64, err error) {
	holds, err := s.Holds(t.Context(), true)
	for _, h := range holds {
		if h.Run == run {
			id = max(id, h.ID)
		}
	}
	return id, err
}

// which draws the id of a run, of those in a state if there are some.
func (m *machine) which(t *rapid.T, wanted func(r trigger.Run) bool) int64 {
	var all, fit []int64
	for _, r := range m.seen.runs {
		all = append(all, r.ID)
		if wanted(r) {
			fit = append(fit, r.ID)
		}
	}
	if len(fit) > 0 && chosen(t, 10) < 9 {
		all = fit
	}
	return recent(append([]int64{1 << 40}, all...)).Draw(t, "run")
}

func (m *machine) cancel(t *rapid.T) step {
	id, at, replica := m.which(t, func(r trigger.Run) bool { return r.State == trigger.Waiting }), m.next, m.replica(t)
	return step{fmt.Sprintf("%scancel run %d", m.by(replica), id), at,
		func() string { return answer(m.stores[replica].Cancel(m.test.Context(), id, "cancelled by ann", at)) },
		func(model *model) string { return model.cancel(id, "cancelled by ann", at) }, nil}
}

func (m *machine) retry(t *rapid.T) step {
	failed := func(r trigger.Run) bool {
		return r.State == trigger.Failed || r.State == trigger.Unknown || r.State == trigger.RolledBack
	}
	id, at, replica := m.which(t, failed), m.next, m.replica(t)
	return step{fmt.Sprintf("%sretry run %d", m.by(replica), id), at,
		func() string { return answer(m.stores[replica].Retry(m.test.Context(), id, "tried again by ann", at)) },
		func(model *model) string { return model.retry(id, "tried again by ann", at) }, nil}
}

func (m *machine) vote(t *rapid.T) step {
	id, at, replica := m.which(t, trigger.Run.Awaits), m.next, m.replica(t)
	c := chosen(t, 3*5*5)
	v := trigger.Vote{By: []string{"ann", "bob", "eve"}[c.of(3)], Yes: c.of(5) < 4, Reason: "looked at it"}
	for _, r := range m.seen.runs {
		if r.ID == id && c < 4 {
			v.Digest = r.Event.Digest
		}
	}
	return step{fmt.Sprintf("%s%s says %t to %q of run %d", m.by(replica), v.By, v.Yes, v.Digest, id), at,
		func() string { return answer(m.stores[replica].Vote(m.test.Context(), id, v, at)) },
		func(model *model) string { return model.vote(id, v, at) }, nil}
}

func (m *machine) hold(t *rapid.T) step {
	at, replica := m.next, m.replica(t)
	h := trigger.Hold{Reason: "broken", By: "ann", At: at}
	c := chosen(t, 4*3)
	h.Lane = []string{"by version", "by time", "free", ""}[c.of(4)]
	if h.Lane == "" || c > 0 {
		h.Digest = []string{"sha256:a", "sha256:b"}[c%2]
	}
	return step{fmt.Sprintf("%shold %q in lane %q", m.by(replica), h.Digest, h.Lane), at, func() string {
		var err error
		h.ID, err = m.stores[replica].Hold(m.test.Context(), h)
		return answer(err)
	}, func(model *model) string {
		model.hold(h)
		return done
	}, nil}
}

func (m *machine) release(t *rapid.T) step {
	if len(m.seen.holds) == 0 {
		t.Skip("nothing is held")
	}
	return m.releaseOf(recent(m.seen.holds).Draw(t, "hold").ID, m.next)
}

func (m *machine) releaseOf(id int64, at time.Time) step {
	return step{fmt.Sprintf("release hold %d", id), at,
		func() string { return answer(m.stores[0].Release(m.test.Context(), id, "bob", at)) },
		func(model *model) string { return model.release(id, "bob", at) }, nil}
}

// tell makes the runs that tell people of an outcome.
func (m *machine) tell(t *rapid.T) step {
	if len(m.seen.notices) == 0 {
		t.Skip("nothing to tell")
	}
	notices, err := m.stores[0].Notices(t.Context(), len(m.seen.notices))
	if err != nil || len(notices) != len(m.seen.notices) {
		t.Fatalf("%d notices of %d, %v", len(notices), len(m.seen.notices), err)
	}
	return m.tellOf(t, recent(notices).Draw(t, "notice"))
}

// tellAgain is a replica that is late with what another one has told.
func (m *machine) tellAgain(t *rapid.T) step {
	if len(m.told) == 0 {
		t.Skip("nothing was told")
	}
	return m.tellOf(t, recent(m.told).Draw(t, "notice"))
}

func (m *machine) tellOf(t *rapid.T, n trigger.Notice) step {
	at, replica := m.next, m.replica(t)
	people := int(chosen(t, 3))
	var runs []trigger.Run
	for i := range people {
		runs = append(runs, trigger.Run{
			Rule: fmt.Sprint("notify/", i), Kind: "call", Lane: fmt.Sprint("notify/", i), Mode: trigger.Queue, Tells: n.Run.ID, Spec: []byte("{}"),
			Attempts: 3, CreatedAt: at, NotBefore: at,
		})
	}
	var made []int64
	return step{fmt.Sprintf("%stell %d of notice %d of run %d", m.by(replica), len(runs), n.ID, n.Run.ID), at, func() string {
		s := m.stores[replica]
		if err := s.Tell(m.test.Context(), []trigger.Notice{n}, runs); err != nil {
			return err.Error()
		}
		all, err := s.Runs(m.test.Context(), trigger.RunFilter{Limit: len(runs)}) // the newest
		made = ids(all)
		return answer(err)
	}, func(model *model) string {
		if o := model.noticed(n.ID); o != nil && (o.run != n.Run.ID || o.reason != n.Run.Reason || o.state != string(n.Run.State) && o.state != approvalNotice) {
			return fmt.Sprintf("a notice of run %d, which is %s (%s)", o.run, o.state, o.reason)
		}
		model.tell(n, runs, made)
		return done
	}, func() { m.told = append(m.told, n) }}
}

func (m *machine) prune(t *rapid.T) step {
	at, replica := m.next, m.replica(t)
	c := chosen(t, 3*3*3)
	period := func() time.Duration { return []time.Duration{time.Second, 5 * time.Second, time.Hour}[c.of(3)] }
	keep := trigger.Keep{Deliveries: period(), Successes: period(), Failures: period()}
	return step{fmt.Sprintf("%sprune, to keep %+v", m.by(replica), keep), at, func() string {
		n, err := m.stores[replica].Prune(m.test.Context(), keep, at)
		return fmt.Sprint(n, err)
	}, func(model *model) string { return fmt.Sprint(model.prune(keep, at), error(nil)) }, nil}
}

// reopenOne ends a replica in the middle of its runs and starts it again.
func (m *machine) reopenOne(t *rapid.T) step {
	replica := m.replica(t)
	return step{m.by(replica) + "start again", m.next, func() string {
		m.reopen(replica)
		return done
	}, func(model *model) string {
		model.begin(replica)
		model.late[replica] = false
		return done
	}, nil}
}

// killOne makes a replica look dead to the others. It does not know.
func (m *machine) killOne(t *rapid.T) step {
	replica := m.replica(t)
	return step{m.by(replica) + "look dead", m.next, func() string { return answer(m.kill(replica)) }, func(model *model) string {
		model.begin(replica)
		return done
	}, nil}
}

func (m *machine) recover(t *rapid.T) step { return m.recoverBy(m.replica(t), m.next) }

func (m *machine) recoverBy(replica int, at time.Time) step {
	return step{m.by(replica) + "recover", at, func() string {
		runs, err := m.stores[replica].Recover(m.test.Context(), at, repeatable)
		return fmt.Sprint(ids(runs), err)
	}, func(model *model) string { return fmt.Sprint(model.recover(at), error(nil)) }, nil}
}

func (m *machine) lead(t *rapid.T) step {
	replica := m.replica(t)
	return step{m.by(replica) + "lead", m.next, func() string {
		leads, err := m.stores[replica].Lead(m.test.Context(), "poll")
		return fmt.Sprint(leads, err)
	}, func(model *model) string { return fmt.Sprint(model.lead(replica), error(nil)) }, nil}
}
