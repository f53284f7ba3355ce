package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
)

const (
	intakeTime   = 4 * time.Second
	intakeRounds = 3 // interleaved, so that a noisy moment hits all alike
)

// rate is what senders reached: deliveries a second and how long one took.
type rate struct {
	perSecond float64
	p50, p99  time.Duration
}

// held is the rule of which every run waits behind one that goes on until the
// server at its URL lets it go, so that nothing but intake is measured.
const held = `
server: {listen: "127.0.0.1:0", admin: "127.0.0.1:0"}
store: %q
sources: {registry: {type: distribution, auth: none}}
rules:
  - {name: held, repo: "**", actions: [{http: {url: %q, lane: one, timeout: 10m}}]}
`

// intake compares durable intake with a server that does nothing and with a
// loop that only appends and flushes the same bytes.
func (b *bench) intake(ctx context.Context) error {
	gate, err := startGate(0)
	if err != nil {
		return err
	}
	defer gate.close()
	idle, err := startIdle(ctx)
	if err != nil {
		return err
	}
	defer idle.stop()
	log, err := newGroupLog(filepath.Join(b.dir, "raw.log"))
	if err != nil {
		return err
	}
	defer log.close()
	stores, err := b.stores(ctx, "intake")
	if err != nil {
		return err
	}
	targets := map[string]string{"SQLite": "at least 0.3 x; p99 below 50 ms", "PostgreSQL": "at least 0.18 x; p99 below 50 ms"}
	for _, s := range stores {
		d, err := b.serve(ctx, "intake-"+s.name, fmt.Sprintf(held, s.location, gate.url))
		if err != nil {
			return err
		}
		err = b.intakeOf(ctx, s, d, idle, log, targets[s.name])
		d.stop()
		if err != nil {
			return err
		}
	}
	return nil
}

// intakeOf lets one sender deliver, and then many, to which the target is.
func (b *bench) intakeOf(ctx context.Context, s store, d, idle *daemon, log *groupLog, target string) error {
	var id atomic.Int64
	body := func() []byte {
		n := int(id.Add(1))
		return notification(fmt.Sprint("intake-", n), fmt.Sprint("shop/app-", n%1000), fmt.Sprint("v", n), n)
	}
	for _, many := range []int{1, 64} {
		var ours, bare, raw []rate
		for range intakeRounds {
			for _, m := range []struct {
				into *[]rate
				do   func() error
			}{
				{&ours, func() error { return post(ctx, d.hooks, body()) }},
				{&bare, func() error { return post(ctx, idle.hooks, body()) }},
				{&raw, func() error { return log.append(body()) }},
			} {
				r, err := measureRate(many, m.do)
				if err != nil {
					return err
				}
				*m.into = append(*m.into, r)
			}
		}
		o, n, w := median(ours), median(bare), median(raw)
		wanted := ""
		if many > 1 {
			wanted = target
		}
		b.row(fmt.Sprintf("durable intake, %d senders, %s, beside a server that does nothing", many, s.name),
			fmt.Sprintf("%.0f/s, p50 %s, p99 %s", o.perSecond, ms(o.p50), ms(o.p99)), fmt.Sprintf("%.0f/s", n.perSecond), o.perSecond/n.perSecond, wanted)
		b.row(fmt.Sprintf("durable intake, %d senders, %s, beside append + group commit", many, s.name),
			fmt.Sprintf("%.0f/s", o.perSecond), fmt.Sprintf("%.0f/s", w.perSecond), o.perSecond/w.perSecond, "")
	}
	return nil
}

// measureRate lets senders work for a while, each one call after the other.
func measureRate(senders int, do func() error) (rate, error) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	var all []time.Duration
	var failed error
	began := time.Now()
	for range senders {
		wg.Go(func() {
			var took []time.Duration
			for time.Since(began) < intakeTime {
				t := time.Now()
				if err := do(); err != nil {
					mu.Lock()
					failed = err
					mu.Unlock()
					return
				}
				took = append(took, time.Since(t))
			}
			mu.Lock()
			all = append(all, took...)
			mu.Unlock()
		})
	}
	wg.Wait()
	if failed != nil {
		return rate{}, failed
	}
	return rate{float64(len(all)) / time.Since(began).Seconds(), percentile(all, 0.5), percentile(all, 0.99)}, nil
}

// median by rate.
func median(rates []rate) rate {
	best := append([]rate(nil), rates...)
	for i := range best {
		for j := i; j > 0 && best[j].perSecond < best[j-1].perSecond; j-- {
			best[j], best[j-1] = best[j-1], best[j]
		}
	}
	return best[len(best)/2]
}

// groupLog appends to a file; calls that wait for the same flush share it.
// Nothing durable can be faster.
type groupLog struct {
	file    *os.File
	entries chan entry
	done    chan struct{}
}

type entry struct {
	data    []byte
	flushed chan error
}

func newGroupLog(path string) (*groupLog, error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	l := &groupLog{file: f, entries: make(chan entry), done: make(chan struct{})}
	go l.loop()
	return l, nil
}

func (l *groupLog) append(data []byte) error {
	e := entry{data, make(chan error, 1)}
	l.entries <- e
	return <-e.flushed
}

func (l *groupLog) loop() {
	defer close(l.done)
	for first := range l.entries {
		batch := []entry{first}
	more:
		for len(batch) < 512 {
			select {
			case e, ok := <-l.entries:
				if !ok {
					break more
				}
				batch = append(batch, e)
			default:
				break more
			}
		}
		var all []byte
		for _, e := range batch {
			all = append(all, e.data...)
		}
		_, err := l.file.Write(all)
		if err == nil {
			err = l.file.Sync()
		}
		for _, e := range batch {
			e.flushed <- err
		}
	}
}

func (l *groupLog) close() {
	close(l.entries)
	<-l.done
	l.file.Close()
}
