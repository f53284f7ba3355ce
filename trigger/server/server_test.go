package server

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dockbell/dockbell/trigger"
	"github.com/dockbell/dockbell/trigger/source"
	"github.com/dockbell/dockbell/trigger/store"
	"github.com/dockbell/dockbell/trigger/strictyaml"
)

const sources = `
hub: {type: dockerhub, auth: {token: {env: TEST_TOKEN}}}
registry: {type: distribution, auth: {bearer: {env: TEST_TOKEN}}}
signed: {type: dockerhub, auth: {hmac: {secret: {env: TEST_TOKEN}, header: X-Dock-Sum}}}
custom: {type: dockerhub, auth: {token: {env: TEST_TOKEN}, header: X-Dock}}
grid: {type: azure-eventgrid, auth: {token: {env: TEST_TOKEN}}}
rotating: {type: dockerhub, auth: {token: {file: 'SECRETFILE'}}}
open: {type: dockerhub, auth: none}
office: {type: dockerhub, auth: {token: {env: TEST_TOKEN}}, from: [203.0.113.0/24, '2001:db8::7']}
several: {type: auto, senders: {dockerhub: {auth: {token: {env: TEST_TOKEN}}}, distribution: {auth: {bearer: {env: TEST_TOKEN}}}, azure-eventgrid: {auth: none}}}
`

const token = "hunter2-the-secret"

// station is a server on a real store, with what it has logged.
type station struct {
	t      testing.TB
	dir    string
	store  *store.Store
	close  func() // the store
	server *Server
	hooks  http.Handler
	admin  http.Handler
	log    *buffer

	sources, more string // the usual ones, and others besides them
	match         func(trigger.Event, time.Time) ([]trigger.Run, string)
	client        *http.Client           // what sources reach the rest of the world by
	token         func() (string, error) // of the API
	people        map[string]Person
	notYet        string
	reload        func(ctx context.Context, by string) Loaded
	loaded        func() Loaded
}

// match makes one run for each push of a repository that begins with shop/,
// two for shop/two, and one that stands for a delete of shop/gone.
func match(e trigger.Event, now time.Time) ([]trigger.Run, string) {
	run := trigger.Run{
		Rule: "web", Event: e, Kind: "call", Target: "somewhere", Spec: []byte(`{"to":"a & b"}`), Lane: "rule/web/0", Mode: trigger.Queue,
		Attempts: 3, Timeout: 90 * time.Second, CreatedAt: now, NotBefore: now,
	}
	switch {
	case e.Action == trigger.Delete && e.Repository != "shop/gone", !strings.HasPrefix(e.Repository, "shop/"):
		return nil, "no rule is for the repository " + e.Name()
	case e.Repository == "shop/two":
		second := run
		second.Rule, second.Lane = "second", "rule/second/0"
		return []trigger.Run{run, second}, ""
	}
	return []trigger.Run{run}, ""
}

func newStation(t testing.TB) *station {
	t.Helper()
	t.Setenv("TEST_TOKEN", token)
	s := &station{t: t, dir: t.TempDir(), log: &buffer{}, sources: sources, match: match}
	if err := os.WriteFile(s.path("secret"), []byte(token), 0o600); err != nil {
		t.Fatal(err)
	}
	var err error
	if s.store, err = store.Open(context.Background(), "sqlite:"+s.path("dockbell.db")); err != nil {
		t.Fatal(err)
	}
	s.close = sync.OnceFunc(func() { s.store.Close() })
	t.Cleanup(s.close)
	s.use(s.store)
	return s
}

func (s *station) path(name string) string { return filepath.Join(s.dir, name) }

// use makes the two sides of the server on a store.
func (s *station) use(st Store) {
	n, err := strictyaml.Parse("sources", strings.NewReader(strings.ReplaceAll(s.sources+s.more, "SECRETFILE", s.path("secret"))))
	if err != nil {
		s.t.Fatal(err)
	}
	c := Config{
		Settings: Settings{
			Sources: map[string]*source.Source{}, Match: s.match, NotYet: s.notYet, MaxBody: 10_000,
			TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, Token: s.token, People: s.people,
		},
		Store: st, Reload: s.reload, Loaded: s.loaded,
		Log:     slog.New(slog.NewTextHandler(s.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Metrics: prometheus.NewRegistry(),
	}
	for _, name := range n.Keys() {
		c.Sources[name] = source.Load(name, n.Key(name), source.Outside{Client: s.client})
	}
	if err := n.Err(); err != nil {
		s.t.Fatal(err)
	}
	s.server = New(c)
	s.hooks, s.admin = s.server.Hooks(), s.server.Admin()
}

// ask makes a request of one side. Headers are given as name and value.
func ask(h http.Handler, method, target, body string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func (s *station) post(target, body string, header ...string) *httptest.ResponseRecorder {
	return ask(s.hooks, http.MethodPost, target, body, header...)
}

func (s *station) get(target string) *httptest.ResponseRecorder {
	return ask(s.admin, http.MethodGet, target, "")
}

// onDisk is everything that the store has written, whatever the file.
func (s *station) onDisk() string {
	s.t.Helper()
	var all bytes.Buffer
	files, err := filepath.Glob(s.path("dockbell.db*"))
	if err != nil || len(files) == 0 {
		s.t.Fatalf("no database: %v", err)
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			s.t.Fatal(err)
		}
		all.Write(data)
	}
	return all.String()
}

// buffer is a log that may be read while it is written.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// broken is a store in which something fails.
type broken struct {
	Store
	err error
}

func (b broken) Accept(context.Context, trigger.Delivery, []trigger.Planned) (trigger.Receipt, error) {
	return trigger.Receipt{}, b.err
}
func (b broken) Runs(context.Context, trigger.RunFilter) ([]trigger.Run, error) { return nil, b.err }
func (b broken) Events(context.Context, trigger.EventFilter) ([]trigger.EventRecord, error) {
	return nil, b.err
}
func (b broken) Run(context.Context, int64) (trigger.Run, []trigger.Attempt, bool, error) {
	return trigger.Run{}, nil, false, b.err
}
func (b broken) Event(context.Context, int64) (trigger.EventRecord, bool, error) {
	return trigger.EventRecord{}, false, b.err
}
func (b broken) Delivery(context.Context, int64) (trigger.Delivery, bool, error) {
	return trigger.Delivery{}, false, b.err
}
func (b broken) Holds(context.Context, bool) ([]trigger.Hold, error) { return nil, b.err }
func (b broken) Live(context.Context) (int, int, error)              { return 0, 0, b.err }
func (b broken) Ping(context.Context) error                          { return b.err }

func TestHealth(t *testing.T) {
	s := newStation(t)
	for path, want := range map[string]string{"/healthz": `{"status":"ok"}`, "/readyz": `{"status":"ready"}`} {
		if w := s.get(path); w.Code != http.StatusOK || strings.TrimSpace(w.Body.String()) != want || w.Header().Get("Content-Type") != "application/json" {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
	s.use(broken{s.store, errors.New("disk of glass")})
	if w := s.get("/healthz"); w.Code != http.StatusOK {
		t.Errorf("alive without a store: %d", w.Code)
	}
	w := s.get("/readyz")
	if w.Code != http.StatusServiceUnavailable || strings.Contains(w.Body.String(), "glass") || !strings.Contains(s.log.String(), "disk of glass") {
		t.Errorf("%d %s\n%s", w.Code, w.Body, s.log)
	}
}

// The public side has the intake and nothing else.
func TestSidesAreApart(t *testing.T) {
	s := newStation(t)
	for _, path := range []string{"/api/v1/runs", "/api/v1/events", "/metrics", "/healthz", "/readyz", "/", "/hooks", "/hooks/", "/hooks/hub/", "/hooks/hub/x", "//hooks/open", "/x/../hooks/open"} {
		if w := ask(s.hooks, http.MethodGet, path, ""); w.Code != http.StatusNotFound {
			t.Errorf("GET %s at the public side: %d", path, w.Code)
		}
		// A redirect would be a success to some senders.
		if w := s.post(path, hubPush("shop/web", "v1")); w.Code != http.StatusNotFound {
			t.Errorf("POST %s at the public side: %d", path, w.Code)
		}
	}
	for _, path := range []string{"/hooks/open", "/api/v1", "/api/v1/run"} {
		if w := s.get(path); w.Code != http.StatusNotFound || !strings.Contains(w.Body.String(), `"error":"there is nothing at `) {
			t.Errorf("GET %s at the other: %d %s", path, w.Code, w.Body)
		}
	}
	if w := ask(s.admin, http.MethodPost, "/api/v1/runs", ""); w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") != http.MethodGet {
		t.Errorf("POST to the API: %d %v", w.Code, w.Header())
	}
}

func TestServeFinishesWhatIsInTheMiddle(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	inside, goOn := make(chan bool), make(chan bool)
	served := make(chan error, 1)
	go func() {
		served <- Serve(ctx, l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			inside <- true
			<-goOn
			_, _ = io.WriteString(w, "done") // the client checks it
		}), nil, slog.New(slog.DiscardHandler))
	}()
	answered := make(chan string, 1)
	go func() {
		resp, err := http.Get("http://" + l.Addr().String())
		if err != nil {
			answered <- err.Error()
			return
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		answered <- string(b) + map[bool]string{false: "!"}[err == nil]
	}()
	<-inside
	cancel()
	goOn <- true
	if got := <-answered; got != "done" {
		t.Errorf("the request in the middle got %q", got)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
	if _, err := net.Dial("tcp", l.Addr().String()); err == nil {
		t.Error("it still listens")
	}
}

func TestServeReportsABrokenListener(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if err := Serve(t.Context(), l, http.NotFoundHandler(), nil, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("no error")
	}
}
