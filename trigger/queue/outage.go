package queue

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// outage is a time in which the store cannot be used. Its beginning and its end
// are for the log, each try in between only where somebody looks closely.
type outage struct {
	mu    sync.Mutex
	since time.Time // zero while there is none
}

func (o *outage) on(log *slog.Logger, what string, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.since.IsZero() {
		log.Debug("the store still cannot be used", "to", what, "error", err)
		return
	}
	o.since = time.Now()
	log.Error("the store cannot be used; what waits is tried again until it can", "to", what, "error", err, "every", storeRetry)
}

func (o *outage) over(log *slog.Logger) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.since.IsZero() {
		log.Info("the store can be used again", "after", time.Since(o.since).Round(time.Millisecond))
		o.since = time.Time{}
	}
}

// pause waits before the store is asked again, whoever calls meanwhile. It
// reports whether ctx is still alive.
func (q *Queue) pause(ctx context.Context, what string, err error) bool {
	if ctx.Err() == nil {
		q.outage.on(q.log, what, err)
	}
	select {
	case <-ctx.Done():
		return false
	case <-time.After(storeRetry):
		return true
	}
}
