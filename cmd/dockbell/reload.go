package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"gopkg.in/yaml.v3"

	"github.com/dockbell/dockbell/k8s"
	"github.com/dockbell/dockbell/rules"
	"github.com/dockbell/dockbell/trigger"
	"github.com/dockbell/dockbell/trigger/action"
	"github.com/dockbell/dockbell/trigger/queue"
	"github.com/dockbell/dockbell/trigger/registry"
	"github.com/dockbell/dockbell/trigger/server"
	"github.com/dockbell/dockbell/trigger/store"
)

const (
	// lookEvery is how often the file is read to see whether it has changed. A
	// new text counts when it is the same twice: whoever writes it may be in the
	// middle.
	lookEvery = time.Second

	// retryEvery is how often a file that was refused is tried again although
	// it is the same: a secret that it names may come later than the file.
	retryEvery = 10 * time.Second
)

// setup is a configuration at work. It does not change: a request, or whatever
// takes one, has the same from beginning to end.
type setup struct {
	conf     *config
	clusters *openClusters
	tls      *tls.Config // nil where the hooks speak plain HTTP
	rules    *rules.Set  // those of the file and those of the cluster
	server   *server.Server
	hooks    http.Handler
	admin    http.Handler
}

// openClusters are those of a configuration with the watches on them.
type openClusters struct {
	*k8s.Clusters
	of    string // what they depend on
	close context.CancelFunc
}

// reloader loads the configuration, puts it to work, and swaps it for a newer
// one. What can fail is done before the swap, so that a bad one changes nothing.
type reloader struct {
	options serveOptions
	log     *slog.Logger
	watches context.Context // those of clusters end with it
	db      *store.Store

	base     *server.Server // without settings
	queue    *queue.Queue
	first    *config // what cannot be changed is as it says
	runs     *queue.Metrics
	requests *prometheus.CounterVec
	gauges   reloadGauges

	reloading sync.Mutex // held by the one that reloads; guards:
	jobs      jobs
	seen      [sha256.Size]byte // of the file when it was last looked at
	tried     [sha256.Size]byte // of the file when it was last loaded

	mu      sync.Mutex // held for moments only; guards:
	loaded  server.Loaded
	found   clusterState // the rules of the cluster
	keel    keelState    // what keel's annotations say
	current atomic.Pointer[setup]
}

// begin makes a reloader with a first configuration, which is not at work yet.
func begin(watches context.Context, o serveOptions, log *slog.Logger) (*reloader, *setup, error) {
	r := &reloader{options: o, log: log, watches: watches, keel: keelState{changed: make(chan struct{}, 1)}}
	first, err := r.prepare()
	if err != nil {
		return nil, nil, fmt.Errorf("%s cannot be used:\n%w", o.config, err)
	}
	r.first = first.conf
	return r, first, nil
}

// connect gives the reloader what the first configuration has led to.
func (r *reloader) connect(db *store.Store, metrics *prometheus.Registry) {
	r.db, r.runs, r.requests, r.gauges = db, queue.NewMetrics(metrics), newRequestCounter(metrics), newReloadGauges(metrics)
	r.queue = r.newQueue()
	r.base = server.New(server.Config{Store: db, Reload: r.reload, Loaded: r.state, Output: r.output, Log: r.log, Metrics: metrics})
}

// now is the configuration at work.
func (r *reloader) now() *setup { return r.current.Load() }

// prepare loads the file without putting it to work. Where clusters and
// registries are the same as now, they are those that are open already.
func (r *reloader) prepare() (next *setup, err error) {
	data, err := os.ReadFile(r.options.config)
	r.tried = stamp(data, err)
	if err != nil {
		return nil, err
	}
	before := r.now()
	next = &setup{}
	defer func() {
		if err != nil {
			next.drop(before)
		}
	}()
	parse := func() (err error) {
		next.conf, err = parseConfig(r.options.config, data, func(client *action.Client, specs map[string]k8s.ClusterSpec, aliases trigger.Aliases) map[string]trigger.Kind {
			if next.clusters == nil {
				next.clusters = r.open(before, specs, aliases)
			}
			return actionKinds(client, next.clusters.Clusters, aliases, r.options.allowCommands)
		})
		return err
	}
	if err := parse(); err != nil {
		return next, err
	}
	if keel, ok := r.keelNow(); ok && next.conf.followKeel != nil {
		if data, err = withKeel(data, keel); err == nil {
			err = parse()
		}
		if err != nil {
			return next, fmt.Errorf("with what keel's annotations ask for: %w", err)
		}
	}
	if next.conf.rulesFrom == nil && r.options.rulesFrom != "" {
		next.conf.rulesFrom = defaultRulesFrom()
	}
	if before != nil && text(next.conf.Registries) == text(before.conf.Registries) {
		next.conf.registries = before.conf.registries
	}
	if next.tls, err = next.conf.tls(r.log); next.tls == nil && before != nil {
		next.tls = before.tls // that it is off takes a restart
	}
	return next, err
}

// drop closes what was opened for a setup that is not put to work.
func (s *setup) drop(before *setup) {
	if s.clusters != nil && (before == nil || s.clusters != before.clusters) {
		s.clusters.close()
	}
}

// open gives the clusters of a configuration. A kubeconfig that has changed
// makes them others.
func (r *reloader) open(before *setup, specs map[string]k8s.ClusterSpec, aliases trigger.Aliases) *openClusters {
	files := map[string][sha256.Size]byte{}
	for _, s := range specs {
		files[s.Kubeconfig] = stamp(os.ReadFile(s.Kubeconfig))
	}
	of := fmt.Sprint(specs, aliases, files)
	if before != nil && before.clusters.of == of {
		return before.clusters
	}
	ctx, cancel := context.WithCancel(r.watches)
	clusters := k8s.New(ctx, specs, aliases, r.log)
	clusters.DryRun = r.options.dryRun
	return &openClusters{clusters, of, cancel}
}

// use puts a configuration to work. Nothing has changed when it fails.
func (r *reloader) use(ctx context.Context, next *setup) error {
	if err := r.db.TellOf(ctx, next.conf.rules.NoticeStates()); err != nil {
		return err
	}
	before := r.now()
	if before == nil || next.conf.registries != before.conf.registries {
		r.connectRegistries(next.conf.registries)
	}
	r.mu.Lock()
	if next.conf.followKeel == nil {
		r.keel.known, r.keel.keel = false, k8s.Keel{}
	}
	if next.conf.rulesFrom == nil {
		r.found = clusterState{}
	} else if before == nil {
		r.found.unknown = true
	}
	r.swap(next)
	r.loads(next)
	r.mu.Unlock()
	if before != nil && next.clusters != before.clusters {
		before.clusters.close()
	}
	r.jobs.change(r.wanted(next))
	return nil
}

// swap makes next what is at work, with the rules that the cluster has. The
// caller holds mu.
func (r *reloader) swap(next *setup) {
	sets, faults := r.keel.compile(next.conf)
	for _, err := range faults {
		r.log.Error("what keel's annotations ask for cannot be done", "error", err)
	}
	next.rules = next.conf.rules.With(append(sets, r.found.compile(next.conf)...)...)
	next.server = r.base.With(server.Settings{
		Sources: next.conf.sources, Pollers: next.conf.pollerNames(), Match: withCallback(next.rules.Match), NotYet: cmp.Or(r.found.notYet(), r.keel.notYet(next.conf)), MaxBody: next.conf.Server.MaxBody,
		TrustedProxies: next.conf.proxies, Token: next.conf.token(), People: next.conf.people(),
	})
	r.runs.Expect(next.rules.Kinds())
	next.hooks, next.admin = next.server.Hooks(), next.server.Admin()
	r.current.Store(next)
	r.gauges.rules.WithLabelValues("true").Set(float64(len(r.found.rules) - r.found.faulty()))
	r.gauges.rules.WithLabelValues("false").Set(float64(r.found.faulty()))
}

// What jobs depend on.
type (
	pollJob struct {
		source     string
		registries *registry.Registries
	}
	rulesJob struct {
		namespaces string
		clusters   *openClusters
	}
	keelJob struct {
		keel     string
		clusters *openClusters
	}
)

// wanted are the jobs that a configuration asks for.
func (r *reloader) wanted(s *setup) map[string]job {
	wanted := map[string]job{}
	for _, p := range s.conf.pollers {
		world := r.pollWorld()
		world.Registries = s.conf.registries
		of := pollJob{text(s.conf.Sources[p.Name]), s.conf.registries}
		wanted["poll "+p.Name] = job{of: of, run: func(ctx context.Context) {
			if err := p.Run(ctx, world); err != nil {
				r.log.Error("a source is not polled any more", "source", p.Name, "error", err)
			}
		}}
	}
	if from := s.conf.rulesFrom; from != nil {
		of := rulesJob{fmt.Sprintf("%q", from.Namespaces), s.clusters}
		wanted["rules from the cluster"] = job{of: of, run: func(ctx context.Context) { r.followRules(ctx, s.clusters, from.Namespaces) }}
	}
	if f := s.conf.followKeel; f != nil {
		of := keelJob{fmt.Sprintf("%q", *f), s.clusters}
		wanted["annotations of keel"] = job{of: of, run: func(ctx context.Context) { r.followKeel(ctx, s.clusters, *f) }}
	}
	return wanted
}

// reload loads the file and puts it to work, for whoever asks. What is wrong
// with it is logged, unless that was said before.
func (r *reloader) reload(ctx context.Context, by string) server.Loaded {
	r.reloading.Lock()
	defer r.reloading.Unlock()
	next, err := r.prepare()
	if err == nil {
		if err = r.use(ctx, next); err != nil {
			next.drop(r.now())
		}
	}
	if err != nil {
		var faults []string
		for _, e := range partsOf(err) {
			faults = append(faults, e.Error())
		}
		return r.refuse(faults, by)
	}
	loaded := r.state()
	r.log.Info("configuration reloaded", "config", r.options.config, "by", by, "sources", len(next.conf.Sources), "rules", r.now().rules.Len())
	for _, w := range loaded.Warnings {
		r.log.Warn("the configuration is not all in force", "reason", w)
	}
	return loaded
}

// refuse takes down why a configuration is not in force.
func (r *reloader) refuse(faults []string, by string) server.Loaded {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !slices.Equal(faults, r.loaded.Faults) {
		r.log.Error("the configuration cannot be used; that from before stays in force", "config", r.options.config, "by", by, "faults", faults)
	}
	r.loaded.Faults, r.loaded.TriedAt = faults, time.Now()
	r.gauges.good.Set(0)
	return r.loaded
}

// loads takes down that a configuration is in force. The caller holds mu.
func (r *reloader) loads(s *setup) {
	r.loaded = server.Loaded{At: time.Now(), Warnings: s.conf.needsRestart(r.first)}
	r.gauges.good.Set(1)
	r.gauges.at.SetToCurrentTime()
}

// state is how the last load went.
func (r *reloader) state() server.Loaded {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.loaded
}

// follow lets the jobs of the configuration go on, and reloads on each signal
// and when the file has changed, until ctx ends. Then it waits for the jobs.
func (r *reloader) follow(ctx context.Context, signals <-chan os.Signal) {
	r.reloading.Lock()
	r.jobs.start(ctx)
	r.jobs.change(r.wanted(r.now()))
	r.reloading.Unlock()
	defer func() {
		r.reloading.Lock()
		defer r.reloading.Unlock()
		r.jobs.stop()
	}()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-signals:
			r.reload(ctx, "SIGHUP")
		case <-r.keel.changed:
			r.reload(ctx, "annotations of keel")
		case now := <-tick.C:
			if r.changed(now) {
				r.reload(ctx, "change of the file")
			}
		}
	}
}

// changed looks at the file and reports whether to load it. It is read each
// time, for there is no other sign that all volumes and editors give.
func (r *reloader) changed(now time.Time) bool {
	text := stamp(os.ReadFile(r.options.config))
	r.reloading.Lock()
	defer r.reloading.Unlock()
	settled := text == r.seen
	r.seen = text
	if text != r.tried {
		return settled
	}
	last := r.state()
	return len(last.Faults) > 0 && now.Sub(last.TriedAt) >= retryEvery
}

// stamp is the same for the same content; that of what cannot be read differs
// from that of everything else.
func stamp(content []byte, err error) [sha256.Size]byte {
	if err != nil {
		content = []byte("cannot be read: " + err.Error())
	}
	return sha256.Sum256(content)
}

// needsRestart says what of a configuration is not in force, since it cannot
// be changed while dockbell runs.
func (c *config) needsRestart(running *config) (warnings []string) {
	warn := func(key, is string) {
		warnings = append(warnings, fmt.Sprintf("%s cannot change while dockbell runs: it stays %s until a restart", key, is))
	}
	if c.Server.Listen != running.Server.Listen {
		warn("server.listen", running.Server.Listen)
	}
	if c.Server.Admin != running.Server.Admin {
		warn("server.admin", running.Server.Admin)
	}
	if c.Store != running.Store {
		warn("store", running.shownStore())
	}
	if on := running.Server.TLS != nil; on != (c.Server.TLS != nil) {
		warn("server.tls", map[bool]string{true: "on", false: "off"}[on])
	}
	return warnings
}

// text is what a piece of configuration says, wherever and however it is
// written: "" for nothing.
func text(n yaml.Node) string {
	var v any
	if n.Decode(&v) != nil || v == nil {
		return ""
	}
	written, _ := yaml.Marshal(v) // what YAML has yielded it can write
	return string(written)
}

// partsOf gives each of the errors that are joined in one.
func partsOf(err error) []error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return joined.Unwrap()
	}
	return []error{err}
}

// reloadGauges tell alerts how it stands with the configuration.
type reloadGauges struct {
	good, at prometheus.Gauge
	rules    *prometheus.GaugeVec
}

func newReloadGauges(metrics *prometheus.Registry) reloadGauges {
	g := reloadGauges{
		good:  prometheus.NewGauge(prometheus.GaugeOpts{Name: "dockbell_config_reload_successful", Help: "1 when the configuration as it is now is in force, 0 when it was refused."}),
		at:    prometheus.NewGauge(prometheus.GaugeOpts{Name: "dockbell_config_reload_last_success_timestamp_seconds", Help: "When the configuration in force was loaded."}),
		rules: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "dockbell_cluster_rules", Help: "Rules that are resources of the cluster, by whether they are in force."}, []string{"ready"}),
	}
	metrics.MustRegister(g.good, g.at, g.rules)
	return g
}
