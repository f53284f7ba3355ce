// Command bench [deploys|intake|polls] measures dockbell beside what it cannot be faster than, in
// one run on one machine: bare PATCHes of client-go, an HTTP server that does
// nothing, a loop that only appends and flushes, bare calls of
// go-containerregistry. Ratios count; absolute figures belong to the machine.
package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/dockbell/dockbell/test/parts"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// bench is what the measurements share.
type bench struct {
	dir     string
	program string
	cluster *parts.Cluster
	table   *tabwriter.Writer
}

func run(ctx context.Context) error {
	if len(os.Args) == 2 && os.Args[1] == idleMode {
		return serveIdle(ctx)
	}
	dir, err := os.MkdirTemp(".", "bench-") // on the disk of the work tree
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if dir, err = filepath.Abs(dir); err != nil {
		return err
	}
	b := &bench{dir: dir, program: filepath.Join(dir, "dockbell"), table: tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)}
	build := exec.CommandContext(ctx, "go", "build", "-o", b.program, "./cmd/dockbell")
	build.Dir, build.Env = "..", append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("building dockbell: %w\n%s", err, out)
	}
	fmt.Printf("%s, %d cores, %s\n\n", runtime.Version(), runtime.NumCPU(), time.Now().Format(time.DateOnly))
	fmt.Fprintln(b.table, "what\tdockbell\tbeside it\tratio\ttarget")

	measurements := map[string]func(context.Context) error{"deploys": b.deploys, "intake": b.intake, "polls": b.polls}
	names := os.Args[1:]
	if len(names) == 0 {
		names = slices.Sorted(maps.Keys(measurements))
	}
	for _, name := range names {
		measure, ok := measurements[name]
		if !ok {
			return fmt.Errorf("there is no measurement %q", name)
		}
		if err := measure(ctx); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return b.table.Flush()
}

// row prints one comparison.
func (b *bench) row(what, ours, theirs string, ratio float64, target string) {
	fmt.Fprintf(b.table, "%s\t%s\t%s\t%.2f x\t%s\n", what, ours, theirs, ratio, target)
}

// percentile of durations, which it sorts.
func percentile(d []time.Duration, p float64) time.Duration {
	slices.Sort(d)
	return d[int(p*float64(len(d)-1))]
}

func ms(d time.Duration) string { return fmt.Sprintf("%.2f ms", float64(d.Microseconds())/1000) }
