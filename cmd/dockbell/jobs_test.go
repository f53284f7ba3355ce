package main

import (
	"context"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
)

// Jobs that are the same go on, the others are replaced, and none of a name
// begins before the last of that name has ended.
func TestJobs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		going := map[string]string{} // by name: what it depends on
		begun := 0
		wanted := func(all map[string]string) map[string]job {
			list := map[string]job{}
			for name, of := range all {
				list[name] = job{of: of, run: func(ctx context.Context) {
					mu.Lock()
					if other, ok := going[name]; ok {
						t.Errorf("%s of %s begins beside that of %s", name, of, other)
					}
					going[name] = of
					begun++
					mu.Unlock()
					<-ctx.Done()
					mu.Lock()
					defer mu.Unlock()
					delete(going, name)
				}}
			}
			return list
		}
		var j jobs
		j.change(wanted(map[string]string{"early": "1"})) // before the start there are none
		ctx, cancel := context.WithCancel(t.Context())
		j.start(ctx)
		for i, step := range []struct {
			all   map[string]string
			begun int
		}{
			{map[string]string{"a": "1"}, 1},
			{map[string]string{"a": "1", "b": "1"}, 2},
			{map[string]string{"a": "1", "b": "2"}, 3},
			{map[string]string{"b": "2"}, 3},
			{map[string]string{"a": "1", "b": "2"}, 4},
		} {
			j.change(wanted(step.all))
			synctest.Wait()
			mu.Lock()
			if !maps.Equal(going, step.all) || begun != step.begun {
				t.Errorf("step %d: %v, %d have begun; want %v, %d", i, going, begun, step.all, step.begun)
			}
			mu.Unlock()
		}
		cancel()
		j.stop()
		j.change(wanted(map[string]string{"late": "1"})) // after the end there are none
		synctest.Wait()
		if len(going) > 0 || begun != 4 {
			t.Errorf("after the end: %v, %d have begun", slices.Collect(maps.Keys(going)), begun)
		}
	})
}
