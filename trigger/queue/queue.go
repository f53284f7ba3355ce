// Package queue makes accepted runs happen. It owns every loop there is:
// claiming, repeating with back-off, time limits, stopping. An action only
// ever tries once. The queue knows no kind of action and decides nothing that
// the store must decide inside a transaction.
package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"github.com/dockbell/dockbell/trigger"
)

// Store is what the queue needs of one.
type Store interface {
	Claim(ctx context.Context, now time.Time, ready func() int) (runs []trigger.Run, next time.Time, err error)
	Finish(ctx context.Context, r trigger.Run, res trigger.Result) (trigger.State, error)
	Recover(ctx context.Context, now time.Time, repeatable func(kind string) bool) ([]trigger.Run, error)
	Begin(ctx context.Context, r trigger.Run, begun string) error
	Shared() bool // by several replicas
	Lease() context.Context
	Wake() <-chan struct{}
	Noticed() <-chan struct{} // there is something to tell

	Notices(ctx context.Context, n int) ([]trigger.Notice, error)
	Tell(ctx context.Context, notices []trigger.Notice, runs []trigger.Run) error
}

// Queue carries out the runs of a store.
type Queue struct {
	// Gate is when a run may start, and why that is not now; the zero time
	// when it is now. It is asked before every try. Nil is always open.
	Gate func(r trigger.Run, now time.Time) (at time.Time, why string)

	// Tell gives the runs that tell people of outcomes. Nil tells nobody.
	Tell func(told []trigger.Notice, now time.Time) []trigger.Run

	store   Store
	kinds   map[string]trigger.Kind
	decode  func(spec json.RawMessage) func(any) error
	log     *slog.Logger
	metrics *Metrics
	began   time.Time
	outage  outage
	outputs sync.Map // of the tries that are being carried out, by run: *Output

	finished chan struct{}
	awaiting chan struct{} // one for each run that gave up its worker while it waits for an answer
	running  sync.WaitGroup
}

// New makes a queue. decode turns a stored specification into what a
// [trigger.Builder] takes.
func New(store Store, kinds map[string]trigger.Kind, decode func(json.RawMessage) func(any) error, log *slog.Logger, metrics *Metrics) *Queue {
	return &Queue{store: store, kinds: kinds, decode: decode, log: log, metrics: metrics, began: time.Now(), finished: make(chan struct{}, workers), awaiting: make(chan struct{}, awaiting)}
}

func (q *Queue) now() time.Time { return steady(time.Now(), q.began, time.Since(q.began)) }

// Run carries out runs until ctx ends, and then waits for those in the middle
// up to the grace time. What is not finished by then is cancelled and stays
// on disk as running: the next start deals with it as after a crash.
func (q *Queue) Run(ctx context.Context, grace time.Duration) error {
	if err := q.recover(ctx); ctx.Err() != nil {
		return nil // stopped before it began
	} else if err != nil {
		return fmt.Errorf("runs left over from before: %w", err)
	}
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	var aside sync.WaitGroup
	if q.store.Shared() {
		aside.Go(func() { q.takeOver(ctx) })
	}
	if q.Tell != nil {
		aside.Go(func() { q.tell(ctx) })
	}
	q.claimLoop(ctx, work)
	aside.Wait()

	done := make(chan struct{})
	go func() { q.running.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-time.After(grace):
	}
	q.log.Warn("runs are still in the middle after the grace time; the next start deals with them", "grace", grace)
	cancel()
	<-done
	return nil
}

func (q *Queue) recover(ctx context.Context) error {
	runs, err := q.store.Recover(ctx, q.now(), func(kind string) bool { return q.kinds[kind].Declarative || q.kinds[kind].Message != nil })
	for _, r := range runs {
		q.logger(r).Warn("run was cut off when the dockbell that ran it stopped", "state", r.State, "reason", r.Reason)
		q.metrics.led(r, r.State)
	}
	return err
}

// takeOver deals with the runs of other replicas that die, until ctx ends.
func (q *Queue) takeOver(ctx context.Context) {
	tick := time.NewTicker(recoverEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := q.recover(ctx); err != nil && !q.pause(ctx, "see whether other replicas are alive", err) {
			return
		}
	}
}

// claimLoop starts due runs as long as there are workers free for them.
func (q *Queue) claimLoop(ctx, work context.Context) {
	free := workers
	look := true       // something may be due
	var next time.Time // when something will be, as far as is known
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		// Taken before the claim: a lease that is lost meanwhile counts.
		lease := q.store.Lease()
		sleep := longestSleep
		if lease.Err() != nil {
			sleep, look = storeRetry, true
		} else if free > 0 && look {
			var runs []trigger.Run
			var err error
			ready := func() int { return free + len(q.finished) }
			if runs, next, err = q.store.Claim(ctx, q.now(), ready); err != nil {
				q.pause(ctx, "take runs", err)
				continue
			}
			q.outage.over(q.log)
			for _, r := range runs {
				q.running.Add(1)
				go q.do(ctx, work, lease, r)
			}
			look = false
			free -= len(runs) // below 0 with those who have become free since
		}
		if !next.IsZero() && free > 0 {
			sleep = min(sleep, next.Sub(q.now()))
		}
		timer.Reset(sleep)
		select {
		case <-ctx.Done():
		case <-timer.C:
			look = true
		case <-q.store.Wake():
			look = true
		case <-q.finished:
			free++
		}
	drain:
		for {
			select {
			case <-q.finished:
				free++
			default:
				break drain
			}
		}
	}
}

// do carries out one try and writes back how it ended. stop ends what can go on
// after a restart as it is, work the rest; the lease is the right to do it.
func (q *Queue) do(stop, work, lease context.Context, r trigger.Run) {
	defer q.running.Done()
	free := sync.OnceFunc(func() { q.finished <- struct{}{} })
	defer free()
	log := q.logger(r)
	if r.Begun == "" && (q.overdue(work, r) || q.postpone(work, r)) {
		return
	}
	log.Info("run started", "attempt", r.Attempt, "target", r.Target)
	q.metrics.started(r)

	output, done := q.capture(r)
	defer done()
	began := time.Now()
	found, err := q.try(stop, work, lease, &r, output, free)
	free() // what follows waits for the store, not for the world
	switch {
	case errors.Is(err, errStopped):
		log.Info("run goes on waiting after the next start")
		return
	case work.Err() != nil && err != nil:
		log.Warn("run cut off by the stop", "error", err)
		return
	}
	res := q.judge(r, err)
	if lease.Err() != nil && err != nil {
		res = r.CutOff(q.kinds[r.Kind].Declarative, q.now())
		log.Warn("run cut off", "error", context.Cause(lease))
	}
	for _, f := range found {
		res.Runs = append(res.Runs, r.Child(f, res.At))
	}
	res.Log, _, _ = output.Since(0)
	state, ok := q.writeBack(work, r, res)
	if !ok {
		return
	}
	took := time.Since(began)
	q.metrics.ended(r, state, took)
	switch state {
	case trigger.Waiting:
		log.Warn("run failed; it is tried again", "error", res.Reason, "attempt", r.Attempt, "next", res.NotBefore.Format(time.RFC3339))
	case trigger.Failed:
		log.Error("run failed", "error", res.Reason, "attempt", r.Attempt)
	default:
		log.Info("run ended", "state", state, "reason", res.Reason, "took", took)
	}
}

// overdue ends a run whose deadline has passed since its last try, and reports
// whether it did.
func (q *Queue) overdue(work context.Context, r trigger.Run) bool {
	now := q.now()
	if r.Deadline == 0 || r.Attempt < 2 || !now.After(r.FirstAt.Add(r.Deadline)) {
		return false
	}
	res := trigger.Result{State: trigger.Failed, At: now, Reason: fmt.Sprintf("not done within %s of its first try", r.Deadline), Postponed: true}
	if r.HoldFailed {
		res.Hold = res.Reason
	}
	if state, ok := q.writeBack(work, r, res); ok {
		q.metrics.led(r, state)
		q.logger(r).Error("run failed", "error", res.Reason)
	}
	return true
}

// postpone puts a run back whose gate has closed since it was accepted, after
// a failure say, and reports whether it did.
func (q *Queue) postpone(work context.Context, r trigger.Run) bool {
	if q.Gate == nil {
		return false
	}
	now := q.now()
	at, why := q.Gate(r, now)
	if why == "" {
		return false
	}
	res := trigger.Result{State: trigger.Waiting, At: now, NotBefore: at, Reason: why, Postponed: true}
	if at.IsZero() {
		res.State = trigger.Skipped
	}
	if state, ok := q.writeBack(work, r, res); ok {
		q.logger(r).Info("run waits", "state", state, "reason", why)
	}
	return true
}

// errStopped is why a run does not go on that will after a restart.
var errStopped = errors.New("dockbell stops")

// try builds the action and does it once, within its time limit, or lets it
// find what there is to be done. Once it only waits, it has no time limit and
// its worker is free. A panic is that run's failure, not the daemon's.
func (q *Queue) try(stop, work, lease context.Context, r *trigger.Run, output *Output, free func()) (found []trigger.Found, err error) {
	defer func() {
		if p := recover(); p != nil {
			q.logger(*r).Error("action panicked", "panic", p, "stack", string(debug.Stack()))
			err = fmt.Errorf("the action panicked: %v; please report this", p)
		}
	}()
	kind, ok := q.kinds[r.Kind]
	if !ok {
		return nil, fmt.Errorf("this dockbell has no action kind %q", r.Kind)
	}
	action, err := kind.Build(q.decode(r.Spec))
	if err != nil {
		return nil, fmt.Errorf("its stored specification is no longer valid: %w", err)
	}
	leased, end := context.WithCancelCause(work)
	defer end(nil)
	defer context.AfterFunc(lease, func() { end(context.Cause(lease)) })()
	if leased.Err() != nil {
		return nil, context.Cause(leased)
	}
	ctx, cancel, timedOut := leased, func() {}, fmt.Errorf("timed out after %s", r.Timeout)
	if r.Timeout > 0 {
		ctx, cancel = context.WithTimeoutCause(leased, r.Timeout, timedOut)
	}
	defer cancel()
	ctx, done := q.slow(ctx, free)
	defer done()
	if finder, ok := action.(trigger.Finder); ok {
		found, err = finder.Find(ctx, *r, output)
	} else {
		err = action.Do(trigger.WithOnlyWaits(ctx, func(begun string) context.Context {
			cancel()
			if context.Cause(ctx) == timedOut {
				return ctx // too late
			}
			free()
			done() // it is no longer one of those that an answer is awaited for
			if err := q.store.Begin(context.WithoutCancel(work), *r, begun); err != nil {
				q.logger(*r).Warn("cannot keep what the run waits for; a stop of dockbell has to wait for it", "error", err)
				return leased
			}
			r.Begun = begun
			context.AfterFunc(stop, func() { end(errStopped) })
			return leased
		}), *r, output)
	}
	switch {
	case err != nil && context.Cause(ctx) == timedOut && !errors.Is(err, timedOut):
		err = fmt.Errorf("%w: %w", timedOut, err)
	case err != nil && context.Cause(leased) == errStopped:
		err = errStopped
	}
	return found, err
}

// slow makes a context in which a run may give up its worker while it waits for
// an answer, as long as not too many have. done says that it waits no longer.
func (q *Queue) slow(ctx context.Context, free func()) (_ context.Context, done func()) {
	var once sync.Once
	counted := false
	awaits := func() {
		select {
		case q.awaiting <- struct{}{}:
			counted = true
			free()
		default: // it keeps its worker
		}
	}
	return trigger.WithAwaitsAnswer(ctx, func() { once.Do(awaits) }), sync.OnceFunc(func() {
		once.Do(func() {}) // who is late must not count any more
		if counted {
			<-q.awaiting
		}
	})
}

// judge turns what an action returned into what happens to its run.
func (q *Queue) judge(r trigger.Run, err error) trigger.Result {
	res := trigger.Result{State: trigger.Succeeded, At: q.now()}
	if err == nil {
		return res
	}
	res.Reason = err.Error()
	var skip *trigger.SkipError
	var hold *trigger.HoldError
	var uncertain *trigger.UncertainError
	after, again := trigger.Retryable(err)
	switch {
	case errors.As(err, &skip):
		res.State = trigger.Skipped
		return res
	case errors.As(err, &hold):
		res.State, res.Hold = trigger.Failed, res.Reason
		if hold.Undone {
			res.State = trigger.RolledBack
		}
		return res
	case errors.As(err, &uncertain) && !q.kinds[r.Kind].Declarative:
		res.State = trigger.Unknown
		return res
	case !again && uncertain == nil:
		res.State = trigger.Failed
	case r.Attempts > 0 && r.Attempt >= r.Attempts:
		res.State = trigger.Failed
		res.Reason = fmt.Sprintf("failed %d times, as often as allowed; last: %s", r.Attempt, err)
	default:
		res.State = trigger.Waiting
		res.NotBefore = res.At.Add(max(backoff(r), min(after, mostAfter)))
		if r.Deadline > 0 && res.NotBefore.After(r.FirstAt.Add(r.Deadline)) {
			res.State, res.NotBefore = trigger.Failed, time.Time{}
			res.Reason = fmt.Sprintf("not done within %s of its first try; last: %s", r.Deadline, err)
		}
	}
	if res.State == trigger.Failed && r.HoldFailed {
		res.Hold = res.Reason
	}
	return res
}

// writeBack does not give up before the result is on disk: a lane waits for
// it. Only the end of the grace time ends the tries, and even then there is
// one: what is known of an effect should not end as unknown.
func (q *Queue) writeBack(work context.Context, r trigger.Run, res trigger.Result) (trigger.State, bool) {
	for {
		state, err := q.store.Finish(context.WithoutCancel(work), r, res)
		if err == nil {
			return state, true
		}
		if !q.pause(work, fmt.Sprintf("write the result of run %d", r.ID), err) {
			return "", false
		}
	}
}

func (q *Queue) logger(r trigger.Run) *slog.Logger {
	return q.log.With("run", r.ID, "event", r.EventID, "rule", r.Rule, "kind", r.Kind, "image", r.Event.Image.String())
}
