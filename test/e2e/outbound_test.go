package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// own is how many megabytes dockbell has taken for itself: without the pages of
// its program, which the system reads from the file and may drop.
func (d *daemon) own() (megabytes int) {
	d.t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.cmd.Process.Pid))
	if err != nil {
		d.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "RssAnon:")
	if _, err := fmt.Sscanf(rest, "%d kB", &megabytes); err != nil {
		d.t.Fatal(err)
	}
	return megabytes >> 10
}

// push sends one that rules for repositories like name/… are for.
func (d *daemon) push(name string, n int) {
	d.t.Helper()
	d.mustPost(http.StatusAccepted, "registry", distribution(fmt.Sprint(name, n), "registry.example.com", fmt.Sprintf("%s/app%d", name, n), "v1", digestOf(n), time.Now().UTC().Format(time.RFC3339Nano)))
}

// A thousand calls to a receiver that begins to answer and then takes its time
// are under way at once, hold up nothing else, and take little memory.
func TestThousandSlowCalls(t *testing.T) {
	const calls, most = 1000, 100 // megabytes
	var middle, done atomic.Int64
	release := make(chan struct{})
	slow := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(bytes.Repeat([]byte("x"), 6<<10))
		_ = http.NewResponseController(w).Flush()
		middle.Add(1)
		<-release
		done.Add(1)
	}))
	defer slow.Close()
	let := sync.OnceFunc(func() { close(release) })
	defer let()
	fast := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer fast.Close()
	d := serve(t, strings.NewReplacer("SLOW", slow.URL, "FAST", fast.URL).Replace(`
server: {listen: "127.0.0.1:0", admin: "127.0.0.1:0"}
sources: {registry: {type: distribution, auth: none}}
rules:
- {name: slow, repo: slow/*, actions: [http: {url: "SLOW", json: {image: "{{.Image}}"}, mode: parallel, timeout: 5m}]}
- {name: fast, repo: fast/*, actions: [http: {url: "FAST"}]}
`))
	for n := range calls {
		d.push("slow", n)
	}
	eventually(t, "all calls are under way", func() error {
		if n := middle.Load(); n < calls {
			return fmt.Errorf("%d of %d", n, calls)
		}
		return nil
	})
	own, all := d.own(), d.memory()
	t.Logf("%d MB with %d calls under way, %d with the program", own, calls, all)
	if own >= most {
		t.Errorf("%d MB with %d calls under way, want less than %d", own, calls, most)
	}
	d.push("fast", 0)
	eventually(t, "another call is made beside them", func() error {
		if runs := d.runs("&rule=fast"); len(runs) != 1 || runs[0].State != "succeeded" {
			return errors.New("it is not done")
		}
		return nil
	})
	let()
	if n := len(d.ended()); n != calls+1 || done.Load() != calls {
		t.Errorf("%d runs ended, %d calls done", n, done.Load())
	}
	if own := d.own(); own >= most {
		t.Errorf("%d MB afterwards", own)
	}
}

// ciServer is as much of Jenkins, GitHub and GitLab as a run sees that starts
// something, is killed while that goes on, and is told at last that it is over.
type ciServer struct {
	*httptest.Server
	mu     sync.Mutex
	starts map[string]int // by path
	asked  map[string]int
	over   atomic.Bool
}

func newCIServer(t *testing.T) *ciServer {
	c := &ciServer{starts: map[string]int{}, asked: map[string]int{}}
	c.Server = httptest.NewServer(c)
	t.Cleanup(c.Close)
	return c
}

func (c *ciServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	kind, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	answer := func(status int, body any) {
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(body)
	}
	over := c.over.Load()
	pick := func(now, then string) string {
		if over {
			return then
		}
		return now
	}
	if r.Method == http.MethodPost {
		c.starts[kind]++
	} else {
		c.asked[kind]++
	}
	switch path := r.URL.Path; {
	case path == "/jenkins/job/web/build":
		w.Header().Set("Location", "https://ci.example.com/jenkins/queue/item/3/")
		w.WriteHeader(http.StatusCreated)
	case path == "/jenkins/queue/item/3/api/json":
		answer(http.StatusOK, map[string]any{"executable": map[string]any{"url": "https://ci.example.com/jenkins/job/web/12/"}})
	case path == "/jenkins/job/web/12/api/json":
		answer(http.StatusOK, map[string]any{"building": !over, "result": pick("", "SUCCESS")})
	case strings.HasSuffix(path, "/dispatches"):
		answer(http.StatusOK, map[string]any{"html_url": "https://github.com/shop/web/actions/runs/9"})
	case path == "/github/repos/shop/web/actions/runs/9":
		answer(http.StatusOK, map[string]any{"status": pick("in_progress", "completed"), "conclusion": pick("", "success")})
	case strings.HasSuffix(path, "/pipeline"):
		answer(http.StatusCreated, map[string]any{"id": 61, "web_url": "https://gitlab.example.com/shop/web/-/pipelines/61"})
	case strings.HasSuffix(path, "/pipelines/61"):
		answer(http.StatusOK, map[string]any{"status": pick("running", "success")})
	case slices.Contains(calls, kind):
		_, _ = io.Copy(io.Discard, r.Body) // or nobody sees that the caller has gone
		c.mu.Unlock()
		<-r.Context().Done()
		c.mu.Lock()
	default:
		answer(http.StatusNotFound, map[string]any{"message": path})
	}
}

// calls are the kinds of which only the answer tells that it has happened. The
// server gives them none.
var calls = []string{"http", "slack", "teams", "discord", "grafana"}

// waits reports whether each kind has got to where it waits.
func (c *ciServer) waits() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	silent := slices.ContainsFunc(calls, func(kind string) bool { return c.starts[kind] == 0 })
	if silent || c.asked["jenkins"] < 1 || c.asked["github"] < 1 || c.asked["gitlab"] < 1 {
		return fmt.Errorf("started %v, asked %v", c.starts, c.asked)
	}
	return nil
}

// What dockbell is killed in the middle of is never started twice: a call ends
// as unknown, and what is waited for is waited for again.
func TestKilledWhileOthersWork(t *testing.T) {
	c := newCIServer(t)
	d := serve(t, strings.ReplaceAll(`
server: {listen: "127.0.0.1:0", admin: "127.0.0.1:0"}
sources: {registry: {type: distribution, auth: none}}
rules:
- name: ci
  repo: ci/*
  actions:
  - http: {url: SERVER/http, json: {image: "{{.Image}}"}}
  - slack: {url: {env: SLACK_URL}, text: "{{.Image}}"}
  - teams: {url: {env: TEAMS_URL}, text: "{{.Image}}"}
  - discord: {url: {env: DISCORD_URL}, text: "{{.Image}}"}
  - grafana: {url: SERVER/grafana, token: {env: CI_TOKEN}, text: "{{.Image}}"}
  - jenkins: {url: SERVER/jenkins/job/web, user: u, token: {env: CI_TOKEN}, wait: 1h}
  - github: {repository: shop/web, workflow: deploy.yml, ref: main, correlation: run, wait: 1h, token: {env: CI_TOKEN}, api_url: SERVER/github}
  - gitlab: {url: SERVER/gitlab, project: shop/web, ref: main, token: {env: CI_TOKEN}, wait: 1h}
`, "SERVER", c.URL), "CI_TOKEN=planted-token", "SLACK_URL="+c.URL+"/slack/planted", "TEAMS_URL="+c.URL+"/teams/planted", "DISCORD_URL="+c.URL+"/discord/planted")
	d.push("ci", 1)
	for range 2 {
		eventually(t, "all wait", c.waits)
		d.kill()
		c.mu.Lock()
		clear(c.asked)
		c.mu.Unlock()
		d.start()
	}
	eventually(t, "all wait", c.waits)
	c.over.Store(true)
	for _, r := range d.ended() {
		want := "succeeded"
		if slices.Contains(calls, r.Kind) {
			want = "unknown"
		}
		if r.State != want {
			t.Errorf("%s is %s (%s), want %s", r.Kind, r.State, r.Reason, want)
		}
	}
	for kind, n := range c.starts {
		if n != 1 {
			t.Errorf("%s was started %d times", kind, n)
		}
	}
	if strings.Contains(d.log.tail(1000), "planted") {
		t.Error("the log shows a secret")
	}
}
