package store

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dockbell/dockbell/trigger"
)

// usualBody packs as well as those of registries do.
var usualBody = func() []byte {
	body := make([]byte, 1500)
	rand.NewChaCha8([32]byte{}).Read(body[:packedBody])
	return body
}()

const packedBody = 1000

// accept1 is a delivery of usual size with one event and one run, each of its
// own lane out of a thousand.
func accept1(b testing.TB, s *Store, n int64) {
	e := trigger.Event{
		Image: trigger.Image{Registry: "r.example", Repository: fmt.Sprint("shop/web", n%1000), Tag: "v1", Digest: fmt.Sprint("sha256:", n)},
		ID:    fmt.Sprint(n), Source: "hub", Action: trigger.Push, OccurredAt: time.Unix(n, 0), ReceivedAt: time.Unix(n, 0),
	}
	r := planned(fmt.Sprint("lane", n%1000), trigger.Queue)
	if _, err := s.Accept(b.Context(), trigger.Delivery{Source: "hub", Body: usualBody}, []trigger.Planned{{Event: e, Runs: []trigger.Run{r}}}); err != nil {
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
				drive(b, senders, b.N, func() { accept1(b, s, n.Add(1)) })
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
			})
		}
	}
}

// BenchmarkAcceptBehindFailures is of lanes whose action has always failed.
func BenchmarkAcceptBehindFailures(b *testing.B) {
	s := openAt(b, filepath.Join(b.TempDir(), "db"))
	defer s.Close()
	const numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000) "
	exec(b, s, numbers+"INSERT INTO origins (run_id, event_id, repository, lane, outcome) SELECT i, 1, 'shop/web', 'lane' || (i % 10), 'failed' FROM n")
	exec(b, s, numbers+`INSERT INTO runs (id, event_id, rule, idx, kind, target, spec, lane, mode, ordered, ordering, attempts, timeout, after, followed, state, reason, attempt, not_before, created_at, started_at, finished_at)
		SELECT i, 1, 'rule', 0, 'call', 't', '{}', 'lane' || (i % 10), 'queue', 0, '', 0, 0, 0, 0, 'failed', '', 1, i, i, i, i FROM n`)
	var n atomic.Int64
	drive(b, 1, b.N, func() { accept1(b, s, n.Add(1)%10) })
}

// BenchmarkDrain claims and finishes a backlog, both on disk, as the queue does
// it: one claims for all who are free.
func BenchmarkDrain(b *testing.B) {
	for _, d := range databases {
		b.Run(d.name, func(b *testing.B) {
			s := d.open(b, b.TempDir())
			defer s.Close()
			var n atomic.Int64
			drive(b, 64, b.N, func() { accept1(b, s, n.Add(1)) })
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
		runs, _, err := s.Claim(b.Context(), time.Now(), upTo(free))
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

// drive does n things by a number of goroutines and says how long it took.
func drive(b *testing.B, workers, n int, do func()) time.Duration {
	var left atomic.Int64
	left.Store(int64(n))
	var all sync.WaitGroup
	b.ResetTimer()
	began := time.Now()
	for range workers {
		all.Go(func() {
			for left.Add(-1) >= 0 {
				do()
			}
		})
	}
	all.Wait()
	return time.Since(began)
}

// BenchmarkClaim is how long a claim takes with many lanes that wait, beside
// one with few. They take turns, so that a noisy moment hits both.
func BenchmarkClaim(b *testing.B) {
	const few, many, together = 100, 100_000, 50
	for _, d := range databases {
		b.Run(d.name, func(b *testing.B) {
			var stores [2]*Store
			for i, lanes := range []int{few, many} {
				stores[i] = d.open(b, b.TempDir())
				defer stores[i].Close()
				fill(b, stores[i], 1, lanes, true)
			}
			var took [2][]time.Duration
			for range b.N {
				for i, s := range stores {
					began := time.Now()
					runs, _, err := s.Claim(b.Context(), began, upTo(together))
					took[i] = append(took[i], time.Since(began))
					if err != nil || len(runs) != together {
						b.Fatal(len(runs), err)
					}
					putBack(b, s, runs)
				}
			}
			short, long := middle(took[0]), middle(took[1])
			b.ReportMetric(short.Seconds()*1000, "few-ms")
			b.ReportMetric(long.Seconds()*1000, "many-ms")
			b.ReportMetric(float64(long)/float64(short), "x")
		})
	}
}

// putBack makes runs wait again.
func putBack(b *testing.B, s *Store, runs []trigger.Run) {
	var all sync.WaitGroup
	for _, r := range runs {
		all.Go(func() {
			if _, err := s.Finish(b.Context(), r, trigger.Result{State: trigger.Waiting, At: time.Now(), NotBefore: time.Now()}); err != nil {
				b.Error(err)
			}
		})
	}
	all.Wait()
}

// BenchmarkHistory is what a long history costs: intake beside a store with a
// short one, and how long lists take that people look at. It does so once,
// whatever b.N.
func BenchmarkHistory(b *testing.B) {
	const short, long, rounds, each = 1_000, 1_000_000, 9, 20_000
	for _, d := range databases {
		b.Run(d.name, func(b *testing.B) {
			var stores [2]*Store
			for i, runs := range []int{short, long} {
				place := b.TempDir()
				stores[i] = d.open(b, place)
				for from := 1; from <= runs; from += 50_000 {
					fill(b, stores[i], from, min(from+49_999, runs), false)
				}
				settle(b, stores[i])
				if err := stores[i].Close(); err != nil {
					b.Fatal(err)
				}
				stores[i] = d.open(b, place)
				defer stores[i].Close()
			}
			var took [2][]time.Duration
			var ratios []float64
			var n atomic.Int64
			n.Store(long)              // the events of the history are not sent again
			for _, s := range stores { // until indexes that follow their tables are written as much as they grow
				drive(b, 64, mostDeferred, func() { accept1(b, s, n.Add(1)) })
			}
			for round := range rounds {
				for i, s := range stores {
					took[i] = append(took[i], drive(b, 64, each, func() { accept1(b, s, n.Add(1)) }))
				}
				ratios = append(ratios, took[0][round].Seconds()/took[1][round].Seconds())
			}
			b.ReportMetric(each/middle(took[0]).Seconds(), "short-events/s")
			b.ReportMetric(each/middle(took[1]).Seconds(), "long-events/s")
			b.ReportMetric(middle(ratios), "x")
			for _, s := range stores { // as the server does by itself, some time after a flood
				settle(b, s)
			}
			lists(b, stores[1], long)
		})
	}
}

// lists measures what people ask of a store with so many ended runs.
func lists(b *testing.B, s *Store, runs int) {
	const times = 1000
	repository := func(i int) string { return fmt.Sprint("shop/web", i*7%1000) }
	for _, list := range []struct {
		unit string
		ask  func(i int) error
	}{
		{"runs-of-repository", func(i int) error {
			_, err := s.Runs(b.Context(), trigger.RunFilter{Repository: repository(i), Limit: 50})
			return err
		}},
		{"failed", func(int) error {
			_, err := s.Runs(b.Context(), trigger.RunFilter{State: trigger.Failed, Limit: 50})
			return err
		}},
		{"run", func(i int) error {
			id := int64(1 + i*7919%runs)
			if _, _, ok, err := s.Run(b.Context(), id); err != nil || !ok {
				return fmt.Errorf("run %d: %t, %w", id, ok, err)
			}
			_, err := s.Notes(b.Context(), id)
			return err
		}},
		{"events", func(int) error {
			_, err := s.Events(b.Context(), trigger.EventFilter{Limit: 50})
			return err
		}},
		{"events-of-repository", func(i int) error {
			_, err := s.Events(b.Context(), trigger.EventFilter{Repository: repository(i), Limit: 50})
			return err
		}},
	} {
		var took []time.Duration
		for i := range 2 * times {
			began := time.Now()
			if err := list.ask(i); err != nil {
				b.Fatal(err)
			}
			if i >= times { // the first half warms
				took = append(took, time.Since(began))
			}
		}
		slices.Sort(took)
		b.ReportMetric(took[times*99/100].Seconds()*1000, list.unit+"-p99-ms")
	}
}

// fill adds deliveries with one event and one run each, whose ids are those
// from first to last, as intake would have left them: of a thousand
// repositories and lanes when they have ended, a few of them as failed, and
// each of a lane of its own when they wait.
func fill(b testing.TB, s *Store, first, last int, waiting bool) {
	b.Helper()
	zeros, random := "zeroblob(%d)", "randomblob(16)"
	if s.shared {
		zeros, random = "decode(repeat('00', %d), 'hex')", "decode(md5(i::text), 'hex')"
	}
	state, outcome, lane := "CASE WHEN i % 50 = 0 THEN 'failed' ELSE 'succeeded' END", "CASE WHEN i % 50 = 0 THEN 'failed' ELSE '' END", "(i % 1000)"
	if waiting {
		state, outcome, lane = "'waiting'", "''", "i"
	}
	numbers := fmt.Sprintf("WITH RECURSIVE n (i) AS (SELECT CAST(%d AS BIGINT) UNION ALL SELECT i + 1 FROM n WHERE i < %d) ", first, last)
	insert := func(t *table, values string) {
		exec(b, s, numbers+"INSERT INTO "+t.name+" ("+strings.Join(t.columns, ", ")+") SELECT "+values+" FROM n")
	}
	insert(deliveryTable, "i, 'hub', i, '{}', "+fmt.Sprintf(zeros, packedBody)+", FALSE")
	insert(eventTable, "i, i, 'hub', 'e' || i, 'push', 'r.example', 'shop/web' || (i % 1000), 'v' || i, 'sha256:' || i, '', '', i, i, '', FALSE")
	insert(runTable, "i, i, 'rule', 0, 'call', 'target', '{}', 'lane' || "+lane+`, 'queue', FALSE, '', 0, 0,
		`+state+", i, i, FALSE, FALSE, '', 1, i, i, 0, 0, 0, FALSE, 0, 0, '', 0, 0, i, '', 0, '', FALSE")
	insert(originTable, "i, i, 'shop/web' || (i % 1000), "+random+", 'lane' || "+lane+", "+outcome)
	if waiting {
		insert(waitingTable, "i, 'lane' || i, i, TRUE, FALSE")
	} else {
		insert(attemptTable, "i, 1, i, i, 'succeeded', '', "+fmt.Sprintf(zeros, 0))
	}
	if s.shared {
		for _, sequence := range []string{"deliveries_id", "events_id", "runs_id"} {
			exec(b, s, fmt.Sprintf("SELECT setval('%s', %d)", sequence, last))
		}
	}
}

// settle leaves the store as it is when nothing has been done for a while.
func settle(b *testing.B, s *Store) {
	b.Helper()
	if !s.shared {
		exec(b, s, "ANALYZE")
		return
	}
	for _, query := range []string{"VACUUM ANALYZE", "CHECKPOINT"} {
		if _, err := s.read.ExecContext(b.Context(), query); err != nil {
			b.Fatal(err)
		}
	}
}

// middle is the median.
func middle[T cmp.Ordered](d []T) T {
	slices.Sort(d)
	return d[len(d)/2]
}
