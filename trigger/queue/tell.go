package queue

import (
	"context"
	"time"
)

// tell makes runs of the outcomes that people want to be told of, until ctx
// ends. Those runs are like all others: durable, tried again, each in its turn.
// That there is one does not touch the run it tells of.
//
// Once people have had tellFreely messages in a tellPeriod, the outcomes wait
// on disk until it is over, and are then told together: whoever makes the runs
// sums them up. The count is not kept, so a new start begins a period.
func (q *Queue) tell(ctx context.Context) {
	var began time.Time // of the period
	messages := 0       // in it
	for ctx.Err() == nil {
		if time.Since(began) >= tellPeriod {
			began, messages = time.Now(), 0
		}
		if messages >= tellFreely {
			select {
			case <-ctx.Done():
			case <-time.After(tellPeriod - time.Since(began)):
			}
			continue
		}
		n, sent, err := q.tellSome(ctx)
		messages += sent
		if err != nil {
			q.pause(ctx, "make notifications of outcomes", err)
			continue
		}
		if n == tellAtOnce {
			continue // there may be more
		}
		select {
		case <-ctx.Done():
		case <-q.store.Noticed():
		case <-time.After(tellEvery):
		}
	}
}

// tellSome tells of the oldest outcomes: how many, and by how many messages to
// people.
func (q *Queue) tellSome(ctx context.Context) (n, messages int, err error) {
	notices, err := q.store.Notices(ctx, tellAtOnce)
	if err != nil || len(notices) == 0 {
		return 0, 0, err
	}
	runs := q.Tell(notices, q.now())
	for _, r := range runs {
		if q.kinds[r.Kind].Message != nil {
			messages++
		}
	}
	return len(notices), messages, q.store.Tell(ctx, notices, runs)
}
