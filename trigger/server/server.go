// Package server is what can be reached over HTTP: the intake of deliveries,
// and on an address of its own the API, metrics and health. It takes no
// decision: it limits, verifies, parses, stores and replies.
package server

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/gorilla/mux"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/dockbell/dockbell/trigger"
	"github.com/dockbell/dockbell/trigger/source"
)

// Store is what the server needs of one.
type Store interface {
	Accept(ctx context.Context, d trigger.Delivery, planned []trigger.Planned) (trigger.Receipt, error)
	Rehearse(ctx context.Context, d trigger.Delivery, planned []trigger.Planned) (trigger.Receipt, error)

	Runs(ctx context.Context, f trigger.RunFilter) ([]trigger.Run, error)
	Run(ctx context.Context, id int64) (trigger.Run, []trigger.Attempt, bool, error)
	Notes(ctx context.Context, run int64) ([]trigger.Note, error)
	Events(ctx context.Context, f trigger.EventFilter) ([]trigger.EventRecord, error)
	Event(ctx context.Context, id int64) (trigger.EventRecord, bool, error)
	Delivery(ctx context.Context, id int64) (trigger.Delivery, bool, error)
	Holds(ctx context.Context, released bool) ([]trigger.Hold, error)
	Live(ctx context.Context) (waiting, running int, err error)
	Ping(ctx context.Context) error

	Cancel(ctx context.Context, id int64, why string, now time.Time) error
	Retry(ctx context.Context, id int64, why string, now time.Time) error
	Vote(ctx context.Context, run int64, v trigger.Vote, now time.Time) error
	Hold(ctx context.Context, h trigger.Hold) (int64, error)
	Release(ctx context.Context, hold int64, by string, now time.Time) error
}

// Config is what a server is made of.
type Config struct {
	Settings
	Store Store

	// Reload loads the configuration anew for whoever asks, and Loaded tells how
	// that went the last time. Both may be nil.
	Reload func(ctx context.Context, by string) Loaded
	Loaded func() Loaded

	// Output is what a try of a run is writing; nil when it is not carried out
	// here.
	Output func(run int64, try int) Output

	Log     *slog.Logger
	Metrics *prometheus.Registry
}

// Settings are what of it a configuration says.
type Settings struct {
	Sources map[string]*source.Source
	Pollers []string // the names of those that give what they find to Polled
	// Match gives the runs of an event with everything rendered; when there
	// are none, why.
	Match func(e trigger.Event, now time.Time) ([]trigger.Run, string)
	// NotYet is why nothing can be decided at the moment: senders are told to
	// come back. "" when it can.
	NotYet  string
	MaxBody int64
	// TrustedProxies are believed when they say whom they forward for.
	TrustedProxies []netip.Prefix
	// Token is what allows everything in the API, whoever sends it; nil for
	// none. People have tokens of their own. Without either nobody may change
	// anything.
	Token  func() (string, error)
	People map[string]Person
}

// Server answers requests. Hooks and Admin give its two sides.
type Server struct {
	Config
	deliveries *prometheus.CounterVec
	took       prometheus.Histogram
	reading    chan struct{} // deliveries that are being received
	watching   chan struct{} // those who watch
	changes    *changes
	refusals   *refusals
}

// New makes a server and registers its metrics.
func New(c Config) *Server {
	s := &Server{
		Config: c, reading: make(chan struct{}, mostReading), watching: make(chan struct{}, mostWatching), changes: &changes{store: c.Store}, refusals: newRefusals(c.Log),
		deliveries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "dockbell_deliveries_total", Help: "Deliveries by source and verdict.",
		}, []string{"source", "verdict"}),
		took: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "dockbell_delivery_seconds", Help: "From the request to the reply, for deliveries that were stored.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 5},
		}),
	}
	c.Metrics.MustRegister(s.deliveries, s.took, liveRuns{c.Store})
	return s.With(c.Settings)
}

// With is the same server with other settings. It counts on where this one is;
// the requests that this one has taken stay with the settings that it has.
func (s *Server) With(set Settings) *Server {
	other := *s
	other.Settings = set
	if other.MaxBody == 0 {
		other.MaxBody = DefaultMaxBody
	}
	other.expect()
	return &other
}

// Hooks is the public side: nothing but the intake.
func (s *Server) Hooks() http.Handler {
	r := mux.NewRouter().SkipClean(true) // some senders take a redirect for a success
	r.HandleFunc("/hooks/{source}", s.deliver).Methods(http.MethodPost, http.MethodGet)
	r.HandleFunc("/hooks/{source}", s.options).Methods(http.MethodOptions)
	s.errors(r, http.MethodPost)
	return r
}

// Admin is the side for operators: API, metrics, health.
func (s *Server) Admin() http.Handler {
	r := mux.NewRouter()
	r.HandleFunc("/healthz", s.health).Methods(http.MethodGet)
	r.HandleFunc("/readyz", s.ready).Methods(http.MethodGet)
	r.Handle("/metrics", promhttp.HandlerFor(s.Metrics, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError})).Methods(http.MethodGet)
	for path, handler := range map[string]http.HandlerFunc{
		"/runs":            s.api(s.listRuns),
		"/runs/{id}":       s.api(s.showRun),
		"/runs/{id}/watch": s.watch(s.watchRun),
		"/watch":           s.watch(s.watchAll),
		"/events":          s.api(s.listEvents),
		"/events/{id}":     s.api(s.showEvent),
		"/deliveries/{id}": s.api(s.showDelivery),
		"/holds":           s.api(s.listHolds),
		"/me":              s.may(Approver, s.showCaller),
	} {
		r.HandleFunc("/api/v1"+path, handler).Methods(http.MethodGet)
	}
	for path, handler := range map[string]http.HandlerFunc{
		"/runs/{id}/approve":      s.may(Approver, s.vote(true)),
		"/runs/{id}/reject":       s.may(Approver, s.vote(false)),
		"/runs/{id}/cancel":       s.may(Admin, s.intervene("cancelled", s.Store.Cancel)),
		"/runs/{id}/retry":        s.may(Admin, s.intervene("tried again", s.Store.Retry)),
		"/holds":                  s.may(Approver, s.hold),
		"/holds/{id}/release":     s.may(Approver, s.release),
		"/deliveries/{id}/replay": s.may(Admin, s.replay("delivery", s.recordedDelivery)),
		"/events/{id}/replay":     s.may(Admin, s.replay("event", s.recordedEvent)),
	} {
		r.HandleFunc("/api/v1"+path, handler).Methods(http.MethodPost)
	}
	if s.Reload != nil {
		r.HandleFunc("/-/reload", s.may(Admin, s.reload)).Methods(http.MethodPost)
	}
	s.errors(r, http.MethodGet, http.MethodPost)
	return r
}

// errors answers what no route is for. Of the methods given, those are named
// that the address takes.
func (s *Server) errors(router *mux.Router, methods ...string) {
	router.NotFoundHandler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fail(w, http.StatusNotFound, "there is nothing at "+r.URL.Path)
	})
	router.MethodNotAllowedHandler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var allowed []string
		for _, method := range methods {
			other, match := r.Clone(r.Context()), mux.RouteMatch{}
			other.Method = method
			if router.Match(other, &match) && match.MatchErr == nil {
				allowed = append(allowed, method)
			}
		}
		w.Header().Set("Allow", strings.Join(allowed, ", "))
		fail(w, http.StatusMethodNotAllowed, r.Method+" is not allowed at "+r.URL.Path)
	})
}

// Serve answers on a listener until ctx ends, and then lets the requests in
// the middle finish. Without a TLS configuration it speaks plain HTTP.
func Serve(ctx context.Context, l net.Listener, h http.Handler, secure *tls.Config, log *slog.Logger) error {
	srv := &http.Server{
		Handler: h, TLSConfig: secure, ErrorLog: newRefusals(log).logger(), MaxHeaderBytes: maxHeader,
		ReadHeaderTimeout: headerTimeout, ReadTimeout: readTimeout, WriteTimeout: writeTimeout, IdleTimeout: idleTimeout,
		BaseContext: func(net.Listener) context.Context {
			return context.WithValue(context.WithoutCancel(ctx), stopping{}, ctx.Done())
		},
	}
	stopped := make(chan error, 1)
	go func() {
		<-ctx.Done()
		limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
		defer cancel()
		stopped <- srv.Shutdown(limit)
	}()
	serve := srv.Serve
	if secure != nil {
		serve = func(l net.Listener) error { return srv.ServeTLS(l, "", "") }
	}
	if err := serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return <-stopped
}

func reply(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// An error here means that the client has gone.
	_ = json.NewEncoder(w).Encode(v)
}

func fail(w http.ResponseWriter, status int, why string) {
	reply(w, status, map[string]string{"error": why})
}

// liveRuns counts the runs that have not ended when it is asked.
type liveRuns struct{ store Store }

var waitingRuns = prometheus.NewDesc("dockbell_runs_waiting", "Accepted runs that have not started.", nil, nil)

func (liveRuns) Describe(ch chan<- *prometheus.Desc) { ch <- waitingRuns }

func (l liveRuns) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), collectTimeout)
	defer cancel()
	waiting, _, err := l.store.Live(ctx)
	if err != nil {
		ch <- prometheus.NewInvalidMetric(waitingRuns, err)
		return
	}
	ch <- prometheus.MustNewConstMetric(waitingRuns, prometheus.GaugeValue, float64(waiting))
}
