package store

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/dockbell/dockbell/trigger"
)

// model is what a store must be like, by plain loops over slices: no index, no
// marker of what is due, no SQL. What only the store can know, the ids that it
// gives, is taken from its answers.
type model struct {
	deliveries []modelDelivery
	events     []trigger.EventRecord
	runs       []*modelRun // by their ids
	holds      []trigger.Hold
	notices    []modelNotice

	lastDelivery, lastRun int64 // ids that were given

	lives  []int  // the present one of each replica; the next one begins when the others take it for dead
	begun  int    // how many lives there were
	late   []bool // which of them has found runs that people were to approve by then
	leader int    // the life that does the single duty
}

type modelDelivery struct {
	id         int64
	receivedAt time.Time
	body       string
}

type modelNotice struct {
	id, run       int64
	state, reason string
}

type modelRun struct {
	trigger.Run
	key   string // tells redeliveries of its event; "" when it does not count, or no more
	owner int    // the life that claimed it last
	head  bool   // its lane has come to it
	free  bool   // the others of its event had ended, for which it waited
	force bool   // a person wanted it, whatever there was before
	yes   []string
	tries []trigger.Attempt
	notes []trigger.Note
}

func newModel(replicas int) *model {
	m := &model{lives: make([]int, replicas), late: make([]bool, replicas)}
	for i := range m.lives {
		m.begin(i)
	}
	return m
}

// begin begins another life of a replica.
func (m *model) begin(replica int) {
	m.begun++
	m.lives[replica] = m.begun
}

func (m *model) clone() *model {
	c := *m
	c.deliveries, c.events, c.holds = slices.Clone(m.deliveries), slices.Clone(m.events), slices.Clone(m.holds)
	c.notices, c.lives, c.late = slices.Clone(m.notices), slices.Clone(m.lives), slices.Clone(m.late)
	c.runs = make([]*modelRun, len(m.runs))
	for i, r := range m.runs {
		copied := *r
		copied.yes, copied.tries, copied.notes = slices.Clone(r.yes), slices.Clone(r.tries), slices.Clone(r.notes)
		c.runs[i] = &copied
	}
	return &c
}

func (m *model) run(id int64) *modelRun {
	for _, r := range m.runs {
		if r.ID == id {
			return r
		}
	}
	return nil
}

// turns reports whether a run takes its turn in its lane.
func (r *modelRun) turns() bool { return !r.After && r.Mode != trigger.Parallel }

// heeds reports whether holds are of any concern to a run: those that tell
// people, or a sender, go on.
func (r *modelRun) heeds() bool { return !r.After && r.Tells == 0 }

func (r *modelRun) stands() bool {
	return r.State == trigger.Waiting || r.State == trigger.Running || r.State == trigger.Succeeded || r.State == trigger.Unknown
}

func (r *modelRun) note(at time.Time, text string) {
	r.notes = append(r.notes, trigger.Note{At: at, Text: text})
}

// accept is given the store's answer for its ids.
func (m *model) accept(d trigger.Delivery, planned []trigger.Planned, got trigger.Receipt) trigger.Receipt {
	if len(got.Events) != len(planned) || got.Delivery <= m.lastDelivery {
		return trigger.Receipt{} // it was not accepted, or not before the one before
	}
	m.lastDelivery = got.Delivery
	m.deliveries = append(m.deliveries, modelDelivery{got.Delivery, d.ReceivedAt, string(d.Body)})
	want := trigger.Receipt{Delivery: got.Delivery}
	for i, p := range planned {
		want.Events = append(want.Events, m.acceptEvent(got.Delivery, p, got.Events[i]))
	}
	return want
}

func (m *model) acceptEvent(delivery int64, p trigger.Planned, got trigger.ReceiptEvent) trigger.ReceiptEvent {
	record := trigger.EventRecord{ID: got.ID, Delivery: delivery, Reason: p.Reason, Event: p.Event}
	m.events = append(m.events, record)
	followed := slices.ContainsFunc(p.Runs, func(r trigger.Run) bool { return r.After })
	want := trigger.ReceiptEvent{ID: got.ID, Runs: []trigger.Admitted{}}
	live, some, refused := false, false, ""
	for i, r := range p.Runs {
		r.EventID, r.Event, r.Followed = got.ID, p.Event, followed && !r.After
		a := trigger.Admitted{Reason: "there is no run to wait for"}
		if !r.After || live {
			a = m.admit(r, p.Force, got.Runs[i].ID)
		}
		want.Runs = append(want.Runs, a)
		if a.New {
			some = true
			live = live || !m.runs[len(m.runs)-1].State.Ended()
		} else if refused == "" {
			refused = a.Reason
		}
	}
	if !some && refused != "" {
		m.events[len(m.events)-1].Reason = refused
	}
	return want
}

// admit adds a run under the given id, unless one stands for its push.
func (m *model) admit(planned trigger.Run, force bool, id int64) trigger.Admitted {
	r := &modelRun{Run: planned, force: force}
	r.MinAge = 0
	if r.State == "" {
		r.State = trigger.Waiting
	}
	if event := r.Event.Key(); event != "" && !r.After && !force {
		r.key = fmt.Sprint(event, r.Rule, r.Index, r.Kind)
		if before := m.madeBefore(r.key); before != 0 {
			return already(before)
		}
	}
	if ripe := m.firstSeen(r.Event).Add(planned.MinAge); planned.MinAge > 0 && ripe.After(r.NotBefore) {
		r.NotBefore, r.Reason = ripe, "too young until "+ripe.Format(time.RFC3339)
	}
	if r.State == trigger.Waiting && !r.After {
		if before := m.standsFor(r); before != 0 && !force {
			return already(before)
		} else if before == 0 {
			m.guard(r)
		}
	}
	if h := m.heldBy(r.Lane, r.Event.Digest); h != nil && r.State == trigger.Waiting && r.heeds() {
		if r.Reason = holdReason(*h); h.Digest != "" {
			r.State, r.FinishedAt, r.key = trigger.Skipped, r.CreatedAt, ""
		}
	}
	if id <= m.lastRun {
		return trigger.Admitted{Reason: fmt.Sprintf("run %d is as high as there was one before", m.lastRun)}
	}
	r.ID, m.lastRun = id, id
	m.runs = append(m.runs, r)
	if r.State == trigger.Waiting && r.Mode == trigger.Latest && r.turns() {
		for _, o := range m.runs {
			if o.State == trigger.Waiting && o.turns() && o.Mode == trigger.Latest && o.Lane == r.Lane && o.EventID != r.EventID {
				m.end(o, trigger.Superseded, fmt.Sprintf("superseded by run %d", r.ID), r.CreatedAt)
			}
		}
	}
	m.advance(r.Lane)
	switch {
	case r.State.Ended():
		m.notice(r, string(r.State), r.Reason)
	case r.Reason != "":
		r.note(r.CreatedAt, r.Reason)
	}
	if r.Awaits() {
		m.notice(r, approvalNotice, r.Reason)
	}
	return trigger.Admitted{ID: id, New: true, Reason: r.Reason}
}

// madeBefore finds the run that an event made before. One that failed makes
// room for another.
func (m *model) madeBefore(key string) int64 {
	for _, r := range m.runs {
		switch {
		case r.key != key:
		case r.State == trigger.Failed || r.State == trigger.RolledBack:
			r.key = ""
		default:
			return r.ID
		}
	}
	return 0
}

// firstSeen is when the image of an event was heard of first.
func (m *model) firstSeen(e trigger.Event) time.Time {
	first := e.ReceivedAt
	for _, o := range m.events {
		same := o.Digest == e.Digest
		if e.Digest == "" {
			same = o.Tag == e.Tag
		}
		if same && o.Repository == e.Repository && o.Registry == e.Registry && o.ReceivedAt.Before(first) {
			first = o.ReceivedAt
		}
	}
	return first
}

// standing gives the runs that stand in a lane, newest first.
func (m *model) standing(lane string) (stand []*modelRun) {
	for _, r := range m.runs {
		if r.Lane == lane && r.stands() {
			stand = append(stand, r)
		}
	}
	slices.Reverse(stand)
	return stand
}

// standingOf gives those of them that are of the repository of r.
func (m *model) standingOf(r *modelRun) []*modelRun {
	return slices.DeleteFunc(m.standing(r.Lane), func(s *modelRun) bool { return s.Event.Name() != r.Event.Name() })
}

// standsFor finds the run that the same push made, of those that stand at the
// front of the lane.
func (m *model) standsFor(r *modelRun) int64 {
	if all := m.standing(r.Lane); !r.Ordered && len(all) > 0 && all[0].Event.Name() != r.Event.Name() {
		return 0
	}
	for _, s := range m.standingOf(r) {
		if r.Event.Digest == "" || s.Event.Image != r.Event.Image {
			break
		}
		if s.Rule == r.Rule && s.Index == r.Index {
			return s.ID
		}
	}
	return 0
}

// guard skips a run that would be a step back from what the lane holds or is
// about to.
func (m *model) guard(r *modelRun) {
	stand := m.standingOf(r)
	if !r.Ordered || len(stand) == 0 {
		return
	}
	if why := trigger.Backwards(release(stand[0].Event), release(r.Event), r.Order); why != "" {
		r.State, r.FinishedAt = trigger.Skipped, r.CreatedAt
		r.Reason = fmt.Sprintf("not after run %d: %s", stand[0].ID, why)
	}
}

func release(e trigger.Event) trigger.Release { return trigger.Release{Tag: e.Tag, At: e.Time()} }

// heldBy finds what keeps a digest from a lane: that it is held itself counts
// more than that the lane is.
func (m *model) heldBy(lane, digest string) (by *trigger.Hold) {
	for i, h := range m.holds {
		switch {
		case !h.ReleasedAt.IsZero():
		case h.Digest != "" && h.Digest == digest && (h.Lane == "" || h.Lane == lane):
			return &m.holds[i]
		case h.Digest == "" && h.Lane == lane:
			by = &m.holds[i]
		}
	}
	return by
}

// advance lets a lane come to its oldest run, when it is not at one.
func (m *model) advance(lane string) {
	var oldest *modelRun
	for _, r := range m.runs {
		if r.Lane != lane || !r.turns() || r.State.Ended() {
			continue
		}
		if r.head {
			return
		}
		if oldest == nil {
			oldest = r
		}
	}
	if oldest != nil && m.heldBy(lane, "") == nil {
		oldest.head = true
	}
}

// claimable reports whether nothing but time keeps a run from being claimed.
func (m *model) claimable(r *modelRun) bool {
	switch {
	case r.State != trigger.Waiting:
		return false
	case r.After:
		return r.free
	case r.turns():
		return r.head
	}
	return !r.heeds() || m.heldBy(r.Lane, "") == nil
}

func (r *modelRun) due() time.Time {
	if r.Awaits() {
		return r.ApproveBy
	}
	return r.NotBefore
}

// claim gives the runs that are claimed, and when it is worth asking again.
func (m *model) claim(replica int, now time.Time, n int) (ids []int64, next time.Time) {
	late := func(r *modelRun) bool { return r.Awaits() && r.due().Before(now) }
	if m.late[replica] {
		for _, r := range m.first(expireAtOnce, late) {
			m.end(r, trigger.Expired, fmt.Sprintf("%d of %d approvals by %s", r.Approved, r.Approvals, r.ApproveBy.Format(time.RFC3339)), now)
		}
	}
	due := m.first(n, func(r *modelRun) bool { return !r.Awaits() && !r.due().After(now) })
	slices.SortFunc(due, func(a, b *modelRun) int { return int(a.ID - b.ID) })
	for _, r := range due {
		ids = append(ids, r.ID)
		r.State, r.owner, r.Reason = trigger.Running, m.lives[replica], ""
		if r.StartedAt = r.StartedAt.Add(1); r.StartedAt.Before(now) {
			r.StartedAt = now
		}
		if r.Attempt++; r.FirstAt.IsZero() {
			r.FirstAt = now
		}
	}
	more := m.first(1, late)
	if m.late[replica] = len(more) > 0; !m.late[replica] && len(due) == n {
		return ids, now
	}
	if len(more) == 0 {
		more = m.first(1, func(*modelRun) bool { return true })
	}
	if len(more) > 0 {
		next = more[0].due()
	}
	return ids, next
}

// first gives up to n of the claimable runs, in the order in which they are due.
func (m *model) first(n int, are func(*modelRun) bool) (runs []*modelRun) {
	for _, r := range m.runs {
		if m.claimable(r) && are(r) {
			runs = append(runs, r)
		}
	}
	slices.SortStableFunc(runs, func(a, b *modelRun) int { return a.due().Compare(b.due()) })
	return runs[:min(n, len(runs))]
}

// end writes an outcome and lets those go on that waited for it.
func (m *model) end(r *modelRun, state trigger.State, reason string, at time.Time) {
	r.State, r.Reason, r.FinishedAt, r.head = state, reason, at, false
	m.notice(r, string(state), reason)
	if r.turns() {
		m.advance(r.Lane)
	}
	if !r.Followed {
		return
	}
	for _, o := range m.runs {
		if o.EventID == r.EventID && !o.After && o.Tells == 0 && !o.State.Ended() {
			return
		}
	}
	for _, o := range m.runs {
		if o.EventID == r.EventID && o.After {
			o.free = true
		}
	}
}

// notice keeps what people are to be told of.
func (m *model) notice(r *modelRun, outcome, reason string) {
	if r.Tells == 0 && slices.Contains(modelTells, outcome) {
		m.notices = append(m.notices, modelNotice{run: r.ID, state: outcome, reason: reason})
	}
}

// modelTells are the outcomes that people are told of.
var modelTells = []string{"failed", "rolled-back", "superseded", "expired", approvalNotice}

// finish is given the id of the hold that it makes, if any.
func (m *model) finish(replica int, claimed trigger.Run, res trigger.Result, hold int64) string {
	r := m.run(claimed.ID)
	if r == nil {
		return fmt.Sprintf("there is no run %d", claimed.ID)
	}
	if r.State == trigger.Running && r.StartedAt.Equal(claimed.StartedAt) && r.owner == m.lives[replica] {
		m.writeBack(r, res, hold)
	}
	return string(r.State)
}

func (m *model) writeBack(r *modelRun, res trigger.Result, hold int64) {
	if !res.Postponed {
		r.tries = append(r.tries, trigger.Attempt{N: r.Attempt, StartedAt: r.StartedAt, FinishedAt: res.At, State: res.State, Reason: res.Reason, Log: res.Log})
	} else {
		if r.Attempt--; r.Attempt == 0 {
			r.FirstAt = time.Time{}
		}
		if res.State == trigger.Waiting {
			r.note(res.At, res.Reason)
		}
	}
	if res.Hold != "" && r.Event.Digest != "" && r.Tells == 0 {
		m.hold(trigger.Hold{ID: hold, Lane: r.Lane, Digest: r.Event.Digest, Reason: res.Hold, By: "dockbell", Run: r.ID, At: res.At})
	}
	if res.State == trigger.Waiting {
		m.putBack(r, res)
		return
	}
	m.end(r, res.State, res.Reason, res.At)
}

// putBack makes a run wait for another try, unless there is no need for it any
// more.
func (m *model) putBack(r *modelRun, res trigger.Result) {
	h := m.heldBy(r.Lane, r.Event.Digest)
	if h != nil && h.Digest != "" && r.heeds() {
		m.end(r, trigger.Skipped, holdReason(*h)+"; before that: "+res.Reason, res.At)
		r.key = ""
		return
	}
	if r.turns() && r.Mode == trigger.Latest {
		for _, o := range slices.Backward(m.runs) {
			if o.ID > r.ID && o.turns() && !o.State.Ended() && o.Mode == trigger.Latest && o.Lane == r.Lane && o.EventID != r.EventID {
				m.end(r, trigger.Superseded, fmt.Sprintf("superseded by run %d; before that: %s", o.ID, res.Reason), res.At)
				return
			}
		}
	}
	r.State, r.Reason, r.NotBefore = trigger.Waiting, res.Reason, res.NotBefore
	r.head = r.turns() && (h == nil || !r.heeds())
}

// recover gives the runs that it dealt with.
func (m *model) recover(now time.Time) (ids []int64) {
	for _, r := range m.runs {
		if r.State == trigger.Running && !slices.Contains(m.lives, r.owner) {
			ids = append(ids, r.ID)
			m.writeBack(r, r.CutOff(repeatable(r.Kind), now), 0)
		}
	}
	return ids
}

func repeatable(kind string) bool { return kind == "set" }

// The answers to what people ask for.
const (
	done     = "done"
	refused  = "refused"
	notFound = "not found"
)

func (m *model) cancel(id int64, why string, now time.Time) string {
	r := m.run(id)
	switch {
	case r == nil:
		return notFound
	case r.State != trigger.Waiting:
		return refused
	}
	m.end(r, trigger.Skipped, why, now)
	return done
}

func (m *model) retry(id int64, why string, now time.Time) string {
	r := m.run(id)
	if r == nil {
		return notFound
	}
	if r.State != trigger.Failed && r.State != trigger.Unknown && r.State != trigger.RolledBack || r.Attempt == 0 {
		return refused
	}
	if h := m.heldBy(r.Lane, r.Event.Digest); h != nil && h.Digest != "" && r.heeds() {
		return refused
	}
	if stand := m.standing(r.Lane); r.turns() && (r.Mode == trigger.Latest || r.Ordered) && len(stand) > 0 && stand[0].ID > r.ID {
		return refused
	}
	if r.Attempts > 0 {
		r.Attempts += r.Attempt
	}
	r.State, r.Reason, r.NotBefore, r.FinishedAt, r.FirstAt = trigger.Waiting, why, now, time.Time{}, time.Time{}
	r.note(now, why)
	r.free = r.After
	m.advance(r.Lane)
	return done
}

func (m *model) vote(id int64, v trigger.Vote, now time.Time) string {
	r := m.run(id)
	switch {
	case r == nil:
		return notFound
	case !r.Awaits() || now.After(r.ApproveBy):
		return refused
	case len(r.Approvers) > 0 && !slices.Contains(r.Approvers, v.By):
		return refused
	case v.Digest != r.Event.Digest && (v.Digest != "" || v.Yes):
		return refused
	case v.Yes && slices.Contains(r.yes, v.By):
		return refused
	case !v.Yes:
		m.end(r, trigger.Rejected, "rejected by "+v.By+": "+v.Reason, now)
		return done
	}
	r.yes = append(r.yes, v.By)
	r.Approved++
	r.Reason = fmt.Sprintf("approved by %s (%d of %d): %s", v.By, r.Approved, r.Approvals, v.Reason)
	r.note(now, r.Reason)
	return done
}

func (m *model) hold(h trigger.Hold) {
	m.holds = append(m.holds, h)
	for _, r := range m.runs {
		if r.State != trigger.Waiting || !r.heeds() {
			continue
		}
		switch {
		case h.Digest != "" && h.Digest == r.Event.Digest && (h.Lane == "" || h.Lane == r.Lane):
			m.end(r, trigger.Skipped, holdReason(h), h.At)
			r.key = ""
		case h.Digest == "" && h.Lane == r.Lane:
			r.head, r.Reason = false, holdReason(h)
			r.note(h.At, r.Reason)
		}
	}
}

func (m *model) release(id int64, by string, now time.Time) string {
	i := slices.IndexFunc(m.holds, func(h trigger.Hold) bool { return h.ID == id })
	if i < 0 {
		return notFound
	}
	h := &m.holds[i]
	if !h.ReleasedAt.IsZero() {
		return refused
	}
	h.ReleasedAt, h.ReleasedBy = now, by
	if h.Digest != "" || m.heldBy(h.Lane, "") != nil {
		return done
	}
	for _, r := range m.runs {
		if r.State == trigger.Waiting && r.heeds() && r.Lane == h.Lane {
			r.Reason = fmt.Sprintf("released by %s (hold %d)", by, id)
			r.note(now, r.Reason)
		}
	}
	m.advance(h.Lane)
	return done
}

func (m *model) noticed(id int64) *modelNotice {
	for i, n := range m.notices {
		if n.id == id {
			return &m.notices[i]
		}
	}
	return nil
}

// tell is given the ids of the runs that it makes.
func (m *model) tell(n trigger.Notice, runs []trigger.Run, ids []int64) {
	if m.noticed(n.ID) == nil || len(ids) != len(runs) {
		return
	}
	m.notices = slices.DeleteFunc(m.notices, func(o modelNotice) bool { return o.id == n.ID })
	for i, r := range runs {
		r.EventID, r.Event = n.Run.EventID, n.Run.Event
		m.admit(r, true, ids[i])
	}
}

func (m *model) lead(replica int) bool {
	if !slices.Contains(m.lives, m.leader) {
		m.leader = m.lives[replica]
	}
	return m.leader == m.lives[replica]
}

func (m *model) prune(keep trigger.Keep, now time.Time) (n trigger.Pruned) {
	old := func(at time.Time, keep time.Duration) bool { return at.Before(now.Add(-keep)) }
	newest := map[string]int64{} // what each lane holds of each repository
	last := map[string]int64{}   // of each table
	for _, r := range m.runs {
		if r.stands() && r.State.Ended() {
			newest[r.Lane+r.Event.Name()] = r.ID
		}
		last["runs"] = r.ID
	}
	for _, e := range m.events {
		last["events"] = e.ID
	}
	for _, d := range m.deliveries {
		last["deliveries"] = d.id
	}
	m.runs = slices.DeleteFunc(m.runs, func(r *modelRun) bool {
		period := keep.Successes
		if r.State == trigger.Failed || r.State == trigger.Unknown || r.State == trigger.RolledBack {
			period = keep.Failures
		}
		forget := r.State.Ended() && old(r.FinishedAt, period) && newest[r.Lane+r.Event.Name()] != r.ID && r.ID != last["runs"]
		if forget {
			n.Runs++
			m.notices = slices.DeleteFunc(m.notices, func(o modelNotice) bool { return o.run == r.ID })
		}
		return forget
	})
	m.events = slices.DeleteFunc(m.events, func(e trigger.EventRecord) bool {
		used := slices.ContainsFunc(m.runs, func(r *modelRun) bool { return r.EventID == e.ID })
		if forget := old(e.ReceivedAt, keep.Successes) && !used && e.ID != last["events"]; forget {
			n.Events++
			return true
		}
		return false
	})
	unfinished := func(d modelDelivery) bool {
		return slices.ContainsFunc(m.runs, func(r *modelRun) bool { return !r.State.Ended() && m.deliveryOf(r) <= d.id })
	}
	m.deliveries = slices.DeleteFunc(m.deliveries, func(d modelDelivery) bool {
		if forget := old(d.receivedAt, keep.Deliveries) && !unfinished(d) && d.id != last["deliveries"]; forget {
			n.Deliveries++
			return true
		}
		return false
	})
	return n
}

func (m *model) deliveryOf(r *modelRun) int64 {
	for _, e := range m.events {
		if e.ID == r.EventID {
			return e.Delivery
		}
	}
	return 0
}

// stuck gives the runs that have not ended.
func (m *model) stuck() string {
	var all []string
	for _, r := range m.runs {
		if !r.State.Ended() {
			all = append(all, fmt.Sprintf("run %d is %s (%s)", r.ID, r.State, r.Reason))
		}
	}
	return strings.Join(all, ", ")
}
