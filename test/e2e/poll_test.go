package e2e

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/dockbell/dockbell/test/parts"
)

// gate stands before a registry: it counts what is asked, and can refuse.
type gate struct {
	addr   string
	asked  atomic.Int64
	answer atomic.Pointer[func(http.ResponseWriter)] // in place of the registry's
	login  atomic.Pointer[string]                    // USER:PASSWORD; nil lets anybody in

	mu     sync.Mutex
	at     []time.Time // of each request
	list   string      // of the tags that was asked for first
	passes int         // of a poller: how often it was
}

func gateTo(t *testing.T, r *parts.Registry) *gate {
	t.Helper()
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: r.Addr})
	g := &gate{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g.note(r)
		if answer := g.answer.Load(); answer != nil {
			(*answer)(w)
			return
		}
		if user, password, _ := r.BasicAuth(); !g.lets(user + ":" + password) {
			w.Header().Set("WWW-Authenticate", `Basic realm="gate"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	g.addr = strings.TrimPrefix(server.URL, "http://")
	return g
}

func (g *gate) set(answer func(http.ResponseWriter)) { g.answer.Store(&answer) }
func (g *gate) open()                                { g.answer.Store(nil) }
func (g *gate) lock(login string)                    { g.login.Store(&login) }

func (g *gate) note(r *http.Request) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.asked.Add(1)
	g.at = append(g.at, time.Now())
	if !strings.HasSuffix(r.URL.Path, "/tags/list") || r.URL.Query().Has("last") {
		return
	}
	if g.list == "" {
		g.list = r.URL.Path
	}
	if g.list == r.URL.Path {
		g.passes++
	}
}

// counted is how many requests there were, and in how many passes.
func (g *gate) counted() (asked, passes int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.at), g.passes
}

// rest is how long nothing was asked after the request with that number.
func (g *gate) rest(t *testing.T, n int64) time.Duration {
	t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	if int64(len(g.at)) <= n {
		t.Fatalf("nothing was asked after request %d", n)
	}
	return g.at[n].Sub(g.at[n-1])
}

func (g *gate) lets(login string) bool {
	want := g.login.Load()
	return want == nil || *want == login
}

func quietRegistry(t *testing.T) *parts.Registry {
	t.Helper()
	return quietRegistryIn(t, t.TempDir())
}

func quietRegistryIn(t *testing.T, dir string) *parts.Registry {
	t.Helper()
	r, err := parts.StartRegistry(t.Context(), bin, dir, "http://127.0.0.1:1/", "none")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Stop)
	return r
}

func push(t *testing.T, r *parts.Registry, repository, tag string) string {
	t.Helper()
	digest, err := r.PushImage(t.Context(), repository, tag)
	if err != nil {
		t.Fatal(err)
	}
	return digest
}

// polling is a dockbell that polls every second and runs a command for each
// push and for each delete.
func polling(t *testing.T, addr, source string) *daemon {
	t.Helper()
	return serve(t, header+fmt.Sprintf(`
sources:
  mirror: {type: poll, schedule: "@every 1s", %s}
rules:
  - {name: pushed, repo: "%s/**", actions: [command: {argv: ["true"]}]}
  - {name: deleted, repo: "%s/**", event: delete, actions: [command: {argv: ["true"]}]}
`, source, addr, addr))
}

// done are the runs so far, oldest first, each as RULE REPOSITORY:TAG.
func done(d *daemon) []string {
	var all []string
	for _, r := range d.runs("") {
		all = append(all, r.Rule+" "+r.Image[strings.IndexByte(r.Image, '/')+1:])
	}
	slices.Reverse(all)
	return all
}

func expectRuns(t *testing.T, d *daemon, want ...string) {
	t.Helper()
	eventually(t, fmt.Sprintf("runs are %q", want), func() error {
		if got := done(d); !slices.Equal(got, want) {
			return fmt.Errorf("%q", got)
		}
		return nil
	})
}

// look waits until a poller has made a whole pass: when the second from now
// begins, the first has ended.
func (g *gate) look(t *testing.T) {
	t.Helper()
	_, before := g.counted()
	eventually(t, "a whole pass", func() error {
		if _, n := g.counted(); n < before+2 {
			return fmt.Errorf("%d begun", n-before)
		}
		return nil
	})
}

// New tags, moved tags and deleted ones become events, what was there before
// does not; and a restart neither repeats nor misses any.
func TestPoll(t *testing.T) {
	t.Parallel()
	registry := quietRegistry(t)
	push(t, registry, "shop/web", "v1.0.0")
	push(t, registry, "shop/web", "main")
	push(t, registry, "shop/web", "nightly-1")
	g := gateTo(t, registry)
	d := polling(t, g.addr, fmt.Sprintf(`repositories: ["%s/shop/*"], tags: 'v.*|main'`, g.addr))
	g.look(t)
	expectRuns(t, d)

	push(t, registry, "shop/web", "v1.1.0")
	expectRuns(t, d, "pushed shop/web:v1.1.0")
	push(t, registry, "shop/web", "main")
	expectRuns(t, d, "pushed shop/web:v1.1.0", "pushed shop/web:main")
	push(t, registry, "shop/web", "nightly-2")
	push(t, registry, "shop/api", "v7.0.0")
	push(t, registry, "other/app", "v1.0.0")
	expectRuns(t, d, "pushed shop/web:v1.1.0", "pushed shop/web:main", "pushed shop/api:v7.0.0")

	d.stop()
	push(t, registry, "shop/web", "v1.2.0")
	tag, err := name.NewTag(registry.Addr + "/shop/web:v1.0.0")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Delete(tag); err != nil {
		t.Fatal(err)
	}
	d.start()
	all := []string{"pushed shop/web:v1.1.0", "pushed shop/web:main", "pushed shop/api:v7.0.0", "pushed shop/web:v1.2.0", "deleted shop/web:v1.0.0"}
	expectRuns(t, d, all...)
	d.kill()
	d.start()
	g.look(t)
	expectRuns(t, d, all...)
}

// A registry that is down or that asks to be left alone is left alone, and
// what was pushed meanwhile is found.
func TestPollRegistryInTrouble(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		answer func(http.ResponseWriter)
		rest   time.Duration // how long it is not asked at the least
	}{
		"asks for a rest": {func(w http.ResponseWriter) {
			w.Header().Set("Retry-After", "7") // longer than it would be left alone unasked
			w.WriteHeader(http.StatusTooManyRequests)
		}, 7 * time.Second},
		"does not answer": {func(http.ResponseWriter) { panic(http.ErrAbortHandler) }, 5 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			registry := quietRegistry(t)
			g := gateTo(t, registry)
			push(t, registry, "shop/web", "v1.0.0")
			d := polling(t, g.addr, fmt.Sprintf(`repositories: ["%s/shop/web"]`, g.addr))
			g.look(t)
			g.set(tt.answer)
			logged(t, d, "in trouble", 1)
			refused := g.asked.Load()
			g.open()
			push(t, registry, "shop/web", "v1.1.0")
			expectRuns(t, d, "pushed shop/web:v1.1.0")
			if rest := g.rest(t, refused); rest < tt.rest-100*time.Millisecond {
				t.Errorf("asked again after %v, not to be asked for %v", rest, tt.rest)
			}
			logged(t, d, "answers again", 1)
			logged(t, d, "in trouble", 1)
		})
	}
}

// logged waits until something has been logged that often, and no more often.
func logged(t *testing.T, d *daemon, text string, times int) {
	t.Helper()
	eventually(t, text+" is logged", func() error {
		if n := strings.Count(d.log.tail(100_000), text); n != times {
			return fmt.Errorf("%d times, want %d", n, times)
		}
		return nil
	})
}

// The same push seen by the registry's notification and by a poller makes one
// run, under the one name that counts.
func TestPollBesideWebhook(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	registry, err := parts.StartRegistry(t.Context(), bin, t.TempDir(), "http://"+address+"/hooks/registry", "Bearer hush")
	if err != nil {
		t.Fatal(err)
	}
	defer registry.Stop()
	g := gateTo(t, registry)
	d := serve(t, fmt.Sprintf(`
server: {listen: %q, admin: "127.0.0.1:0"}
store: sqlite:dockbell.db
registries:
  - {host: %q, aliases: [%q]}
sources:
  registry: {type: distribution, auth: {bearer: {env: TOKEN}}}
  mirror: {type: poll, schedule: "@every 1s", repositories: from-rules, initial: fire}
  second: {type: poll, schedule: "@every 1s", repositories: from-rules, tags: 'none'}
rules:
  - {name: pushed, repo: %s/shop/web, actions: [command: {argv: ["true"]}]}
`, address, g.addr, registry.Addr, registry.Addr), "TOKEN=hush")
	push(t, registry, "shop/web", "v1.0.0")
	push(t, registry, "shop/web", "v1.1.0")
	expectRuns(t, d, "pushed shop/web:v1.0.0", "pushed shop/web:v1.1.0")
	eventually(t, "each push is seen twice", func() error {
		var page struct {
			Events []struct{ Source, Tag, Registry string }
		}
		d.get("/api/v1/events", &page)
		if len(page.Events) != 4 {
			return fmt.Errorf("%+v", page.Events)
		}
		for _, e := range page.Events {
			if e.Registry != g.addr {
				t.Errorf("%+v is not under the name that counts, %s", e, g.addr)
			}
		}
		return nil
	})
	expectRuns(t, d, "pushed shop/web:v1.0.0", "pushed shop/web:v1.1.0")
}

// The credentials for a registry come from a pull secret. Who may not read it
// is told what is missing, and what was pushed meanwhile is found.
func TestPollPullSecret(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	registry := quietRegistry(t)
	g := gateTo(t, registry)
	g.lock("ci:s3cret")
	push(t, registry, "shop/web", "v1.0.0")
	d := serve(t, header+fmt.Sprintf(`
registries:
  - {host: %q, pullSecret: {namespace: %s, name: pull}}
sources:
  mirror: {type: poll, schedule: "@every 1s", repositories: from-rules}
rules:
  - {name: pushed, repo: "%s/shop/web", actions: [command: {argv: ["true"]}]}
`, g.addr, ns, g.addr))
	logged(t, d, fmt.Sprintf(`pull secret %s/pull: secrets \"pull\" not found`, ns), 1)

	secrets := cluster.Client.CoreV1().Secrets(ns)
	text := fmt.Appendf(nil, `{"auths":{%q:{"username":"ci","password":"s3cret"}}}`, g.addr)
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "pull"}, Type: corev1.SecretTypeDockerConfigJson, Data: map[string][]byte{corev1.DockerConfigJsonKey: text}}
	if _, err := secrets.Create(t.Context(), secret, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	logged(t, d, "answers again", 1)
	push(t, registry, "shop/web", "v1.1.0")
	expectRuns(t, d, "pushed shop/web:v1.1.0")
	logged(t, d, "in trouble", 1)
}

// A repository with 10,000 tags costs a bounded number of requests in each
// pass, and new tags are found among them at once.
func TestPollManyTags(t *testing.T) {
	t.Parallel()
	const tags = 10_000
	dir := t.TempDir()
	registry := quietRegistryIn(t, dir)
	retag(t, dir, "big/repo", push(t, registry, "big/repo", "v0.0.0"), tags)
	g := gateTo(t, registry)
	d := serve(t, header+fmt.Sprintf(`
registries: [{host: %q, rate: 1000, concurrency: 8}]
sources:
  mirror: {type: poll, schedule: "@every 2s", repositories: ["%s/big/repo"]}
rules:
  - {name: pushed, repo: "%s/**", actions: [command: {argv: ["true"]}]}
`, g.addr, g.addr, g.addr))
	g.look(t)
	push(t, registry, "big/repo", "v99.0.0")
	push(t, registry, "big/repo", "latest")
	eventually(t, "both are found", func() error {
		if got := done(d); len(got) != 2 || !slices.Contains(got, "pushed big/repo:latest") || !slices.Contains(got, "pushed big/repo:v99.0.0") {
			return fmt.Errorf("%q", got)
		}
		return nil
	})
	// Ten pages of a thousand tags, 200 tags that are looked up, the manifests
	// of two, and who it is.
	if asked, passes := g.counted(); asked > passes*210+10 {
		t.Errorf("%d requests in %d passes", asked, passes)
	}
}

// retag puts a manifest of a registry below dir under many tags. It writes them
// where the registry keeps them: pushing them takes ten times as long.
func retag(t *testing.T, dir, repository, digest string, n int) {
	t.Helper()
	const kept = "registry-*/images/docker/registry/v2/repositories"
	found, err := filepath.Glob(filepath.Join(dir, kept, repository, "_manifests/tags"))
	if err != nil || len(found) != 1 {
		t.Fatalf("%d folders of tags, %v", len(found), err)
	}
	for i := range n {
		current := filepath.Join(found[0], fmt.Sprintf("v0.%d.%d", i/100, i%100), "current")
		if err := os.MkdirAll(current, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(current, "link"), []byte(digest), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
