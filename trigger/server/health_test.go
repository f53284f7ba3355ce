package server

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dockbell/dockbell/trigger"
)

// Who may change everything may have the configuration loaded, and is told how
// that went.
func TestReload(t *testing.T) {
	s := newStation(t)
	if w := ask(s.admin, http.MethodPost, "/-/reload", ""); w.Code != http.StatusNotFound {
		t.Errorf("where there is nothing to reload: %d", w.Code)
	}
	s.token = secretly("of-all")
	s.people = map[string]Person{"anna": {secretly("of-anna"), Approver}, "bob": {secretly("of-bob"), Admin}}
	var by []string
	result := Loaded{At: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Warnings: []string{"store: stays"}}
	s.reload = func(_ context.Context, who string) Loaded { by = append(by, who); return result }
	s.loaded = func() Loaded { return result }
	s.use(s.store)
	reload := func(token string) (int, string) {
		w := ask(s.admin, http.MethodPost, "/-/reload", "", "Authorization", "Bearer "+token)
		return w.Code, strings.TrimSpace(w.Body.String())
	}
	const good = `{"loadedAt":"2026-01-02T03:04:05Z","warnings":["store: stays"]}`
	for _, tt := range []struct {
		token string
		code  int
		text  string
	}{
		{"of-bob", 200, good}, {"of-all", 200, good}, {"of-anna", 403, "role admin"}, {"wrong", 401, "wrong or missing bearer token"},
	} {
		if code, text := reload(tt.token); code != tt.code || !strings.Contains(text, tt.text) {
			t.Errorf("%s: %d %s", tt.token, code, text)
		}
	}
	if strings.Join(by, " ") != "bob server.token" {
		t.Errorf("it was reloaded by %q", by)
	}
	if w := ask(s.admin, http.MethodGet, "/-/reload", ""); w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") != http.MethodPost {
		t.Errorf("GET: %d, allowed are %s", w.Code, w.Header().Get("Allow"))
	}
	if w := s.get("/readyz"); w.Code != 200 || strings.TrimSpace(w.Body.String()) != `{"status":"ready","configuration":`+good+`}` {
		t.Errorf("%d %s", w.Code, w.Body)
	}

	result.TriedAt, result.Faults = result.At.Add(time.Hour), []string{"dockbell.yaml:1: no", "dockbell.yaml:2: no"}
	code, text := reload("of-bob")
	var answer struct {
		Error    string
		LoadedAt time.Time
		Faults   []string
	}
	if err := json.Unmarshal([]byte(text), &answer); err != nil || code != http.StatusBadRequest || answer.Error == "" || len(answer.Faults) != 2 || !answer.LoadedAt.Equal(result.At) {
		t.Errorf("%d %s %v", code, text, err)
	}
	if w := s.get("/readyz"); w.Code != 200 || !strings.Contains(w.Body.String(), `"faults":["dockbell.yaml:1: no"`) {
		t.Errorf("the one from before is in force: %d %s", w.Code, w.Body)
	}
}

// While nothing can be decided, nothing is acknowledged.
func TestNotYet(t *testing.T) {
	s := newStation(t)
	s.token = secretly("of-all")
	s.notYet = "the rules are not known yet"
	s.use(s.store)
	if w := s.post("/hooks/open", hubPush("shop/web", "v1")); w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" || !strings.Contains(w.Body.String(), s.notYet) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if w := s.post("/hooks/nowhere", "{}"); w.Code != http.StatusNotFound {
		t.Errorf("a source that there is not: %d", w.Code)
	}
	if w := s.get("/readyz"); w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), s.notYet) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if w := ask(s.admin, http.MethodPost, "/api/v1/events/1/replay", by, "Authorization", "Bearer of-all"); w.Code != http.StatusServiceUnavailable {
		t.Errorf("a replay: %d %s", w.Code, w.Body)
	}
	undecided := New(Config{Settings: Settings{NotYet: s.notYet}, Store: s.store, Metrics: prometheus.NewRegistry()})
	if err := undecided.Polled(t.Context(), "mirror", nil, nil); err == nil || err.Error() != s.notYet {
		t.Errorf("what was polled: %v", err)
	}
	if events, err := s.store.Events(t.Context(), trigger.EventFilter{Limit: 1}); err != nil || len(events) > 0 {
		t.Errorf("%v, %v", events, err)
	}
}

// A server with other settings counts on, and the one before keeps its own.
func TestWith(t *testing.T) {
	s := newStation(t)
	before := s.server
	after := before.With(Settings{Sources: before.Sources, Match: func(trigger.Event, time.Time) ([]trigger.Run, string) { return nil, "another rule" }})
	for _, tt := range []struct {
		tag    string
		server *Server
		want   int
	}{{"v1", before, http.StatusAccepted}, {"v2", after, http.StatusOK}, {"v3", before, http.StatusAccepted}} {
		w := ask(tt.server.Hooks(), http.MethodPost, "/hooks/open", hubPush("shop/web", tt.tag))
		if w.Code != tt.want {
			t.Errorf("%d %s, want %d", w.Code, w.Body, tt.want)
		}
	}
	if after.MaxBody != DefaultMaxBody || before.MaxBody == DefaultMaxBody {
		t.Errorf("bodies of %d and of %d bytes", before.MaxBody, after.MaxBody)
	}
	w := ask(after.Admin(), http.MethodGet, "/metrics", "")
	for _, line := range []string{`dockbell_deliveries_total{source="open",verdict="accepted"} 2`, `dockbell_deliveries_total{source="open",verdict="ignored"} 1`} {
		if !strings.Contains(w.Body.String(), line) {
			t.Errorf("no %s in\n%s", line, w.Body)
		}
	}
}
