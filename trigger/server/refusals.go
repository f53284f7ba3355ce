package server

import (
	"context"
	"log"
	"log/slog"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// refusals writes the lines that anybody can cause who reaches the port. Where
// there are many of one cause it leaves most of them out, and says how many:
// nobody is to fill the disk. What was accepted is not its business.
type refusals struct {
	log *slog.Logger

	mu     sync.Mutex
	causes map[cause]*refused
}

// cause is what lines have in common. There must be only so many of them:
// nothing of it may come from the sender.
type cause struct {
	what   string
	source string
	status int
}

func (c cause) attributes() []any {
	if c.status == 0 {
		return nil
	}
	return []any{"source", c.source, "status", c.status}
}

// refused is what becomes of the lines of a cause.
type refused struct {
	lines   *rate.Limiter
	leftOut int
}

func newRefusals(log *slog.Logger) *refusals {
	return &refusals{log: log, causes: map[cause]*refused{}}
}

// logger is for the HTTP server itself.
func (r *refusals) logger() *log.Logger { return log.New(r, "", 0) }

// add writes a line, or leaves it out.
func (r *refusals) add(level slog.Level, c cause, args ...any) {
	if r.admits(c) {
		r.log.Log(context.Background(), level, c.what, append(c.attributes(), args...)...)
	}
}

func (r *refusals) admits(c cause) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	of, ok := r.causes[c]
	if !ok {
		of = &refused{lines: rate.NewLimiter(refusedRate, refusedBurst)}
		r.causes[c] = of
	}
	if of.lines.Allow() {
		return true
	}
	if of.leftOut++; of.leftOut == 1 {
		time.AfterFunc(sumEvery, func() { r.sum(c, of) })
	}
	return false
}

// sum says what was left out.
func (r *refusals) sum(c cause, of *refused) {
	r.mu.Lock()
	n := of.leftOut
	of.leftOut = 0
	r.mu.Unlock()
	r.log.Warn(c.what+": lines like this were left out", append(c.attributes(), "lines", n)...)
}

// Write takes a line of net/http, mostly of handshakes that fail. Its first
// words tell what it is about, those behind them of whom.
func (r *refusals) Write(line []byte) (int, error) {
	text := strings.TrimSpace(string(line))
	words := strings.Fields(text)
	if r.admits(cause{what: strings.Join(words[:min(len(words), 3)], " ")}) {
		r.log.Info(text)
	}
	return len(line), nil
}
