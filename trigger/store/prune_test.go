package store

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dockbell/dockbell/trigger"
)

// history puts a run in a lane, and ends it in a state some days later.
func history(t *testing.T, b *bench, s *Store, lane, tag string, state trigger.State) {
	t.Helper()
	e := trigger.Event{Image: trigger.Image{Registry: "r.example", Repository: "shop/web", Tag: tag, Digest: "sha256:" + tag}, ID: tag, Source: "hub", Action: trigger.Push, ReceivedAt: b.now}
	r := planned(lane, trigger.Queue)
	r.Rule, r.CreatedAt, r.NotBefore = lane, b.now, b.now
	if _, err := s.Accept(t.Context(), trigger.Delivery{Source: "hub", ReceivedAt: b.now, Body: []byte(tag)}, []trigger.Planned{{Event: e, Runs: []trigger.Run{r}}}); err != nil {
		t.Fatal(err)
	}
	if state == trigger.Waiting {
		return
	}
	runs, _, err := s.Claim(t.Context(), b.now, upTo(10))
	if err != nil || len(runs) != 1 {
		t.Fatal(runs, err)
	}
	if state == trigger.Running {
		return
	}
	if _, err := s.Finish(t.Context(), runs[0], trigger.Result{State: state, At: b.now}); err != nil {
		t.Fatal(err)
	}
}

func TestPrune(t *testing.T) { onEach(t, testPrune) }

func testPrune(t *testing.T, b *bench) {
	const day = 24 * time.Hour
	s := b.Store
	begin := b.now
	at := func(days int) { b.now = begin.Add(time.Duration(days) * day) }
	at(0)
	history(t, b, s, "a", "v1", trigger.Succeeded)
	history(t, b, s, "b", "v1b", trigger.Failed)
	history(t, b, s, "c", "v1c", trigger.Succeeded) // the newest of its lane: it stays
	at(1)
	history(t, b, s, "a", "v2", trigger.Succeeded)
	history(t, b, s, "d", "v1d", trigger.Unknown)
	at(2)
	history(t, b, s, "e", "v1e", trigger.Running)
	history(t, b, s, "e", "v2e", trigger.Waiting)
	at(50)
	history(t, b, s, "a", "v3", trigger.Succeeded)

	at(60)
	keep := trigger.Keep{Deliveries: 20 * day, Successes: 30 * day, Failures: 100 * day}
	n, err := s.Prune(t.Context(), keep, b.now)
	if err != nil || n != (trigger.Pruned{Runs: 2, Events: 2, Deliveries: 5}) {
		t.Errorf("forgotten: %+v, %v", n, err)
	}
	tags := func() string {
		runs, err := s.Runs(t.Context(), trigger.RunFilter{Limit: 100})
		if err != nil {
			t.Fatal(err)
		}
		var all []string
		for _, r := range runs {
			all = append(all, r.Event.Tag)
		}
		slices.Sort(all)
		return strings.Join(all, " ")
	}
	if got := tags(); got != "v1b v1c v1d v1e v2e v3" {
		t.Errorf("runs kept: %s", got)
	}
	var deliveries, attempts int
	if err := s.read.QueryRow("SELECT (SELECT count(*) FROM deliveries), (SELECT count(*) FROM attempts)").Scan(&deliveries, &attempts); err != nil || deliveries != 3 || attempts != 4 {
		t.Errorf("%d deliveries and %d attempts are kept, %v", deliveries, attempts, err)
	}
	if n, err = s.Prune(t.Context(), keep, b.now); err != nil || n != (trigger.Pruned{}) {
		t.Errorf("a second time: %+v, %v", n, err)
	}

	at(110)
	if _, err = s.Prune(t.Context(), keep, b.now); err != nil {
		t.Fatal(err)
	}
	// What is unknown stands in its lane as a success does.
	if got := tags(); got != "v1c v1d v1e v2e v3" {
		t.Errorf("runs kept in the end: %s", got)
	}
	// The lane still knows what it holds.
	e := trigger.Event{Image: trigger.Image{Registry: "r.example", Repository: "shop/web", Tag: "v1c", Digest: "sha256:v1c"}, ID: "again", Source: "hub", Action: trigger.Push, ReceivedAt: b.now}
	r := planned("c", trigger.Queue)
	r.Rule = "c"
	receipt, err := s.Accept(t.Context(), trigger.Delivery{Source: "hub"}, []trigger.Planned{{Event: e, Runs: []trigger.Run{r}}})
	if err != nil || receipt.Events[0].Runs[0].New {
		t.Errorf("%+v, %v", receipt, err)
	}
}

// Many steps forget as much as one would, and stop when they are told to.
func TestPruneInSteps(t *testing.T) { onEach(t, testPruneInSteps) }

func testPruneInSteps(t *testing.T, b *bench) {
	s := b.Store
	for i := range 2*pruneStep + 50 {
		history(t, b, s, "a", fmt.Sprint("v", i), trigger.Succeeded)
	}
	keep := trigger.Keep{Deliveries: time.Hour, Successes: time.Hour, Failures: time.Hour}
	later := b.now.Add(2 * time.Hour)
	stopped, stop := context.WithCancel(t.Context())
	stop()
	if n, err := s.Prune(stopped, keep, later); err == nil || n != (trigger.Pruned{}) {
		t.Errorf("stopped: %+v, %v", n, err)
	}
	want := 2*pruneStep + 49 // the newest stays
	if n, err := s.Prune(t.Context(), keep, later); err != nil || n != (trigger.Pruned{Runs: want, Events: want, Deliveries: want}) {
		t.Errorf("%+v, %v", n, err)
	}
}

func TestBackupAndCheck(t *testing.T) {
	dir := t.TempDir()
	b, s := newBench(t, filepath.Join(dir, "a store? #1.db"))
	location := "sqlite:" + filepath.Join(dir, "a store? #1.db")
	history(t, b, s, "a", "v1", trigger.Succeeded)
	history(t, b, s, "a", "v2", trigger.Waiting)
	if problems, err := Check(t.Context(), location); err != nil || len(problems) > 0 {
		t.Errorf("%q, %v", problems, err)
	}
	to := filepath.Join(dir, "copy.db")
	if err := Backup(t.Context(), location, to); err != nil {
		t.Fatal(err)
	}
	if err := Backup(t.Context(), location, to); err == nil || !strings.Contains(err.Error(), "is there already") {
		t.Errorf("over a file: %v", err)
	}
	copied := openAt(t, to)
	runs, err := copied.Runs(t.Context(), trigger.RunFilter{Limit: 10})
	if err != nil || len(runs) != 2 || runs[0].Event.Tag != "v2" {
		t.Errorf("%+v, %v", runs, err)
	}
	exec(t, copied, "UPDATE waiting SET head = FALSE")
	exec(t, copied, "DELETE FROM events WHERE id = 1")
	problems, err := Check(t.Context(), "sqlite:"+to)
	want := []string{"run 1 is of an event that is not there", "lane a has runs that wait, and none whose turn it is"}
	if err != nil || !slices.Equal(problems, want) {
		t.Errorf("%q, %v, want %q", problems, err, want)
	}
	if err := copied.Close(); err != nil {
		t.Fatal(err)
	}

	damaged := filepath.Join(dir, "damaged.db")
	text, err := os.ReadFile(to)
	if err != nil {
		t.Fatal(err)
	}
	for i := len(text) / 2; i < len(text); i++ {
		text[i] ^= 0x55
	}
	if err := os.WriteFile(damaged, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if problems, err := Check(t.Context(), "sqlite:"+damaged); err == nil && len(problems) == 0 {
		t.Error("damage is not found")
	}
	if _, err := Check(t.Context(), "sqlite:"+filepath.Join(dir, "none.db")); err == nil {
		t.Error("a store that is not there is good")
	}
}
