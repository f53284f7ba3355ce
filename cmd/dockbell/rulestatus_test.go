package main

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dockbell/dockbell/k8s"
	"github.com/dockbell/dockbell/trigger"
	"github.com/dockbell/dockbell/trigger/store"
)

// statuses is an API server that takes the status of rules, and refuses that of
// some.
type statuses struct {
	mu     sync.Mutex
	writes int
	last   map[string]string // by path
}

func (s *statuses) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writes++
	var body struct {
		Status struct {
			Conditions []struct{ Status, Message string }
			LastRun    struct{ ID, State string }
		}
	}
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	if strings.Contains(r.URL.Path, "/refused-") {
		w.WriteHeader(http.StatusForbidden)
		return
	}
	s.last[r.URL.Path] = fmt.Sprintf("%s %s %s %s", body.Status.Conditions[0].Status, body.Status.Conditions[0].Message, body.Status.LastRun.ID, body.Status.LastRun.State)
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write([]byte(`{"apiVersion":"dockbell.dev/v1alpha1","kind":"Rule"}`)) // the caller may have gone
}

// newReporter is one with some rules, of which the API server never tells that
// their status has changed.
func newReporter(t *testing.T, names ...string) (*ruleReporter, *statuses) {
	t.Helper()
	dir := t.TempDir()
	s := &statuses{last: map[string]string{}}
	api := httptest.NewServer(s)
	t.Cleanup(api.Close)
	kubeconfig := filepath.Join(dir, "kubeconfig")
	text := fmt.Sprintf(`{"apiVersion":"v1","kind":"Config","current-context":"c","contexts":[{"name":"c","context":{"cluster":"c"}}],"clusters":[{"name":"c","cluster":{"server":%q}}]}`, api.URL)
	if err := os.WriteFile(kubeconfig, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("KUBECONFIG", kubeconfig)
	db, err := store.Open(t.Context(), "sqlite:"+filepath.Join(dir, "dockbell.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	r := &reloader{db: db, log: slog.New(slog.DiscardHandler)}
	for i, name := range names {
		r.found.rules = append(r.found.rules, k8s.Rule{Namespace: "shop", Name: name, UID: fmt.Sprint(i), Generation: 1})
	}
	clusters := &openClusters{Clusters: k8s.New(t.Context(), nil, nil, r.log)}
	return newRuleReporter(r, clusters), s
}

// However many rules have something to tell, a bounded number is written at a
// time, and each has its turn, whatever becomes of the others.
func TestReportsAreBounded(t *testing.T) {
	var names []string
	for i := range reportMost {
		names = append(names, fmt.Sprintf("a-%d", i), fmt.Sprintf("refused-%d", i))
	}
	r, s := newReporter(t, names...)
	for n := 1; n <= 3; n++ {
		if err := r.report(t.Context()); err == nil || !strings.Contains(err.Error(), "patch on rules.dockbell.dev/status") {
			t.Errorf("report %d: %v", n, err)
		}
		if s.writes != n*reportMost {
			t.Errorf("%d writes after report %d", s.writes, n)
		}
	}
	if len(s.last) != reportMost {
		t.Errorf("%d of %d rules had their turn", len(s.last), reportMost)
	}
}

// The status follows a run to its end, also one that was begun before a start.
func TestReportFollowsARun(t *testing.T) {
	r, s := newReporter(t, "web")
	r.found.compiled = map[string]compiledRule{"shop/web": {faults: []string{"tag: no", "repo: no"}}}
	const path = "/apis/dockbell.dev/v1alpha1/namespaces/shop/rules/web/status"
	report := func(want string) {
		t.Helper()
		if err := r.report(t.Context()); err != nil {
			t.Fatal(err)
		}
		if s.last[path] != want {
			t.Errorf("%q, want %q", s.last[path], want)
		}
	}
	report("False tag: no (faults: 2)  ")
	r.found.compiled = nil
	now := time.Now()
	event := trigger.Event{Image: trigger.Image{Repository: "shop/web", Tag: "v1"}, Source: "hub", Action: trigger.Push, ReceivedAt: now}
	for _, rule := range []string{"shop/web", "other"} {
		run := trigger.Run{Rule: rule, Event: event, Kind: "call", Target: "x", Spec: []byte("{}"), Lane: rule, Mode: trigger.Queue, CreatedAt: now, NotBefore: now}
		if _, err := r.db.Accept(t.Context(), trigger.Delivery{Source: "hub", ReceivedAt: now}, []trigger.Planned{{Event: event, Runs: []trigger.Run{run}}}); err != nil {
			t.Fatal(err)
		}
	}
	report("True the rule is in force 1 waiting")
	runs, _, err := r.db.Claim(t.Context(), now, func() int { return 1 })
	if err != nil || len(runs) != 1 {
		t.Fatal(runs, err)
	}
	report("True the rule is in force 1 running")
	if _, err := r.db.Finish(t.Context(), runs[0], trigger.Result{State: trigger.Succeeded, At: now}); err != nil {
		t.Fatal(err)
	}
	report("True the rule is in force 1 succeeded")
}
