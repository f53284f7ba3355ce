package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/dockbell/dockbell/trigger"
	"github.com/dockbell/dockbell/trigger/action"
	"github.com/dockbell/dockbell/trigger/queue"
	"github.com/dockbell/dockbell/trigger/server"
	"github.com/dockbell/dockbell/trigger/store"
)

type serveOptions struct {
	config        string
	allowCommands bool
	dryRun        bool
	rulesFrom     string
	logFormat     string
	logLevel      string
	grace         time.Duration
	started       func(hooks, admin net.Addr) // for tests; may be nil
}

func serveCommand() *cobra.Command {
	var o serveOptions
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Receive pushes and act on them",
		Long: `Receive pushes and act on them until SIGTERM or SIGINT. What has been
acknowledged to a sender is on disk; a start takes up what an earlier one left.`,
		Example: `  dockbell serve --config dockbell.yaml
  dockbell serve --config dockbell.yaml --allow-commands --log-format json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := newLogger(cmd.ErrOrStderr(), o.logFormat, o.logLevel)
			if err != nil {
				return err
			}
			if o.rulesFrom != "" && o.rulesFrom != "cluster" {
				return fmt.Errorf("--rules-from %q: can be cluster", o.rulesFrom)
			}
			return serve(cmd.Context(), o, log)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&o.config, "config", "c", "dockbell.yaml", "configuration `file`")
	f.BoolVar(&o.allowCommands, "allow-commands", false, "let rules run commands on this machine")
	f.BoolVar(&o.dryRun, "dry-run", false, "change nothing: API servers of Kubernetes check the deploys and show what they would change, so does git, and all other actions are skipped")
	f.StringVar(&o.rulesFrom, "rules-from", "", "cluster: take rules from resources of kind Rule, too, as `rulesFrom: cluster` does in the configuration")
	f.StringVar(&o.logFormat, "log-format", "text", "`format` of the log: text or json")
	f.StringVar(&o.logLevel, "log-level", "info", "least `level` to log: debug, info, warn or error")
	f.DurationVar(&o.grace, "grace", 20*time.Second, "how long runs in the middle may take when stopping")
	return cmd
}

func newLogger(w io.Writer, format, level string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("--log-level %q: must be debug, info, warn or error", level)
	}
	options := &slog.HandlerOptions{Level: l}
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(w, options)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, options)), nil
	}
	return nil, fmt.Errorf("--log-format %q: must be text or json", format)
}

// serve wires the parts and runs them until ctx ends: first the intake stops,
// then the queue finishes what it has in hand, then the store closes.
func serve(ctx context.Context, o serveOptions, log *slog.Logger) (err error) {
	watches, stopWatches := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWatches()
	r, first, err := begin(watches, o, log)
	if err != nil {
		return err
	}
	db, err := store.Open(ctx, first.conf.Store)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if db.Fresh() {
		log.Info("the store is new: nothing is known of earlier pushes", "store", first.conf.shownStore())
	}
	metrics := prometheus.NewRegistry()
	metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	r.connect(db, metrics)
	pruned := newPrunedRows(metrics)
	if err := r.use(ctx, first); err != nil {
		return err
	}
	hooks, err := net.Listen("tcp", first.conf.Server.Listen)
	if err != nil {
		return fmt.Errorf("server.listen: %w", err)
	}
	admin, err := net.Listen("tcp", first.conf.Server.Admin)
	if err != nil {
		hooks.Close()
		return fmt.Errorf("server.admin: %w", err)
	}
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)

	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { saveMemory(ctx); return nil })
	group.Go(func() error { return server.Serve(ctx, hooks, r.hooks(), r.tls(), log) })
	group.Go(func() error { return server.Serve(ctx, admin, r.admin(), nil, log) })
	group.Go(func() error { return r.queue.Run(ctx, o.grace) })
	group.Go(func() error { return pruneHistory(ctx, db, r.keep, pruned, log) })
	group.Go(func() error { r.follow(ctx, hangups); return nil })
	group.Go(func() error { action.ReapOrphans(ctx); return nil })
	// Scripts read this line: the addresses are the real ones, port 0 or not.
	log.Info("listening", "hooks", hooks.Addr().String(), "admin", admin.Addr().String(),
		"config", o.config, "store", first.conf.shownStore(), "sources", len(first.conf.Sources), "rules", first.rules.Len(), "version", version(), "pid", os.Getpid())
	if o.started != nil {
		o.started(hooks.Addr(), admin.Addr())
	}
	err = group.Wait()
	log.Info("stopped", "reason", context.Cause(ctx))
	return err
}

// hooks and admin answer each request by the configuration that is at work when
// it comes.
func (r *reloader) hooks() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) { r.now().hooks.ServeHTTP(w, req) })
}

func (r *reloader) admin() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) { r.now().admin.ServeHTTP(w, req) })
}

// tls makes the hooks speak TLS as the configuration says that is at work; nil
// when they do not.
func (r *reloader) tls() *tls.Config {
	if r.now().tls == nil {
		return nil
	}
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return r.now().tls, nil },
	}
}

func (r *reloader) keep() trigger.Keep { return r.now().conf.Keep.keep() }

// newQueue makes the queue. What it asks of the rules and of a kind of action is
// answered by the configuration at work.
func (r *reloader) newQueue() *queue.Queue {
	// It knows one kind more than the rules.
	callback := callbackRow(nil, r.db.Outcomes)
	callback.Build = func(decode func(any) error) (trigger.Action, error) {
		return callbackRow(r.now().conf.client, r.db.Outcomes).Build(decode)
	}
	kinds := map[string]trigger.Kind{callbackKind: callback}
	if r.options.dryRun {
		kinds[callbackKind] = rehearsable(kinds[callbackKind], true)
	}
	for name, row := range r.first.kinds {
		row.Build = func(decode func(any) error) (trigger.Action, error) { return r.now().conf.kinds[name].Build(decode) }
		kinds[name] = row
	}
	q := queue.New(r.db, kinds, decodeSpec, r.log, r.runs)
	q.Gate = func(run trigger.Run, now time.Time) (time.Time, string) { return r.now().rules.Gate(run, now) }
	q.Tell = func(told []trigger.Notice, now time.Time) []trigger.Run { return r.now().rules.Notices(told, now) }
	return q
}

// output is what a try of a run is writing; nil when that is not done here.
func (r *reloader) output(run int64, try int) server.Output {
	if o := r.queue.Output(run, try); o != nil {
		return o
	}
	return nil
}

// tls is what makes the hooks speak TLS; nil when they do not.
func (c *config) tls(log *slog.Logger) (*tls.Config, error) {
	files := c.Server.TLS
	if files == nil {
		return nil, nil
	}
	ask := false
	for _, s := range c.sources {
		ask = ask || s.NeedsCertificate()
	}
	secure, err := server.TLS(files.Cert, files.Key, ask, log)
	if err != nil {
		return nil, fmt.Errorf("server.tls: %w", err)
	}
	return secure, nil
}

// token reads what those must know who change something by the API; nil when
// none is configured.
func (c *config) token() func() (string, error) {
	if c.Server.Token.IsZero() {
		return nil
	}
	return c.Server.Token.Read
}

// withCallback adds to the runs of an event the one that tells its sender how
// they ended, where the sender asked for it.
func withCallback(match func(trigger.Event, time.Time) ([]trigger.Run, string)) func(trigger.Event, time.Time) ([]trigger.Run, string) {
	return func(e trigger.Event, now time.Time) ([]trigger.Run, string) {
		runs, reason := match(e, now)
		if len(runs) == 0 || e.Callback == "" {
			return runs, reason
		}
		row := callbackRow(nil, nil)
		spec, err := json.Marshal(map[string]string{"url": e.Callback})
		if err != nil {
			return runs, reason // a map of strings always marshals
		}
		return append(runs, trigger.Run{
			Event: e, Rule: "source " + e.Source, Kind: callbackKind, Target: "callback of Docker Hub",
			Spec: spec, Lane: "callback/" + e.Source, Mode: trigger.Parallel,
			Attempts: row.Attempts, Timeout: row.Timeout, After: true, CreatedAt: now, NotBefore: now,
		}), ""
	}
}
