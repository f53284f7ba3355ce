package store

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/dockbell/dockbell/trigger"
)

// interventions is a store with runs in one lane or several.
type interventions struct {
	*testing.T
	b *bench
	s *Store
}

// add accepts a run and gives its id.
func (i interventions) add(lane, tag string, mode trigger.Mode) int64 {
	i.Helper()
	e := trigger.Event{Image: trigger.Image{Registry: "r.example", Repository: "shop/web", Tag: tag, Digest: "sha256:" + tag}, ID: lane + tag, Source: "hub", Action: trigger.Push, ReceivedAt: i.b.now}
	r := planned(lane, mode)
	r.CreatedAt, r.NotBefore, r.Attempts = i.b.now, i.b.now, 2
	receipt, err := i.s.Accept(i.Context(), trigger.Delivery{Source: "hub"}, []trigger.Planned{{Event: e, Runs: []trigger.Run{r}}})
	if err != nil {
		i.Fatal(err)
	}
	return receipt.Events[0].Runs[0].ID
}

// end claims what is due and ends it.
func (i interventions) end(state trigger.State) (ids []int64) {
	i.Helper()
	runs, _, err := i.s.Claim(i.Context(), i.b.now, upTo(10))
	if err != nil {
		i.Fatal(err)
	}
	for _, r := range runs {
		ids = append(ids, r.ID)
		if _, err := i.s.Finish(i.Context(), r, trigger.Result{State: state, Reason: "because", At: i.b.now}); err != nil {
			i.Fatal(err)
		}
	}
	return ids
}

func (i interventions) state(id int64, want trigger.State, reason string) trigger.Run {
	i.Helper()
	r, _, _, err := i.s.Run(i.Context(), id)
	if err != nil || r.State != want || r.Reason != reason {
		i.Errorf("run %d is %s (%s), %v, want %s (%s)", id, r.State, r.Reason, err, want, reason)
	}
	return r
}

func (i interventions) refused(err error, want string) {
	i.Helper()
	var refused *trigger.RefusedError
	if !errors.As(err, &refused) || !strings.Contains(err.Error(), want) {
		i.Errorf("got %v, want refused: %s", err, want)
	}
}

func TestCancel(t *testing.T) { onEach(t, testCancel) }

func testCancel(t *testing.T, b *bench) {
	i := interventions{t, b, b.Store}
	first, second, third := i.add("a", "v1", trigger.Queue), i.add("a", "v2", trigger.Queue), i.add("a", "v3", trigger.Queue)
	for _, id := range []int64{first, second} {
		if err := i.s.Cancel(t.Context(), id, "cancelled by anna", i.b.now); err != nil {
			t.Fatal(err)
		}
	}
	i.state(first, trigger.Skipped, "cancelled by anna")
	i.state(second, trigger.Skipped, "cancelled by anna")
	// The lane goes on with what is left.
	if got := i.end(trigger.Succeeded); len(got) != 1 || got[0] != third {
		t.Errorf("ran %v, want %d", got, third)
	}
	i.refused(i.s.Cancel(t.Context(), third, "", i.b.now), "is succeeded: only one that waits")
	if err := i.s.Cancel(t.Context(), 99, "", i.b.now); !errors.Is(err, trigger.ErrNotFound) {
		t.Error(err)
	}
}

func TestRetry(t *testing.T) { onEach(t, testRetryByHand) }

func testRetryByHand(t *testing.T, b *bench) {
	i := interventions{t, b, b.Store}
	id := i.add("a", "v1", trigger.Queue)
	i.refused(i.s.Retry(t.Context(), id, "", i.b.now), "is waiting: only one that has failed")
	i.end(trigger.Failed)
	i.b.now = i.b.now.Add(time.Hour)
	if err := i.s.Retry(t.Context(), id, "tried again by anna", i.b.now); err != nil {
		t.Fatal(err)
	}
	r := i.state(id, trigger.Waiting, "tried again by anna")
	if r.Attempts != 3 || !r.FinishedAt.IsZero() || !r.NotBefore.Equal(i.b.now) {
		t.Errorf("%+v", r)
	}
	// It takes its turn like any other.
	next := i.add("a", "v2", trigger.Queue)
	if got := i.end(trigger.Succeeded); len(got) != 1 || got[0] != id {
		t.Errorf("ran %v, want %d", got, id)
	}
	if got := i.end(trigger.Unknown); len(got) != 1 || got[0] != next {
		t.Errorf("then ran %v, want %d", got, next)
	}
	i.refused(i.s.Retry(t.Context(), id, "", i.b.now), "is succeeded")
	if err := i.s.Retry(t.Context(), next, "", i.b.now); err != nil {
		t.Error(err)
	}
	if err := i.s.Retry(t.Context(), 99, "", i.b.now); !errors.Is(err, trigger.ErrNotFound) {
		t.Error(err)
	}
}

// While another run of the lane is live, one that is tried again waits for it.
func TestRetryBehindOthers(t *testing.T) { onEach(t, testRetryBehindOthers) }

func testRetryBehindOthers(t *testing.T, b *bench) {
	i := interventions{t, b, b.Store}
	id := i.add("a", "v1", trigger.Queue)
	i.end(trigger.Failed)
	other := i.add("a", "v2", trigger.Queue)
	if err := i.s.Retry(t.Context(), id, "", i.b.now); err != nil {
		t.Fatal(err)
	}
	if got := i.end(trigger.Succeeded); len(got) != 1 || got[0] != other {
		t.Errorf("ran %v, want %d", got, other)
	}
	if got := i.end(trigger.Succeeded); len(got) != 1 || got[0] != id {
		t.Errorf("then ran %v, want %d", got, id)
	}
}

// Where only the newest counts, an old one is not brought back.
func TestRetryOfWhatWasReplaced(t *testing.T) { onEach(t, testRetryOfWhatWasReplaced) }

func testRetryOfWhatWasReplaced(t *testing.T, b *bench) {
	i := interventions{t, b, b.Store}
	id := i.add("a", "v1", trigger.Latest)
	i.end(trigger.Failed)
	i.add("a", "v2", trigger.Latest)
	i.refused(i.s.Retry(t.Context(), id, "", i.b.now), "run 2 has taken its place")
	i.end(trigger.Succeeded)
	i.refused(i.s.Retry(t.Context(), id, "", i.b.now), "run 2 has taken its place")
}

// One that is tried again goes behind the head of its lane, and what comes
// later does not change that.
func TestRetryBehindHead(t *testing.T) { onEach(t, testRetryBehindHead) }

func testRetryBehindHead(t *testing.T, b *bench) {
	i := interventions{t, b, b.Store}
	first, second := i.add("a", "v1", trigger.Queue), i.add("a", "v2", trigger.Queue)
	i.end(trigger.Failed)
	if err := i.s.Retry(t.Context(), first, "ann", b.now); err != nil {
		t.Fatal(err)
	}
	third := i.add("a", "v3", trigger.Latest)
	for _, want := range []int64{second, first, third} {
		if ids := i.end(trigger.Succeeded); len(ids) != 1 || ids[0] != want {
			t.Errorf("claimed %v, want %d", ids, want)
		}
	}
}

// What is tried again stands in its lane again, and so do the steps that wait
// for it: an older push comes too late.
func TestRetriedStandsInItsLane(t *testing.T) {
	onEach(t, func(t *testing.T, b *bench) {
		parallel := func(r *trigger.Run) { r.Mode, r.Ordered = trigger.Parallel, true }
		steps := stepsOf(trigger.WhenSucceeded, trigger.WhenSucceeded)
		steps[1].Ordered = true
		b.accept(b.push("1.1.0"), planned("alone", trigger.Parallel, ordered))
		b.accept(b.push("1.1.0", func(e *trigger.Event) { e.Repository = "shop/api" }), steps...)
		for _, r := range b.claim(1, 2) {
			b.finish(r, trigger.Failed)
		}
		for lane, repository := range map[string]string{"alone": "shop/web", "lane1": "shop/api"} {
			b.hold(lane, "sha256:held")
			held := b.push("1.2.0", func(e *trigger.Event) { e.Repository, e.Digest = repository, "sha256:held" })
			b.accept(held, planned(lane, trigger.Queue, parallel)) // the lane is looked at: nothing stands in it
		}
		for id := range int64(2) {
			if err := b.Retry(t.Context(), 1+id, "", b.now); err != nil {
				t.Fatal(err)
			}
		}
		for lane, repository := range map[string]string{"alone": "shop/web", "lane1": "shop/api"} {
			e := b.push("1.0.0", func(e *trigger.Event) { e.Repository = repository })
			got := b.accept(e, planned(lane, trigger.Queue, parallel)).Runs[0]
			if run, _, _, err := b.Run(t.Context(), got.ID); err != nil || run.State != trigger.Skipped {
				t.Errorf("%s: an older push is %s, %v: %s", lane, run.State, err, got.Reason)
			}
		}
	})
}
