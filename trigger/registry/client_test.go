package registry

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"golang.org/x/time/rate"
)

const someDigest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// fake answers as the OCI distribution specification says, and as a test says
// where that comes first.
type fake struct {
	*httptest.Server
	first atomic.Pointer[http.HandlerFunc] // returns without a word to let the registry answer
	asked atomic.Int64
	log   *bytes.Buffer
}

func startFake(t *testing.T, first http.HandlerFunc) *fake {
	t.Helper()
	f := newFake(first)
	f.Start()
	t.Cleanup(f.Close)
	return f
}

func newFake(first http.HandlerFunc) *fake {
	f := &fake{log: &bytes.Buffer{}}
	f.answer(first)
	f.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.asked.Add(1)
		said := &watched{ResponseWriter: w}
		(*f.first.Load())(said, r)
		if !said.wrote {
			registryAnswer(w, r)
		}
	}))
	f.Server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	return f
}

// answer changes what comes first.
func (f *fake) answer(first http.HandlerFunc) {
	if first == nil {
		first = func(http.ResponseWriter, *http.Request) {}
	}
	f.first.Store(&first)
}

type watched struct {
	http.ResponseWriter
	wrote bool
}

func (w *watched) WriteHeader(status int) { w.wrote = true; w.ResponseWriter.WriteHeader(status) }

// registryAnswer is that of a registry with the repository shop/web in it.
func registryAnswer(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/v2/":
	case "/v2/_catalog":
		if r.URL.Query().Get("last") == "" {
			w.Header().Set("Link", `</v2/_catalog?n=1000&last=a>; rel="next"`)
			fmt.Fprint(w, `{"repositories":["a"]}`)
			return
		}
		fmt.Fprint(w, `{"repositories":["shop/web"]}`)
	case "/v2/shop/web/tags/list":
		fmt.Fprint(w, `{"name":"shop/web","tags":["v1","v2"]}`)
	case "/v2/shop/web/manifests/v1":
		w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
		w.Header().Set("Content-Length", "2")
		w.Header().Set("Docker-Content-Digest", someDigest)
	default:
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprint(w, `{"errors":[{"code":"NAME_UNKNOWN","message":"repository name not known to registry"}]}`)
	}
}

func (f *fake) host() string { return f.Listener.Addr().String() }

// registries are those of an entry for the fake; more is YAML, a key a line.
func (f *fake) registries(t *testing.T, more string, secret func(context.Context, PullSecret) ([]byte, error)) *Registries {
	t.Helper()
	r := mustLoad(t, "- host: "+f.host()+"\n  rate: 10000\n  "+strings.ReplaceAll(more, "\n", "\n  "))
	r.Connect(Outside{Log: slog.New(slog.NewTextHandler(f.log, nil)), PullSecret: secret})
	return r
}

func (f *fake) logged(t *testing.T, text string, want int) {
	t.Helper()
	if n := strings.Count(f.log.String(), text); n != want {
		t.Errorf("%q is logged %d times, want %d:\n%s", text, n, want, f.log)
	}
}

func says(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	}
}

func TestAnswers(t *testing.T) {
	f := startFake(t, nil)
	r := f.registries(t, "", nil)
	if tags, err := r.Tags(t.Context(), f.host(), "shop/web"); err != nil || !slices.Equal(tags, []string{"v1", "v2"}) {
		t.Errorf("tags %v, %v", tags, err)
	}
	if digest, err := r.Digest(t.Context(), f.host(), "shop/web", "v1"); err != nil || digest != someDigest {
		t.Errorf("digest %s, %v", digest, err)
	}
	if all, err := r.Catalogue(t.Context(), f.host()); err != nil || !slices.Equal(all, []string{"a", "shop/web"}) {
		t.Errorf("catalogue %v, %v", all, err)
	}
	if _, err := r.Digest(t.Context(), f.host(), "shop/web", "v2"); !errors.Is(err, ErrNotFound) {
		t.Errorf("a tag that is not there: %v", err)
	}
}

// Some registries answer HEAD without a digest.
func TestDigestWithoutHeader(t *testing.T) {
	f := startFake(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/manifests/") {
			w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
			w.WriteHeader(http.StatusOK)
			fmt.Fprint(w, "{}")
		}
	})
	digest, err := f.registries(t, "", nil).Digest(t.Context(), f.host(), "shop/web", "v1")
	if err != nil || digest != "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a" { // of {}
		t.Errorf("%s, %v", digest, err)
	}
}

// What is wrong with one repository does not pause its registry; what is wrong
// with the registry does.
func TestTroubles(t *testing.T) {
	const code = `{"errors":[{"code":"X"}]}`
	broken := func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
	half := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		w.WriteHeader(http.StatusOK)
		fmt.Fprint(w, `{"tags":[`)
	}
	for _, tt := range []struct {
		name     string
		answer   http.HandlerFunc
		paused   int // by which of the questions; 0 for never
		notFound bool
	}{
		{"too many requests", says(429, ""), 1, false},
		{"unavailable", says(503, code), 1, false},
		{"no answer", broken, 1, false},
		{"half an answer", half, 1, false},
		{"internal error", says(500, code), 3, false},
		{"bad gateway", says(502, "<html>"), 3, false},
		{"not JSON", says(200, "<html>"), 3, false},
		{"not known", says(404, code), 0, true},
		{"not found by somebody else", says(404, "default backend"), 0, false},
		{"who are you", says(401, code), 0, false},
		{"not you", says(403, code), 0, false},
		{"bad request", says(400, code), 0, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := startFake(t, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/v2/" {
					tt.answer(w, r)
				}
			})
			r := f.registries(t, "", nil)
			for i := 1; i <= 4; i++ {
				before := f.asked.Load()
				_, err := r.Tags(t.Context(), f.host(), "shop/web")
				var paused interface{ PausedUntil() time.Time }
				isPaused := errors.As(err, &paused) && paused.PausedUntil().After(time.Now())
				if want := tt.paused > 0 && i >= tt.paused; err == nil || isPaused != want {
					t.Errorf("question %d: paused %t, want %t: %v", i, isPaused, want, err)
				}
				if asked := f.asked.Load() > before; asked == (tt.paused > 0 && i > tt.paused) {
					t.Errorf("question %d: asked %t", i, asked)
				}
				if errors.Is(err, ErrNotFound) != tt.notFound {
					t.Errorf("question %d: %v", i, err)
				}
			}
			f.logged(t, "in trouble", min(tt.paused, 1))
			f.logged(t, "answers again", 0)
		})
	}
}

// One repository that is broken does not pause the others.
func TestDoubts(t *testing.T) {
	f := startFake(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "broken") {
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	r := f.registries(t, "", nil)
	for range 5 {
		for range doubtsAllowed {
			if _, err := r.Tags(t.Context(), f.host(), "broken"); err == nil {
				t.Error("no error")
			}
		}
		if _, err := r.Digest(t.Context(), f.host(), "shop/web", "v1"); err != nil {
			t.Fatal(err)
		}
		r.shared = shared{}
	}
	f.logged(t, "in trouble", 0)
}

func TestRefusedConnection(t *testing.T) {
	f := startFake(t, nil)
	r := f.registries(t, "", nil)
	f.Close()
	for _, repository := range []string{"shop/web", "shop/api"} {
		var paused *PausedError
		_, err := r.Tags(t.Context(), f.host(), repository)
		if !errors.As(err, &paused) || paused.Host != f.host() || !strings.Contains(err.Error(), "connection refused") {
			t.Errorf("%s: %v", repository, err)
		}
	}
	f.logged(t, "in trouble", 1)
}

// A name that no registry would take is no trouble of the registry.
func TestBadName(t *testing.T) {
	f := startFake(t, nil)
	r := f.registries(t, "", nil)
	if _, err := r.Tags(t.Context(), f.host(), "Shop/Web"); err == nil {
		t.Error("no error")
	}
	if _, err := r.Tags(t.Context(), f.host(), "shop/web"); err != nil {
		t.Error(err)
	}
}

// Who stops asking says nothing about the registry.
func TestCancelled(t *testing.T) {
	reached := make(chan bool)
	f := startFake(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v2/" {
			reached <- true
			<-r.Context().Done()
		}
	})
	r := f.registries(t, "", nil)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-reached
		cancel()
	}()
	if _, err := r.Tags(ctx, f.host(), "shop/web"); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	f.answer(nil)
	if _, err := r.Tags(t.Context(), f.host(), "shop/web"); err != nil {
		t.Error(err)
	}
	f.logged(t, "registry", 0)
}

func refusal(status int, retryAfter string) (*http.Response, error) {
	resp := &http.Response{StatusCode: status, Header: http.Header{"Retry-After": {retryAfter}}}
	return resp, &transport.Error{StatusCode: status}
}

func TestRetryAfter(t *testing.T) {
	for _, tt := range []struct {
		name, header string
		status       int
		want         time.Duration // 0: as unasked
	}{
		{"seconds", "90", 429, 90 * time.Second},
		{"seconds of one that is down", "90", 503, 90 * time.Second},
		{"date", "Sat, 01 Jan 2000 00:02:00 GMT", 429, 2 * time.Minute}, // the clock of synctest begins at midnight
		{"less than unasked", "1", 429, 0},
		{"too long", "86400", 429, longestRetryAfter},
		{"far too long", "99999999999999999999999", 429, longestRetryAfter},
		{"date too far away", "Wed, 01 Jan 2900 00:00:00 GMT", 429, longestRetryAfter},
		{"date that is over", "Fri, 31 Dec 1999 00:00:00 GMT", 429, 0},
		{"negative", "-90", 429, 0},
		{"words", "soon", 429, 0},
		{"nothing", "", 429, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := &client{log: slog.New(slog.DiscardHandler)}
				resp, err := refusal(tt.status, tt.header)
				c.asksForPause(resp)
				c.note(err)
				got := time.Until(c.until)
				if tt.want != 0 && got != tt.want || tt.want == 0 && (got < shortestPause || got > shortestPause*6/5) {
					t.Errorf("left alone for %v, want %v", got, tt.want)
				}
			})
		})
	}
}

// Of several answers at once the one that asks for most counts; of a success
// and a redirection nobody asks for anything.
func TestRetryAfterOfSeveral(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &client{log: slog.New(slog.DiscardHandler)}
		c.note(io.ErrUnexpectedEOF)
		for _, header := range []string{"20", "60", "30"} {
			resp, err := refusal(429, header)
			c.asksForPause(resp)
			c.note(err)
		}
		if got := time.Until(c.until); got != time.Minute {
			t.Errorf("left alone for %v", got)
		}
		time.Sleep(time.Minute)
		c.note(nil)
		resp, _ := refusal(200, "60")
		c.asksForPause(resp)
		c.note(nil)
		if err := c.paused(); err != nil {
			t.Error(err)
		}
	})
}

// The pauses grow to a bound and start again after a success. The log has one
// line when the trouble begins and one when it ends.
func TestBackOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		c := &client{host: "r.example", log: slog.New(slog.NewTextHandler(&log, nil))}
		down := &url.Error{Err: io.EOF}
		for round := 1; round <= 2; round++ {
			for i := range 20 {
				least := min(shortestPause<<i, longestPause)
				c.note(down)
				if got := time.Until(c.until); got < least || got > least*6/5 {
					t.Fatalf("failure %d: left alone for %v, want %v and a fifth at most", i, got, least)
				}
				until := c.until
				c.note(down)
				c.note(nil) // both were on their way
				if c.until != until || c.paused() == nil {
					t.Fatalf("failure %d: what was on its way changed something", i)
				}
				time.Sleep(time.Until(until))
				if err := c.paused(); err != nil {
					t.Fatal(err)
				}
			}
			c.note(nil)
			c.note(nil)
			if trouble, again := strings.Count(log.String(), "in trouble"), strings.Count(log.String(), "answers again"); trouble != round || again != round {
				t.Fatalf("round %d:\n%s", round, log.String())
			}
		}
	})
}

// roundTrip is what lies below the limits.
type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestLimits(t *testing.T) {
	for _, tt := range []struct {
		name        string
		rate        float64
		concurrency int
		takes       time.Duration // each request
		want        time.Duration // all 40
	}{
		{"rate", 10, 40, 0, 3 * time.Second}, // ten at once, then ten a second
		{"slow rate", 0.5, 40, 0, 78 * time.Second},
		{"concurrency", 1e6, 4, time.Second, 10 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var at, most, status200 atomic.Int64
				limited := &limitedTransport{
					client: &client{host: "r.example"}, rate: rate.NewLimiter(rate.Limit(tt.rate), max(1, int(tt.rate))), slots: make(chan struct{}, tt.concurrency),
					observe: func(host string, status int) {
						if host == "r.example" && status == 200 {
							status200.Add(1)
						}
					},
					base: roundTrip(func(*http.Request) (*http.Response, error) {
						if n := at.Add(1); n > most.Load() {
							most.Store(n)
						}
						defer at.Add(-1)
						time.Sleep(tt.takes)
						return &http.Response{StatusCode: 200, Body: http.NoBody}, nil
					}),
				}
				began := time.Now()
				var group sync.WaitGroup
				for range 40 {
					group.Go(func() {
						resp, err := limited.RoundTrip(httptest.NewRequestWithContext(t.Context(), "GET", "/", nil))
						if err != nil {
							t.Error(err)
							return
						}
						resp.Body.Close()
					})
				}
				group.Wait()
				if got := time.Since(began).Round(time.Millisecond); got != tt.want {
					t.Errorf("took %v, want %v", got, tt.want)
				}
				if n := most.Load(); n > int64(tt.concurrency) {
					t.Errorf("%d at once", n)
				}
				if n := status200.Load(); n != 40 {
					t.Errorf("%d requests were observed", n)
				}
			})
		})
	}
}

// A registry that does not answer is waited for so long and no longer; waiting
// for the rate does not count.
func TestRequestTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limited := &limitedTransport{
			client: &client{}, rate: rate.NewLimiter(rate.Limit(1.0/60), 1), slots: make(chan struct{}, 1),
			base: roundTrip(func(r *http.Request) (*http.Response, error) {
				<-r.Context().Done()
				return nil, r.Context().Err()
			}),
		}
		for _, want := range []time.Duration{requestTime, time.Minute} {
			began := time.Now()
			_, err := limited.RoundTrip(httptest.NewRequestWithContext(t.Context(), "GET", "/", nil))
			if got := time.Since(began); !errors.Is(err, context.DeadlineExceeded) || got != want {
				t.Errorf("after %v: %v", got, err)
			}
			if troubleIn(err) != sure {
				t.Errorf("%v is no trouble", err)
			}
		}
	})
}

func TestShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s shared
		asked := 0
		slow := errors.New("slow and wrong")
		ask := func(err error) func() (string, error) {
			return func() (string, error) {
				time.Sleep(3 * shareTime)
				asked++
				return fmt.Sprint("answer ", asked), err
			}
		}
		both := func(err error, want string, wantAsked int) {
			t.Helper()
			var group sync.WaitGroup
			for range 2 {
				group.Go(func() {
					if v, got := share(&s, "key", ask(err)); v != want || got != err {
						t.Errorf("%q, %v", v, got)
					}
				})
			}
			group.Wait()
			if asked != wantAsked {
				t.Errorf("asked %d times, want %d", asked, wantAsked)
			}
		}
		both(slow, "answer 1", 1)
		both(nil, "answer 2", 2) // an error is not kept
		both(nil, "answer 2", 2)
		time.Sleep(shareTime)
		both(nil, "answer 3", 3)
		if v, err := share(&s, "another key", ask(nil)); v != "answer 4" || err != nil {
			t.Errorf("%q, %v", v, err)
		}
		time.Sleep(3 * shareTime)
		s.put("one more", "")
		if len(s.answers) != 1 {
			t.Errorf("%d answers are kept", len(s.answers))
		}
	})
}

// guard lets only those in who log in, in one of the two ways of registries.
type guard struct {
	mu     sync.Mutex
	want   string // USER:PASSWORD
	token  int    // what is good is that many
	bearer bool
	logins int
}

func (g *guard) answer(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	defer g.mu.Unlock()
	user, password, _ := r.BasicAuth()
	good := user+":"+password == g.want
	switch {
	case !g.bearer && !good:
		w.Header().Set("WWW-Authenticate", `Basic realm="fake"`)
		w.WriteHeader(http.StatusUnauthorized)
	case g.bearer && r.URL.Path == "/token" && good:
		g.logins++
		w.WriteHeader(http.StatusOK)
		fmt.Fprintf(w, `{"token":"t%d"}`, g.token)
	case g.bearer && r.Header.Get("Authorization") != fmt.Sprintf("Bearer t%d", g.token):
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="fake"`, r.Host))
		w.WriteHeader(http.StatusUnauthorized)
	}
}

func (g *guard) rotate(want string, bearer bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.want, g.bearer, g.token = want, bearer, g.token+1
}

func dockerConfig(host, login string) []byte {
	return fmt.Appendf(nil, `{"auths":{%q:{"auth":%q}}}`, host, base64.StdEncoding.EncodeToString([]byte(login)))
}

func TestCredentials(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("HOME", dir) // who runs the tests may have logged in somewhere
	t.Setenv("XDG_RUNTIME_DIR", dir)
	t.Setenv("DOCKER_CONFIG", filepath.Join(dir, "docker"))
	if err := os.Mkdir(filepath.Join(dir, "docker"), 0o755); err != nil {
		t.Fatal(err)
	}
	write := func(t *testing.T, name string, data []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, bearer := range []bool{false, true} {
		for kind, prepare := range map[string]func(t *testing.T, host string) string{
			"password": func(t *testing.T, _ string) string {
				write(t, "password", []byte("s3cret\n"))
				return "username: u\npassword: {file: " + dir + "/password}"
			},
			"Docker configuration": func(t *testing.T, host string) string {
				write(t, "config.json", dockerConfig(host, "u:s3cret"))
				return "dockerConfig: " + dir + "/config.json"
			},
			"pull secret": func(*testing.T, string) string { return "pullSecret: {cluster: prod, namespace: shop, name: pull}" },
			"nothing said": func(t *testing.T, host string) string {
				write(t, "docker/config.json", dockerConfig(host, "u:s3cret"))
				return ""
			},
		} {
			t.Run(fmt.Sprintf("%s, bearer %t", kind, bearer), func(t *testing.T) {
				g := &guard{want: "u:s3cret", bearer: bearer}
				f := startFake(t, g.answer)
				r := f.registries(t, prepare(t, f.host()), func(_ context.Context, s PullSecret) ([]byte, error) {
					if s != (PullSecret{Cluster: "prod", Namespace: "shop", Name: "pull"}) {
						t.Errorf("%+v", s)
					}
					return dockerConfig("https://"+f.host()+"/v2/", "u:s3cret"), nil
				})
				if _, err := r.Tags(t.Context(), f.host(), "shop/web"); err != nil {
					t.Fatal(err)
				}
				if _, err := r.Digest(t.Context(), f.host(), "shop/web", "v1"); err != nil {
					t.Error(err)
				}
				if bearer && g.logins != 1 {
					t.Errorf("logged in %d times for one repository", g.logins)
				}
			})
		}
	}
}

// A password that was rotated is used at the next authentication, whether the
// registry wants it each time or for a token; a registry that changes its mind
// about that is followed.
func TestRotation(t *testing.T) {
	password := filepath.Join(t.TempDir(), "password")
	rotate := func(to string) {
		if err := os.WriteFile(password, []byte(to), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	rotate("one")
	g := &guard{want: "u:one"}
	f := startFake(t, g.answer)
	r := f.registries(t, "username: u\npassword: {file: "+password+"}", nil)
	ask := func() error {
		r.shared = shared{}
		_, err := r.Digest(t.Context(), f.host(), "shop/web", "v1")
		return err
	}
	for i, bearer := range []bool{false, false, true, true, false} {
		rotate(fmt.Sprint("number ", i))
		g.rotate(fmt.Sprint("u:number ", i), bearer)
		err := ask()
		if err != nil {
			err = ask() // authentication begins anew after a refusal
		}
		if err != nil {
			t.Errorf("rotation %d: %v", i, err)
		}
	}
	rotate("wrong")
	g.rotate("u:right", true)
	for range 3 {
		var paused *PausedError
		if err := ask(); err == nil || errors.As(err, &paused) || strings.Contains(err.Error(), "wrong") {
			t.Errorf("with a wrong password: %v", err)
		}
	}
	f.logged(t, "in trouble", 0)
}

// Without the credentials that it was told of, dockbell does not ask at all.
func TestNoCredentials(t *testing.T) {
	g := &guard{want: "u:s3cret"}
	empty := func(context.Context, PullSecret) ([]byte, error) { return []byte(`{"auths":{}}`), nil }
	forbidden := func(context.Context, PullSecret) ([]byte, error) { return nil, errors.New("forbidden") }
	const pull = "pullSecret: {namespace: shop, name: pull}"
	for _, tt := range []struct {
		name, more string
		secret     func(context.Context, PullSecret) ([]byte, error)
		want       string
	}{
		{"of another registry", pull, empty, "credentials: pull secret shop/pull has no credentials for 127.0.0.1:"},
		{"not for us", pull, forbidden, "credentials: pull secret shop/pull: forbidden"},
		{"without a cluster", pull, nil, "credentials: pull secret shop/pull: there is no cluster to read it from"},
		{"cloud of another registry", "helper: ecr", nil, "credentials: credentials not found"},
		{"cloud of yet another registry", "helper: acr", nil, "credentials: serverURL does not refer to Azure Container Registry"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := startFake(t, g.answer)
			_, err := f.registries(t, tt.more, tt.secret).Tags(t.Context(), f.host(), "shop/web")
			var paused *PausedError
			if !errors.As(err, &paused) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %s", err, tt.want)
			}
			if n := f.asked.Load(); n > 1 {
				t.Errorf("%d requests; one tells what the registry wants", n)
			}
			f.logged(t, "in trouble", 1)
		})
	}
}

// What costs a request to find is kept for a while, an error never.
func TestKeychain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked, wrong := 0, error(nil)
		k := &keychain{keep: credentialsTime, find: func(context.Context, authn.Resource) (authn.Authenticator, error) {
			asked++
			return &authn.Basic{Username: "u", Password: fmt.Sprint(asked)}, wrong
		}}
		get := func(repository string) (string, error) {
			repo, err := name.NewRepository(repository)
			if err != nil {
				t.Fatal(err)
			}
			auth, err := k.Resolve(repo)
			if err != nil {
				t.Fatal(err)
			}
			config, err := auth.Authorization()
			if err != nil {
				return "", err
			}
			return config.Password, nil
		}
		expect := func(repository, want string) {
			t.Helper()
			if got, err := get(repository); got != want || err != nil {
				t.Errorf("%s, %v; want %s", got, err, want)
			}
		}
		expect("r.example/a", "1")
		expect("r.example/b", "1")
		time.Sleep(credentialsTime)
		wrong = errors.New("away")
		if _, err := get("r.example/a"); !errors.Is(err, wrong) {
			t.Error(err)
		}
		wrong = nil
		expect("r.example/a", "3")
		k.each = true
		expect("r.example/a", "4")
		expect("r.example/b", "5")
		expect("r.example/a", "4")
	})
}

// Secrets for Docker Hub go by any of its names.
func TestDockerHubCredentials(t *testing.T) {
	for _, key := range []string{"https://index.docker.io/v1/", "https://index.docker.io/v2/", "index.docker.io", "docker.io", "https://docker.io"} {
		auth, err := fromDockerConfig(dockerConfig(key, "u:p"), "secret", name.DefaultRegistry)
		if err != nil {
			t.Error(err)
			continue
		}
		if config, err := auth.Authorization(); err != nil || config.Username != "u" || config.Password != "p" {
			t.Errorf("%s: %+v, %v", key, config, err)
		}
	}
}

func TestAuthority(t *testing.T) {
	f := newFake(nil)
	f.StartTLS()
	t.Cleanup(f.Close)
	path := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := f.registries(t, "", nil).Tags(t.Context(), f.host(), "shop/web"); err == nil || !strings.Contains(err.Error(), "x509") {
		t.Errorf("a certificate of an unknown authority: %v", err)
	}
	if _, err := f.registries(t, "ca: "+path, nil).Tags(t.Context(), f.host(), "shop/web"); err != nil {
		t.Error(err)
	}
}

// Registries answer under all of their names, and those without an entry, too.
func TestNames(t *testing.T) {
	f := startFake(t, nil)
	r := f.registries(t, "aliases: [registry.internal]", nil)
	if _, err := r.Tags(t.Context(), "registry.internal", "shop/web"); err != nil {
		t.Error(err)
	}
	if _, err := New().Tags(t.Context(), f.host(), "shop/web"); err != nil {
		t.Error(err)
	}
}
