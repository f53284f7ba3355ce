package action

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/dockbell/dockbell/trigger"
)

func TestHTTPRequest(t *testing.T) {
	plant(t)
	var got *http.Request
	var body []byte
	server := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		got = r
		body, _ = io.ReadAll(r.Body)
	})
	t.Setenv("PLANTED_URL", server+plantedHub)

	for _, c := range []struct {
		spec, target, method, path, contentType, body string
	}{
		{`{url: "SERVER/deploy?a=b"}`, "POST SERVER/deploy", "POST", "/deploy?a=b", "", ""},
		{"{url: SERVER/x, method: PUT, body: 'tag=v1'}", "PUT SERVER/x", "PUT", "/x", "", "tag=v1"},
		{"{url: SERVER/x, method: GET}", "GET SERVER/x", "GET", "/x", "", ""},
		{
			`{url: SERVER/x, json: {text: "a\"}, {\"b", n: 1, nested: [true, null, {k: v}]}}`, "POST SERVER/x", "POST", "/x",
			"application/json", `{"n":1,"nested":[true,null,{"k":"v"}],"text":"a\"}, {\"b"}`,
		},
		{`{url: SERVER/x, json: [1], headers: {content-type: application/vnd.x+json}}`, "POST SERVER/x", "POST", "/x", "application/vnd.x+json", "[1]"},
		{`{url: {env: PLANTED_URL}}`, "POST <secret env PLANTED_URL>", "POST", plantedHub, "", ""},
	} {
		a := mustBuild(t, HTTP(aClient()), strings.ReplaceAll(c.spec, "SERVER", server))
		if want := strings.ReplaceAll(c.target, "SERVER", server); a.Target() != want {
			t.Errorf("target %q, want %q", a.Target(), want)
		}
		var log strings.Builder
		if err := a.Do(t.Context(), aRun, &log); err != nil {
			t.Errorf("%s: %v", c.spec, err)
			continue
		}
		noSecret(t, "the log", log.String())
		if got.Method != c.method || got.RequestURI != c.path || got.Header.Get("Content-Type") != c.contentType || string(body) != c.body {
			t.Errorf("%s: sent %s %s %q %q", c.spec, got.Method, got.RequestURI, got.Header.Get("Content-Type"), body)
		}
		if key := got.Header.Get("Idempotency-Key"); key != "dockbell-77" {
			t.Errorf("Idempotency-Key %q", key)
		}
	}
}

func TestHTTPSecretHeader(t *testing.T) {
	plant(t)
	server := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		if got := r.Header.Get("X-Token"); got != plantedToken {
			t.Errorf("X-Token is %q", got)
		}
	})
	a := mustBuild(t, HTTP(aClient()), "{url: "+server+", headers: {X-Token: {env: PLANTED_TOKEN}}}")
	if err := a.Do(t.Context(), aRun, io.Discard); err != nil {
		t.Error(err)
	}
}

// A secret in the address stays out of errors when nothing answers, too.
func TestHTTPSecretURL(t *testing.T) {
	for _, address := range []string{"http://127.0.0.1:1" + plantedHub, "http://127.0.0.1:1/?key=" + plantedQuery, "http://%zz/" + plantedQuery, "ftp://x" + plantedHub} {
		t.Setenv("PLANTED_URL", address)
		a, err := build(HTTP(aClient()), "{url: {env: PLANTED_URL}}")
		if err == nil {
			err = a.Do(t.Context(), aRun, io.Discard)
		}
		noSecret(t, "the error", strings.ReplaceAll(err.Error(), "<secret env PLANTED_URL>", ""))
	}
}

func TestHTTPStatuses(t *testing.T) {
	for _, c := range []struct {
		spec   string
		status int
		want   string // of the error; "" for success
		again  bool
	}{
		{"", 204, "", false},
		{"expect: [200]", 204, "answered 204 No Content: expected 200", false},
		{"expect: [200, 4xx]", 404, "", false},
		{"expect: [303]", 303, "", false},
		{"retryOn: [409]", 409, "answered 409 Conflict", true},
		{"retryOn: [502]", 502, "answered 502 Bad Gateway", true},
		{"retryOn: [502]", 500, "it may have happened, so it is not repeated", false},
		{"method: PUT", 500, "answered 500", true},
		{"method: PATCH", 500, "it may have happened, so it is not repeated", false},
	} {
		server := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "3")
			w.WriteHeader(c.status)
		})
		err := mustBuild(t, HTTP(aClient()), "{url: "+server+", "+c.spec+"}").Do(t.Context(), aRun, io.Discard)
		if c.want == "" {
			if err != nil {
				t.Errorf("%s, %d: %v", c.spec, c.status, err)
			}
			continue
		}
		after, again := trigger.Retryable(err)
		if err == nil || !strings.Contains(err.Error(), c.want) || again != c.again || again && after != 3*time.Second {
			t.Errorf("%s, %d: %v (repeatable %t after %s)", c.spec, c.status, err, again, after)
		}
	}
}

func TestHTTPSpecification(t *testing.T) {
	plant(t)
	for spec, want := range map[string]string{
		"{url: example.com/x}":                                   "url: must begin with https:// or http://",
		"{url: 'https://u:p@example.com'}":                       "url: must not hold a user or password",
		"{url: 'http://169.254.169.254/'}":                       "url: 169.254.169.254 is a link-local",
		"{url: 'http://x:y z/'}":                                 "url: is not a well-formed URL",
		"{url: 'https://x', method: post}":                       "method: must be one of",
		"{url: 'https://x', method: GET, body: x}":               "method: a GET has no body",
		"{url: 'https://x', json: {}, body: x}":                  "json: there is a body too",
		"{url: 'https://x', json: {1: x}}":                       "json: cannot be written as JSON",
		"{url: 'https://x', headers: {Host: x}}":                 "headers.Host: is set by dockbell itself",
		"{url: 'https://x', headers: {'A B': x}}":                "is not a header name",
		`{url: 'https://x', headers: {A: "x\r\nB: y"}}`:          "headers.A: a header must be one line",
		"{url: 'https://x', expect: []}":                         "expect: must name at least one status",
		"{url: 'https://x', expect: [ok]}":                       "expect: must hold statuses",
		"{url: 'https://x', retryOn: [200]}":                     "retryOn: must hold statuses",
		"{url: 'https://x', headers: {A: {env: ABSENT_HEADER}}}": "headers.A: environment variable ABSENT_HEADER is not set",
	} {
		if _, err := build(HTTP(aClient()), spec); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", spec, err, want)
		}
	}
	_, err := build(HTTP(aClient()), "{url: x, method: post, expect: [ok]}")
	if err == nil || strings.Count(err.Error(), "\n") != 2 {
		t.Errorf("not all faults are reported at once: %v", err)
	}
}
