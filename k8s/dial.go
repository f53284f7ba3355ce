package k8s

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"
)

const (
	// dialTime is how long it may take to reach an API server.
	dialTime = 5 * time.Second

	// quiet is how long nobody else tries after an API server could not be
	// reached.
	quiet = time.Second
)

// dialer reaches an API server. While that cannot be reached, one at a time
// tries and all others are told so at once: else the runs for a cluster that
// swallows packets would take the workers from those for the others.
type dialer struct {
	connect func(ctx context.Context, network, address string) (net.Conn, error)

	mu   sync.Mutex
	down error // why it could not be reached; nil when it could
	next time.Time
}

func newDialer() *dialer {
	return &dialer{connect: (&net.Dialer{Timeout: dialTime, KeepAlive: 30 * time.Second}).DialContext}
}

func (d *dialer) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if err := d.enter(time.Now()); err != nil {
		return nil, err
	}
	conn, err := d.connect(ctx, network, address)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.down, d.next = err, time.Now().Add(quiet)
	if context.Cause(ctx) == context.Canceled {
		d.down = nil // whoever asked went away, which says nothing
	}
	return conn, err
}

// enter lets one of those who come try, unless somebody has a moment ago.
func (d *dialer) enter(now time.Time) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.down == nil {
		return nil
	}
	if now.Before(d.next) {
		return fmt.Errorf("it could not be reached a moment ago: %w", d.down)
	}
	d.next = now.Add(dialTime + quiet)
	return nil
}
