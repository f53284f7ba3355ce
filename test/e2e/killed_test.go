package e2e

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/dockbell/dockbell/test/parts"
)

// callback is the kind of action that no rule can name: a push asks for it.
const callback = "dockerhub-callback"

// cutOff has of each kind of action one that dockbell is killed in the middle
// of. A call of which only the answer tells that it has happened gets none.
var cutOff = map[string]struct {
	spec    string // of the action
	waits   bool   // it waits for what it has begun
	message bool   // it writes to people
	test    string // where else it is killed
}{
	"command":    {spec: `{shell: "echo >> begun; exec sleep 300"}`},
	"discord":    {spec: `{url: {env: DISCORD_URL}, text: "{{.Image}}"}`, message: true},
	"email":      {spec: `{server: MAILSERVER, user: dockbell, password: {env: SMTP_PASSWORD}, from: d@example.com, to: [silent@example.com], text: "{{.Image}}"}`, message: true},
	"git":        {test: "TestGitKilledWhilePushing"},
	"github":     {spec: `{repository: shop/web, workflow: deploy.yml, ref: main, correlation: run, wait: 1h, token: {env: CI_TOKEN}, api_url: SERVER/github}`, waits: true},
	"gitlab":     {spec: `{url: SERVER/gitlab, project: shop/web, ref: main, token: {env: CI_TOKEN}, wait: 1h}`, waits: true},
	"grafana":    {spec: `{url: SERVER/grafana, token: {env: CI_TOKEN}, text: "{{.Image}}"}`, message: true},
	"http":       {spec: `{url: SERVER/http, json: {image: "{{.Image}}"}}`},
	"jenkins":    {spec: `{url: SERVER/jenkins/job/web, user: u, token: {env: CI_TOKEN}, wait: 1h}`, waits: true},
	"kubernetes": {test: "TestRolloutSurvivesKill"},
	"shoutrrr":   {spec: `{url: {env: NTFY_URL}, text: "{{.Image}}"}`, message: true},
	"slack":      {spec: `{url: {env: SLACK_URL}, text: "{{.Image}}"}`, message: true},
	"teams":      {spec: `{url: {env: TEAMS_URL}, text: "{{.Image}}"}`, message: true},
	callback:     {},
}

// others is everybody whom actions call. Of Jenkins, GitHub and GitLab it is as
// much as a run sees that starts something, is killed while that goes on, and is
// told at last that it is over. Everybody else is silent.
type others struct {
	*httptest.Server
	mail   *parts.SMTP
	hub    string // the address of Docker Hub
	caFile string
	begun  string // a file with a line for each command
	done   <-chan struct{}

	mu     sync.Mutex
	starts map[string]int // by kind, the first part of a path
	asked  map[string]int
	open   int // who waits for an answer
	over   atomic.Bool
}

func newOthers(t *testing.T) *others {
	t.Helper()
	dir := t.TempDir()
	mail, err := parts.StartSMTP(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(mail.Stop)
	o := &others{mail: mail, caFile: filepath.Join(dir, "all.pem"), done: t.Context().Done(), starts: map[string]int{}, asked: map[string]int{}}
	o.Server = httptest.NewServer(o)
	t.Cleanup(o.Close)
	ofHub := filepath.Join(dir, "hub.pem")
	cert, err := parts.Certificate(ofHub, "registry.hub.docker.com")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(o.caFile, []byte(readFile(t, ofHub)+readFile(t, mail.CAFile)), 0o600); err != nil {
		t.Fatal(err)
	}
	hub := httptest.NewUnstartedServer(o)
	hub.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	hub.StartTLS()
	t.Cleanup(hub.Close)
	o.hub = hub.Listener.Addr().String()
	return o
}

func (o *others) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodConnect {
		tunnel(w, o.hub)
		return
	}
	_, _ = io.Copy(io.Discard, r.Body) // or nobody sees that the caller has gone
	o.mu.Lock()
	defer o.mu.Unlock()
	kind, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	if r.Method == http.MethodPost {
		o.starts[kind]++
	} else {
		o.asked[kind]++
	}
	if cutOff[kind].waits {
		o.answer(w, r.URL.Path)
		return
	}
	o.open++
	o.mu.Unlock()
	select {
	case <-r.Context().Done():
	case <-o.done:
	}
	o.mu.Lock()
	o.open--
}

// answer is what those say whose work is waited for.
func (o *others) answer(w http.ResponseWriter, path string) {
	over := o.over.Load()
	answer := func(status int, body map[string]any) {
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(body)
	}
	pick := func(now, then string) string {
		if over {
			return then
		}
		return now
	}
	switch {
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
	default:
		answer(http.StatusNotFound, map[string]any{"message": path})
	}
}

// tunnel joins the caller of a proxy with another address until one of them
// hangs up.
func tunnel(w http.ResponseWriter, address string) {
	far, err := net.Dial("tcp", address)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	near, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		far.Close()
		return
	}
	_, _ = io.WriteString(near, "HTTP/1.1 200 OK\r\n\r\n")
	join := func(to, from net.Conn) {
		defer to.Close()
		_, _ = io.Copy(to, from) // until either has gone
	}
	go join(far, near)
	go join(near, far)
}

// started is how often a kind was.
func (o *others) started(kind string) int {
	switch kind {
	case "command":
		text, _ := os.ReadFile(o.begun) // none is there before the first
		return strings.Count(string(text), "\n")
	case "email":
		return o.mail.Waiting()
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.starts[kind]
}

// startsOf is how often a kind is to have been started when dockbell was that
// often.
func startsOf(kind string, dockbells int) int {
	if cutOff[kind].message {
		return dockbells
	}
	return 1
}

// waits reports whether every kind has got to where it waits, in the given start
// of dockbell.
func (o *others) waits(dockbells int) error {
	for kind, row := range cutOff {
		if row.test == "" && o.started(kind) < startsOf(kind, dockbells) {
			return fmt.Errorf("%s has not begun", kind)
		}
		o.mu.Lock()
		asked := o.asked[kind]
		o.mu.Unlock()
		if row.waits && asked == 0 {
			return fmt.Errorf("%s does not ask how it goes on", kind)
		}
	}
	return nil
}

// left reports whether somebody waits for an answer still.
func (o *others) left() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.open > 0 {
		return fmt.Errorf("%d of them", o.open)
	}
	return nil
}

// kinds are those that rules can name.
func (d *daemon) kinds() []string {
	d.t.Helper()
	file := filepath.Join(d.t.TempDir(), "wrong.yaml")
	if err := os.WriteFile(file, []byte("sources: {hub: {type: dockerhub, auth: none}}\nrules: [{name: a, repo: a, actions: [nothing: {}]}]\n"), 0o600); err != nil {
		d.t.Fatal(err)
	}
	out, _ := d.command("check", file).CombinedOutput()
	known := regexp.MustCompile(`unknown action "nothing"; known are (.+)`).FindSubmatch(out)
	if known == nil {
		d.t.Fatalf("the kinds are not told:\n%s", out)
	}
	return strings.Split(string(known[1]), ", ")
}

// Every kind of action is killed in the middle, here or in a test of its own.
func TestKilledInEveryKind(t *testing.T) {
	t.Parallel()
	kinds := append(prepare(t, "").kinds(), callback)
	slices.Sort(kinds)
	if have := slices.Sorted(maps.Keys(cutOff)); !slices.Equal(have, kinds) {
		t.Errorf("%q are killed, the kinds are %q", have, kinds)
	}
	files, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	var tests strings.Builder
	for _, file := range files {
		tests.WriteString(readFile(t, file))
	}
	for kind, row := range cutOff {
		if row.test != "" && !strings.Contains(tests.String(), "\nfunc "+row.test+"(t *testing.T)") {
			t.Errorf("%s: there is no %s", kind, row.test)
		}
	}
}

// What dockbell is killed in the middle of is never started twice: a call ends
// as unknown, and what is waited for is waited for again. Only people are rather
// told twice than never. Nobody is left behind who goes on with it.
func TestKilledWhileOthersWork(t *testing.T) {
	t.Parallel()
	o := newOthers(t)
	actions := ""
	for _, kind := range slices.Sorted(maps.Keys(cutOff)) {
		if spec := cutOff[kind].spec; spec != "" {
			actions += "  - " + kind + ": " + spec + "\n"
		}
	}
	const secret = "/planted"
	d := prepare(t, strings.NewReplacer("SERVER", o.URL, "MAILSERVER", o.mail.Address).Replace(`
server: {listen: "127.0.0.1:0", admin: "127.0.0.1:0"}
outbound: {proxy: SERVER, caFile: `+o.caFile+`}
sources: {registry: {type: distribution, auth: none}, hub: {type: dockerhub, auth: none, callback: true}}
rules:
- {name: chain, repo: chain/web, actions: [command: {argv: ["true"]}]}
- name: ci
  repo: ci/*
  actions:
`+actions), "CI_TOKEN=planted-token", "SMTP_PASSWORD="+o.mail.Password, "NTFY_URL=ntfy://ci:planted@"+strings.TrimPrefix(o.URL, "http://")+"/shoutrrr?scheme=http",
		"SLACK_URL="+o.URL+"/slack"+secret, "TEAMS_URL="+o.URL+"/teams"+secret, "DISCORD_URL="+o.URL+"/discord"+secret)
	o.begun = filepath.Join(d.dir, "begun")
	d.start()
	d.push("ci", 1)
	push := strings.Replace(string(sample(t, "dockerhub", "chain/web", "v1")), "{", `{"callback_url":"https://registry.hub.docker.com/`+callback+secret+`/",`, 1)
	d.mustPost(http.StatusAccepted, "hub", []byte(push))
	const kills = 2
	for n := range kills {
		eventually(t, "all wait", func() error { return o.waits(n + 1) })
		d.kill()
		eventually(t, "nobody is left who waits", o.left)
		o.mu.Lock()
		clear(o.asked)
		o.mu.Unlock()
		d.start()
	}
	eventually(t, "all wait", func() error { return o.waits(kills + 1) })
	o.over.Store(true)
	eventually(t, "all have ended but the messages", func() error {
		for _, r := range d.runs("") {
			if !cutOff[r.Kind].message && (r.State == "waiting" || r.State == "running") {
				return fmt.Errorf("%s is %s", r.Kind, r.State)
			}
		}
		return nil
	})
	for _, r := range d.runs("") {
		want := "unknown"
		switch row := cutOff[r.Kind]; {
		case row.waits || r.Rule == "chain":
			want = "succeeded"
		case row.message:
			want = "running"
		}
		if r.State != want {
			t.Errorf("%s is %s (%s), want %s", r.Kind, r.State, r.Reason, want)
		}
	}
	for kind, row := range cutOff {
		if n, want := o.started(kind), startsOf(kind, kills+1); row.test == "" && n != want {
			t.Errorf("%s was started %d times, want %d", kind, n, want)
		}
	}
	if log := d.log.tail(1000); strings.Contains(log, "planted") || strings.Contains(log, o.mail.Password) {
		t.Error("the log shows a secret")
	}
	d.kill() // or it would wait for the messages
}
