package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dockbell/dockbell/trigger"
	"github.com/dockbell/dockbell/trigger/store"
)

// act is an action made of a function.
type act func(ctx context.Context, run trigger.Run, log io.Writer) error

func (act) Target() string { return "target" }
func (a act) Do(ctx context.Context, run trigger.Run, log io.Writer) error {
	return a(ctx, run, log)
}

// finder finds what its specification names.
type finder struct {
	act
	finds []string
}

func (f finder) Find(ctx context.Context, _ trigger.Run, _ io.Writer) (found []trigger.Found, err error) {
	for _, name := range f.finds {
		switch name {
		case "nothing":
			return nil, trigger.Skip("nothing runs it")
		case "hang":
			<-ctx.Done()
			return nil, ctx.Err()
		}
		found = append(found, trigger.Found{Target: name, Spec: []byte("{}")})
	}
	return found, nil
}

// faulty is a store that can be made to fail.
type faulty struct {
	*store.Store
	claim, finish    atomic.Pointer[error]
	lease            atomic.Pointer[context.Context]
	claims, finishes atomic.Int64
}

func (f *faulty) Claim(ctx context.Context, now time.Time, ready func() int) ([]trigger.Run, time.Time, error) {
	f.claims.Add(1)
	if err := f.claim.Load(); err != nil {
		return nil, time.Time{}, *err
	}
	return f.Store.Claim(ctx, now, ready)
}

func (f *faulty) Lease() context.Context {
	if l := f.lease.Load(); l != nil {
		return *l
	}
	return f.Store.Lease()
}

func (f *faulty) Finish(ctx context.Context, r trigger.Run, res trigger.Result) (trigger.State, error) {
	f.finishes.Add(1)
	if err := f.finish.Load(); err != nil {
		return "", *err
	}
	return f.Store.Finish(ctx, r, res)
}

// rig is a queue on a real store, inside a bubble of fake time.
type rig struct {
	*testing.T
	path    string
	store   *faulty
	queue   *Queue
	do      act
	gate    func(trigger.Run, time.Time) (time.Time, string)
	tell    func([]trigger.Notice, time.Time) []trigger.Run
	metrics *prometheus.Registry
	stop    context.CancelFunc
	stopped chan struct{}
	n       int
}

// bubble runs a test in fake time with a queue that does the given action.
func bubble(t *testing.T, do act, test func(r *rig)) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "db") // made outside, as its clean-up runs there
	synctest.Test(t, func(t *testing.T) {
		s, err := store.Open(context.Background(), "sqlite:"+path)
		if err != nil {
			t.Fatal(err)
		}
		r := &rig{T: t, path: path, store: &faulty{Store: s}, do: do}
		r.start(time.Minute)
		defer func() {
			r.stop()
			<-r.stopped
			if err := r.store.Close(); err != nil {
				t.Error(err)
			}
		}()
		test(r)
	})
}

// start runs a new queue on the store.
func (r *rig) start(grace time.Duration) {
	build := func(decode func(any) error) (trigger.Action, error) {
		var spec struct {
			Fault string
			Finds []string
		}
		if err := decode(&spec); err != nil {
			return nil, err
		}
		switch spec.Fault {
		case "invalid":
			return nil, trigger.Field("fault", "is %q", spec.Fault)
		case "panic":
			panic("in build")
		}
		if spec.Finds != nil {
			return finder{r.do, spec.Finds}, nil
		}
		return r.do, nil
	}
	kinds := map[string]trigger.Kind{"call": {Build: build}, "set": {Build: build, Declarative: true}, "chat": {Build: build, Message: map[string]string{}}}
	decode := func(spec json.RawMessage) func(any) error {
		return func(into any) error { return json.Unmarshal(spec, into) }
	}
	r.metrics = prometheus.NewRegistry()
	q := New(r.store, kinds, decode, slog.New(slog.DiscardHandler), NewMetrics(r.metrics))
	q.Gate, q.Tell, r.queue = r.gate, r.tell, q
	ctx, stop := context.WithCancel(context.Background())
	r.stop, r.stopped = stop, make(chan struct{})
	go func() {
		defer close(r.stopped)
		if err := q.Run(ctx, grace); err != nil {
			r.Error(err)
		}
	}()
}

// reopen opens the store anew, as the next start of the program does.
func (r *rig) reopen() {
	r.Helper()
	if err := r.store.Close(); err != nil {
		r.Fatal(err)
	}
	s, err := store.Open(context.Background(), "sqlite:"+r.path)
	if err != nil {
		r.Fatal(err)
	}
	r.store = &faulty{Store: s}
}

// accept puts one run on disk, in a lane of its own, and gives its id.
func (r *rig) accept(change ...func(*trigger.Run)) int64 {
	r.Helper()
	r.n++
	now := time.Now()
	run := trigger.Run{Rule: "rule", Kind: "call", Spec: json.RawMessage("{}"), Lane: fmt.Sprint("lane", r.n), Mode: trigger.Queue, CreatedAt: now, NotBefore: now}
	for _, f := range change {
		f(&run)
	}
	e := trigger.Event{ID: fmt.Sprint(r.n), Source: "hub", Image: trigger.Image{Repository: "shop/web", Tag: "v1", Digest: fmt.Sprint("sha256:", r.n)}, ReceivedAt: now}
	rec, err := r.store.Accept(context.Background(), trigger.Delivery{Source: "hub", ReceivedAt: now}, []trigger.Planned{{Event: e, Runs: []trigger.Run{run}}})
	if err != nil {
		r.Fatal(err)
	}
	return rec.Events[0].Runs[0].ID
}

func (r *rig) run(id int64) (trigger.Run, []trigger.Attempt) {
	r.Helper()
	run, tries, ok, err := r.store.Run(context.Background(), id)
	if err != nil || !ok {
		r.Fatal(ok, err)
	}
	return run, tries
}

// ended lets time pass until a run has ended.
func (r *rig) ended(id int64) (trigger.Run, []trigger.Attempt) {
	r.Helper()
	for range 10_000 {
		synctest.Wait()
		if run, tries := r.run(id); run.State.Ended() {
			return run, tries
		}
		time.Sleep(time.Second)
	}
	run, tries := r.run(id)
	r.Fatalf("run %d does not end: %+v, %+v", id, run, tries)
	return run, tries
}

func (r *rig) state(id int64, want trigger.State) {
	r.Helper()
	synctest.Wait()
	if run, _ := r.run(id); run.State != want {
		r.Fatalf("run %d is %s (%s), want %s", id, run.State, run.Reason, want)
	}
}

func TestOutcomes(t *testing.T) {
	hang := func(ctx context.Context, _ trigger.Run, _ io.Writer) error { <-ctx.Done(); return ctx.Err() }
	hangSaysWhy := func(ctx context.Context, _ trigger.Run, _ io.Writer) error {
		<-ctx.Done()
		return trigger.Retry(fmt.Errorf("POST https://ci: %w", context.Cause(ctx)))
	}
	fails := func(err error) act {
		return func(context.Context, trigger.Run, io.Writer) error { return err }
	}
	timeout := func(r *trigger.Run) { r.Timeout = 5 * time.Second }
	attempts := func(n int) func(*trigger.Run) { return func(r *trigger.Run) { r.Attempts = n } }
	spec := func(s string) func(*trigger.Run) { return func(r *trigger.Run) { r.Spec = json.RawMessage(s) } }
	tests := []struct {
		name   string
		do     act
		change func(*trigger.Run)
		state  trigger.State
		reason string
		tries  int
	}{
		{"success", fails(nil), nil, trigger.Succeeded, "", 1},
		{"permanent", fails(errors.New("400: no such job")), nil, trigger.Failed, "400: no such job", 1},
		{"permanent in spite of attempts", fails(errors.New("400")), attempts(5), trigger.Failed, "400", 1},
		{"skip", fails(fmt.Errorf("deploy: %w", trigger.Skip("it runs already"))), nil, trigger.Skipped, "deploy: it runs already", 1},
		{"attempts used up", fails(trigger.Retry(errors.New("503"))), attempts(3), trigger.Failed, "failed 3 times, as often as allowed; last: 503", 3},
		{"one attempt", fails(trigger.Retry(errors.New("503"))), attempts(1), trigger.Failed, "failed 1 times, as often as allowed; last: 503", 1},
		{"third time", func(_ context.Context, r trigger.Run, _ io.Writer) error {
			if r.Attempt < 3 {
				return trigger.Retry(errors.New("503"))
			}
			return nil
		}, nil, trigger.Succeeded, "", 3},
		{"nobody knows", fails(trigger.Uncertain(errors.New("no answer"))), nil, trigger.Unknown, "no answer", 1},
		{"nobody knows, and it does no harm twice", func(_ context.Context, r trigger.Run, _ io.Writer) error {
			if r.Attempt == 1 {
				return trigger.Uncertain(errors.New("no answer"))
			}
			return nil
		}, func(r *trigger.Run) { r.Kind = "set" }, trigger.Succeeded, "", 2},
		{"rolled back", fails(&trigger.HoldError{Err: errors.New("no pod became ready"), Undone: true}), nil, trigger.RolledBack, "no pod became ready", 1},
		{"bad, and not undone", fails(&trigger.HoldError{Err: errors.New("no pod became ready")}), nil, trigger.Failed, "no pod became ready", 1},
		{"deadline", fails(trigger.Retry(errors.New("503"))), func(r *trigger.Run) { r.Deadline, r.FirstBackoff = 10*time.Second, time.Minute }, trigger.Failed, "not done within 10s of its first try; last: 503", 1},
		{"timeout", hang, timeout, trigger.Failed, "timed out after 5s: context deadline exceeded", 1},
		{"timeout that says why", hangSaysWhy, func(r *trigger.Run) { timeout(r); r.Attempts = 2 }, trigger.Failed, "failed 2 times, as often as allowed; last: POST https://ci: timed out after 5s", 2},
		{"success in spite of the time limit", func(ctx context.Context, _ trigger.Run, _ io.Writer) error { <-ctx.Done(); return nil }, timeout, trigger.Succeeded, "", 1},
		{"panic", func(context.Context, trigger.Run, io.Writer) error { panic("ouch") }, nil, trigger.Failed, "the action panicked: ouch; please report this", 1},
		{"panic while it is built", nil, spec(`{"fault":"panic"}`), trigger.Failed, "the action panicked: in build; please report this", 1},
		{"unknown kind", nil, func(r *trigger.Run) { r.Kind = "teleport" }, trigger.Failed, `this dockbell has no action kind "teleport"`, 1},
		{"invalid specification", nil, spec(`{"fault":"invalid"}`), trigger.Failed, `its stored specification is no longer valid: fault: is "invalid"`, 1},
		{"unreadable specification", nil, spec(`{`), trigger.Failed, "its stored specification is no longer valid: unexpected end of JSON input", 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			bubble(t, tt.do, func(r *rig) {
				if tt.change == nil {
					tt.change = func(*trigger.Run) {}
				}
				id := r.accept(tt.change)
				run, tries := r.ended(id)
				if run.State != tt.state || run.Reason != tt.reason || len(tries) != tt.tries {
					t.Errorf("%s (%s) after %d tries, want %s (%s) after %d", run.State, run.Reason, len(tries), tt.state, tt.reason, tt.tries)
				}
				next := r.accept(func(r *trigger.Run) { r.Lane, r.Spec = run.Lane, json.RawMessage(`{"fault":"invalid"}`) })
				r.ended(next) // the lane and the queue go on
			})
		})
	}
}

// A deadline counts from the first try: what a run waits for before that does
// not use it up.
func TestDeadlineBehindGate(t *testing.T) {
	bubble(t, func(_ context.Context, r trigger.Run, _ io.Writer) error {
		if r.Attempt == 1 {
			return trigger.Retry(errors.New("503"))
		}
		return nil
	}, func(r *rig) {
		run, tries := r.ended(r.accept(func(run *trigger.Run) { run.Deadline, run.NotBefore = time.Minute, time.Now().Add(time.Hour) }))
		if run.State != trigger.Succeeded || len(tries) != 2 {
			t.Errorf("%+v, %+v", run, tries)
		}
	})
}

// A failure holds the digest where its action says so, or its rule.
func TestFailureHolds(t *testing.T) {
	for name, tt := range map[string]struct {
		err    error
		change func(*trigger.Run)
		want   int
	}{
		"action":           {&trigger.HoldError{Err: errors.New("crashes")}, func(*trigger.Run) {}, 1},
		"rule":             {errors.New("crashes"), func(r *trigger.Run) { r.HoldFailed = true }, 1},
		"neither":          {errors.New("crashes"), func(*trigger.Run) {}, 0},
		"rule, and a skip": {trigger.Skip("it is there"), func(r *trigger.Run) { r.HoldFailed = true }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(context.Context, trigger.Run, io.Writer) error { return tt.err }, func(r *rig) {
				run, _ := r.ended(r.accept(tt.change))
				holds, err := r.store.Holds(context.Background(), false)
				if err != nil || len(holds) != tt.want || tt.want > 0 && (holds[0].Reason != "crashes" || holds[0].Run != run.ID) {
					t.Errorf("%+v, %v", holds, err)
				}
			})
		})
	}
}

// People are told of outcomes by runs of their own, and not of how those went.
func TestTell(t *testing.T) {
	var told atomic.Int64
	bubble(t, func(_ context.Context, r trigger.Run, _ io.Writer) error {
		if r.Tells == 0 {
			return errors.New("broken")
		}
		told.Add(1)
		return errors.New("nobody answers the phone")
	}, func(r *rig) {
		if err := r.store.TellOf(context.Background(), []string{"failed"}); err != nil {
			t.Fatal(err)
		}
		r.tell = func(told []trigger.Notice, now time.Time) []trigger.Run {
			run := told[0].Run
			if len(told) != 1 || run.State != trigger.Failed || run.Reason != "broken" {
				t.Errorf("told of %+v", run)
			}
			return []trigger.Run{{Rule: "notify/oncall", Kind: "call", Spec: json.RawMessage("{}"), Lane: "notify/oncall", Mode: trigger.Queue, Tells: run.ID, CreatedAt: now, NotBefore: now}}
		}
		r.stop()
		<-r.stopped
		r.start(time.Minute)
		id := r.accept()
		r.ended(id)
		run, _ := r.ended(id + 1)
		if run.State != trigger.Failed || run.Tells != id || run.Event.Tag != "v1" {
			t.Errorf("%+v", run)
		}
		time.Sleep(time.Hour)
		if n := told.Load(); n != 1 {
			t.Errorf("told %d times", n)
		}
	})
}

// Without its lease a queue starts nothing and stops what it has in hand: that
// may be done by another replica now.
func TestLeaseLost(t *testing.T) {
	bubble(t, func(ctx context.Context, run trigger.Run, _ io.Writer) error {
		if run.Attempt == 1 {
			<-ctx.Done()
			return ctx.Err()
		}
		return nil
	}, func(r *rig) {
		lease, lose := context.WithCancel(context.Background())
		r.store.lease.Store(&lease)
		set := r.accept(func(r *trigger.Run) { r.Kind = "set" })
		call := r.accept()
		synctest.Wait()
		lose()
		synctest.Wait()
		r.state(set, trigger.Waiting)
		r.state(call, trigger.Unknown)
		later := r.accept()
		time.Sleep(time.Minute)
		r.state(later, trigger.Waiting)
		again, end := context.WithCancel(context.Background())
		defer end()
		r.store.lease.Store(&again)
		if run, tries := r.ended(set); run.State != trigger.Succeeded || len(tries) != 2 {
			t.Errorf("%+v, %+v", run, tries)
		}
	})
}

// A gate that has closed since a run was accepted, after a failure say, is
// waited for, and that is no try.
func TestGate(t *testing.T) {
	tries := 0
	bubble(t, func(context.Context, trigger.Run, io.Writer) error {
		if tries++; tries == 1 {
			return trigger.Retry(errors.New("not yet"))
		}
		return nil
	}, func(r *rig) {
		opens := time.Now().Add(2 * time.Hour)
		r.gate = func(_ trigger.Run, now time.Time) (time.Time, string) {
			if tries == 1 && now.Before(opens) {
				return opens, "outside its window"
			}
			return time.Time{}, ""
		}
		r.stop()
		<-r.stopped
		r.start(time.Minute)
		id := r.accept(func(run *trigger.Run) { run.Attempts = 2 })
		time.Sleep(time.Minute)
		r.state(id, trigger.Waiting)
		if run, _ := r.run(id); run.Reason != "outside its window" || !run.NotBefore.Equal(opens) || run.Attempt != 1 {
			t.Errorf("%+v", run)
		}
		run, all := r.ended(id)
		if run.State != trigger.Succeeded || len(all) != 2 || run.StartedAt.Before(opens) {
			t.Errorf("%+v, %+v", run, all)
		}
	})
}

// A gate that never opens any more ends the run.
func TestGateClosedForGood(t *testing.T) {
	bubble(t, func(context.Context, trigger.Run, io.Writer) error { t.Error("it has run"); return nil }, func(r *rig) {
		r.gate = func(trigger.Run, time.Time) (time.Time, string) {
			return time.Time{}, "its window does not open any more"
		}
		r.stop()
		<-r.stopped
		r.start(time.Minute)
		run, tries := r.ended(r.accept())
		if run.State != trigger.Skipped || run.Reason != "its window does not open any more" || len(tries) != 0 {
			t.Errorf("%+v, %+v", run, tries)
		}
	})
}

func TestBackoff(t *testing.T) {
	tests := []struct {
		run  trigger.Run
		most time.Duration // half of it is the least
	}{
		{trigger.Run{Attempt: 1}, time.Second},
		{trigger.Run{Attempt: 2}, 2 * time.Second},
		{trigger.Run{Attempt: 3}, 4 * time.Second},
		{trigger.Run{Attempt: 5}, 16 * time.Second},
		{trigger.Run{Attempt: 6}, 30 * time.Second},
		{trigger.Run{Attempt: 7}, 30 * time.Second},
		{trigger.Run{Attempt: 64}, 30 * time.Second},
		{trigger.Run{Attempt: 1 << 40}, 30 * time.Second},
		{trigger.Run{Attempt: 1, FirstBackoff: time.Minute, MostBackoff: time.Hour}, time.Minute},
		{trigger.Run{Attempt: 4, FirstBackoff: time.Minute, MostBackoff: time.Hour}, 8 * time.Minute},
		{trigger.Run{Attempt: 9, FirstBackoff: time.Minute, MostBackoff: time.Hour}, time.Hour},
		{trigger.Run{Attempt: 1 << 40, FirstBackoff: time.Minute, MostBackoff: time.Hour}, time.Hour},
		{trigger.Run{Attempt: 5, MostBackoff: 3 * time.Second}, 3 * time.Second},
		{trigger.Run{Attempt: 3, FirstBackoff: time.Minute}, time.Minute},
		{trigger.Run{Attempt: 1, MostBackoff: 100 * time.Millisecond}, 100 * time.Millisecond},
	}
	for _, tt := range tests {
		seen := map[time.Duration]bool{}
		for range 200 {
			d := backoff(tt.run)
			if d < tt.most/2 || d > tt.most {
				t.Errorf("%+v: %s is not from %s to %s", tt.run, d, tt.most/2, tt.most)
			}
			seen[d] = true
		}
		if len(seen) < 100 {
			t.Errorf("%+v: only %d different waits", tt.run, len(seen))
		}
	}
}

func TestWaitBetweenTries(t *testing.T) {
	tests := []struct {
		name        string
		after       time.Duration
		least, most []time.Duration // between one try and the next
	}{
		{"back-off", 0, []time.Duration{500 * time.Millisecond, time.Second, 2 * time.Second}, []time.Duration{time.Second, 2 * time.Second, 4 * time.Second}},
		{"asked to wait", 10 * time.Minute, []time.Duration{10 * time.Minute}, []time.Duration{10 * time.Minute}},
		{"asked for less than the back-off", time.Millisecond, []time.Duration{500 * time.Millisecond}, []time.Duration{time.Second}},
		{"asked for ever", math.MaxInt64, []time.Duration{time.Hour}, []time.Duration{time.Hour}},
		{"asked for the past", -time.Hour, []time.Duration{500 * time.Millisecond}, []time.Duration{time.Second}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			do := func(_ context.Context, r trigger.Run, _ io.Writer) error {
				if r.Attempt <= len(tt.least) {
					return &trigger.RetryError{Err: errors.New("503"), After: tt.after}
				}
				return nil
			}
			bubble(t, do, func(r *rig) {
				_, tries := r.ended(r.accept())
				if len(tries) != len(tt.least)+1 {
					t.Fatalf("%d tries", len(tries))
				}
				for i, least := range tt.least {
					if d := tries[i+1].StartedAt.Sub(tries[i].FinishedAt); d < least || d > tt.most[i] {
						t.Errorf("%s after try %d, want %s to %s", d, i+1, least, tt.most[i])
					}
				}
				// The waits cost no more than a look once a minute.
				if n := r.store.claims.Load(); n > 80 {
					t.Errorf("%d claims", n)
				}
			})
		})
	}
}

func TestSteady(t *testing.T) {
	began := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	tests := []struct {
		name      string
		now       time.Duration // after began, by the clock
		want      time.Duration
		sinceThen time.Duration
	}{
		{"a good clock", time.Minute, time.Minute, time.Minute},
		{"set back by an hour", time.Minute - time.Hour, time.Minute, time.Minute},
		{"set forward by an hour", time.Minute + time.Hour, time.Minute + time.Hour, time.Minute},
	}
	for _, tt := range tests {
		if got := steady(began.Add(tt.now), began, tt.sinceThen); !got.Equal(began.Add(tt.want)) {
			t.Errorf("%s: %s, want %s", tt.name, got, began.Add(tt.want))
		}
	}
}

func TestLog(t *testing.T) {
	bubble(t, func(_ context.Context, r trigger.Run, log io.Writer) error {
		for range 3 {
			fmt.Fprint(log, strings.Repeat("x", logLimit/2))
		}
		return nil
	}, func(r *rig) {
		_, tries := r.ended(r.accept())
		half := strings.Repeat("x", logLimit/2)
		want := half + fmt.Sprintf("\n… %d bytes left out …\n", logLimit/2) + half
		if tries[0].Log != want {
			t.Errorf("%d bytes kept, want %d", len(tries[0].Log), len(want))
		}
	})
}

func TestWorkers(t *testing.T) {
	const runs = 3*workers + 5
	release := make(chan struct{})
	var now, most, done atomic.Int64
	bubble(t, func(context.Context, trigger.Run, io.Writer) error {
		n := now.Add(1)
		for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
		}
		<-release
		now.Add(-1)
		done.Add(1)
		return nil
	}, func(r *rig) {
		release = make(chan struct{}) // of the bubble
		for range runs {
			r.accept()
		}
		synctest.Wait()
		if now.Load() != workers {
			t.Errorf("%d at once, want %d", now.Load(), workers)
		}
		for i := range int64(runs) {
			release <- struct{}{}
			synctest.Wait()
			if want := min(workers, runs-i-1); now.Load() != want {
				t.Fatalf("%d at once when %d are done, want %d", now.Load(), i+1, want)
			}
		}
		if most.Load() != workers || done.Load() != runs {
			t.Errorf("%d at once at the most, %d done", most.Load(), done.Load())
		}
		if waiting, running, err := r.store.Live(r.Context()); waiting+running != 0 || err != nil {
			t.Errorf("%d waiting, %d running, %v", waiting, running, err)
		}
	})
}

// Runs that wait for slow answers leave their workers to others until there are
// too many of them. Their time limit goes on.
func TestSlowAnswers(t *testing.T) {
	const runs = awaiting + 3*workers
	var now atomic.Int64
	bubble(t, func(ctx context.Context, r trigger.Run, _ io.Writer) error {
		if r.Rule != "slow" {
			return nil
		}
		now.Add(1)
		defer now.Add(-1)
		trigger.AwaitsAnswer(ctx)
		trigger.AwaitsAnswer(ctx)
		<-ctx.Done()
		return context.Cause(ctx)
	}, func(r *rig) {
		slow := func(run *trigger.Run) { run.Rule, run.Timeout, run.Attempts = "slow", time.Minute, 1 }
		ids := []int64{r.accept(slow)}
		synctest.Wait()
		began := time.Now()
		if run, _ := r.ended(r.accept()); run.State != trigger.Succeeded || time.Since(began) > 0 {
			t.Errorf("beside a slow one %s after %s", run.State, time.Since(began))
		}
		for range runs - 1 {
			ids = append(ids, r.accept(slow))
		}
		synctest.Wait()
		if n := now.Load(); n != awaiting+workers {
			t.Errorf("%d in the middle, want %d", n, awaiting+workers)
		}
		for _, id := range ids {
			if run, _ := r.ended(id); run.State != trigger.Failed || !strings.Contains(run.Reason, "timed out after 1m0s") {
				t.Fatalf("%+v", run)
			}
		}
	})
}

// Runs that only wait leave their workers to others, have no time limit, and
// end as any other when they are done waiting.
func TestOnlyWaits(t *testing.T) {
	const waiters = 200
	var waiting atomic.Int64
	bubble(t, func(ctx context.Context, r trigger.Run, _ io.Writer) error {
		if r.Rule != "waits" {
			return nil
		}
		before := ctx
		trigger.OnlyWaits(before, "a place in a queue")
		ctx = trigger.OnlyWaits(before, "a rollout")
		if before.Err() == nil || trigger.OnlyWaits(ctx, "") != ctx {
			t.Error("the context before goes on, or there is one more")
		}
		waiting.Add(1)
		defer waiting.Add(-1)
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(time.Hour):
			return errors.New("it did not come")
		}
	}, func(r *rig) {
		waits := func(run *trigger.Run) { run.Rule, run.Kind, run.Timeout = "waits", "set", 5*time.Second }
		var ids []int64
		for range waiters {
			ids = append(ids, r.accept(waits))
		}
		synctest.Wait()
		if n := waiting.Load(); n != waiters {
			t.Fatalf("%d wait, want %d", n, waiters)
		}
		began := time.Now()
		if run, _ := r.ended(r.accept()); run.State != trigger.Succeeded || time.Since(began) > 0 {
			t.Errorf("beside them %s after %s", run.State, time.Since(began))
		}
		time.Sleep(30 * time.Minute)
		for _, id := range ids {
			r.state(id, trigger.Running)
		}
		for _, id := range ids {
			if run, tries := r.ended(id); run.State != trigger.Failed || run.Reason != "it did not come" || len(tries) != 1 {
				t.Fatalf("%+v", run)
			}
		}

		// The end of the lease and a stop cut them off at once.
		lease, lose := context.WithCancel(context.Background())
		r.store.lease.Store(&lease)
		id := r.accept(waits)
		synctest.Wait()
		lose()
		again, end := context.WithCancel(context.Background())
		defer end()
		r.store.lease.Store(&again)
		time.Sleep(storeRetry)
		r.state(id, trigger.Running)
		if run, tries := r.run(id); run.Attempt != 2 || run.Begun != "a rollout" || tries[0].Reason != "dockbell stopped, or lost its store, while this waited; it goes on waiting" {
			t.Errorf("%+v, %+v", run, tries)
		}
		began = time.Now()
		r.stop()
		<-r.stopped
		if d := time.Since(began); d != 0 {
			t.Errorf("stopped after %s", d)
		}
		r.state(id, trigger.Running)
	})
}

// What a run finds is carried out at once, each as a run of its own.
func TestFinder(t *testing.T) {
	bubble(t, func(_ context.Context, r trigger.Run, _ io.Writer) error {
		time.Sleep(time.Minute)
		if r.Target == "api" {
			return errors.New("no such container")
		}
		return nil
	}, func(r *rig) {
		find := func(spec string) int64 {
			return r.accept(func(r *trigger.Run) {
				r.Kind, r.Finds, r.Timeout, r.Spec = "set", true, 5*time.Second, []byte(spec)
			})
		}
		id := find(`{"finds": ["web", "api", "db"]}`)
		if run, _ := r.ended(id); run.State != trigger.Succeeded {
			t.Errorf("%+v", run)
		}
		time.Sleep(time.Minute + time.Millisecond)
		for i, want := range []trigger.State{trigger.Succeeded, trigger.Failed, trigger.Succeeded} {
			if run, _ := r.run(id + 1 + int64(i)); run.State != want || run.Parent != id {
				t.Errorf("%+v, want %s", run, want)
			}
		}
		for spec, want := range map[string]string{`{"finds": ["nothing"]}`: "nothing runs it", `{"finds": ["hang"]}`: "timed out after 5s: context deadline exceeded"} {
			if run, _ := r.ended(find(spec)); run.Reason != want {
				t.Errorf("%+v", run)
			}
		}
		if runs, err := r.store.Runs(r.Context(), trigger.RunFilter{Limit: 10}); err != nil || len(runs) != 6 {
			t.Errorf("%d runs, %v", len(runs), err)
		}
	})
}

// A run whose deadline passes while the store is away is not tried again.
func TestDeadlineWhileAway(t *testing.T) {
	bubble(t, func(context.Context, trigger.Run, io.Writer) error { return trigger.Retry(errors.New("503")) }, func(r *rig) {
		id := r.accept(func(r *trigger.Run) { r.Deadline, r.HoldFailed, r.Event.Digest = time.Minute, true, "sha256:a" })
		synctest.Wait()
		began := time.Now()
		r.store.claim.Store(new(errors.New("disk full")))
		time.Sleep(2 * time.Minute)
		r.store.claim.Store(nil)
		run, tries := r.ended(id)
		if run.State != trigger.Failed || run.Reason != "not done within 1m0s of its first try" || len(tries) != 1 || run.Attempt != 1 {
			t.Errorf("%+v, %+v after %s", run, tries, time.Since(began))
		}
		if holds, err := r.store.Holds(r.Context(), false); err != nil || len(holds) != 1 {
			t.Errorf("%+v, %v", holds, err)
		}
		if got := r.counted(); got["dockbell_runs_running call"] != 0 || got["dockbell_run_tries_total call rule failed"] != 1 || got["dockbell_run_try_seconds call"] != 1 {
			t.Errorf("what was not tried counts as if it had been: %v", got)
		}
	})
}

// What comes too late to wait has timed out.
func TestOnlyWaitsTooLate(t *testing.T) {
	bubble(t, func(ctx context.Context, _ trigger.Run, _ io.Writer) error {
		<-ctx.Done()
		ctx = trigger.OnlyWaits(ctx, "a rollout")
		return context.Cause(ctx)
	}, func(r *rig) {
		if run, _ := r.ended(r.accept(func(r *trigger.Run) { r.Timeout = 5 * time.Second })); run.Reason != "timed out after 5s" {
			t.Errorf("%+v", run)
		}
	})
}

func TestIdle(t *testing.T) {
	bubble(t, nil, func(r *rig) {
		synctest.Wait()
		before := r.store.claims.Load()
		time.Sleep(time.Hour)
		if n := r.store.claims.Load() - before; n > 61 {
			t.Errorf("%d claims in an idle hour", n)
		}
	})
}

func TestStoreCannotClaim(t *testing.T) {
	bubble(t, func(context.Context, trigger.Run, io.Writer) error { return nil }, func(r *rig) {
		synctest.Wait()
		full := errors.New("disk full")
		r.store.claim.Store(&full)
		before := r.store.claims.Load()
		var ids []int64
		for range 100 { // each wakes the queue
			ids = append(ids, r.accept())
			time.Sleep(100 * time.Millisecond)
		}
		if n := r.store.claims.Load() - before; n < 9 || n > 11 {
			t.Errorf("%d claims in 10 s", n)
		}
		r.state(ids[0], trigger.Waiting)
		r.store.claim.Store(nil)
		time.Sleep(storeRetry)
		for _, id := range ids {
			r.state(id, trigger.Succeeded)
		}
	})
}

// An outage is logged when it begins and when it is over, however often the
// store is asked meanwhile.
func TestOutageInLog(t *testing.T) {
	var text strings.Builder
	log := slog.New(slog.NewTextHandler(&text, nil))
	var o outage
	for range 2 {
		o.over(log)
		for range 10 {
			o.on(log, "take runs", errors.New("disk full"))
		}
		o.over(log)
	}
	if n := strings.Count(text.String(), "cannot be used"); n != 2 || strings.Count(text.String(), "again\" after") != 2 {
		t.Errorf("\n%s", &text)
	}
}

func TestStoreCannotWriteBack(t *testing.T) {
	var done atomic.Int64
	bubble(t, func(context.Context, trigger.Run, io.Writer) error { done.Add(1); return nil }, func(r *rig) {
		full := errors.New("disk full")
		r.store.finish.Store(&full)
		id := r.accept()
		next := r.accept(func(r *trigger.Run) { r.Lane = "lane1" })
		time.Sleep(10*time.Second + time.Millisecond)
		r.state(id, trigger.Running)
		if n := r.store.finishes.Load(); n < 10 || n > 12 {
			t.Errorf("%d tries to write in 10 s", n)
		}
		r.store.finish.Store(nil)
		time.Sleep(storeRetry)
		r.state(id, trigger.Succeeded)
		r.state(next, trigger.Succeeded)
		if done.Load() != 2 {
			t.Errorf("%d actions for 2 runs", done.Load())
		}
	})
}

func TestStopWaits(t *testing.T) {
	bubble(t, func(context.Context, trigger.Run, io.Writer) error { time.Sleep(5 * time.Second); return nil }, func(r *rig) {
		id := r.accept()
		synctest.Wait()
		began := time.Now()
		r.stop()
		synctest.Wait()
		late := r.accept()
		<-r.stopped
		if d := time.Since(began); d != 5*time.Second {
			t.Errorf("stopped after %s", d)
		}
		r.state(id, trigger.Succeeded)
		r.state(late, trigger.Waiting)

		r.start(time.Minute)
		if run, _ := r.ended(late); run.State != trigger.Succeeded {
			t.Errorf("after the next start: %s", run.State)
		}
	})
}

func TestGraceTimeOver(t *testing.T) {
	var mu sync.Mutex
	var begun []string
	do := func(ctx context.Context, run trigger.Run, _ io.Writer) error {
		mu.Lock()
		begun = append(begun, run.Rule)
		mu.Unlock()
		switch {
		case run.Rule == "stubborn": // comes to its end, whatever it is told
			<-ctx.Done()
			return nil
		case run.Attempt == 1:
			<-ctx.Done()
			return ctx.Err()
		}
		return nil
	}
	bubble(t, do, func(r *rig) {
		r.stop()
		<-r.stopped
		r.start(3 * time.Second)
		named := func(rule, kind string) int64 {
			return r.accept(func(r *trigger.Run) { r.Rule, r.Kind, r.Lane = rule, kind, rule })
		}
		set, call, stubborn := named("set", "set"), named("call", "call"), named("stubborn", "call")
		behind := r.accept(func(r *trigger.Run) { r.Rule, r.Lane, r.NotBefore = "behind", "call", r.CreatedAt })
		synctest.Wait()
		began := time.Now()
		r.stop()
		<-r.stopped
		if d := time.Since(began); d != 3*time.Second {
			t.Errorf("stopped after %s", d)
		}
		r.state(set, trigger.Running)
		r.state(call, trigger.Running)
		r.state(stubborn, trigger.Succeeded)
		r.state(behind, trigger.Waiting)

		r.do = func(ctx context.Context, run trigger.Run, log io.Writer) error {
			if run.Rule == "behind" {
				return nil
			}
			return do(ctx, run, log)
		}
		r.reopen()
		r.start(time.Minute)
		run, tries := r.ended(set)
		if run.State != trigger.Succeeded || len(tries) != 2 || tries[0].Reason != "dockbell stopped, or lost its store, while this ran" {
			t.Errorf("declarative: %+v, %+v", run, tries)
		}
		run, tries = r.ended(call)
		if run.State != trigger.Unknown || len(tries) != 1 || !strings.Contains(run.Reason, "not repeated") {
			t.Errorf("call: %+v, %+v", run, tries)
		}
		r.ended(behind)
		slices.Sort(begun)
		if want := []string{"call", "set", "set", "stubborn"}; !slices.Equal(begun, want) {
			t.Errorf("begun %q, want %q", begun, want)
		}
	})
}

func TestRecoverFails(t *testing.T) {
	s, err := store.Open(t.Context(), "sqlite:"+filepath.Join(t.TempDir(), "db"))
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	q := New(s, nil, nil, slog.New(slog.DiscardHandler), NewMetrics(prometheus.NewRegistry()))
	if err := q.Run(t.Context(), time.Second); err == nil || !strings.HasPrefix(err.Error(), "runs left over from before: ") {
		t.Errorf("a store that cannot be read: %v", err)
	}
}

func TestMetrics(t *testing.T) {
	bubble(t, func(_ context.Context, r trigger.Run, _ io.Writer) error {
		if r.Attempt == 1 {
			return trigger.Retry(errors.New("503"))
		}
		return nil
	}, func(r *rig) {
		r.ended(r.accept())
		synctest.Wait()
		got := r.counted()
		for name, want := range map[string]float64{
			"dockbell_runs_running call": 0, "dockbell_run_tries_total call rule waiting": 1, "dockbell_run_tries_total call rule succeeded": 1,
			"dockbell_run_try_seconds call": 2, "dockbell_run_start_delay_seconds": 1,
		} {
			if have, ok := got[name]; !ok || have != want {
				t.Errorf("%s is %v (%t), want %v; all: %v", name, have, ok, want, got)
			}
		}
	})
}

// counted are the metrics, by their names and labels.
func (r *rig) counted() map[string]float64 {
	families, err := r.metrics.Gather()
	if err != nil {
		r.Fatal(err)
	}
	all := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			all[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return all
}
