// Command bench [-only GROUP] measures dockbell beside what it cannot be
// faster than, in one run on one machine: bare PATCHes of client-go, an HTTP
// server that does nothing, a loop that only appends and flushes, bare calls
// of go-containerregistry. Ratios count; absolute figures belong to the
// machine.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
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
	dir      string
	program  string
	cluster  *parts.Cluster
	postgres *parts.Postgres // nil until something needs it
	table    *tabwriter.Writer
}

// group is what is measured together.
type group struct {
	name    string
	measure func(*bench, context.Context) error
}

func run(ctx context.Context) (err error) {
	if len(os.Args) == 2 && os.Args[1] == idleMode {
		return serveIdle(ctx)
	}
	groups := []group{
		{"deploys", (*bench).deploys}, {"intake", (*bench).intake}, {"queue", (*bench).queue}, {"history", (*bench).history},
		{"replicas", (*bench).replicas}, {"starts", (*bench).starts}, {"polls", (*bench).polls},
	}
	var names []string
	for _, g := range groups {
		names = append(names, g.name)
	}
	only := flag.String("only", "", "measure one `group` alone: "+strings.Join(names, ", "))
	flag.Parse()
	if *only != "" {
		groups = slices.DeleteFunc(groups, func(g group) bool { return g.name != *only })
	}
	if len(groups) == 0 || flag.NArg() > 0 {
		return fmt.Errorf("usage: bench [-only GROUP], where GROUP is one of %s", strings.Join(names, ", "))
	}
	dir, err := os.MkdirTemp(".", "bench-") // on the disk of the work tree
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if dir, err = filepath.Abs(dir); err != nil {
		return err
	}
	if err := os.Chmod(dir, 0o755); err != nil { // PostgreSQL may run as another user
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

	defer func() { err = errors.Join(err, b.table.Flush()) }()
	defer func() {
		if b.postgres != nil {
			b.postgres.Stop()
		}
	}()
	for _, g := range groups {
		if err := g.measure(b, ctx); err != nil {
			return fmt.Errorf("%s: %w", g.name, err)
		}
	}
	return nil
}

// stores are those that dockbell can use, each with a new location in the
// folder that it is served in, or a new database of that name.
func (b *bench) stores(ctx context.Context, name string) ([]store, error) {
	url, err := b.database(ctx, name)
	return []store{{"SQLite", "sqlite:dockbell.db"}, {"PostgreSQL", url}}, err
}

type store struct{ name, location string }

// database is the URL of a new one.
func (b *bench) database(ctx context.Context, name string) (string, error) {
	if b.postgres == nil {
		var err error
		if b.postgres, err = parts.StartPostgres(ctx, b.dir); err != nil {
			return "", err
		}
	}
	return b.postgres.URL(name), b.postgres.CreateDatabase(ctx, name)
}

// figure prints what has nothing beside it.
func (b *bench) figure(what, ours, target string) {
	fmt.Fprintf(b.table, "%s\t%s\t\t\t%s\n", what, ours, target)
}

// row prints one comparison.
func (b *bench) row(what, ours, theirs string, ratio float64, target string) {
	fmt.Fprintf(b.table, "%s\t%s\t%s\t%.2f x\t%s\n", what, ours, theirs, ratio, target)
}

// percentile of values, which it sorts.
func percentile[T cmp.Ordered](values []T, p float64) T {
	slices.Sort(values)
	return values[int(p*float64(len(values)-1))]
}

func ms(d time.Duration) string { return fmt.Sprintf("%.2f ms", float64(d.Microseconds())/1000) }
