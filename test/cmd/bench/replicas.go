package main

import (
	"context"
	"fmt"
	"slices"
	"time"
)

const (
	replicaCount  = 3
	replicaRounds = 3 // of one and of all in turns, so that a noisy moment hits both
	replicaRuns   = 8000
	callTakes     = 50 * time.Millisecond
)

// replicas compares how fast several dockbells on one PostgreSQL carry out
// calls with how fast one does. Each call takes its time at the server that is
// called, which is what limits a dockbell: so many it makes at once.
func (b *bench) replicas(ctx context.Context) error {
	rates := map[int][]float64{}
	for round := range replicaRounds {
		for _, n := range []int{1, replicaCount} {
			r, err := b.calls(ctx, n, round)
			if err != nil {
				return err
			}
			rates[n] = append(rates[n], r)
		}
	}
	slices.Sort(rates[1])
	slices.Sort(rates[replicaCount])
	one, all := rates[1][replicaRounds/2], rates[replicaCount][replicaRounds/2]
	b.row(fmt.Sprintf("calls that take %s, %d replicas, beside one", ms(callTakes), replicaCount),
		fmt.Sprintf("%.0f/s", all), fmt.Sprintf("%.0f/s", one), all/one, "at least 2.5 x")
	return nil
}

// calls is how many a second so many replicas make. All of them are accepted
// before the first is answered.
func (b *bench) calls(ctx context.Context, replicas, round int) (float64, error) {
	gate, err := startGate(callTakes)
	if err != nil {
		return 0, err
	}
	defer gate.close()
	url, err := b.database(ctx, fmt.Sprintf("replicas-%d-%d", replicas, round))
	if err != nil {
		return 0, err
	}
	var first *daemon
	for i := range replicas {
		d, err := b.serve(ctx, fmt.Sprintf("replicas-%d-%d-%d", replicas, round, i), fmt.Sprintf(`
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
