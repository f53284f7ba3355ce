package store

import (
	"fmt"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dockbell/dockbell/trigger"
)

// accept1 is a delivery of usual size with one event and one run, each of its
// own lane out of a thousand.
func accept1(b testing.TB, s *Store, n int64) {
	e := trigger.Event{
		Image: trigger.Image{Registry: "r.example", Repository: fmt.Sprint("shop/web", n%1000), Tag: "v1", Digest: fmt.Sprint("sha256:", n)},
		ID:    fmt.Sprint(n), Source: "hub", Action: trigger.Push, OccurredAt: time.Unix(n, 0), ReceivedAt: time.Unix(n, 0),
	}
	r := planned(fmt.Sprint("lane", n%1000), trigger.Queue)
	if _, err := s.Accept(b.Context(), trigger.Delivery{Source: "hub", Body: make([]byte, 1500)}, []trigger.Planned{{Event: e, Runs: []trigger.Run{r}}}); err != nil {
		b.Error(err)
	}
}

func BenchmarkAccept(b *testing.B) {
	for _, d := range databases {
		for _, senders := range []int{1, 64} {
			b.Run(fmt.Sprint(d.name, "/", senders), func(b *testing.B) {
				s := d.open(b, b.TempDir())
				defer s.Close()
				var n atomic.Int64
				drive(b, senders, func() { accept1(b, s, n.Add(1)) })
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
			})
		}
	}
}

// BenchmarkAcceptBehindFailures is of lanes whose action has always failed.
func BenchmarkAcceptBehindFailures(b *testing.B) {
	s := openAt(b, filepath.Join(b.TempDir(), "db"))
	defer s.Close()
	exec(b, s, `WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000)
		INSERT INTO runs (id, event_id, rule, idx, kind, target, spec, repository, lane, mode, ordered, ordering, attempts, timeout, after, followed, state, reason, attempt, not_before, created_at, started_at, finished_at, dedupe, live_lane, due_at) SELECT i, 1, 'rule', 0, 'call', 't', '{}', 'shop/web', 'lane' || (i % 10), 'queue', 0, '', 0, 0, 0, 0, 'failed', '', 1, i, i, i, i, NULL, NULL, NULL FROM n`)
	var n atomic.Int64
	drive(b, 1, func() { accept1(b, s, n.Add(1)%10) })
}

// BenchmarkDrain claims and finishes a backlog, both on disk, as the queue does
// it: one claims for all who are free.
func BenchmarkDrain(b *testing.B) {
	for _, d := range databases {
		b.Run(d.name, func(b *testing.B) {
			s := d.open(b, b.TempDir())
			defer s.Close()
			var n atomic.Int64
			drive(b, 64, func() { accept1(b, s, n.Add(1)) })
			b.ResetTimer()
			drain(b, s, b.N)
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "runs/s")
		})
	}
}

func drain(b *testing.B, s *Store, left int) {
	const workers = 64
	done := make(chan struct{}, workers)
	for free := workers; left > 0; {
		runs, _, err := s.Claim(b.Context(), time.Now(), free)
		if err != nil {
			b.Fatal(err)
		}
		for _, r := range runs {
			go func() {
				if _, err := s.Finish(b.Context(), r, trigger.Result{State: trigger.Succeeded, At: time.Now()}); err != nil {
					b.Error(err)
				}
				done <- struct{}{}
			}()
		}
		for free -= len(runs); free < workers; {
			<-done
			free++
			left--
			if len(done) == 0 {
				break
			}
		}
	}
}

// drive does b.N things by a number of goroutines.
func drive(b *testing.B, workers int, do func()) {
	var left atomic.Int64
	left.Store(int64(b.N))
	done := make(chan struct{})
	b.ResetTimer()
	for range workers {
		go func() {
			for left.Add(-1) >= 0 {
				do()
			}
			done <- struct{}{}
		}()
	}
	for range workers {
		<-done
	}
}
