package store

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"pgregory.net/rapid"

	"github.com/dockbell/dockbell/trigger"
)

// What lists, redeliveries and pruning see does not depend on how much of an
// index is written, also after a crash.
func TestDeferredIndexes(t *testing.T) {
	check(t, 10, func(r *rapid.T) {
		dir := t.TempDir()
		b := &bench{TB: t, place: dir, open: openSQLite, now: begin}
		b.reopen()
		defer func() { b.Store.Close() }()
		of := map[string][]int64{} // the runs of each repository, newest first
		key := map[int64]trigger.Event{}
		restarted := false
		r.Repeat(map[string]func(*rapid.T){
			"push": func(r *rapid.T) {
				repository := fmt.Sprint("shop/", rapid.IntRange(0, 3).Draw(r, "repository"))
				e := b.push("v1", func(e *trigger.Event) { e.Repository = repository })
				e.Digest = fmt.Sprint("sha256:", b.events)
				got := b.accept(e, planned(fmt.Sprint("lane", b.events), trigger.Queue))
				if !got.Runs[0].New {
					r.Fatalf("a new push made no run: %+v", got)
				}
				of[repository] = slices.Insert(of[repository], 0, got.Runs[0].ID)
				key[got.Runs[0].ID] = e
			},
			"again": func(r *rapid.T) {
				if len(key) == 0 {
					r.Skip("nothing was pushed")
				}
				ids := make([]int64, 0, len(key))
				for id := range key {
					ids = append(ids, id)
				}
				slices.Sort(ids)
				id := rapid.SampledFrom(ids).Draw(r, "run")
				if got := b.accept(key[id], planned("again", trigger.Queue)); got.Runs[0].New || got.Runs[0].ID != id {
					r.Fatalf("redelivery of run %d: %+v", id, got)
				}
			},
			"rehearse": func(r *rapid.T) {
				before := b.indexes.runs.rows.Len()
				e := b.push("v1", func(e *trigger.Event) { e.Repository = "shop/0" })
				if _, err := b.Rehearse(t.Context(), trigger.Delivery{Source: "hub"}, []trigger.Planned{{Event: e, Runs: []trigger.Run{planned("a", trigger.Queue)}}}); err != nil {
					r.Fatal(err)
				}
				if now := b.indexes.runs.rows.Len(); now != before {
					r.Fatalf("%d rows in memory, before the rehearsal %d", now, before)
				}
			},
			"prune": func(r *rapid.T) {
				for _, run := range b.all() {
					if rapid.Bool().Draw(r, "ended") {
						exec(t, b.Store, fmt.Sprintf("UPDATE runs SET state = 'failed', finished_at = 1, created_at = 1 WHERE id = %d", run.ID))
						exec(t, b.Store, fmt.Sprintf("UPDATE origins SET outcome = 'failed' WHERE run_id = %d", run.ID))
						exec(t, b.Store, fmt.Sprintf("DELETE FROM waiting WHERE run_id = %d", run.ID))
					}
				}
				if _, err := b.Prune(t.Context(), trigger.Keep{}, b.now); err != nil {
					r.Fatal(err)
				}
				left := ids(b.all())
				for repository := range of {
					of[repository] = slices.DeleteFunc(of[repository], func(id int64) bool { return !slices.Contains(left, id) })
				}
				for id := range key {
					if !slices.Contains(left, id) {
						delete(key, id)
					}
				}
				failed, err := b.Runs(t.Context(), trigger.RunFilter{State: trigger.Failed, Limit: 100})
				if err != nil {
					r.Fatal(err)
				}
				for _, run := range failed { // sent again, it makes another run
					delete(key, run.ID)
				}
			},
			"restart": func(*rapid.T) {
				restarted = true
				b.reopen()
			},
			"crash": func(r *rapid.T) {
				restarted = true
				copied := t.TempDir()
				files, err := filepath.Glob(filepath.Join(b.place, "*"))
				if err != nil || len(files) < 2 {
					r.Fatal(files, err)
				}
				for _, f := range files {
					data, err := os.ReadFile(f)
					if err == nil {
						err = os.WriteFile(filepath.Join(copied, filepath.Base(f)), data, 0o600)
					}
					if err != nil {
						r.Fatal(err)
					}
				}
				b.place = copied
				b.reopen()
			},
			"": func(r *rapid.T) {
				for repository, want := range of {
					for _, limit := range []int{1, 3, 100} {
						runs, err := b.Runs(t.Context(), trigger.RunFilter{Repository: repository, Limit: limit})
						if got := newest(runs); err != nil || !slices.Equal(got, want[:min(limit, len(want))]) {
							r.Fatalf("%d runs of %s: %d, want %d, %v", limit, repository, got, want, err)
						}
					}
					if len(want) > 1 {
						runs, err := b.Runs(t.Context(), trigger.RunFilter{Repository: repository, Before: want[0], Limit: 100})
						if got := newest(runs); err != nil || !slices.Equal(got, want[1:]) {
							r.Fatalf("runs of %s before %d: %d, %v", repository, want[0], got, err)
						}
					}
					events, err := b.Events(t.Context(), trigger.EventFilter{Repository: repository, Limit: 1000})
					var all []int64
					for _, e := range events {
						all = append(all, e.Runs...)
					}
					if slices.Sort(all); err != nil || !slices.Equal(all, slices.Sorted(slices.Values(want))) {
						r.Fatalf("runs of the events of %s: %d, want %d, %v", repository, all, want, err)
					}
				}
				if problems, err := b.check(t.Context(), b.read); err != nil || len(problems) > 0 {
					r.Fatalf("%q, %v", problems, err)
				}
				for _, d := range b.indexes.each() { // a restart finds what a round had not come to
					if n := d.rows.Len(); !restarted && n > d.most+d.together {
						r.Fatalf("%d rows of %s in memory", n, d.name)
					}
				}
			},
		})
	})
}

func newest(runs []trigger.Run) (ids []int64) {
	for _, r := range runs {
		ids = append(ids, r.ID)
	}
	return ids
}

// What is settled for one operation is not gone through again for the next one
// of the same transaction, and what has been deleted since is not written again.
func TestSettledOnce(t *testing.T) {
	b, s := newBench(t, filepath.Join(t.TempDir(), "db"))
	for i := range 3 {
		b.accept(b.push(fmt.Sprint("v", i)), planned("a", trigger.Queue))
	}
	err := s.writer.do(t.Context(), func(w *writer) error {
		d := w.indexes.runs
		for range 2 {
			if err := w.settle(d, keyOf("shop/web")); err != nil {
				return err
			}
			if len(d.written) != 3 {
				t.Errorf("%d rows written", len(d.written))
			}
		}
		if err := w.exec("DELETE FROM runs_by_repository WHERE id = 2"); err != nil {
			return err
		}
		d.add(keyOf("shop/web"), 4)
		if err := w.settle(d, keyOf("shop/web")); err != nil {
			return err
		}
		if err := w.settleUpTo(d, 4); err != nil {
			return err
		}
		ids, err := w.idsOf("SELECT id FROM runs_by_repository ORDER BY id")
		if want := []int64{1, 3, 4}; !slices.Equal(ids, want) {
			t.Errorf("the index has %d, want %d", ids, want)
		}
		return errors.Join(err, errRehearsed)
	})
	if !errors.Is(err, errRehearsed) {
		t.Fatal(err)
	}
	if n := s.indexes.runs.rows.Len(); n != 3 {
		t.Errorf("%d rows in memory after it was rolled back", n)
	}
}

// A list does not have a row whose id another one has got since it was looked up.
func TestListOfIDsOfAnother(t *testing.T) {
	b, s := newBench(t, filepath.Join(t.TempDir(), "db"))
	b.accept(b.push("v1"), planned("a", trigger.Queue))
	s.indexes.runs.rows.Set(entry{keyOf("shop/gone"), 1})
	s.indexes.events.rows.Set(entry{keyOf("shop/gone"), 1})
	if runs, err := s.Runs(t.Context(), trigger.RunFilter{Repository: "shop/gone", Limit: 5}); err != nil || len(runs) != 0 {
		t.Errorf("runs %+v, %v", runs, err)
	}
	if events, err := s.Events(t.Context(), trigger.EventFilter{Repository: "shop/gone", Limit: 5}); err != nil || len(events) != 0 {
		t.Errorf("events %+v, %v", events, err)
	}
}

// Values that share a key are held apart.
func TestSharedKeys(t *testing.T) {
	b, s := newBench(t, filepath.Join(t.TempDir(), "db"))
	same := func(key func(name string) int64) (first, second string) {
		seen := map[int64]string{}
		for i := range math.MaxInt {
			n := fmt.Sprintf("shop/%x", sha256.Sum256([]byte(strconv.Itoa(i))))
			k := key(n)
			if other, ok := seen[k]; ok {
				return other, n
			}
			seen[k] = n
		}
		return "", ""
	}
	one, two := same(keyOf[string])
	for i, repository := range []string{one, two, one} {
		b.accept(b.push(fmt.Sprint("v", i), func(e *trigger.Event) { e.Repository = repository }), planned(repository, trigger.Queue))
	}
	e, run := b.push("v9"), planned("a", trigger.Queue)
	of := func(id string) trigger.Event { e.ID, e.Digest = id, ""; return e }
	first, second := same(func(id string) int64 {
		run.Event = of(id)
		return keyOf(dedupeKey(run))
	})
	b.accept(of(first), run)
	for range 2 { // from memory, and from the index
		runs, err := s.Runs(t.Context(), trigger.RunFilter{Repository: one, Limit: 5})
		if got := newest(runs); err != nil || !slices.Equal(got, []int64{3, 1}) {
			t.Errorf("runs of %s: %d, %v", one, got, err)
		}
		events, err := s.Events(t.Context(), trigger.EventFilter{Repository: two, Limit: 5})
		if err != nil || len(events) != 1 || events[0].ID != 2 {
			t.Errorf("events of %s: %+v, %v", two, events, err)
		}
		if got, err := s.Rehearse(t.Context(), trigger.Delivery{}, []trigger.Planned{{Event: of(second), Runs: []trigger.Run{run}}}); err != nil || !got.Events[0].Runs[0].New {
			t.Errorf("what was not sent before: %+v, %v", got, err)
		}
		if got := b.accept(of(first), run); got.Runs[0].New {
			t.Error("what was sent again made a run")
		}
		err = s.writer.do(t.Context(), func(w *writer) error {
			return errors.Join(w.settleUpTo(w.indexes.runs, 9), w.settleUpTo(w.indexes.events, 9), w.settleUpTo(w.indexes.dedupes, 9))
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if got := b.accept(of(second), run); !got.Runs[0].New {
		t.Error("what was sent for the first time made no run")
	}
	if problems, err := s.check(t.Context(), s.read); err != nil || len(problems) > 0 {
		t.Errorf("%q, %v", problems, err)
	}
}

// A list that is restricted further goes through what stands in memory until it
// has enough.
func TestListOfManyInMemory(t *testing.T) {
	b, s := newBench(t, filepath.Join(t.TempDir(), "db"))
	for i := range 3 * mostListed {
		name := "other"
		if i < 2 {
			name = "wanted"
		}
		b.accept(b.push(fmt.Sprint("v", i)), planned("a", trigger.Queue, rule(name)))
	}
	if n := s.indexes.runs.rows.Len(); n != 3*mostListed {
		t.Fatalf("%d rows in memory", n)
	}
	runs, err := s.Runs(t.Context(), trigger.RunFilter{Repository: "shop/web", Rule: "wanted", Limit: 5})
	if got := newest(runs); err != nil || !slices.Equal(got, []int64{2, 1}) {
		t.Errorf("listed %d, %v", got, err)
	}
}

// What a copy or an earlier version left without indexes is indexed when the
// store is opened.
func TestDeferredIndexesAreFilled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	s := openAt(t, path)
	fill(t, s, 1, 2*mostDeferred, false)
	s.Close()
	s = openAt(t, path)
	defer s.Close()
	for _, d := range s.indexes.each() {
		if n := d.rows.Len(); n != 0 || d.last != 2*mostDeferred {
			t.Errorf("%d rows of %s in memory, the newest %d", n, d.name, d.last)
		}
	}
	runs, err := s.Runs(t.Context(), trigger.RunFilter{Repository: "shop/web7", Limit: math.MaxInt32})
	if err != nil || len(runs) != 2*mostDeferred/1000 {
		t.Errorf("%d runs, %v", len(runs), err)
	}
	if problems, err := s.check(t.Context(), s.read); err != nil || len(problems) > 0 {
		t.Errorf("%q, %v", problems, err)
	}
}
