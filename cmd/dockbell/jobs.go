package main

import "context"

// job is something that goes on in the background because the configuration
// says so.
type job struct {
	// of is all that it depends on, and can be compared. While that is equal it
	// goes on undisturbed.
	of  any
	run func(ctx context.Context)
}

// jobs are those that go on, by name. Its zero value has none and starts none.
type jobs struct {
	ctx context.Context // of all of them; nil before the start and after the end
	on  map[string]runningJob
}

type runningJob struct {
	job
	cancel context.CancelFunc
	done   chan struct{}
}

// start lets jobs go on until stop, or until ctx ends.
func (j *jobs) start(ctx context.Context) { j.ctx, j.on = ctx, map[string]runningJob{} }

// change makes the wanted jobs those that go on. It waits for those that end:
// two of one name never go on at the same time.
func (j *jobs) change(wanted map[string]job) {
	if j.ctx == nil {
		return
	}
	var ending []runningJob
	for name, r := range j.on {
		if w, ok := wanted[name]; !ok || w.of != r.of {
			r.cancel()
			ending = append(ending, r)
			delete(j.on, name)
		}
	}
	for _, r := range ending {
		<-r.done
	}
	for name, w := range wanted {
		if _, ok := j.on[name]; ok {
			continue
		}
		ctx, cancel := context.WithCancel(j.ctx)
		r := runningJob{job: w, cancel: cancel, done: make(chan struct{})}
		j.on[name] = r
		go func() {
			defer close(r.done)
			r.run(ctx)
		}()
	}
}

// stop ends all jobs, waits for them, and lets none start any more.
func (j *jobs) stop() {
	j.change(nil)
	j.ctx = nil
}
