package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dockbell/dockbell/trigger/server"
	"github.com/dockbell/dockbell/trigger/strictyaml"
)

// A scenario is a file in testdata/scenarios that runs on all of serve, with a
// receiver beside it for the actions to call:
//
//	config: |            the configuration without server and store. RECEIVER is the address of the
//	                     receiver as host:port, DIR a folder of its own with a kubeconfig of the receiver
//	example: jenkins.md#1   an example of docs/actions, the first of its page, that takes EXAMPLE's place in the configuration
//	with: {FROM: TO}        what is written otherwise there, as the address of the receiver
//	secrets: {NAME: TEXT}   files in the folder SECRETS, as for addresses that are secrets
//	repository: {FILE: TEXT} a repository with these files on its branch main, at the address REPOSITORY
//	answers:             what the receiver answers to METHOD PATH, in turn and then the last for ever:
//	  POST /x: [503, 200]     statuses, or {status: 200, headers: {…}, body: …}; 200 where nothing is said
//	steps:               one after the other, each one of
//	- post: hub?token=x  a delivery to /hooks/…, with
//	  body: {…}            what is sent, as JSON
//	  times: 6             how often; 1
//	  status: 202          of each reply
//	  reply: [v1: 1 run]   of the last one: for each event TAG: n runs, or TAG: why it was ignored; then the ignored
//	- hold: true         from now on the receiver keeps its callers waiting
//	- release: true      no longer
//	- called: 2          wait until the receiver has been called so often
//	- ended: 3           wait until so many runs have ended
//	- restart: true      end dockbell while something runs, and start it again on the same store
//	files: {BRANCH:FILE: TEXT} what stands in the repository at the end
//	runs:                all runs at the end, oldest first; what is said of each must be so, and reason and log contain what is said
//	- {rule: web, tag: v1, state: succeeded, tries: 1, reason: …, log: …}
//	calls: [POST /x …]   all calls of the receiver at the end, METHOD PATH BODY, each with what is said as its beginning; not checked when left out
type scenario struct {
	Config  string             `yaml:"config"`
	Example string             `yaml:"example"`
	With    map[string]string  `yaml:"with"`
	Secrets map[string]string  `yaml:"secrets"`
	Repo    map[string]string  `yaml:"repository"`
	Files   map[string]string  `yaml:"files"`
	Answers map[string][]any   `yaml:"answers"`
	Steps   []step             `yaml:"steps"`
	Runs    []wantedRun        `yaml:"runs"`
	Calls   strictyaml.Strings `yaml:"calls"`
}

type step struct {
	Post    string             `yaml:"post"`
	Body    any                `yaml:"body"`
	Times   int                `yaml:"times"`
	Status  int                `yaml:"status"`
	Reply   strictyaml.Strings `yaml:"reply"`
	Hold    bool               `yaml:"hold"`
	Release bool               `yaml:"release"`
	Called  int                `yaml:"called"`
	Ended   int                `yaml:"ended"`
	Restart bool               `yaml:"restart"`
}

type wantedRun struct {
	Rule   string `yaml:"rule"`
	Tag    string `yaml:"tag"`
	State  string `yaml:"state"`
	Tries  int    `yaml:"tries"`
	Reason string `yaml:"reason"`
	Log    string `yaml:"log"`
}

// patience is how long a step may take before the scenario is given up.
const patience = 30 * time.Second

func TestScenarios(t *testing.T) {
	t.Setenv("HUB_TOKEN", "hunter2")
	t.Setenv("XDG_CACHE_HOME", t.TempDir()) // of clones
	for _, name := range exampleSecrets {
		t.Setenv(name, "whsec_aHVudGVyMg==") // good for all of them
	}
	for _, path := range filesIn(t, "../../testdata/scenarios") {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".yaml"), func(t *testing.T) {
			t.Parallel()
			f, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			n, err := strictyaml.Parse(path, f)
			if err != nil {
				t.Fatal(err)
			}
			var s scenario
			if !n.Decode(&s) {
				t.Fatal(n.Err())
			}
			s.run(t)
		})
	}
}

func (s *scenario) run(t *testing.T) {
	r := newReceiver(t, s.Answers)
	config := s.Config
	if s.Example != "" {
		config = strings.Replace(config, "EXAMPLE", s.example(t), 1)
	}
	secrets := t.TempDir()
	for name, text := range s.Secrets {
		if err := os.WriteFile(filepath.Join(secrets, name), []byte(strings.ReplaceAll(text, "RECEIVER", r.address)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	config, checkFiles := s.serveRepository(t, config)
	d := startDaemon(t, strings.NewReplacer("RECEIVER", r.address, "SECRETS", secrets).Replace(config), r.address)
	for i, step := range s.Steps {
		t.Logf("step %d", i)
		step.do(t, d, r)
		if t.Failed() {
			t.Fatalf("step %d failed", i)
		}
	}
	s.checkRuns(t, d)
	checkFiles()
	if s.Calls == nil {
		return
	}
	calls := r.all()
	if !slices.EqualFunc(calls, s.Calls, strings.HasPrefix) {
		t.Errorf("calls\n%s\nwant\n%s", strings.Join(calls, "\n"), strings.Join(s.Calls, "\n"))
	}
}

func (s step) do(t *testing.T, d *daemon, r *receiver) {
	t.Helper()
	switch {
	case s.Post != "":
		for range max(1, s.Times) {
			status, reply := d.post(s.Post, s.Body)
			if status != s.Status {
				t.Fatalf("answered %d %v, want %d", status, reply, s.Status)
			}
			if s.Reply != nil {
				defer func() {
					if !slices.Equal(reply, s.Reply) {
						t.Errorf("reply %q, want %q", reply, s.Reply)
					}
				}()
			}
		}
	case s.Hold:
		r.hold()
	case s.Release:
		r.release()
	case s.Called > 0:
		until(t, func() bool { return len(r.all()) >= s.Called })
	case s.Ended > 0:
		until(t, func() bool {
			ended := 0
			for _, run := range d.runs() {
				if run.State.Ended() {
					ended++
				}
			}
			return ended >= s.Ended
		})
	case s.Restart:
		d.stop()
		r.release()
		d.start()
	default:
		t.Fatal("a step that is none")
	}
}

func (s *scenario) checkRuns(t *testing.T, d *daemon) {
	runs := d.runs()
	slices.Reverse(runs)
	for i, run := range runs {
		got := wantedRun{Rule: run.Rule, Tag: run.Push.Tag, State: string(run.State), Tries: run.Attempt, Reason: run.Reason}
		for _, try := range run.Tries {
			got.Log += try.Log
		}
		if i >= len(s.Runs) {
			t.Errorf("one run more: %+v", got)
			continue
		}
		want := s.Runs[i]
		if got.Rule != want.Rule || got.Tag != want.Tag || got.State != want.State || want.Tries != 0 && got.Tries != want.Tries ||
			!strings.Contains(got.Reason, want.Reason) || !strings.Contains(got.Log, want.Log) {
			t.Errorf("run %d\ngot  %+v\nwant %+v", i, got, want)
		}
	}
	if len(runs) < len(s.Runs) {
		t.Errorf("%d runs, want %d", len(runs), len(s.Runs))
	}
}

// until waits for something that other goroutines bring about.
func until(t *testing.T, done func() bool) {
	t.Helper()
	look := time.NewTicker(5 * time.Millisecond)
	defer look.Stop()
	for end := time.After(patience); !done(); {
		select {
		case <-look.C:
		case <-end:
			t.Fatal("waited in vain")
		}
	}
}

// daemon is all of serve in this process, with a folder of its own.
type daemon struct {
	t            *testing.T
	dir          string
	options      serveOptions
	log          logBuffer
	hooks, admin string // URLs
	end          context.CancelFunc
	ended        chan error
}

// startDaemon starts one; DIR in the configuration is its folder, in which a
// kubeconfig leads to the given address. The environment's API_TOKEN, where it
// is set, is the token of the API.
func startDaemon(t *testing.T, config, kubernetes string) *daemon {
	t.Helper()
	d := &daemon{t: t, dir: t.TempDir()}
	apiToken := ""
	if os.Getenv("API_TOKEN") != "" {
		apiToken = ", token: {env: API_TOKEN}"
	}
	config = strings.ReplaceAll("server: {listen: '127.0.0.1:0', admin: '127.0.0.1:0'"+apiToken+"}\nstore: sqlite:DIR/dockbell.db\n"+config, "DIR", d.dir)
	kubeconfig := fmt.Sprintf(`{"apiVersion":"v1","kind":"Config","current-context":"c","contexts":[{"name":"c","context":{"cluster":"c"}}],"clusters":[{"name":"c","cluster":{"server":"http://%s"}}]}`, kubernetes)
	for name, text := range map[string]string{"dockbell.yaml": config, "kubeconfig": kubeconfig} {
		if err := os.WriteFile(filepath.Join(d.dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	d.options = serveOptions{config: filepath.Join(d.dir, "dockbell.yaml"), allowCommands: true, grace: time.Millisecond}
	d.start()
	t.Cleanup(func() {
		d.stop()
		if t.Failed() {
			t.Logf("log:\n%s", d.log.String())
		}
	})
	return d
}

func (d *daemon) start() {
	d.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	type addresses struct{ hooks, admin net.Addr }
	started := make(chan addresses, 1)
	d.options.started = func(hooks, admin net.Addr) { started <- addresses{hooks, admin} }
	ended := make(chan error, 1)
	go func() { ended <- serve(ctx, d.options, slog.New(slog.NewTextHandler(&d.log, nil))) }()
	d.end, d.ended = cancel, ended
	select {
	case a := <-started:
		d.hooks, d.admin = "http://"+a.hooks.String(), "http://"+a.admin.String()
	case err := <-ended:
		cancel()
		d.end = nil
		d.t.Fatalf("serve ended: %v", err)
	}
}

func (d *daemon) stop() {
	d.t.Helper()
	if d.end == nil {
		return
	}
	d.end()
	d.end = nil
	if err := <-d.ended; err != nil {
		d.t.Errorf("serve ended with %v", err)
	}
}

// post sends a delivery and sums up the reply.
func (d *daemon) post(target string, body any) (status int, reply []string) {
	d.t.Helper()
	data, err := json.Marshal(body)
	if err != nil {
		d.t.Fatal(err)
	}
	resp, err := http.Post(d.hooks+"/hooks/"+target, "application/json", strings.NewReader(string(data)))
	if err != nil {
		d.t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer struct {
		Events []struct {
			Tag, Ignored string
			Runs         []string
		}
		Ignored []struct{ Reason string }
		Error   string
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		d.t.Fatal(err)
	}
	for _, e := range answer.Events {
		what := e.Ignored
		if what == "" {
			what = fmt.Sprintf("%d runs", len(e.Runs))
		}
		reply = append(reply, e.Tag+": "+what)
	}
	for _, i := range answer.Ignored {
		reply = append(reply, i.Reason)
	}
	if answer.Error != "" {
		reply = append(reply, answer.Error)
	}
	return resp.StatusCode, reply
}

// runs are all runs with everything that is known of them, newest first.
func (d *daemon) runs() []server.RunView {
	d.t.Helper()
	api := apiClient{server: d.admin, output: "json"}
	var page server.RunPage
	if err := api.get(d.t.Context(), "/api/v1/runs", url.Values{"limit": {"1000"}}, &page); err != nil {
		d.t.Fatal(err)
	}
	for i, r := range page.Runs {
		if err := api.get(d.t.Context(), fmt.Sprintf("/api/v1/runs/%d", r.ID), nil, &page.Runs[i]); err != nil {
			d.t.Fatal(err)
		}
	}
	return page.Runs
}

// receiver is what actions call.
type receiver struct {
	address string
	answers map[string][]any

	mu    sync.Mutex
	calls []string
	gate  chan struct{} // closed unless callers are kept waiting
}

func newReceiver(t *testing.T, answers map[string][]any) *receiver {
	t.Helper()
	r := &receiver{answers: map[string][]any{}, gate: make(chan struct{})}
	for key, list := range answers {
		r.answers[key] = list
	}
	close(r.gate)
	srv := httptest.NewServer(r)
	r.address = srv.Listener.Addr().String()
	t.Cleanup(func() {
		r.release()
		srv.Close()
	})
	return r
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return // the caller has gone
	}
	r.mu.Lock()
	key := req.Method + " " + req.URL.Path
	var answer any = http.StatusOK
	if strings.HasPrefix(req.URL.Path, "/apis/") {
		answer = http.StatusNotFound // a cluster that has only what the scenario says
	}
	if list := r.answers[key]; len(list) > 0 {
		answer = list[0]
		if len(list) > 1 {
			r.answers[key] = list[1:]
		}
	}
	beside := strings.HasPrefix(req.URL.Path, "/apis/events.k8s.io/")              // nobody waits for it
	if !beside && !req.URL.Query().Has("watch") && !req.URL.Query().Has("limit") { // of client-go, at times of its own
		r.calls = append(r.calls, strings.TrimSpace(key+" "+string(body)))
	}
	gate := r.gate
	r.mu.Unlock()
	select {
	case <-gate:
	case <-req.Context().Done():
		return
	}
	switch a := answer.(type) {
	case int:
		w.WriteHeader(a)
	case map[string]any:
		w.Header().Set("Content-Type", "application/json")
		if headers, ok := a["headers"].(map[string]any); ok {
			for name, v := range headers {
				w.Header().Set(name, fmt.Sprint(v))
			}
		}
		if status, ok := a["status"].(int); ok {
			w.WriteHeader(status)
		}
		_ = json.NewEncoder(w).Encode(a["body"]) // the caller may have gone
	}
}

func (r *receiver) hold() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.gate = make(chan struct{})
}

func (r *receiver) release() {
	r.mu.Lock()
	defer r.mu.Unlock()
	select {
	case <-r.gate:
	default:
		close(r.gate)
	}
}

func (r *receiver) all() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.calls)
}

// logBuffer is a log that may be read while it is written.
type logBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
