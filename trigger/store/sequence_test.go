package store

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/dockbell/dockbell/trigger"
)

// stepsOf are the runs of one rule in a sequence, each in a lane of its own.
func stepsOf(whens ...trigger.When) (runs []trigger.Run) {
	for i, when := range whens {
		runs = append(runs, planned(fmt.Sprint("lane", i), trigger.Latest, func(r *trigger.Run) { r.Index, r.When = i, when }))
	}
	return runs
}

// Each step starts when those before it have ended as its condition wants.
func TestSequence(t *testing.T) { onEach(t, testSequence) }

func testSequence(t *testing.T, b *bench) {
	const ok, failed, always = trigger.WhenSucceeded, trigger.WhenFailed, trigger.Always
	for _, tt := range []struct {
		name string
		when []trigger.When
		ends []trigger.State // of those that start, in order
		want string
	}{
		{"all succeed", []trigger.When{ok, ok, ok}, []trigger.State{"succeeded", "succeeded", "succeeded"}, "succeeded succeeded succeeded"},
		{"the first fails", []trigger.When{ok, ok, ok}, []trigger.State{"failed"}, "failed skipped skipped"},
		{"the first is skipped", []trigger.When{ok, ok}, []trigger.State{"skipped"}, "skipped skipped"},
		{"one for failures", []trigger.When{ok, ok, failed, ok}, []trigger.State{"succeeded", "failed", "succeeded"}, "succeeded failed succeeded skipped"},
		{"none has failed", []trigger.When{ok, failed, ok}, []trigger.State{"succeeded", "succeeded"}, "succeeded skipped succeeded"},
		{"always", []trigger.When{ok, ok, always}, []trigger.State{"rolled-back", "succeeded"}, "rolled-back skipped succeeded"},
		{"nobody knows", []trigger.When{ok, failed}, []trigger.State{"unknown", "succeeded"}, "unknown succeeded"},
	} {
		first := len(b.all())
		e := b.push(tt.name)
		b.accept(e, stepsOf(tt.when...)...)
		b.sound()
		for i, state := range tt.ends {
			runs, _, err := b.Claim(t.Context(), b.now, upTo(10))
			if err != nil || len(runs) != 1 || runs[0].Pending || runs[0].EventID != b.all()[first].EventID {
				t.Fatalf("%s: step %d: %+v, %v", tt.name, i, runs, err)
			}
			b.finish(runs[0], state)
			b.reopen()
		}
		b.claim()
		var got []string
		for _, r := range b.all()[first:] {
			got = append(got, string(r.State))
		}
		if s := strings.Join(got, " "); s != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, s, tt.want)
		}
		made(b, b.accept(e, stepsOf(tt.when...)...), redelivered(tt.ends[0], int64(first+len(tt.when)), len(tt.when))...)
		for {
			waiting, err := b.Runs(t.Context(), trigger.RunFilter{State: trigger.Waiting, Limit: 1})
			if err != nil {
				t.Fatal(err)
			}
			if len(waiting) == 0 {
				break
			}
			if err := b.Cancel(t.Context(), waiting[0].ID, "cancelled", b.now); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// redelivered are the runs that an event makes again: none, unless the first of
// them had failed.
func redelivered(first trigger.State, last int64, n int) []int64 {
	ids := make([]int64, n)
	if first == trigger.Failed || first == trigger.RolledBack {
		for i := range ids {
			ids[i] = last + int64(i) + 1
		}
	}
	return ids
}

// A step that is tried again and succeeds lets the others go on.
func TestSequenceTriedAgain(t *testing.T) { onEach(t, testSequenceTriedAgain) }

func testSequenceTriedAgain(t *testing.T, b *bench) {
	b.accept(b.push("v1"), stepsOf(trigger.WhenSucceeded, trigger.WhenSucceeded)...)
	b.finish(b.claim(1)[0], trigger.Failed)
	b.want("failed skipped")
	b.sound()
	b.reason(2, "step 1 is failed")
	if err := b.Retry(t.Context(), 1, "tried again by ann", b.now); err != nil {
		t.Fatal(err)
	}
	b.want("waiting waiting")
	b.finish(b.claim(1)[0], trigger.Succeeded)
	b.finish(b.claim(2)[0], trigger.Succeeded)
}

// A step meets in its lane what has come there while it waited.
func TestSequenceMeetsLane(t *testing.T) { onEach(t, testSequenceMeetsLane) }

func testSequenceMeetsLane(t *testing.T, b *bench) {
	deploy := func(r *trigger.Run) { r.Lane, r.Ordered = "web", true }
	steps := func() []trigger.Run {
		s := stepsOf(trigger.WhenSucceeded, trigger.WhenSucceeded)
		deploy(&s[1])
		return s
	}
	b.accept(b.push("1.0.0"), steps()...)                                        // 1, 2
	b.accept(b.push("2.0.0"), planned("web", trigger.Latest, rule("x"), deploy)) // 3
	test := b.claim(1, 3)
	b.finish(test[1], trigger.Succeeded)
	b.finish(test[0], trigger.Succeeded)
	b.want("succeeded skipped succeeded")
	b.reason(2, "not after run 3: 1.0.0 is a lower version than 2.0.0")

	// It takes the place of those that wait for an earlier event.
	b.accept(b.push("3.0.0"), planned("web", trigger.Latest, rule("x"), deploy)) // 4
	b.claim(4)
	b.accept(b.push("4.0.0"), planned("web", trigger.Latest, rule("x"), deploy)) // 5
	b.accept(b.push("5.0.0"), steps()...)                                        // 6, 7
	b.finish(b.claim(6)[0], trigger.Succeeded)
	b.want("succeeded skipped succeeded running superseded succeeded waiting")
	b.finish(b.all()[3], trigger.Succeeded)
	b.finish(b.claim(7)[0], trigger.Succeeded)

	// A lane that is held holds it.
	h, err := b.Hold(t.Context(), trigger.Hold{Lane: "web", Reason: "frozen", By: "ann", At: b.now})
	if err != nil {
		t.Fatal(err)
	}
	b.accept(b.push("6.0.0"), steps()...)
	b.finish(b.claim(8)[0], trigger.Succeeded)
	b.claim()
	if err := b.Release(t.Context(), h, "ann", b.now); err != nil {
		t.Fatal(err)
	}
	b.claim(9)
}

// What a step finds belongs to it: the next one waits for all of it.
func TestSequenceOfFound(t *testing.T) { onEach(t, testSequenceOfFound) }

func testSequenceOfFound(t *testing.T, b *bench) {
	steps := stepsOf(trigger.WhenSucceeded, trigger.WhenSucceeded)
	finds(&steps[0])
	b.accept(b.push("v1"), steps...)
	b.find(b.claim(1)[0], "web", "api")
	both := b.claim(3, 4)
	b.finish(both[0], trigger.Succeeded)
	b.claim()
	b.finish(both[1], trigger.Succeeded)
	b.claim(2)
	b.sound()
}

// A step that is older than its lane ends at once, and the others with it.
func TestSequenceEndsAtOnce(t *testing.T) { onEach(t, testSequenceEndsAtOnce) }

func testSequenceEndsAtOnce(t *testing.T, b *bench) {
	b.accept(b.push("2.0.0"), planned("lane0", trigger.Latest, ordered, rule("x")))
	steps := stepsOf(trigger.WhenSucceeded, trigger.WhenSucceeded, trigger.Always)
	ordered(&steps[0])
	b.accept(b.push("1.0.0"), steps...)
	b.want("waiting skipped skipped waiting")
	b.now = b.now.Add(time.Second)
	b.claim(1, 4)
}

// sound fails when the check of a store finds something.
func (b *bench) sound() {
	b.Helper()
	for _, query := range checks {
		err := each(b.query(b.Context(), query))(func(rows rowScanner) error {
			var problem string
			err := rows.Scan(&problem)
			b.Error(problem)
			return err
		})
		if err != nil {
			b.Fatal(err)
		}
	}
}
