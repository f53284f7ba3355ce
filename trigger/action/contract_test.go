package action

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dockbell/dockbell/trigger"
	"github.com/dockbell/dockbell/trigger/strictyaml"
)

// build makes an action from YAML as it stands in a rule.
func build(b trigger.Builder, spec string) (trigger.Action, error) {
	n, err := strictyaml.Parse("rule.yaml", strings.NewReader(spec))
	if err != nil {
		return nil, err
	}
	a, err := b(func(v any) error {
		n.Decode(v)
		return n.Err()
	})
	if err != nil && n.Err() == nil {
		n.Fault(err)
	}
	return a, n.Err()
}

func mustBuild(t *testing.T, b trigger.Builder, spec string) trigger.Action {
	t.Helper()
	a, err := build(b, spec)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

var aRun = trigger.Run{
	ID: 77, EventID: 5, Attempt: 2, Rule: "web-to-prod",
	Event: trigger.Event{
		Image:  trigger.Image{Registry: "registry.example.com", Repository: "shop/web", Tag: "v1.2.3", Digest: "sha256:" + strings.Repeat("a", 64)},
		Source: "registry", Action: trigger.Push, Actor: "ann", OccurredAt: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
	},
}

// The planted secrets hold what is written differently in URLs, HTML, JSON.
const (
	plantedToken = `tok+en/&"<planted>=1`
	plantedJob   = `job+tok/&"<planted>=2`
	plantedHub   = "/u/shop/web/hook/planted3/"
	plantedQuery = "planted4"
)

func plant(t *testing.T) {
	t.Setenv("PLANTED_TOKEN", plantedToken)
	t.Setenv("PLANTED_HEADER", "Bearer "+plantedToken)
	t.Setenv("PLANTED_JOB", plantedJob)
}

// noSecret looks for the planted secrets in a text, in all their forms.
func noSecret(t *testing.T, where, text string) {
	t.Helper()
	for _, s := range []string{plantedToken, plantedJob, plantedHub, plantedQuery} {
		quoted, _ := json.Marshal(s)
		for _, form := range []string{
			s, url.QueryEscape(s), url.PathEscape(s), html.EscapeString(s), strings.Trim(string(quoted), `"`),
			base64.StdEncoding.EncodeToString([]byte("ci:" + s)),
		} {
			if strings.Contains(text, form) {
				t.Errorf("%s shows the secret %q:\n%s", where, form, text)
			}
		}
	}
	if strings.Contains(text, "planted") {
		t.Errorf("%s shows a part of a secret:\n%s", where, text)
	}
}

// httpKind is a kind of action that calls something over HTTP.
type httpKind struct {
	name     string
	build    func(client *Client) trigger.Builder
	spec     func(server string) string
	says     string // what the server says to success; "" for all that it was sent
	harmless bool
	missing  []string // fields that are named when nothing is given
}

// specOf fills SERVER into a specification.
func specOf(spec string) func(string) string {
	return func(server string) string { return strings.ReplaceAll(spec, "SERVER", server) }
}

func httpKinds() []httpKind {
	const byToken = ", repository: shop/deploy, token: {env: PLANTED_TOKEN}, api_url: SERVER}"
	return []httpKind{
		{
			name: "http", build: HTTP, missing: []string{"url: is missing"},
			spec: specOf(`{url: "SERVER/hook?key=` + plantedQuery + `", headers: {Authorization: {env: PLANTED_HEADER}}, json: {a: 1}}`),
		},
		{
			name: "http, signed and repeatable", build: HTTP, harmless: true,
			spec: specOf(`{url: SERVER/hook, sign: {as: github, secret: {env: PLANTED_TOKEN}}, headers: {X-Key: {env: PLANTED_JOB}}, repeatable: true}`),
		},
		{
			name: "jenkins", build: Jenkins, missing: []string{"url: is missing"},
			spec: specOf(`{url: SERVER/job/web, user: ci, token: {env: PLANTED_TOKEN}}`),
		},
		{
			name: "jenkins, job token", build: Jenkins,
			spec: specOf(`{url: SERVER/job/web, jobToken: {env: PLANTED_JOB}}`),
		},
		{
			name: "jenkins, found again", build: Jenkins, harmless: true,
			spec: specOf(`{url: SERVER/job/web, user: ci, token: {env: PLANTED_TOKEN}, jobToken: {env: PLANTED_JOB}}`),
		},
		{
			name: "jenkins, webhook", build: Jenkins, says: `{"jobs":{"web":{"triggered":true,"url":"queue/item/1/"}}}`,
			spec: specOf(`{url: SERVER, webhookToken: {env: PLANTED_JOB}}`),
		},
		{
			name: "github", build: GitHub, missing: []string{"repository: must be", "token: is missing", "event_type: is missing"},
			spec: specOf(`{event_type: pushed` + byToken),
		},
		{
			name: "github, workflow", build: GitHub,
			spec: specOf(`{workflow: deploy.yml, ref: main` + byToken),
		},
		{
			name: "github, deployment", build: GitHub, harmless: true, says: `{"id":1}`,
			spec: specOf(`{deployment: {ref: main, environment: prod}` + byToken),
		},
		{
			name: "github, status", build: GitHub, harmless: true,
			spec: specOf(`{status: {sha: ` + githubCommit + `, state: success, context: x}` + byToken),
		},
		{
			name: "gitlab", build: GitLab, missing: []string{"project: must be", "token: is missing", "ref: is missing"},
			spec: specOf(`{url: SERVER, project: shop/deploy, ref: main, token: {env: PLANTED_TOKEN}}`),
		},
		{
			name: "gitlab, trigger token", build: GitLab,
			spec: specOf(`{url: SERVER, project: shop/deploy, ref: main, trigger: {env: PLANTED_TOKEN}}`),
		},
		{
			name: "dockerhub_callback", harmless: true, missing: []string{"url: is missing"},
			build: func(client *Client) trigger.Builder {
				return DockerHubCallback(client, func(context.Context, int64) ([]trigger.State, error) {
					return []trigger.State{trigger.Succeeded}, nil
				})
			},
			spec: func(string) string { return "{url: https://registry.hub.docker.com" + plantedHub + "}" },
		},
	}
}

// aClient is the real client with nothing configured.
func aClient() *Client {
	client, err := NewClient(Outbound{})
	if err != nil {
		panic(err)
	}
	return client
}

// clientTo is the real client, with Docker Hub at the given server.
func clientTo(server string) *Client {
	client := aClient()
	for _, c := range []*http.Client{client.asks, client.does} {
		c.Transport.(*http.Transport).DialTLSContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", strings.TrimPrefix(server, "http://"))
		}
	}
	return client
}

// try does a kind's action against a server and checks that nothing shows a
// secret.
func (k httpKind) try(t *testing.T, ctx context.Context, server string) (log string, err error) {
	t.Helper()
	a := mustBuild(t, k.build(clientTo(server)), k.spec(server))
	var out strings.Builder
	first := aRun
	first.Attempt = 1
	err = a.Do(ctx, first, &out)
	noSecret(t, "the log", out.String())
	noSecret(t, "the target", a.Target())
	if err != nil {
		noSecret(t, "the error", err.Error())
	}
	return out.String(), err
}

// echo answers with the given status and with all that it was sent, in the
// ways in which servers do that.
func echo(w http.ResponseWriter, r *http.Request, status int) {
	body, _ := io.ReadAll(r.Body)
	w.WriteHeader(status)
	fmt.Fprintf(w, "%s %s %v %s\n", r.Method, r.RequestURI, r.Header, body)
	_ = json.NewEncoder(w).Encode(map[string]any{"url": r.URL.String(), "path": r.URL.Path, "query": r.URL.Query(), "headers": r.Header})
	if user, password, ok := r.BasicAuth(); ok {
		fmt.Fprintf(w, "<p>%s %s</p>", user, html.EscapeString(password))
	}
}

func serve(t *testing.T, h http.HandlerFunc) string {
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

func TestContract(t *testing.T) {
	plant(t)
	for _, k := range httpKinds() {
		t.Run(k.name, k.contract)
	}
}

// contract is what every kind is held to.
func (k httpKind) contract(t *testing.T) {
	t.Run("success", k.success)
	t.Run("statuses", k.statuses)
	t.Run("retry after", k.retryAfter)
	t.Run("nothing sent", k.nothingSent)
	t.Run("connection cut", k.connectionCut)
	t.Run("context ends", k.contextEnds)
	t.Run("redirects", k.redirects)
	t.Run("specification", k.specification)
}

func (k httpKind) success(t *testing.T) {
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", "http://"+r.Host+"/queue/item/1/?token="+plantedQuery)
		if r.UserAgent() != "dockbell" {
			t.Errorf("User-Agent is %q", r.UserAgent())
		}
		if k.says != "" && r.Method == http.MethodPost {
			w.WriteHeader(http.StatusCreated)
			fmt.Fprint(w, k.says)
			return
		}
		echo(w, r, http.StatusCreated)
	})
	log, err := k.try(t, t.Context(), server)
	if err != nil {
		t.Fatal(err)
	}
	if strings.TrimSpace(log) == "" {
		t.Error("nothing is logged")
	}
}

func (k httpKind) statuses(t *testing.T) {
	always := map[int]bool{408: true, 429: true, 503: true}
	uncertain := map[int]bool{500: true, 502: true, 504: true}
	for _, status := range []int{302, 400, 401, 403, 404, 405, 408, 409, 410, 422, 429, 500, 501, 502, 503, 504} {
		server := serve(t, func(w http.ResponseWriter, r *http.Request) { echo(w, r, status) })
		_, err := k.try(t, t.Context(), server)
		if err == nil {
			t.Errorf("%d is taken for success", status)
			continue
		}
		want := always[status] || uncertain[status] && k.harmless
		if _, again := trigger.Retryable(err); again != want {
			t.Errorf("%d: repeatable is %t, want %t: %v", status, again, want, err)
		}
		if !strings.Contains(err.Error(), fmt.Sprint(status)) {
			t.Errorf("the error does not name the status %d: %v", status, err)
		}
		if says := strings.Contains(err.Error(), "may have happened"); says != (uncertain[status] && !k.harmless) {
			t.Errorf("%d: says that it may have happened is %t: %v", status, says, err)
		}
	}
}

func (k httpKind) retryAfter(t *testing.T) {
	for header, want := range map[string][2]time.Duration{
		"7":      {7 * time.Second, 7 * time.Second},
		"999999": {time.Hour, time.Hour},
		time.Now().Add(90 * time.Second).UTC().Format(http.TimeFormat): {80 * time.Second, 90 * time.Second},
	} {
		for _, status := range []int{429, 503} {
			server := serve(t, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Retry-After", header)
				echo(w, r, status)
			})
			_, err := k.try(t, t.Context(), server)
			after, again := trigger.Retryable(err)
			if !again || after < want[0] || after > want[1] {
				t.Errorf("%d with Retry-After %q: repeatable is %t after %s", status, header, again, after)
			}
		}
	}
}

func (k httpKind) nothingSent(t *testing.T) {
	closed := httptest.NewServer(nil)
	closed.Close()
	_, err := k.try(t, t.Context(), closed.URL)
	if _, again := trigger.Retryable(err); !again {
		t.Errorf("a refused connection is not repeatable: %v", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("timed out after 3s"))
	_, err = k.try(t, ctx, closed.URL)
	if _, again := trigger.Retryable(err); !again || !strings.Contains(err.Error(), "timed out after 3s") {
		t.Errorf("a try that ended before it was sent is not repeatable: %v", err)
	}
}

func (k httpKind) connectionCut(t *testing.T) {
	var requests atomic.Int32
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		_, _ = io.Copy(io.Discard, r.Body)
		conn, _, err := w.(http.Hijacker).Hijack()
		if err == nil {
			conn.Close()
		}
	})
	_, err := k.try(t, t.Context(), server)
	k.uncertain(t, err)
	if n := requests.Load(); n != 1 {
		t.Errorf("it was sent %d times", n)
	}
}

// uncertain checks the error of a call that may have happened.
func (k httpKind) uncertain(t *testing.T, err error) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	if _, again := trigger.Retryable(err); again != k.harmless {
		t.Errorf("repeatable is %t, want %t: %v", again, k.harmless, err)
	}
	if says := strings.Contains(err.Error(), "may have happened"); says == k.harmless {
		t.Errorf("says that it may have happened is %t: %v", says, err)
	}
}

func (k httpKind) contextEnds(t *testing.T) {
	arrived := make(chan struct{}, 1)
	stop := make(chan struct{})
	server := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		arrived <- struct{}{}
		<-stop
	})
	defer close(stop)
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() {
		<-arrived
		cancel(errors.New("timed out after 3s"))
	}()
	began := time.Now()
	_, err := k.try(t, ctx, server)
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %s to end", took)
	}
	k.uncertain(t, err)
	if !strings.Contains(err.Error(), "timed out after 3s") {
		t.Errorf("the error does not say why: %v", err)
	}
}

func (k httpKind) redirects(t *testing.T) {
	var strays atomic.Int32
	other := serve(t, func(http.ResponseWriter, *http.Request) { strays.Add(1) })
	for _, target := range []string{other, strings.Replace(other, "127.0.0.1", "localhost", 1)} {
		for _, status := range []int{301, 302, 303, 307, 308} {
			server := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Location", target+"/elsewhere?token="+plantedQuery)
				w.WriteHeader(status)
			})
			_, err := k.try(t, t.Context(), server)
			if _, again := trigger.Retryable(err); err == nil || again {
				t.Errorf("%d to %s: %v", status, target, err)
			} else if !strings.Contains(err.Error(), "redirects to "+target+"/elsewhere,") {
				t.Errorf("the error does not say where: %v", err)
			}
		}
	}
	if n := strays.Load(); n > 0 {
		t.Errorf("%d requests went to another host", n)
	}
}

func (k httpKind) specification(t *testing.T) {
	b := k.build(aClient())
	spec := k.spec("https://ci.example.com")
	if _, err := build(b, spec); err != nil {
		t.Fatal(err)
	}
	_, err := build(b, strings.TrimSuffix(spec, "}")+", bogus: 1}")
	if err == nil || !strings.Contains(err.Error(), `unknown key "bogus"`) {
		t.Errorf("an unknown key: %v", err)
	}
	_, err = build(b, "{}")
	for _, want := range k.missing {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("missing fields: %v, want %q", err, want)
		}
	}
	if strings.Contains(spec, "PLANTED") {
		_, err = build(b, strings.ReplaceAll(spec, "PLANTED", "ABSENT"))
		if err == nil || !strings.Contains(err.Error(), "environment variable ABSENT_") {
			t.Errorf("an absent secret: %v", err)
		}
		_, err = build(b, strings.NewReplacer("{env: PLANTED_TOKEN}", plantedQuery, "{env: PLANTED_JOB}", plantedQuery, "{env: PLANTED_HEADER}", "[]").Replace(spec))
		if err == nil || !strings.Contains(err.Error(), "a secret is a reference") {
			t.Errorf("a secret written out: %v", err)
		}
	}
}

// A secret that goes away after loading is worth another try: nothing was
// sent.
func TestSecretGoesAway(t *testing.T) {
	for _, k := range httpKinds() {
		plant(t)
		spec := k.spec("http://127.0.0.1:1")
		if !strings.Contains(spec, "PLANTED") {
			continue
		}
		a := mustBuild(t, k.build(aClient()), spec)
		t.Setenv("PLANTED_TOKEN", "")
		t.Setenv("PLANTED_HEADER", "")
		t.Setenv("PLANTED_JOB", "")
		err := a.Do(t.Context(), aRun, io.Discard)
		if _, again := trigger.Retryable(err); !again || !strings.Contains(err.Error(), "PLANTED_") {
			t.Errorf("%s: %v", k.name, err)
		}
	}
}
