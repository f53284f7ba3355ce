package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const (
	startRules  = 1000
	startTimes  = 5
	leftRuns    = 10_000
	waitingRuns = 100_000
)

// starts measures how soon dockbell is ready that has many rules and finds
// many runs that an earlier one left, and what those take of its memory that
// wait.
func (b *bench) starts(ctx context.Context) error {
	gate, err := startGate(0)
	if err != nil {
		return err
	}
	defer gate.close()
	var rules strings.Builder
	for i := range startRules {
		fmt.Fprintf(&rules, "  - {name: %[1]s, repo: registry.example.com/shop/%[1]s, actions: [{http: {url: %[2]q, timeout: 10m}}]}\n", name(i), gate.url)
	}
	stores, err := b.stores(ctx, "starts")
	if err != nil {
		return err
	}
	for _, s := range stores {
		if err := b.startsOf(ctx, s, rules.String()); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) startsOf(ctx context.Context, s store, rules string) error {
	folder := "starts-" + s.name
	d, err := b.serve(ctx, folder, fmt.Sprintf(`
server: {listen: "127.0.0.1:0", admin: "127.0.0.1:0"}
store: %q
sources: {registry: {type: distribution, auth: none}}
rules:
%s`, s.location, rules))
	if err != nil {
		return err
	}
	defer func() { d.kill() }()
	deliver := func(from, to int) error {
		return senders(64, to-from, func(i int) error {
			n := from + i
			return post(ctx, d.hooks, notification(fmt.Sprint("start-", n), "shop/"+name(n%startRules), fmt.Sprint("v", n), n))
		})
	}
	if err := deliver(0, leftRuns); err != nil {
		return err
	}
	var took []time.Duration
	for range startTimes {
		d.kill()
		began := time.Now()
		if d, err = b.serveAgain(ctx, folder); err != nil {
			return err
		}
		if err := d.ready(ctx); err != nil {
			return err
		}
		took = append(took, time.Since(began))
	}
	b.figure("started to ready, 1,000 rules and 10,000 unfinished runs, "+s.name, ms(percentile(took, 0.5)), "below 300 ms")
	if err := deliver(leftRuns, waitingRuns); err != nil {
		return err
	}
	now, most, err := d.memory()
	if err != nil {
		return err
	}
	b.figure("memory with 100,000 waiting runs, "+s.name, fmt.Sprintf("%d MB, at most %d MB while they came in", now>>20, most>>20), "below 200 MB")
	return nil
}

// memory is how many bytes a daemon has in memory, and the most it ever had.
func (d *daemon) memory() (now, most int, err error) {
	status, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(d.cmd.Process.Pid), "status"))
	if err != nil {
		return 0, 0, err
	}
	for line := range bytes.Lines(status) {
		for field, into := range map[string]*int{"VmRSS: %d kB": &now, "VmHWM: %d kB": &most} {
			if _, err := fmt.Sscanf(string(line), field, into); err == nil {
				*into <<= 10
			}
		}
	}
	return now, most, nil
}
