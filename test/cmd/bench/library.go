package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
)

// queue measures the queue and its store inside one process: what each run
// costs, whatever it does.
func (b *bench) queue(ctx context.Context) error {
	drains := map[string]string{"SQLite": "at least 10,000/s", "PostgreSQL": "at least 9,000/s"}
	err := b.library(ctx, "./trigger/queue", "Drain", "100000x", 3, func(store string, m metrics) {
		b.figure("100,000 waiting runs that do nothing, 1,000 lanes, carried out, "+store, fmt.Sprintf("%.0f/s", m["runs/s"]), drains[store])
	})
	if err != nil {
		return err
	}
	err = b.library(ctx, "./trigger/queue", "Start", "5000x", 1, func(store string, m metrics) {
		b.figure("acknowledged to started, 500 deliveries a second, "+store, fmt.Sprintf("p50 %.2f ms, p99 %.2f ms", m["p50-ms"], m["p99-ms"]), "p50 below 2 ms")
	})
	if err != nil {
		return err
	}
	return b.library(ctx, "./trigger/store", "Claim", "300x", 1, func(store string, m metrics) {
		b.row("claim, 100,000 lanes waiting, beside 100, "+store, fmt.Sprintf("%.2f ms", m["many-ms"]), fmt.Sprintf("%.2f ms", m["few-ms"]), m["x"], "the same")
	})
}

// history measures what a million ended runs cost those that come after, and
// who looks at them.
func (b *bench) history(ctx context.Context) error {
	return b.library(ctx, "./trigger/store", "History", "1x", 1, func(store string, m metrics) {
		b.row("intake with 1,000,000 ended runs, beside 1,000, "+store,
			fmt.Sprintf("%.0f/s", m["long-events/s"]), fmt.Sprintf("%.0f/s", m["short-events/s"]), m["x"], "at least 0.75 x")
		for _, list := range []struct{ what, unit string }{
			{"the last 50 runs of a repository", "runs-of-repository"},
			{"the last 50 failed runs", "failed"},
			{"one run", "run"},
			{"the last 50 events", "events"},
			{"the last 50 events of a repository", "events-of-repository"},
		} {
			b.figure(list.what+" out of 1,000,000, "+store, fmt.Sprintf("p99 %.2f ms", m[list.unit+"-p99-ms"]), "p99 below 2 ms")
		}
	})
}

// metrics are what a Go benchmark reports, by unit.
type metrics map[string]float64

var result = regexp.MustCompile(`^Benchmark\w+/(\w+)\S*\s+\d+\s(.*)`)

// library runs a Go benchmark a number of times on each store and shows the
// medians of what it reports.
func (b *bench) library(ctx context.Context, pkg, benchmark, times string, count int, show func(store string, m metrics)) error {
	url, err := b.database(ctx, strings.ToLower(benchmark))
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", "^Benchmark"+benchmark+"$", "-benchtime", times, "-count", strconv.Itoa(count), "-timeout", "30m", pkg)
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "DOCKBELL_TEST_POSTGRES="+url,
		"GOGC=300",      // as dockbell sets it
		"TMPDIR="+b.dir) // on the same disk as all others
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", cmd, err, out)
	}
	var stores []string
	reported := map[string]map[string][]float64{} // by store and unit
	for line := range strings.Lines(string(out)) {
		found := result.FindStringSubmatch(line)
		if found == nil {
			continue
		}
		store, fields := found[1], strings.Fields(found[2])
		if reported[store] == nil {
			stores = append(stores, store)
			reported[store] = map[string][]float64{}
		}
		for i := 0; i+1 < len(fields); i += 2 {
			value, err := strconv.ParseFloat(fields[i], 64)
			if err != nil {
				return fmt.Errorf("%q: %w", line, err)
			}
			reported[store][fields[i+1]] = append(reported[store][fields[i+1]], value)
		}
	}
	for _, store := range stores {
		m := metrics{}
		for unit, values := range reported[store] {
			m[unit] = percentile(values, 0.5)
		}
		show(store, m)
	}
	return nil
}
