package k8s

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// While an API server cannot be reached one at a time tries, and the others
// are told at once; as soon as it is there all go through.
func TestDialer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		silent, tries := true, 0
		d := newDialer()
		d.connect = func(ctx context.Context, _, _ string) (net.Conn, error) {
			mu.Lock()
			tries++
			down := silent
			mu.Unlock()
			if !down {
				here, there := net.Pipe()
				there.Close()
				return here, nil
			}
			select {
			case <-time.After(dialTime):
				return nil, errors.New("timed out")
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		dial := func() error {
			conn, err := d.dial(t.Context(), "tcp", "api")
			if err == nil {
				conn.Close()
			}
			return err
		}
		if err := dial(); err == nil {
			t.Fatal("it was reached")
		}
		began := time.Now()
		if err := dial(); err == nil || !strings.Contains(err.Error(), "it could not be reached a moment ago: timed out") || time.Since(began) > 0 {
			t.Errorf("a moment later: %v after %s", err, time.Since(began))
		}

		time.Sleep(quiet)
		var all sync.WaitGroup
		before := tries
		for range 100 {
			all.Go(func() { _ = dial() })
		}
		all.Wait()
		if tries != before+1 {
			t.Errorf("%d tried at once, want 1", tries-before)
		}

		time.Sleep(quiet)
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		_, _ = d.dial(gone, "tcp", "api")
		mu.Lock()
		silent = false
		mu.Unlock()
		for range 2 {
			if err := dial(); err != nil {
				t.Errorf("it is there, but %v", err)
			}
		}
	})
}
