package e2e

import (
	"math/rand/v2"
	"syscall"
	"testing"
	"time"
)

// dockbell is killed many times while many senders push: no acknowledged push
// is lost, nothing that may not be repeated is done twice, nothing goes
// backwards, no lane is stuck.
func TestKilledUnderLoad(t *testing.T) {
	t.Parallel()
	for _, store := range stores {
		t.Run(store.name, func(t *testing.T) {
			t.Parallel()
			l := newLoad(t, 8, newReceiver(t, time.Millisecond), namespace(t))
			d := serve(t, l.config(store.start(t), ""))
			l.to(d)
			l.start(8, forever, 10*time.Millisecond)
			for range soak(10, 50) {
				l.flows(50)
				time.Sleep(rand.N(100 * time.Millisecond)) // at a random moment
				d.kill()
				d.start()
				l.to(d)
			}
			l.end()
			l.checkOff(d)
		})
	}
}

// SIGTERM under load: dockbell finishes what is in the middle and ends well
// within its limit, and takes up the rest when it starts again. No run ends as
// unknown.
func TestStoppedUnderLoad(t *testing.T) {
	t.Parallel()
	for _, store := range stores {
		t.Run(store.name, func(t *testing.T) {
			t.Parallel()
			l := newLoad(t, 16, newReceiver(t, 30*time.Millisecond), "")
			d := serve(t, l.config(store.start(t), ""))
			l.to(d)
			l.start(16, forever, 10*time.Millisecond)
			for range soak(2, 20) {
				l.flows(100)
				began := time.Now()
				if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
					t.Fatal(err)
				}
				if err := <-d.exit; err != nil {
					t.Errorf("it ended with %v, want status 0", err)
				}
				if took := time.Since(began); took > 20*time.Second {
					t.Errorf("it took %s to end", took)
				}
				d.start()
				l.to(d)
			}
			l.end()
			if unknown := l.checkOff(d); unknown > 0 {
				t.Errorf("%d runs were cut off", unknown)
			}
		})
	}
}
