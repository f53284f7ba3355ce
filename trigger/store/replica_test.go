package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dockbell/dockbell/trigger"
)

// until waits for a condition.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for: %s", what)
		}
	}
}

func never(string) bool { return false }

// replicas opens stores on one database, with short leases.
func replicas(t *testing.T, n int) []*bench {
	place := t.TempDir()
	location := postgresAt(t, place)
	var all []*bench
	for range n {
		s, err := openLeased(t.Context(), location, time.Second)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		all = append(all, &bench{TB: t, Store: s, now: begin})
	}
	return all
}

// The runs of a replica that shows no sign of life are taken over, after a
// lease has passed and not before.
func TestTakeOver(t *testing.T) {
	t.Parallel()
	r := replicas(t, 2)
	dies, takes := r[0], r[1]
	dies.accept(dies.push("v1"), planned("a", trigger.Queue))
	dies.claim(1)
	// Its process is gone: what it did stays, and its beat does not change.
	exec(t, dies.Store, "INSERT INTO replicas (id, name, beat) VALUES (77, 'gone', 3)")
	exec(t, dies.Store, "UPDATE running SET owner = 77")
	began := time.Now()
	until(t, "the runs of the dead", func() bool {
		runs, err := takes.Recover(t.Context(), takes.now, never)
		if err != nil {
			t.Fatal(err)
		}
		return len(runs) == 1
	})
	if d := time.Since(began); d < time.Second {
		t.Errorf("taken after %s", d)
	}
	takes.want("unknown")
	// The other one, which is alive, keeps its own.
	dies.accept(dies.push("v2"), planned("a", trigger.Queue))
	dies.claim(2)
	for began := time.Now(); time.Since(began) < 2*time.Second; time.Sleep(50 * time.Millisecond) {
		if runs, err := takes.Recover(t.Context(), takes.now, never); err != nil || len(runs) > 0 {
			t.Fatalf("taken from the living: %+v, %v", runs, err)
		}
	}
}

// A replica that the others took for dead can record nothing of what it did
// before, and goes on as a new one.
func TestLeaseLost(t *testing.T) {
	t.Parallel()
	r := replicas(t, 2)
	lost, other := r[0], r[1]
	lost.accept(lost.push("v1"), planned("a", trigger.Queue))
	lease := lost.Lease()
	run := lost.claim(1)[0]
	exec(t, other.Store, "DELETE FROM replicas WHERE id = (SELECT owner FROM running)")
	if runs, err := other.Recover(t.Context(), other.now, func(string) bool { return true }); err != nil || len(runs) != 1 {
		t.Fatalf("%+v, %v", runs, err)
	}
	again := other.claim(1)[0]
	if state := lost.finish(run, trigger.Succeeded); state != trigger.Running {
		t.Errorf("its result counts: %s", state)
	}
	if lease.Err() == nil || !errors.Is(context.Cause(lease), errLeaseLost) {
		t.Errorf("its lease: %v", context.Cause(lease))
	}
	until(t, "a new lease", func() bool { return lost.Lease().Err() == nil })
	lost.accept(lost.push("v2"), planned("b", trigger.Queue))
	lost.finish(lost.claim(2)[0], trigger.Succeeded)
	other.finish(again, trigger.Succeeded)
	other.want("succeeded succeeded")
}

// One that cannot reach the database stops by itself before the others take
// its runs.
func TestLeaseLapses(t *testing.T) {
	t.Parallel()
	place := t.TempDir()
	p := newProxy(t, postgresAt(t, place))
	s, err := openLeased(t.Context(), p.location, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	lease := s.Lease()
	p.cut.Store(true)
	p.drop()
	until(t, "the end of the lease", func() bool { return lease.Err() != nil })
	p.cut.Store(false)
	until(t, "a new lease", func() bool { return s.Lease().Err() == nil })
}

// A duty is one replica's, and another's when that one has ended.
func TestLead(t *testing.T) {
	t.Parallel()
	r := replicas(t, 2)
	leads := func(b *bench) bool {
		t.Helper()
		ok, err := b.Lead(t.Context(), "poll/mirror")
		if err != nil {
			t.Fatal(err)
		}
		return ok
	}
	if !leads(r[0]) || leads(r[1]) || !leads(r[0]) {
		t.Error("the first to ask does not keep it")
	}
	if ok, err := r[1].Lead(t.Context(), "prune"); !ok || err != nil {
		t.Errorf("another duty: %t, %v", ok, err)
	}
	if err := r[0].Close(); err != nil {
		t.Fatal(err)
	}
	if !leads(r[1]) {
		t.Error("nobody has it")
	}
}

// What one replica accepts wakes the others.
func TestWakeOthers(t *testing.T) {
	t.Parallel()
	r := replicas(t, 2)
	other := r[1].Wake()
	until(t, "both listening", func() bool {
		var n int
		ok, err := r[0].queryRow(t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE application_name = current_setting('application_name') AND query LIKE 'LISTEN%'", nil, &n)
		return ok && err == nil && n == 2
	})
	for len(other) > 0 {
		<-other
	}
	r[0].accept(r[0].push("v1"), planned("a", trigger.Queue))
	select {
	case <-other:
	case <-time.After(lookAnyway / 2):
		t.Error("it was not told")
	}
}

// Replicas that work on one database at once do each run once.
func TestReplicasAtOnce(t *testing.T) {
	t.Parallel()
	r := replicas(t, 3)
	const runs = 300
	var done [runs + 1]atomic.Int64
	var left atomic.Int64
	left.Store(runs)
	var group sync.WaitGroup
	for i, b := range r {
		group.Go(func() {
			for n := range runs / len(r) {
				e := trigger.Event{Image: trigger.Image{Repository: "shop/web", Tag: "v1"}, ID: fmt.Sprint(i, "/", n), Source: "hub", ReceivedAt: b.now}
				if _, err := b.Accept(t.Context(), trigger.Delivery{}, []trigger.Planned{{Event: e, Runs: []trigger.Run{planned(fmt.Sprint("lane", n%7), trigger.Queue)}}}); err != nil {
					t.Error(err)
				}
			}
		})
		group.Go(func() {
			for left.Load() > 0 && t.Context().Err() == nil {
				claimed, _, err := b.Claim(t.Context(), b.now, upTo(8))
				if err != nil {
					t.Error(err)
					return
				}
				for _, run := range claimed {
					done[run.ID].Add(1)
					if state, err := b.Finish(t.Context(), run, trigger.Result{State: trigger.Succeeded, At: b.now}); err != nil || state != trigger.Succeeded {
						t.Error(state, err)
					}
					left.Add(-1)
				}
			}
		})
	}
	group.Wait()
	for id := range runs {
		if n := done[id+1].Load(); n != 1 {
			t.Errorf("run %d was done %d times", id+1, n)
		}
	}
}

// proxy is a way to the server that can be cut.
type proxy struct {
	location string
	cut      atomic.Bool // no new connections
	swallow  atomic.Bool // keep the answer to a COMMIT, and break

	mu    sync.Mutex
	conns []net.Conn
}

func newProxy(t *testing.T, location string) *proxy {
	t.Helper()
	u, err := url.Parse(location)
	if err != nil {
		t.Fatal(err)
	}
	server := u.Host
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	u.Host = l.Addr().String()
	p := &proxy{location: u.String()}
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			go p.carry(client, server)
		}
	}()
	return p
}

func (p *proxy) carry(client net.Conn, server string) {
	defer client.Close()
	if p.cut.Load() {
		return
	}
	up, err := net.Dial("tcp", server)
	if err != nil {
		return
	}
	defer up.Close()
	p.mu.Lock()
	p.conns = append(p.conns, client, up)
	p.mu.Unlock()
	go func() {
		defer up.Close()
		_, _ = io.Copy(up, client) // until one of them ends
	}()
	buffer := make([]byte, 64<<10)
	for {
		n, err := up.Read(buffer)
		if err != nil || bytes.Contains(buffer[:n], []byte("COMMIT\x00")) && p.swallow.CompareAndSwap(true, false) {
			return
		}
		if _, err := client.Write(buffer[:n]); err != nil {
			return
		}
	}
}

// drop breaks what is connected.
func (p *proxy) drop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		c.Close()
	}
	p.conns = nil
}

// Runs that were claimed when the answer of the database got lost are not
// forgotten: the next claim gives them.
func TestLostAnswer(t *testing.T) {
	t.Parallel()
	p := newProxy(t, postgresAt(t, t.TempDir()))
	s, err := Open(t.Context(), p.location)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	b := &bench{TB: t, Store: s, now: time.Now()}
	b.accept(b.push("v1"), planned("a", trigger.Queue))
	b.now = b.now.Add(time.Second)
	p.swallow.Store(true)
	if runs, _, err := s.Claim(t.Context(), b.now, upTo(10)); !errors.Is(err, errDoubtful) {
		t.Fatalf("%+v, %v", runs, err)
	}
	b.want("running")
	r := b.claim(1)[0]
	if r.Attempt != 1 {
		t.Errorf("attempt %d", r.Attempt)
	}
	b.claim()
	p.swallow.Store(true)
	if _, err := s.Finish(t.Context(), r, trigger.Result{State: trigger.Succeeded, At: b.now}); !errors.Is(err, errDoubtful) {
		t.Fatal(err)
	}
	if state := b.finish(r, trigger.Failed); state != trigger.Succeeded {
		t.Errorf("written twice: %s", state)
	}
}

// Connections that break at any moment lose nothing, and leave nothing stuck.
func TestBrokenConnections(t *testing.T) {
	t.Parallel()
	p := newProxy(t, postgresAt(t, t.TempDir()))
	s, err := Open(t.Context(), p.location)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	b := &bench{TB: t, Store: s, now: time.Now()}
	stop := make(chan struct{})
	var group sync.WaitGroup
	var accepted, n atomic.Int64
	for range 8 {
		group.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				id := n.Add(1)
				e := trigger.Event{Image: trigger.Image{Repository: "shop/web", Tag: "v1"}, ID: fmt.Sprint(id), Source: "hub", ReceivedAt: b.now}
				if _, err := s.Accept(t.Context(), trigger.Delivery{}, []trigger.Planned{{Event: e, Runs: []trigger.Run{planned(fmt.Sprint("lane", id%5), trigger.Queue)}}}); err == nil {
					accepted.Add(1)
				}
			}
		})
	}
	work := func() int {
		runs, _, err := s.Claim(t.Context(), time.Now(), upTo(8))
		if err != nil {
			return 1 // there may be some
		}
		for _, r := range runs {
			until(t, "a result that is kept", func() bool {
				_, err := s.Finish(t.Context(), r, trigger.Result{State: trigger.Succeeded, At: b.now})
				return err == nil
			})
		}
		return len(runs)
	}
	for i := range 8 {
		for range 5 {
			work()
		}
		if i%2 == 0 {
			p.drop()
		} else {
			p.swallow.Store(true)
		}
	}
	close(stop)
	group.Wait()
	p.swallow.Store(false)
	until(t, "an answer", func() bool { return s.Ping(t.Context()) == nil })
	for work() > 0 {
	}
	waiting, running, err := s.Live(t.Context())
	if err != nil || waiting+running > 0 {
		t.Errorf("%d wait and %d run, %v", waiting, running, err)
	}
	if got := len(b.all()); got < int(accepted.Load()) || accepted.Load() == 0 {
		t.Errorf("%d runs, %d accepted", got, accepted.Load())
	}
}
