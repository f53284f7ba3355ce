package store

import (
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/dockbell/dockbell/trigger"
)

// Whatever is done to a store, also by several replicas and at once, it is as
// the model has it, and what is promised of lanes holds whatever the model
// says. Then time passes, and everything comes to its end.
func TestModel(t *testing.T) {
	for _, d := range []struct {
		name             string
		open             func(t testing.TB, place string) *Store
		replicas, checks int
	}{
		{"SQLite", openSQLite, 1, 12},
		{"PostgreSQL", openPatient, 3, 8},
	} {
		t.Run(d.name, func(t *testing.T) {
			c := &cluster{test: t, open: d.open, place: t.TempDir(), stores: make([]*Store, d.replicas)}
			for i := range c.stores {
				c.reopen(i)
			}
			t.Cleanup(func() {
				for _, s := range c.stores {
					s.Close()
				}
			})
			check(t, d.checks, func(t *rapid.T) {
				c.clear()
				m := &machine{cluster: c, model: newModel(d.replicas), now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), landed: map[string]trigger.Event{}}
				t.Repeat(map[string]func(*rapid.T){
					"do": func(t *rapid.T) { m.do(t, rapid.Custom(m.some).Draw(t, "step")...) },
				})
				m.drain(t)
				if problems, err := c.stores[0].check(c.test.Context(), c.stores[0].read); err != nil || len(problems) > 0 {
					t.Fatalf("%q, %v", problems, err)
				}
			})
		})
	}
}

// check tries a property as often as -rapid.checks says, or else n times; with
// DOCKBELL_SOAK=1 fifty times that.
func check(t *testing.T, n int, property func(*rapid.T)) {
	t.Helper()
	checks, given := flag.Lookup("rapid.checks"), false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == checks.Name })
	if os.Getenv("DOCKBELL_SOAK") == "1" {
		n *= 50
	}
	if before := checks.Value.String(); !given {
		if err := checks.Value.Set(strconv.Itoa(n)); err != nil {
			t.Fatal(err)
		}
		defer checks.Value.Set(before)
	}
	rapid.Check(t, property)
}

// cluster is a database with its replicas.
type cluster struct {
	test   *testing.T
	open   func(t testing.TB, place string) *Store
	place  string
	stores []*Store // one for each replica

	prepared map[string]*sql.Stmt // on the first replica
}

// openPatient opens a store where only a test can make a replica look dead: its
// lease is longer than any test.
func openPatient(t testing.TB, place string) *Store {
	t.Helper()
	s, err := openLeased(t.Context(), postgresAt(t, place), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (c *cluster) reopen(replica int) {
	if s := c.stores[replica]; s != nil {
		if err := s.Close(); err != nil {
			c.test.Fatal(err)
		}
	}
	s := c.open(c.test, c.place)
	if err := s.TellOf(c.test.Context(), modelTells); err != nil {
		c.test.Fatal(err)
	}
	c.stores[replica] = s
	if replica == 0 {
		c.prepared = map[string]*sql.Stmt{}
	}
}

// see runs through the rows of a query. It is prepared once: with the race
// detector it takes longer to read it than to carry it out.
func (c *cluster) see(t *rapid.T, query string, scan func(rowScanner) error) {
	stmt, err := c.prepared[query], error(nil)
	if stmt == nil {
		if stmt, err = c.stores[0].read.PrepareContext(c.test.Context(), query); err != nil {
			t.Fatal(err)
		}
		c.prepared[query] = stmt
	}
	if err := each(stmt.QueryContext(t.Context()))(scan); err != nil {
		t.Fatal(err)
	}
}

// clear empties the database, but for its version and who uses it.
func (c *cluster) clear() {
	err := c.stores[0].writer.do(c.test.Context(), func(w *writer) error {
		w.forget()
		find := []string{"SELECT 'DELETE FROM ' || name FROM sqlite_schema WHERE type = 'table' AND name <> 'replicas'"}
		if w.shared {
			find = []string{
				"SELECT 'DELETE FROM ' || tablename FROM pg_tables WHERE schemaname = current_schema() AND tablename NOT IN ('replicas', 'writer', 'dockbell_schema')",
				"SELECT 'ALTER SEQUENCE ' || sequencename || ' RESTART' FROM pg_sequences WHERE schemaname = current_schema()",
			}
		}
		var statements []string
		for _, query := range find {
			err := w.rows(query, nil, func(rows rowScanner) error {
				var statement string
				err := rows.Scan(&statement)
				statements = append(statements, statement)
				return err
			})
			if err != nil {
				return err
			}
		}
		for _, statement := range statements {
			if err := w.exec(statement); err != nil {
				return err
			}
		}
		for _, d := range w.indexes.each() {
			d.rows.Clear()
			d.last, d.whole, d.round, d.reached, d.reaches = 0, 0, 0, entry{}, entry{}
		}
		return nil
	})
	for _, s := range c.stores {
		err = errors.Join(err, s.writer.do(c.test.Context(), func(w *writer) error {
			w.late = false
			return nil
		}))
	}
	if err != nil {
		c.test.Fatal(err)
	}
}

// kill makes a replica look dead to the others.
func (c *cluster) kill(replica int) error {
	var id int64
	err := c.stores[replica].writer.do(c.test.Context(), func(w *writer) error { id = w.me; return nil })
	if err != nil {
		return err
	}
	_, err = c.stores[0].read.Exec("DELETE FROM replicas WHERE id = " + strconv.FormatInt(id, 10))
	return err
}

// machine does the same to a cluster and to a model of it.
type machine struct {
	*cluster
	model  *model
	now    time.Time
	next   time.Time // of what is drawn
	seen   sight     // after the last step
	told   []trigger.Notice
	landed map[string]trigger.Event // what lanes hold by what has ended in them
	past   []trigger.Planned
	claims []claim
}

// claim is a run as a replica has claimed it.
type claim struct {
	replica int
	run     trigger.Run
}

// sight is what can be seen of a store.
type sight struct {
	runs    []trigger.Run // oldest first
	tries   map[int64][]trigger.Attempt
	notes   map[int64][]trigger.Note
	notices []modelNotice
	holds   []trigger.Hold
	due     []int64 // the runs that nothing but time keeps from being claimed

	problems []string // that the check of a store finds
}

// step is a thing to do.
type step struct {
	what  string
	at    time.Time
	store func() string       // does it and says what came of it
	model func(*model) string // says what must come of it
	keep  func()              // remembers what later steps may come back to; nil for nothing
}

// steps are done at once.
type steps []step

// GoString is how steps are printed when a check fails.
func (s steps) GoString() string {
	var what []string
	for _, step := range s {
		what = append(what, step.at.Format("04:05 ")+step.what)
	}
	return strings.Join(what, "; at once ")
}

// do does steps and compares what came of them with the model: that must be as
// if they had been done one after the other.
func (m *machine) do(t *rapid.T, steps ...step) {
	answers := m.answers(steps)
	before := m.seen
	m.look(t)
	var wrong []string // by each order
	for _, order := range orders(len(steps)) {
		model, diff := m.model.clone(), ""
		for _, i := range order {
			if want := steps[i].model(model); want != answers[i] && diff == "" {
				diff = fmt.Sprintf("%s\n gives %s\n  want %s", steps[i].what, answers[i], want)
			}
		}
		if diff == "" {
			diff = m.seen.differs(model)
		}
		if diff == "" {
			m.model = model
			m.promises(t, before)
			return
		}
		wrong = append(wrong, diff)
	}
	t.Fatal(strings.Join(wrong, "\nor, in another order: "))
}

// answers does steps. Several are kept back until all of them are there, so
// that the store does them together; the pause lets them come in the same
// order when a check is repeated.
func (m *machine) answers(steps steps) []string {
	answers := make([]string, len(steps))
	var all sync.WaitGroup
	gate := make(chan struct{})
	if len(steps) > 1 {
		held := make(chan struct{})
		all.Go(func() {
			m.stores[0].writer.do(m.test.Context(), func(*writer) error { close(held); <-gate; return nil })
		})
		<-held
	}
	for i, s := range steps {
		all.Go(func() { answers[i] = s.store() })
		if len(steps) > 1 {
			time.Sleep(time.Millisecond)
		}
	}
	close(gate)
	all.Wait()
	for _, s := range steps {
		if m.now.Before(s.at) {
			m.now = s.at
		}
		if s.keep != nil {
			s.keep()
		}
	}
	return answers
}

// orders gives all orders of n things.
func orders(n int) (all [][]int) {
	if n == 0 {
		return [][]int{nil}
	}
	for _, o := range orders(n - 1) {
		for i := range n {
			all = append(all, slices.Insert(slices.Clone(o), i, n-1))
		}
	}
	return all
}

// look sees the store as it is now.
func (m *machine) look(t *rapid.T) {
	s := sight{tries: map[int64][]trigger.Attempt{}, notes: map[int64][]trigger.Note{}}
	m.see(t, selectRuns+" ORDER BY r.id", addTo(&s.runs))
	m.see(t, "SELECT run_id, n, started_at, finished_at, state, reason, log FROM attempts ORDER BY run_id, n", func(rows rowScanner) error {
		var run int64
		var a trigger.Attempt
		err := rows.Scan(&run, &a.N, (*nanoTime)(&a.StartedAt), (*nanoTime)(&a.FinishedAt), &a.State, &a.Reason, &a.Log)
		s.tries[run] = append(s.tries[run], a)
		return err
	})
	m.see(t, "SELECT run_id, at, note FROM notes ORDER BY id", func(rows rowScanner) error {
		var run int64
		var n trigger.Note
		err := rows.Scan(&run, (*nanoTime)(&n.At), &n.Text)
		s.notes[run] = append(s.notes[run], n)
		return err
	})
	m.see(t, "SELECT id, run_id, state, reason FROM notices ORDER BY id", func(rows rowScanner) error {
		var n modelNotice
		err := rows.Scan(&n.id, &n.run, &n.state, &n.reason)
		s.notices = append(s.notices, n)
		return err
	})
	m.see(t, selectHolds+" ORDER BY id", func(rows rowScanner) error {
		var h trigger.Hold
		err := rows.Scan(holdColumns(&h)...)
		s.holds = append(s.holds, h)
		return err
	})
	m.see(t, "SELECT run_id FROM waiting WHERE head ORDER BY run_id", func(rows rowScanner) error {
		var id int64
		err := rows.Scan(&id)
		s.due = append(s.due, id)
		return err
	})
	m.see(t, strings.Join(checks, " UNION ALL "), func(rows rowScanner) error {
		var problem string
		err := rows.Scan(&problem)
		s.problems = append(s.problems, problem)
		return err
	})
	m.seen = s
}

// differs says what is not as the model has it.
func (s sight) differs(m *model) string {
	var runs []trigger.Run
	for _, r := range m.runs {
		runs = append(runs, r.Run)
	}
	if !slices.Equal(ids(s.runs), ids(runs)) {
		return fmt.Sprintf("there are the runs %d, want %d", ids(s.runs), ids(runs))
	}
	for i, r := range s.runs {
		if !reflect.DeepEqual(r, runs[i]) {
			return fmt.Sprintf("run %d (-want +got):\n%s", r.ID, cmp.Diff(runs[i], r))
		}
		if want := m.runs[i].tries; !slices.Equal(s.tries[r.ID], want) {
			return fmt.Sprintf("tries of run %d (-want +got):\n%s", r.ID, cmp.Diff(want, s.tries[r.ID]))
		}
		if want := m.runs[i].notes; !slices.Equal(s.notes[r.ID], want) {
			return fmt.Sprintf("notes of run %d (-want +got):\n%s", r.ID, cmp.Diff(want, s.notes[r.ID]))
		}
	}
	var due []trigger.Run
	for _, r := range m.runs {
		if m.claimable(r) {
			due = append(due, r.Run)
		}
	}
	if !slices.Equal(s.due, ids(due)) {
		return fmt.Sprintf("claimable in time are %d, want %d", s.due, ids(due))
	}
	if !reflect.DeepEqual(s.holds, m.holds) && len(s.holds)+len(m.holds) > 0 {
		return "holds (-want +got):\n" + cmp.Diff(m.holds, s.holds)
	}
	for i := range m.notices { // what ends in one step has no order
		n := &m.notices[i]
		for _, o := range s.notices {
			if n.id == 0 && m.noticed(o.id) == nil && o.run == n.run && o.state == n.state && o.reason == n.reason {
				n.id = o.id
			}
		}
	}
	slices.SortStableFunc(m.notices, func(a, b modelNotice) int { return int(a.id - b.id) })
	if !slices.Equal(s.notices, m.notices) {
		return fmt.Sprintf("notices (-want +got):\n%s", cmp.Diff(m.notices, s.notices, cmp.AllowUnexported(modelNotice{})))
	}
	return ""
}

// promises holds the store to what is promised of it, whatever the model says.
func (m *machine) promises(t *rapid.T, before sight) {
	was := map[int64]trigger.Run{}
	for _, r := range before.runs {
		was[r.ID] = r
	}
	running := map[string]int64{}
	for _, r := range m.seen.runs {
		if !takesTurns(r) {
			continue
		}
		// Who has an unknown run tried again knows that it did not happen.
		if was[r.ID].State == trigger.Unknown && r.State != trigger.Unknown && m.landed[r.Lane+r.Event.Name()] == r.Event {
			delete(m.landed, r.Lane+r.Event.Name())
		}
		if r.State == trigger.Running {
			if other := running[r.Lane]; other != 0 {
				t.Fatalf("runs %d and %d of lane %s at once", other, r.ID, r.Lane)
			}
			running[r.Lane] = r.ID
		}
		if (r.State == trigger.Succeeded || r.State == trigger.Unknown) && was[r.ID].State == trigger.Running {
			m.landed[r.Lane+r.Event.Name()] = r.Event
		}
	}
	for _, r := range m.seen.runs {
		holds, some := m.landed[r.Lane+r.Event.Name()]
		begins := r.State == trigger.Running && (was[r.ID].State != trigger.Running || was[r.ID].Attempt != r.Attempt)
		if !begins || !some || !r.Ordered || !takesTurns(r) || m.model.run(r.ID).force {
			continue
		}
		if why := trigger.Backwards(release(holds), release(r.Event), r.Order); why != "" {
			t.Fatalf("run %d takes lane %s backwards: %s", r.ID, r.Lane, why)
		}
	}
	if len(m.seen.problems) > 0 {
		t.Fatalf("the check of the store finds: %s", strings.Join(m.seen.problems, "; "))
	}
}

// drain lets time pass until all runs have ended: none may be stuck. Then it
// compares what is kept of them.
func (m *machine) drain(t *rapid.T) {
	for _, h := range m.model.holds {
		if h.ReleasedAt.IsZero() {
			m.do(t, m.releaseOf(h.ID, m.now))
		}
	}
	m.do(t, m.recoverBy(0, m.now))
	for range 2 * len(m.model.runs) {
		if m.model.stuck() == "" {
			break
		}
		m.do(t, m.claimBy(0, m.now.Add(time.Minute), 1000))
		for _, c := range m.running() {
			m.do(t, m.finishOf(c, trigger.Result{State: trigger.Succeeded, At: m.now}))
		}
	}
	if stuck := m.model.stuck(); stuck != "" {
		t.Fatalf("stuck: %s", stuck)
	}
	m.history(t)
}

// history compares what is kept of events and deliveries.
func (m *machine) history(t *rapid.T) {
	s, ctx := m.stores[0], t.Context()
	events, err := s.Events(ctx, trigger.EventFilter{Limit: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	slices.Reverse(events)
	for i := range events {
		events[i].Runs = nil // compared already, each with its event
	}
	if diff := cmp.Diff(m.model.events, events); diff != "" && len(m.model.events)+len(events) > 0 {
		t.Fatalf("events (-want +got):\n%s", diff)
	}
	for _, e := range m.model.events {
		want := ""
		for _, d := range m.model.deliveries {
			if d.id == e.Delivery {
				want = d.body
			}
		}
		if d, ok, err := s.Delivery(ctx, e.Delivery); err != nil || ok != (want != "") || string(d.Body) != want {
			t.Fatalf("event %d came with delivery %q (%t, %v), want %q", e.ID, d.Body, ok, err, want)
		}
	}
}

// running gives the claims of what runs now.
func (m *machine) running() (open []claim) {
	for _, r := range m.model.runs {
		if i := slices.Index(m.model.lives, r.owner); r.State == trigger.Running && i >= 0 {
			open = append(open, claim{i, r.Run})
		}
	}
	return open
}
