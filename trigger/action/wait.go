package action

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/dockbell/dockbell/trigger"
)

// How often others are asked how something goes: soon at first, since much is
// over soon, and then less and less often.
const (
	askTime    = 30 * time.Second // for one question
	firstPause = time.Second
	mostPause  = 15 * time.Second
)

// begun is what an action has begun and waits for: its address, and since when.
// As text it is kept with the run and shown to people.
type begun struct {
	url   string
	since time.Time
}

const sinceWord = " since "

func (b begun) String() string { return b.url + sinceWord + b.since.UTC().Format(time.RFC3339Nano) }

// goesOn gives what an earlier try has begun; ok is false when there is nothing.
func goesOn(run trigger.Run) (b begun, ok bool) {
	address, since, ok := strings.Cut(run.Begun, sinceWord)
	if !ok {
		return begun{}, false
	}
	at, err := time.Parse(time.RFC3339Nano, since)
	return begun{address, at}, err == nil
}

// waitSpec is how long an action waits for the end of what it starts; nil when
// it does not.
type waitSpec = *time.Duration

func checkWait(wait waitSpec) error {
	if wait != nil && *wait <= 0 {
		return trigger.Field("wait", "must be longer than nothing, as in 30m")
	}
	return nil
}

// errNotYet is what ask of [follow] says while something has not ended.
var errNotYet = errors.New("it has not ended")

// follow asks how something goes until ask has another answer than errNotYet.
// What goes wrong meanwhile is asked again. When the time is over it gives the
// last answer.
func follow(ctx context.Context, until time.Time, ask func(context.Context) error) error {
	for pause := firstPause; ; pause = min(2*pause, mostPause) {
		over := !time.Now().Before(until)
		asking, cancel := context.WithTimeoutCause(ctx, askTime, fmt.Errorf("no answer within %s", askTime))
		err := ask(asking)
		cancel()
		after, again := trigger.Retryable(err)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err == nil, over, !again && !errors.Is(err, errNotYet):
			return err
		}
		// A part of it is random, so that those who began together do not ask together.
		wait := max(after, pause/2+rand.N(pause/2))
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(min(wait, time.Until(until))):
		}
	}
}

// lost is what becomes of a failed question about something that was begun: it
// is asked again, or what became of that is not known.
func lost(err error) error {
	if _, again := trigger.Retryable(err); err == nil || again {
		return err
	}
	return trigger.Uncertain(err)
}

// notEnded is why a run fails that has waited for as long as it may.
func notEnded(what string, wait time.Duration) error {
	return fmt.Errorf("%s has not ended after %s, which is for how long `wait` lets it be", what, wait)
}

// mark names a run for others, so that it is found again among what they have
// begun. It is another one when a person has the run tried anew.
func mark(run trigger.Run) string {
	return "dockbell-" + strconv.FormatInt(run.ID, 10) + "-" + strconv.FormatInt(run.FirstAt.Unix(), 36)
}
