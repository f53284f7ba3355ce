package main

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// gcPercent takes a tenth off the cost of a delivery, for some megabytes: what
	// lives is small beside what each delivery leaves behind.
	gcPercent = 300

	// plenty is how much memory may be taken before garbage is collected more
	// often than that. A thousand calls at once are not to take 150 MB.
	plenty = 48 << 20
)

// saveMemory sets how garbage is collected, until ctx ends. Where much lives the
// bound moves up with it, or collecting would never end.
func saveMemory(ctx context.Context) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	if os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		metrics.Read(live)
		debug.SetMemoryLimit(max(plenty, 2*int64(live[0].Value.Uint64())))
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
