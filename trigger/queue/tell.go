package queue

import (
	"context"
	"time"
)

// mayTell lets tell look.
func (q *Queue) mayTell() {
	select {
	case q.ended <- struct{}{}:
	default:
	}
}

// tell makes runs of the outcomes that people want to be told of, until ctx
// ends. Those runs are like all others: durable, tried again, each in its turn.
// That there is one does not touch the run it tells of.
func (q *Queue) tell(ctx context.Context) {
	for ctx.Err() == nil {
		n, err := q.tellSome(ctx)
		if err != nil {
			q.pause(ctx, "make notifications of outcomes", err)
			continue
		}
		if n == tellAtOnce {
			continue // there may be more
		}
		select {
		case <-ctx.Done():
		case <-q.ended:
		case <-time.After(tellEvery):
		}
	}
}

func (q *Queue) tellSome(ctx context.Context) (int, error) {
	notices, err := q.store.Notices(ctx, tellAtOnce)
	for _, n := range notices {
		if err == nil {
			err = q.store.Tell(ctx, n, q.Tell(n.Run, q.now()))
		}
	}
	return len(notices), err
}
