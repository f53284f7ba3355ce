package store

import (
	"strings"
	"testing"
	"time"

	"github.com/dockbell/dockbell/trigger"
)

func finds(r *trigger.Run) { r.Finds, r.Ordered, r.Kind = true, true, "set" }

// find ends a run with what it has found.
func (b *bench) find(r trigger.Run, targets ...string) {
	b.Helper()
	res := trigger.Result{State: trigger.Succeeded, At: b.now}
	for _, target := range targets {
		res.Runs = append(res.Runs, r.Child(trigger.Found{Target: target, Spec: []byte(`{"target": "` + target + `"}`)}, b.now))
	}
	if state, err := b.Finish(b.Context(), r, res); err != nil || state != trigger.Succeeded {
		b.Fatal(state, err)
	}
}

// What a run finds becomes runs of its own, in the lanes of what they change.
func TestFound(t *testing.T) { onEach(t, testFound) }

func testFound(t *testing.T, b *bench) {
	e := b.push("1.1.0")
	made(b, b.accept(e, planned("all", trigger.Latest, finds)), 1)
	b.find(b.claim(1)[0], "deployment web", "deployment api")
	b.want("succeeded waiting waiting")
	b.reopen()
	runs := b.claim(2, 3)
	b.reason(1, "found 2: runs 2 to 3")
	if r := runs[0]; r.Parent != 1 || r.Target != "deployment web" || r.Lane != "set/deployment web" || string(r.Spec) != `{"target": "deployment web"}` ||
		r.Event.Tag != "1.1.0" || r.EventID != 1 || r.Mode != trigger.Latest || !r.Ordered {
		t.Errorf("%+v", r)
	}
	b.finish(runs[0], trigger.Succeeded)
	b.finish(runs[1], trigger.Succeeded)

	// Told once more there is nothing to find: the event has been here.
	made(b, b.accept(e, planned("all", trigger.Latest, finds)), 0)
	// By another hook it is looked for again, and what was done stands.
	made(b, b.accept(b.again(e), planned("all", trigger.Latest, finds)), 4)
	b.find(b.claim(4)[0], "deployment web", "deployment new")
	b.want("succeeded succeeded succeeded succeeded waiting")
	b.reason(4, "found 2, of which one is new: run 5")
	notes, err := b.Notes(t.Context(), 4)
	if err != nil || len(notes) != 1 || notes[0].Text != "deployment web: run 2 already stands for this push" {
		t.Errorf("%+v, %v", notes, err)
	}

	// An older push goes to what has not gone past it.
	old := b.push("1.0.0")
	made(b, b.accept(old, planned("all", trigger.Latest, finds)), 6)
	b.find(b.claim(5, 6)[1], "deployment web", "deployment other")
	b.want("succeeded succeeded succeeded succeeded running succeeded skipped waiting")
	if r := b.all()[6]; !strings.HasPrefix(r.Reason, "not after run 2: ") {
		t.Errorf("%s", r.Reason)
	}
}

// Where something found failed, the event may be sent once more.
func TestFoundFails(t *testing.T) { onEach(t, testFoundFails) }

func testFoundFails(t *testing.T, b *bench) {
	e := b.push("v1")
	b.accept(e, planned("all", trigger.Latest, finds))
	b.find(b.claim(1)[0], "web", "api")
	runs := b.claim(2, 3)
	b.finish(runs[0], trigger.Succeeded)
	b.finish(runs[1], trigger.Failed)
	made(b, b.accept(e, planned("all", trigger.Latest, finds)), 4)
	b.find(b.claim(4)[0], "web", "api")
	b.claim(5)
	if r := b.all()[4]; r.Target != "api" {
		t.Errorf("%+v", r)
	}
}

// Those that wait for the runs of an event wait for what these find as well.
func TestFoundIsFollowed(t *testing.T) { onEach(t, testFoundIsFollowed) }

func testFoundIsFollowed(t *testing.T, b *bench) {
	b.accept(b.push("v1"), planned("all", trigger.Latest, finds), planned("", trigger.Parallel, follower))
	b.find(b.claim(1)[0], "web")
	b.finish(b.claim(3)[0], trigger.Succeeded)
	b.claim(2)
}

// A run whose action has begun something goes on with that, of whatever kind it
// is. What a person has tried again begins anew.
func TestBegun(t *testing.T) { onEach(t, testBegun) }

func testBegun(t *testing.T, b *bench) {
	b.accept(b.push("v1"), planned("a", trigger.Queue))
	r := b.claim(1)[0]
	stale := r
	stale.StartedAt = stale.StartedAt.Add(-time.Second)
	for run, begun := range map[*trigger.Run]string{&r: "build 7", &stale: "build 6"} {
		if err := b.Begin(t.Context(), *run, begun); err != nil {
			t.Fatal(err)
		}
	}
	b.reopen()
	left, err := b.Recover(t.Context(), b.now, func(string) bool { return false })
	if err != nil || len(left) != 1 || left[0].State != trigger.Waiting {
		t.Fatalf("%+v, %v", left, err)
	}
	again := b.claim(1)[0]
	if again.Begun != "build 7" {
		t.Errorf("begun %q", again.Begun)
	}
	b.finish(again, trigger.Failed)
	if err := b.Retry(t.Context(), 1, "ann has it tried again", b.now); err != nil {
		t.Fatal(err)
	}
	if r := b.claim(1)[0]; r.Begun != "" {
		t.Errorf("tried again with %q", r.Begun)
	}
}

// A try that was none cannot be taken for the next one, which has its number.
func TestPostponedTwice(t *testing.T) { onEach(t, testPostponedTwice) }

func testPostponedTwice(t *testing.T, b *bench) {
	b.accept(b.push("v1"), planned("a", trigger.Queue))
	first := b.claim(1)[0]
	postponed := trigger.Result{State: trigger.Waiting, At: b.now, NotBefore: b.now, Reason: "closed", Postponed: true}
	for range 2 {
		if state, err := b.Finish(t.Context(), first, postponed); err != nil || state != trigger.Waiting {
			t.Fatal(state, err)
		}
	}
	b.claim(1)
	if state, err := b.Finish(t.Context(), first, postponed); err != nil || state != trigger.Running {
		t.Errorf("said once more it makes the run %s, %v", state, err)
	}
}
