package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/dockbell/dockbell/trigger"
)

// openSQLite uses a name that would be misread in a URL. Its deferred indexes
// write what comes soon, not many rows later.
func openSQLite(t testing.TB, place string) *Store {
	t.Helper()
	path := filepath.Join(place, "a store? #1%41.db")
	s := openAt(t, path)
	if _, err := os.Stat(path); err != nil {
		t.Error("the store is elsewhere:", err)
	}
	if _, bench := t.(*testing.B); !bench {
		for _, d := range s.indexes.each() {
			d.most, d.several, d.together = 3, d.one+", (?, ?)", 2
		}
	}
	return s
}

func openAt(t testing.TB, path string) *Store {
	t.Helper()
	s, err := Open(t.Context(), "sqlite:"+path)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// newBench opens a store of its own for tests of SQLite alone.
func newBench(t testing.TB, path string) (*bench, *Store) {
	t.Helper()
	s := openAt(t, path)
	t.Cleanup(func() { s.Close() })
	return &bench{TB: t, Store: s, now: begin}, s
}

// Every statement is served by the index that was made for it, whatever the
// planner knows of the data: nothing, or the statistics of a long history.
func TestPlans(t *testing.T) {
	b, s := newBench(t, filepath.Join(t.TempDir(), "db"))
	testFollowers(t, b)
	exec(t, s, "UPDATE running SET owner = 1")
	if _, err := b.Recover(t.Context(), b.now, func(string) bool { return false }); err != nil {
		t.Fatal(err)
	}
	e := b.push("v99")
	b.accept(e, planned("z", trigger.Queue))
	b.accept(e, planned("z", trigger.Queue))
	for _, r := range b.claim(13) {
		b.finish(r, trigger.Failed)
		b.finish(r, trigger.Failed) // how far the run is has to be asked now
	}
	b.accept(e, planned("z", trigger.Queue))
	b.accept(b.push("v1", func(e *trigger.Event) { e.Repository = "shop/api" }), planned("z", trigger.Queue, ordered))
	steps := stepsOf(trigger.WhenSucceeded, trigger.WhenSucceeded)
	b.accept(b.push("v2"), steps...)

	// Which statement, by a part of it, and the plan it must have.
	wants := []struct{ part, plan string }{
		{"SELECT run_id FROM waiting WHERE head AND NOT awaits AND due_at <= ?", "SEARCH waiting USING INDEX waiting_due (due_at<?)"},
		{"SELECT due_at FROM waiting", "SCAN CONSTANT ROW | SCALAR SUBQUERY | SEARCH waiting USING INDEX waiting_due (due_at>?) | SCALAR SUBQUERY | SCAN waiting USING INDEX waiting_late"},
		{"WHERE d.key = j.value", "SCAN j VIRTUAL TABLE INDEX 1: | SEARCH d USING PRIMARY KEY (key=?)"},
		{"WHERE d.key = ?", "SEARCH d USING PRIMARY KEY (key=?) | SEARCH o USING INTEGER PRIMARY KEY (rowid=?) | SEARCH r USING INTEGER PRIMARY KEY (rowid=?)"},
		{"SELECT dedupe FROM origins", "SEARCH origins USING INTEGER PRIMARY KEY (rowid=?)"},
		{"max(id), 0) + 1 FROM deliveries", "SEARCH deliveries"},
		{"max(id), 0) + 1 FROM events", "SEARCH events"},
		{"max(id), 0) + 1 FROM runs", "SEARCH runs"},
		{"p.id > (SELECT max(id)", "SEARCH p USING PRIMARY KEY (key=? AND id>? AND id<?) | SCALAR SUBQUERY | SEARCH runs | SEARCH o USING INTEGER PRIMARY KEY (rowid=?) | SEARCH r USING INTEGER PRIMARY KEY (rowid=?) | SEARCH e USING INTEGER PRIMARY KEY (rowid=?)"},
		{"r.step <> ''", "SEARCH o USING COVERING INDEX origins_event (event_id=?) | SEARCH r USING INTEGER PRIMARY KEY (rowid=?) | USE TEMP B-TREE FOR ORDER BY"},
		{"WHERE o.lane = ? AND (o.outcome", "SEARCH o USING INDEX origins_lane (lane=?) | SEARCH r USING INTEGER PRIMARY KEY (rowid=?) | SEARCH e USING INTEGER PRIMARY KEY (rowid=?)"},
		{"SET state = 'superseded'", "SEARCH runs USING INTEGER PRIMARY KEY (rowid=?) | LIST SUBQUERY | SEARCH waiting USING COVERING INDEX waiting_lane (lane=? AND run_id<?)"},
		{"(SELECT run_id FROM waiting WHERE lane", "SEARCH waiting USING INTEGER PRIMARY KEY (rowid=?) | SCALAR SUBQUERY | SEARCH waiting USING COVERING INDEX waiting_lane (lane=?) | SCALAR SUBQUERY | SEARCH running USING COVERING INDEX sqlite_autoindex_running_1 (lane=?)"},
		{"AND head LIMIT 1", "SEARCH waiting USING INDEX waiting_lane (lane=?)"},
		{"SELECT 1 FROM waiting WHERE lane", "COMPOUND QUERY | LEFT-MOST SUBQUERY | SEARCH waiting USING COVERING INDEX waiting_lane (lane=?) | UNION ALL | SEARCH running USING COVERING INDEX sqlite_autoindex_running_1 (lane=?)"},
		{"SELECT r.id FROM waiting w", "SEARCH w USING COVERING INDEX waiting_lane (lane=? AND run_id>?) | SEARCH r USING INTEGER PRIMARY KEY (rowid=?)"},
		{"AND NOT EXISTS", "SEARCH waiting USING INTEGER PRIMARY KEY (rowid=?) | LIST SUBQUERY | SEARCH o USING COVERING INDEX origins_event (event_id=?) | SEARCH r USING INTEGER PRIMARY KEY (rowid=?) | SCALAR SUBQUERY | SEARCH o USING COVERING INDEX origins_event (event_id=?) | SEARCH r USING INTEGER PRIMARY KEY (rowid=?)"},
		{"owner NOT IN", "SEARCH r USING INTEGER PRIMARY KEY (rowid=?) | LIST SUBQUERY | SCAN running | USING ROWID SEARCH ON TABLE replicas FOR IN-OPERATOR | SEARCH e USING INTEGER PRIMARY KEY (rowid=?)"},
		{"SET state = 'running'", "SEARCH runs USING INTEGER PRIMARY KEY (rowid=?) | LIST SUBQUERY | SCAN json_each VIRTUAL TABLE INDEX 1:"},
		{"DELETE FROM waiting WHERE run_id IN", "SEARCH waiting USING INTEGER PRIMARY KEY (rowid=?) | LIST SUBQUERY | SCAN json_each VIRTUAL TABLE INDEX 1:"},
		{"UPDATE origins SET outcome", "SEARCH origins USING INTEGER PRIMARY KEY (rowid=?) | LIST SUBQUERY | SCAN json_each VIRTUAL TABLE INDEX 1:"},
		{"DELETE FROM running", "SEARCH running USING INTEGER PRIMARY KEY (rowid=?)"},
		{"WHERE r.id IN (SELECT value", "SEARCH r USING INTEGER PRIMARY KEY (rowid=?) | LIST SUBQUERY | SCAN json_each VIRTUAL TABLE INDEX 1: | SEARCH e USING INTEGER PRIMARY KEY (rowid=?)"},
		{"FROM holds", "SCAN holds USING INDEX holds_open"},
		{"FROM events WHERE observed", "SCAN events USING INDEX events_observed"},
		{"DELETE FROM replicas", ""}, // all of them
		{"SELECT r.state, r.started_at", "SEARCH r USING INTEGER PRIMARY KEY (rowid=?) | SEARCH x USING INTEGER PRIMARY KEY (rowid=?) LEFT-JOIN"},
		{"SET dedupe = NULL", "SEARCH origins USING INTEGER PRIMARY KEY (rowid=?)"},
		{"UPDATE runs SET state = 'waiting'", "SEARCH runs USING INTEGER PRIMARY KEY (rowid=?)"},
		{"UPDATE runs SET state = ?", "SEARCH runs USING INTEGER PRIMARY KEY (rowid=?)"},
		{"UPDATE events SET reason", "SEARCH events USING INTEGER PRIMARY KEY (rowid=?)"},
	}
	check := func(t *testing.T) {
		seen := map[string]bool{}
		for query := range s.writer.stmts {
			if strings.HasPrefix(query, "INSERT") || strings.HasPrefix(query, "BEGIN") || query == "COMMIT" || query == "ROLLBACK" {
				continue
			}
			want := ""
			for _, w := range wants {
				if strings.Contains(query, w.part) {
					want = w.plan
					seen[w.part] = true
					break
				}
			}
			if got := plan(t, s, query); got != want {
				t.Errorf("%s\nplan %s\nwant %s", query, got, want)
			}
		}
		for _, w := range wants {
			if !seen[w.part] {
				t.Errorf("no statement has %q", w.part)
			}
		}

		const event = " | SEARCH e USING INTEGER PRIMARY KEY (rowid=?)"
		const run = " | SEARCH r USING INTEGER PRIMARY KEY (rowid=?)" + event
		for _, tt := range []struct {
			f    trigger.RunFilter
			ids  []int64
			want string
		}{
			// By its key from the newest back, which the limit ends.
			{trigger.RunFilter{}, nil, "SCAN r" + event},
			{trigger.RunFilter{Rule: "a"}, nil, "SCAN r" + event},
			{trigger.RunFilter{State: trigger.Succeeded}, nil, "SCAN r" + event},
			{trigger.RunFilter{Before: 9}, nil, "SEARCH r USING INTEGER PRIMARY KEY (rowid<?)" + event},
			{trigger.RunFilter{Event: 9}, nil, "SEARCH o USING COVERING INDEX origins_event (event_id=?)" + run},
			{trigger.RunFilter{State: trigger.Waiting}, nil, "SCAN live" + run},
			{trigger.RunFilter{Repository: "a", Rule: "b"}, []int64{9}, "SEARCH r USING INTEGER PRIMARY KEY (rowid=?) | LIST SUBQUERY | SCAN json_each VIRTUAL TABLE INDEX 1:" + event},
			{trigger.RunFilter{State: trigger.Failed, Before: 9}, nil, "SEARCH o USING COVERING INDEX origins_outcome (outcome=? AND run_id<?)" + run},
		} {
			query, _ := s.runsQuery(tt.f, tt.ids)
			got := plan(t, s, query)
			if first, then, ok := strings.Cut(got, " | "); ok && strings.HasPrefix(first, "SEARCH e") {
				got = then + " | " + first // one event and its runs: either first
			}
			if got != tt.want {
				t.Errorf("%+v\nplan %s\nwant %s", tt.f, got, tt.want)
			}
		}
		query, _ := s.runsQuery(trigger.RunFilter{State: trigger.Waiting, Repository: "a"}, nil)
		if got := plan(t, s, query); !strings.HasPrefix(got, "SCAN live | ") || strings.Contains(got, "TEMP") {
			t.Errorf("%s\nplan %s", query, got)
		}
		for _, d := range s.indexes.each() {
			if got, want := plan(t, s, fmt.Sprintf(newestOf, d.name)), "SEARCH "+d.name+" USING PRIMARY KEY (key=? AND id<?)"; got != want {
				t.Errorf("plan %s\nwant %s", got, want)
			}
		}
		for _, tt := range []struct {
			f    trigger.EventFilter
			ids  []int64
			want string
		}{
			{trigger.EventFilter{}, nil, "SCAN e"},
			{trigger.EventFilter{Before: 9}, nil, "SEARCH e USING INTEGER PRIMARY KEY (rowid<?)"},
			{trigger.EventFilter{Repository: "a"}, []int64{9}, "SEARCH e USING INTEGER PRIMARY KEY (rowid=?) | LIST SUBQUERY | SCAN json_each VIRTUAL TABLE INDEX 1:"},
		} {
			query, _ := s.eventsQuery(tt.f, tt.ids)
			if got := plan(t, s, query); got != tt.want {
				t.Errorf("%+v\nplan %s\nwant %s", tt.f, got, tt.want)
			}
		}
	}
	t.Run("without statistics", check)

	// A year's history: nearly all succeeded, some wait.
	for _, q := range []string{
		`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)
		 INSERT INTO events SELECT 1000 + i, 1, 'hub', 'id' || i, 'push', 'r.example', 'shop/web' || (i % 50), 'v1', 'd' || i, '', '', i, i, '', 0 FROM n`,
		`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)
		 INSERT INTO runs (id, event_id, rule, idx, kind, target, spec, lane, mode, ordered, ordering, attempts, timeout, after, followed, state, reason, attempt, not_before, created_at, started_at, finished_at)
		 SELECT 1000 + i, 1000 + i, 'rule', 0, 'call', 't', '{}', 'lane' || (i % 50), 'queue', 0, '', 0, 0, 0, 0,
			CASE WHEN i > 4000 THEN 'waiting' WHEN i % 30 = 0 THEN 'failed' ELSE 'succeeded' END, '', 1, i, i, i, i FROM n`,
		"INSERT INTO origins SELECT r.id, e.id, e.repository, randomblob(16), r.lane, CASE r.state WHEN 'failed' THEN 'failed' ELSE '' END FROM runs r JOIN events e ON e.id = r.event_id WHERE r.id > 1000",
		"INSERT INTO waiting SELECT id, lane, not_before, id > 5950, 0 FROM runs WHERE id > 1000 AND state = 'waiting'",
		"ANALYZE",
	} {
		exec(t, s, q)
	}
	t.Run("with statistics", check)

	// The failed are not in it: it cannot serve those who ask for all.
	_, err := s.read.QueryContext(t.Context(), "SELECT run_id FROM origins INDEXED BY origins_lane WHERE lane = 'a'")
	if err == nil || !strings.Contains(err.Error(), "no query solution") {
		t.Errorf("the index of what stands in a lane has all runs: %v", err)
	}
}

func exec(t testing.TB, s *Store, query string) {
	t.Helper()
	if err := s.writer.do(t.Context(), func(w *writer) error { _, err := w.conn.ExecContext(t.Context(), query); return err }); err != nil {
		t.Fatal(err)
	}
}

// plan gives the steps of a query plan on one line. The plan is that of a
// connection that has read the present statistics.
func plan(t *testing.T, s *Store, query string) string {
	t.Helper()
	var steps []string
	err := s.writer.do(t.Context(), func(w *writer) error {
		steps = nil
		args := make([]any, strings.Count(query, "?"))
		rows, err := w.conn.QueryContext(t.Context(), "EXPLAIN QUERY PLAN "+query, args[:parameters(query)]...)
		return each(rows, err)(func(rows rowScanner) error {
			var id, parent, n int
			var step string
			err := rows.Scan(&id, &parent, &n, &step)
			if i := strings.Index(step, "SUBQUERY"); i >= 0 {
				step = step[:i+len("SUBQUERY")] // without its number
			}
			steps = append(steps, step)
			return err
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(steps, " | ")
}

// parameters counts what a statement is given: ?1 twice is one.
func parameters(query string) int {
	n := strings.Count(query, "?")
	for i := 1; i < 9; i++ {
		if c := strings.Count(query, fmt.Sprint("?", i)); c > 1 {
			n -= c - 1
		}
	}
	return n
}

// One operation that fails does not fail those that share its transaction.
func TestBatchIsolation(t *testing.T) {
	b, s := newBench(t, filepath.Join(t.TempDir(), "db"))
	hold := make(chan struct{})
	held := make(chan struct{})
	go s.writer.do(t.Context(), func(*writer) error { close(held); <-hold; return nil })
	<-held

	// All of these wait for the writer, and go into one transaction.
	bad := errors.New("bad operation")
	var wg sync.WaitGroup
	var good, failed int
	var mu sync.Mutex
	var attempts int
	for i := range 20 {
		wg.Go(func() {
			err := s.writer.do(t.Context(), func(w *writer) error {
				if i == 7 {
					attempts++ // the writer alone
					if err := w.exec("DELETE FROM runs"); err != nil {
						return err
					}
					return bad
				}
				_, err := w.acceptEvent(1, trigger.Planned{Event: trigger.Event{ID: fmt.Sprint(i), Source: "s"}, Runs: []trigger.Run{planned(fmt.Sprint("lane", i), trigger.Queue)}})
				return err
			})
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				good++
			case errors.Is(err, bad):
				failed++
			default:
				t.Error(err)
			}
		})
	}
	close(hold)
	wg.Wait()
	if good != 19 || failed != 1 {
		t.Errorf("%d succeeded and %d failed", good, failed)
	}
	if n := len(b.all()); n != 19 {
		t.Errorf("%d runs on disk", n)
	}
	// A failed statement as well as a failed function.
	err := s.writer.do(t.Context(), func(w *writer) error { return w.exec("INSERT INTO runs (id) VALUES (1)") })
	if err == nil || !strings.Contains(err.Error(), "NOT NULL") {
		t.Errorf("a constraint gives %v", err)
	}
	if err := s.Ping(t.Context()); err != nil {
		t.Error(err)
	}
}

// The database itself keeps two runs of a lane apart.
func TestOneRunningPerLane(t *testing.T) {
	b, s := newBench(t, filepath.Join(t.TempDir(), "db"))
	b.accept(b.push("v1"), planned("a", trigger.Queue))
	b.accept(b.push("v2"), planned("a", trigger.Queue))
	b.claim(1)
	err := s.writer.do(t.Context(), func(w *writer) error { return w.exec("INSERT INTO running VALUES (2, 'a', 1)") })
	if err == nil || !strings.Contains(err.Error(), "UNIQUE") {
		t.Errorf("a second running run: %v", err)
	}
	b.want("running waiting")
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	used := openAt(t, path("used"))
	defer used.Close()
	newer := openAt(t, path("newer"))
	exec(t, newer, fmt.Sprint("PRAGMA user_version = ", sqliteDialect.version()+1))
	newer.Close()
	if err := os.WriteFile(path("corrupt"), []byte(strings.Repeat("this is no database ", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	cut := openAt(t, path("cut"))
	cut.Close()
	if err := os.Truncate(path("cut"), 5000); err != nil {
		t.Fatal(err)
	}
	foreign := openAt(t, path("foreign"))
	exec(t, foreign, "PRAGMA user_version = 0")
	foreign.Close()
	if err := os.Mkdir(path("directory"), 0o700); err != nil {
		t.Fatal(err)
	}
	tests := []struct{ location, want string }{
		{"", `store "": must be sqlite:PATH or postgres://USER@HOST/DATABASE`},
		{"sqlite:", `store "sqlite:": must be sqlite:PATH or postgres://USER@HOST/DATABASE`},
		{"mysql://x", `store "mysql://x": must be sqlite:PATH or postgres://USER@HOST/DATABASE`},
		{"sqlite:" + path("used"), "store " + path("used") + ": another dockbell is using it; stop that one, or give this one a store of its own"},
		{"sqlite:" + path("newer"), "store " + path("newer") + ": it has schema version 9 and this dockbell knows up to 8; run the newer dockbell"},
		{"sqlite:" + path("foreign"), "store " + path("foreign") + ": it is a database of another program"},
		{"sqlite:" + path("corrupt"), "store " + path("corrupt") + ": file is not a database (26)"},
		{"sqlite:" + path("cut"), "store " + path("cut") + ": database disk image is malformed (11)"},
		{"sqlite:" + path("none/db"), "store " + path("none/db") + ": open " + path("none/db.lock") + ": no such file or directory"},
		{"sqlite:" + path("directory"), "store " + path("directory") + ": open " + path("directory") + ": is a directory"},
	}
	for _, tt := range tests {
		for range 2 { // a refusal leaves no lock behind
			s, err := Open(t.Context(), tt.location)
			if err == nil {
				s.Close()
				t.Fatalf("%s was opened", tt.location)
			}
			if !strings.HasPrefix(err.Error(), tt.want) {
				t.Errorf("%s:\n%s\nwant\n%s", tt.location, err, tt.want)
			}
		}
	}
	used.Close()
	openAt(t, path("used")).Close()
}

// tmpfs mounts a small file system, or skips the test.
func tmpfs(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Skip("cannot mount a small file system:", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func TestReadOnlyDirectory(t *testing.T) {
	dir := tmpfs(t, "1m")
	openAt(t, filepath.Join(dir, "there")).Close()
	if err := syscall.Mount("", dir, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"new", "there"} {
		path := filepath.Join(dir, name)
		_, err := Open(t.Context(), "sqlite:"+path)
		if want := "store " + path + ": open " + path + ".lock: read-only file system"; err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

// A full disk loses nothing that was acknowledged, and is over when it is over.
func TestFullDisk(t *testing.T) {
	dir := tmpfs(t, "3m")
	b, s := newBench(t, filepath.Join(dir, "db"))
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	kept := map[int64]bool{}
	var full error
	for i := 0; full == nil && i < 10_000; i++ {
		e := b.push("v1")
		rec, err := b.Accept(t.Context(), trigger.Delivery{Body: make([]byte, 20_000)}, []trigger.Planned{{Event: e, Runs: []trigger.Run{planned(fmt.Sprint(i), trigger.Queue)}}})
		if full = err; err == nil {
			kept[rec.Events[0].Runs[0].ID] = true
		} else if rec.Delivery != 0 || rec.Events != nil {
			t.Errorf("an error with a receipt: %+v", rec)
		}
	}
	if full == nil || len(kept) == 0 {
		t.Fatalf("%d accepted, then %v", len(kept), full)
	}
	if !strings.Contains(full.Error(), "full") {
		t.Errorf("the error is %q", full)
	}
	t.Logf("%d accepted, then: %v", len(kept), full)

	same := func(when string) {
		t.Helper()
		runs := b.all()
		for _, r := range runs {
			if !kept[r.ID] {
				t.Errorf("%s: run %d was not acknowledged", when, r.ID)
			}
		}
		if len(runs) != len(kept) {
			t.Errorf("%s: %d runs of %d", when, len(runs), len(kept))
		}
	}
	same("while full")
	// Many at once get an error each, and none a wrong answer.
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			_, err := s.Accept(t.Context(), trigger.Delivery{Body: make([]byte, 500_000)}, []trigger.Planned{{Event: trigger.Event{ID: fmt.Sprint("x", i)}, Runs: []trigger.Run{planned("x", trigger.Queue)}}})
			if err == nil {
				t.Error("accepted on a full disk")
			}
		})
	}
	wg.Wait()
	same("after many")

	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	rec := b.accept(b.push("v2"), planned("y", trigger.Queue))
	kept[rec.Runs[0].ID] = true
	same("with space again")
	runs, _, err := b.Claim(t.Context(), b.now, upTo(5))
	if err != nil || len(runs) != 5 {
		t.Fatal(len(runs), err)
	}
	b.finish(runs[0], trigger.Succeeded)
	s.Close()
	b.Store = openAt(t, filepath.Join(dir, "db"))
	defer b.Store.Close()
	same("after opening again")
	if quick := quickCheck(t, b.Store); quick != "ok" {
		t.Error(quick)
	}
}

func quickCheck(t *testing.T, s *Store) (result string) {
	t.Helper()
	if err := s.read.QueryRowContext(t.Context(), "PRAGMA quick_check").Scan(&result); err != nil {
		t.Fatal(err)
	}
	return result
}

// Close lets what has begun come to its end, refuses the rest, and leaves no
// goroutine behind.
func TestClose(t *testing.T) {
	before := runtime.NumGoroutine()
	dir := t.TempDir()
	b, s := newBench(t, filepath.Join(dir, "db"))
	var wg sync.WaitGroup
	var mu sync.Mutex
	acked := map[int64]bool{}
	begun := make(chan struct{}, 1)
	for i := range 32 {
		wg.Go(func() {
			for n := 0; ; n++ {
				rec, err := s.Accept(context.Background(), trigger.Delivery{}, []trigger.Planned{{Event: trigger.Event{ID: fmt.Sprint(i, "/", n)}, Runs: []trigger.Run{planned("a", trigger.Queue)}}})
				if err != nil {
					if !errors.Is(err, errClosed) {
						t.Error(err)
					}
					return
				}
				mu.Lock()
				acked[rec.Events[0].Runs[0].ID] = true
				mu.Unlock()
				select {
				case begun <- struct{}{}:
				default:
				}
			}
		})
	}
	<-begun
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	wg.Wait()
	for name, op := range map[string]func() error{
		"claim":  func() error { _, _, err := s.Claim(t.Context(), b.now, upTo(1)); return err },
		"finish": func() error { _, err := s.Finish(t.Context(), trigger.Run{ID: 1}, trigger.Result{}); return err },
		"runs":   func() error { _, err := s.Runs(t.Context(), trigger.RunFilter{Limit: 1}); return err },
		"ping":   func() error { return s.Ping(t.Context()) },
	} {
		if err := op(); err == nil {
			t.Errorf("%s of a closed store succeeds", name)
		}
	}
	if err := s.Close(); err != nil {
		t.Errorf("a second Close: %v", err)
	}
	// The goroutines of database/sql end by themselves soon after.
	for deadline := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > before; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines before, %d after", before, runtime.NumGoroutine())
		}
	}
	b.Store = openAt(t, filepath.Join(dir, "db"))
	defer b.Store.Close()
	if runs := b.all(); len(runs) != len(acked) {
		t.Errorf("%d runs on disk, %d acknowledged", len(runs), len(acked))
	}
}

// A context that ends before the writer takes the operation leaves nothing.
func TestContextBeforeWriting(t *testing.T) {
	b, s := newBench(t, filepath.Join(t.TempDir(), "db"))
	hold, held := make(chan struct{}), make(chan struct{})
	go s.writer.do(t.Context(), func(*writer) error { close(held); <-hold; return nil })
	<-held
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	soon, cancelSoon := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancelSoon()
	if err := s.Ping(soon); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("ping while the disk hangs: %v", err)
	}
	e := b.push("v1")
	if _, err := s.Accept(ctx, trigger.Delivery{}, []trigger.Planned{{Event: e, Runs: []trigger.Run{planned("a", trigger.Queue)}}}); !errors.Is(err, context.Canceled) {
		t.Errorf("accept: %v", err)
	}
	close(hold)
	if n := len(b.all()); n != 0 {
		t.Errorf("%d runs", n)
	}
}
