package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"testing"
	"time"

	"github.com/dockbell/dockbell/test/parts"
)

// The database goes away under load and comes back, as when it is upgraded or
// its machine fails: senders are told to come back, and dockbell goes on by
// itself.
func TestDatabaseAway(t *testing.T) {
	t.Parallel()
	ends := []struct {
		name string
		end  func(*parts.Postgres)
	}{{"stopped", (*parts.Postgres).Stop}, {"killed", (*parts.Postgres).Kill}}
	for _, how := range ends {
		t.Run(how.name, func(t *testing.T) {
			p := postgres(t)
			l := newLoad(t, 8, newReceiver(t, 5*time.Millisecond), "")
			d := serve(t, l.config(p.URL("postgres"), ""))
			l.to(d)
			l.start(8, forever, 10*time.Millisecond)
			for range soak(2, 20) {
				l.flows(50)
				how.end(p)
				l.refuses(20)
				if err := p.Start(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			l.flows(50)
			l.end()
			reads(d)
			l.checkOff(d)
		})
	}
}

// The database fails for good under load, and its standby on another port
// takes its place: dockbell finds it, and what was acknowledged is there.
func TestDatabaseFailsOver(t *testing.T) {
	t.Parallel()
	first := postgres(t)
	second, err := first.StartStandby(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(second.Stop)
	l := newLoad(t, 8, newReceiver(t, 5*time.Millisecond), "")
	d := serve(t, l.config(either(t, first, second), ""))
	l.to(d)
	l.start(8, forever, 10*time.Millisecond)
	l.flows(100)
	first.Kill()
	l.refuses(20)
	if err := second.Promote(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.flows(100)
	l.end()
	reads(d)
	l.checkOff(d)
}

// reads waits until dockbell reads again: each connection that it had open to
// read by may give an error once.
func reads(d *daemon) {
	d.t.Helper()
	eventually(d.t, "dockbell reads", func() error {
		for range 10 {
			resp, err := client.Get(d.admin + "/api/v1/runs?limit=1")
			if err != nil {
				return err
			}
			resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				return errors.New(resp.Status)
			}
		}
		return nil
	})
}

// either is the store that is the one of two servers that takes writes.
func either(t *testing.T, a, b *parts.Postgres) string {
	t.Helper()
	u, err := url.Parse(a.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	other, err := url.Parse(b.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	u.Host += "," + other.Host
	return u.String() + "&target_session_attrs=read-write"
}

// takenOver is within what time others take the runs of a replica that died.
const takenOver = 15 * time.Second

// One of three replicas is killed in the middle of its runs. The others end
// its calls as unknown, as nobody knows what came of them, and go on with what
// waits behind.
func TestReplicaKilled(t *testing.T) {
	t.Parallel()
	const repositories = 16
	p := postgres(t)
	l := newLoad(t, repositories, newReceiver(t, 3*time.Second), namespace(t))
	config := l.config(p.URL("postgres"), "")
	var all []*daemon
	for range 3 {
		all = append(all, serve(t, config))
	}
	l.to(all...)
	l.start(repositories, soak(3, 10), 10*time.Millisecond)
	l.flows(repositories)
	begun := func(d *daemon) int { return d.log.count(`msg="run started".* kind=http`) }
	eventually(t, "many calls are in the middle", func() error {
		slices.SortFunc(all, func(a, b *daemon) int { return begun(b) - begun(a) })
		if n := begun(all[0]); n < 4 {
			return fmt.Errorf("the busiest replica has begun %d", n)
		}
		return nil
	})
	dies, lives := all[0], all[1]
	dies.kill()
	began := time.Now()
	l.to(all[1:]...)
	eventually(t, "the runs of the dead are dealt with", func() error {
		if len(lives.runs("&state=unknown")) == 0 {
			return fmt.Errorf("none is unknown")
		}
		return nil
	})
	took := time.Since(began)
	t.Logf("taken over after %s", took.Round(time.Second/10))
	if took > takenOver {
		t.Errorf("it took %s until the others took over, more than %s", took, takenOver)
	}
	l.senders.Wait()
	if unknown := l.checkOff(lives); unknown > 2*repositories {
		t.Errorf("%d runs ended as unknown, more than can have been in the middle", unknown)
	}
}
