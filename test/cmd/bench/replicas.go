package main

import (
	"context"
	"fmt"
	"time"
)

const (
	replicaCount  = 3
	replicaRounds = 3 // of one and of all in turns, so that a noisy moment hits both
	replicaRuns   = 8000
)

// replicas compares how fast several dockbells carry out calls with how fast one
// does: of a usual server, which is what limits them, and of one so fast that
// three dockbells are limited by two cores.
func (b *bench) replicas(ctx context.Context) error {
	if err := b.replicasOf(ctx, 100*time.Millisecond, "at least 2.5 x"); err != nil {
		return err
	}
	return b.replicasOf(ctx, 50*time.Millisecond, "")
}

// replicasOf compares how fast several dockbells on one PostgreSQL carry out
// calls with how fast one does. Each call takes its time at the server that is
// called, which is what limits a dockbell: so many it makes at once.
func (b *bench) replicasOf(ctx context.Context, takes time.Duration, target string) error {
	rates := map[int][]float64{}
	for round := range replicaRounds {
		for _, n := range []int{1, replicaCount} {
			r, err := b.calls(ctx, n, round, takes)
			if err != nil {
				return err
			}
			rates[n] = append(rates[n], r)
		}
	}
	one, all := percentile(rates[1], 0.5), percentile(rates[replicaCount], 0.5)
	b.row(fmt.Sprintf("calls that take %s, %d replicas, beside one", ms(takes), replicaCount),
		fmt.Sprintf("%.0f/s", all), fmt.Sprintf("%.0f/s", one), all/one, target)
	return nil
}

// calls is how many a second so many replicas make. All of them are accepted
// before the first is answered.
func (b *bench) calls(ctx context.Context, replicas, round int, takes time.Duration) (float64, error) {
	gate, err := startGate(takes)
	if err != nil {
		return 0, err
	}
	defer gate.close()
	name := fmt.Sprintf("replicas-%d-%d-%s", replicas, round, takes)
	url, err := b.database(ctx, name)
	if err != nil {
		return 0, err
	}
	var first *daemon
	for i := range replicas {
		d, err := b.serve(ctx, fmt.Sprint(name, "-", i), fmt.Sprintf(`
server: {listen: "127.0.0.1:0", admin: "127.0.0.1:0"}
store: %q
sources: {registry: {type: distribution, auth: none}}
rules:
  - {name: calls, repo: "**", actions: [{http: {url: %q, lane: "{{.Repository}}", timeout: 10m}}]}
`, url, gate.url))
		if err != nil {
			return 0, err
		}
		defer d.kill()
		if first == nil {
			first = d
		}
	}
	err = senders(64, replicaRuns, func(n int) error {
		return post(ctx, first.hooks, notification(fmt.Sprint("call-", n), fmt.Sprint("shop/app-", n%1000), fmt.Sprint("v", n), n))
	})
	if err != nil {
		return 0, err
	}
	began := time.Now()
	gate.open()
	for gate.calls.Load() < replicaRuns {
		if time.Since(began) > time.Minute {
			return 0, fmt.Errorf("%d of %d calls were made within a minute", gate.calls.Load(), replicaRuns)
		}
		time.Sleep(time.Millisecond)
	}
	return replicaRuns / time.Since(began).Seconds(), nil
}
