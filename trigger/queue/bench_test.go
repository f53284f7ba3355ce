package queue

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dockbell/dockbell/trigger"
	"github.com/dockbell/dockbell/trigger/store"
)

const (
	benchLanes = 1000

	// paced is how far apart deliveries come in, 500 a second.
	paced = 2 * time.Millisecond
)

// BenchmarkDrain carries out a backlog of b.N runs that do nothing, in a
// thousand lanes: what queue and store cost, both transitions on disk.
func BenchmarkDrain(b *testing.B) {
	onEach(b, func(b *testing.B, s *store.Store) {
		const together = 100
		for n := 0; n < b.N; n += together {
			accept(b, s, n, min(n+together, b.N))
		}
		b.ResetTimer()
		carryOut(b, s, func(trigger.Run) {}, func() {})
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "runs/s")
	})
}

// BenchmarkStart is how long a run waits that could start at once, from when
// its delivery is acknowledged, while others come in.
func BenchmarkStart(b *testing.B) {
	onEach(b, func(b *testing.B, s *store.Store) {
		acknowledged, started := make([]time.Time, b.N), make([]time.Time, b.N)
		carryOut(b, s, func(r trigger.Run) {
			n, err := strconv.Atoi(r.Event.ID)
			if err != nil {
				b.Error(err)
				return
			}
			started[n] = time.Now()
		}, func() {
			var senders sync.WaitGroup
			for n, began := 0, time.Now(); n < b.N; n++ {
				time.Sleep(time.Until(began.Add(time.Duration(n) * paced)))
				senders.Go(func() {
					accept(b, s, n, n+1)
					acknowledged[n] = time.Now()
				})
			}
			senders.Wait()
		})
		waits := make([]time.Duration, b.N)
		for n := range waits {
			waits[n] = max(0, started[n].Sub(acknowledged[n]))
		}
		slices.Sort(waits)
		b.ReportMetric(waits[b.N/2].Seconds()*1000, "p50-ms")
		b.ReportMetric(waits[b.N*99/100].Seconds()*1000, "p99-ms")
	})
}

// onEach runs a benchmark on each database.
func onEach(b *testing.B, bench func(*testing.B, *store.Store)) {
	for _, d := range []struct {
		name     string
		location func(*testing.B) string
	}{
		{"SQLite", func(b *testing.B) string { return "sqlite:" + filepath.Join(b.TempDir(), "db") }},
		{"PostgreSQL", postgresLocation},
	} {
		b.Run(d.name, func(b *testing.B) {
			s, err := store.Open(b.Context(), d.location(b))
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			bench(b, s)
		})
	}
}

// postgresLocation is an empty store on the server of the tests.
func postgresLocation(b *testing.B) string {
	server := os.Getenv("DOCKBELL_TEST_POSTGRES")
	if server == "" {
		b.Skip("DOCKBELL_TEST_POSTGRES names no server; `make bench` starts one")
	}
	u, err := url.Parse(server)
	if err != nil {
		b.Fatal(err)
	}
	db, err := sql.Open("pgx", server)
	if err != nil {
		b.Fatal(err)
	}
	schema := fmt.Sprintf("bench_%d", time.Now().UnixNano())
	if _, err := db.ExecContext(b.Context(), "CREATE SCHEMA "+schema); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if _, err := db.ExecContext(context.Background(), "DROP SCHEMA "+schema+" CASCADE"); err != nil {
			b.Error(err)
		}
		db.Close()
	})
	query := u.Query()
	query.Set("search_path", schema)
	u.RawQuery = query.Encode()
	return u.String()
}

// accept puts a delivery on disk with events from one number to before
// another, each with a run in its turn of the lanes.
func accept(b *testing.B, s *store.Store, from, to int) {
	now := time.Now()
	var planned []trigger.Planned
	for n := from; n < to; n++ {
		repository := fmt.Sprint("shop/app-", n%benchLanes)
		planned = append(planned, trigger.Planned{
			Event: trigger.Event{
				ID: strconv.Itoa(n), Source: "hub", Action: trigger.Push, ReceivedAt: now,
				Image: trigger.Image{Registry: "r.example", Repository: repository, Tag: fmt.Sprint("v", n), Digest: fmt.Sprintf("sha256:%064d", n)},
			},
			Runs: []trigger.Run{{Rule: "rule", Kind: "call", Target: repository, Spec: json.RawMessage("{}"), Lane: repository, Mode: trigger.Queue, CreatedAt: now, NotBefore: now}},
		})
	}
	if _, err := s.Accept(b.Context(), trigger.Delivery{Source: "hub", ReceivedAt: now, Body: make([]byte, 1500)}, planned); err != nil {
		b.Error(err)
	}
}

// carryOut lets a queue do b.N runs, and returns when the last of them is on
// disk as ended. meanwhile is called while the queue works.
func carryOut(b *testing.B, s *store.Store, do func(trigger.Run), meanwhile func()) {
	action := act(func(_ context.Context, r trigger.Run, _ io.Writer) error {
		do(r)
		return nil
	})
	kinds := map[string]trigger.Kind{"call": {Build: func(func(any) error) (trigger.Action, error) { return action, nil }}}
	counted := &countdown{Store: s, done: make(chan struct{})}
	counted.left.Store(int64(b.N))
	log := slog.New(slog.NewTextHandler(io.Discard, nil)) // its lines cost what they cost
	q := New(counted, kinds, func(json.RawMessage) func(any) error { return nil }, log, NewMetrics(prometheus.NewRegistry()))
	ctx, stop := context.WithCancel(b.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := q.Run(ctx, time.Minute); err != nil {
			b.Error(err)
		}
	})
	meanwhile()
	<-counted.done
	b.StopTimer()
	stop()
	running.Wait()
}

// countdown tells when the last run has ended.
type countdown struct {
	*store.Store
	left atomic.Int64
	done chan struct{}
}

func (c *countdown) Finish(ctx context.Context, r trigger.Run, res trigger.Result) (trigger.State, error) {
	state, err := c.Store.Finish(ctx, r, res)
	if err == nil && c.left.Add(-1) == 0 {
		close(c.done)
	}
	return state, err
}
