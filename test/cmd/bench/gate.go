package main

import (
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// gate is a server whose answers wait until it is opened, and from then on
// take as long as they are to.
type gate struct {
	url    string
	server http.Server
	opened chan struct{}
	open   func()
	calls  atomic.Int64 // that were answered
}

// takes is how long an answer takes once the gate is open.
func startGate(takes time.Duration) (*gate, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	g := &gate{url: "http://" + l.Addr().String() + "/", opened: make(chan struct{})}
	g.open = sync.OnceFunc(func() { close(g.opened) })
	g.server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-g.opened:
		case <-r.Context().Done():
			return
		}
		time.Sleep(takes)
		g.calls.Add(1)
	})
	go func() { _ = g.server.Serve(l) }() // until it is closed
	return g, nil
}

// close lets go who still waits.
func (g *gate) close() {
	g.open()
	_ = g.server.Close() // nothing is lost with it
}
