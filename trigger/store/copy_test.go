package store

import (
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/dockbell/dockbell/trigger"
)

// A store that was copied from one database to another, and back, is the same,
// and goes on where it was.
func TestCopy(t *testing.T) {
	dir := t.TempDir()
	first := "sqlite:" + filepath.Join(dir, "first")
	second, third := postgresAt(t, t.TempDir()), "sqlite:"+filepath.Join(dir, "third")
	b, s := newBench(t, filepath.Join(dir, "first"))
	if err := s.TellOf(t.Context(), []string{"failed"}); err != nil {
		t.Fatal(err)
	}
	b.accept(b.push("v1"), planned("a", trigger.Queue), planned("", "", follower))
	b.accept(b.push("v2", func(e *trigger.Event) { e.Observed, e.Actor = true, "an\x00na" }), planned("a", trigger.Queue, b.needs(2, "anna", "bob")))
	b.accept(b.push("v3"), planned("b", trigger.Queue, ordered))
	runs := b.claim(1, 4)
	if _, err := b.Finish(t.Context(), runs[0], trigger.Result{State: trigger.Failed, Log: "log\x00\xff", At: b.now}); err != nil {
		t.Fatal(err)
	}
	b.vote(3, yes("anna", "v2"))
	b.hold("c", "sha256:x")
	if err := s.SavePolled(t.Context(), "mirror", "r/a", map[string]string{"v1": "d1"}, nil); err != nil {
		t.Fatal(err)
	}
	want := b.all()
	if err := Copy(t.Context(), first, second, func(Copied) {}); err == nil || !strings.Contains(err.Error(), "another dockbell is using it") {
		t.Fatalf("a store in use was copied: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	counts := map[string]int{}
	for _, way := range [][2]string{{first, second}, {second, third}} {
		if err := Copy(t.Context(), way[0], way[1], func(c Copied) { counts[c.Table] += c.Rows }); err != nil {
			t.Fatal(err)
		}
	}
	wantCounts := map[string]int{"deliveries": 6, "events": 6, "runs": 8, "origins": 8, "waiting": 4, "running": 2, "attempts": 2, "votes": 2, "notes": 4, "holds": 2, "notices": 2, "polled": 4}
	if !reflect.DeepEqual(counts, wantCounts) {
		t.Errorf("copied %v, want %v", counts, wantCounts)
	}
	if err := Copy(t.Context(), first, second, func(Copied) {}); err == nil || !strings.Contains(err.Error(), "is not empty") {
		t.Errorf("over another one: %v", err)
	}
	want[2].Event.Actor = "an\uFFFDna"
	for _, location := range []string{second, third} {
		s, err := Open(t.Context(), location)
		if err != nil {
			t.Fatal(err)
		}
		b := &bench{TB: t, Store: s, now: b.now.Add(time.Hour), events: 10}
		if got := b.all(); !reflect.DeepEqual(got, want) {
			t.Errorf("%s:\n%+v\nwant\n%+v", location, got, want)
		}
		if _, tries, _, err := b.Run(t.Context(), 1); err != nil || len(tries) != 1 || tries[0].Log != "log\x00\xff" {
			t.Errorf("%+v, %v", tries, err)
		}
		if digests, seen, err := b.Polled(t.Context(), "mirror", "r/a"); err != nil || !seen || digests["v1"] != "d1" {
			t.Errorf("polled %v, %t, %v", digests, seen, err)
		}
		if location == third {
			if left, err := b.Recover(t.Context(), b.now, func(string) bool { return true }); err != nil || len(left) != 1 || left[0].ID != 4 {
				t.Errorf("left over %+v, %v", left, err)
			}
			b.vote(3, yes("bob", "v2"))
			made(b, b.accept(b.push("v9"), planned("z", trigger.Queue)), 5)
			b.claim(2, 3, 4, 5)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if problems, err := Check(t.Context(), location); err != nil || len(problems) > 0 {
			t.Errorf("%q, %v", problems, err)
		}
	}
}

// What a dockbell serves from is not copied.
func TestCopyInUse(t *testing.T) {
	t.Parallel()
	place := t.TempDir()
	s := openPostgres(t, place)
	defer s.Close()
	src, err := openLeased(t.Context(), postgresAt(t, place), 3*time.Second) // the other one shows itself every two
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	if err := src.alone(t.Context()); err == nil || !strings.Contains(err.Error(), "dockbell serves from it") {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := src.alone(t.Context()); err != nil {
		t.Error(err)
	}
}
