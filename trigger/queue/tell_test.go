package queue

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/dockbell/dockbell/trigger"
)

// When people have had many messages in a short time, what else happens waits
// on disk and is told together.
func TestFloodIsToldTogether(t *testing.T) {
	var mu sync.Mutex
	var batches []int // outcomes told of at a time
	told := func() []int {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(batches)
	}
	act := func(_ context.Context, r trigger.Run, _ io.Writer) error {
		if r.Tells == 0 {
			return errors.New("broken")
		}
		return nil
	}
	bubble(t, act, func(r *rig) {
		if err := r.store.TellOf(context.Background(), []string{"failed"}); err != nil {
			t.Fatal(err)
		}
		r.tell = func(of []trigger.Notice, now time.Time) []trigger.Run {
			mu.Lock()
			defer mu.Unlock()
			batches = append(batches, len(of))
			return []trigger.Run{{Rule: "notify/chat", Kind: "chat", Spec: json.RawMessage("{}"), Lane: "notify/chat", Mode: trigger.Queue, Tells: of[0].Run.ID, CreatedAt: now, NotBefore: now}}
		}
		restart := func() {
			r.stop()
			<-r.stopped
			r.start(time.Minute)
		}
		// flood makes outcomes, each long enough after the one before to be told by
		// itself.
		flood := func(n int) {
			for range n {
				r.ended(r.accept())
				time.Sleep(time.Second)
			}
		}
		restart()
		flood(tellFreely + 7)
		if got := told(); len(got) != tellFreely {
			t.Errorf("told at once: %v", got)
		}
		time.Sleep(tellPeriod)
		if got := told(); len(got) != tellFreely+1 || got[tellFreely] != 7 {
			t.Errorf("told in all: %v", got)
		}
		// What waits to be told is still there after a restart.
		time.Sleep(tellPeriod)
		before := len(told())
		flood(tellFreely + 3)
		restart()
		time.Sleep(time.Second)
		if got := told()[before:]; len(got) != tellFreely+1 || got[tellFreely] != 3 {
			t.Errorf("told after a restart: %v", got)
		}
	})
}
