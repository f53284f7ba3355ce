package action

import (
	"encoding/base64"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
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
		{`{url: SERVER/x, method: PROPFIND, body: "{no json"}`, "PROPFIND SERVER/x", "PROPFIND", "/x", "", "{no json"},
		{`{url: SERVER/x, body: "{}", headers: {Content-Type: text/plain}}`, "POST SERVER/x", "POST", "/x", "text/plain", "{}"},
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
		{"repeatable: true", 500, "answered 500", true},
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
		"{url: example.com/x}":                          "url: must begin with https:// or http://",
		"{url: 'https://u:p@example.com'}":              "url: must not hold a user or password",
		"{url: 'http://169.254.169.254/'}":              "url: 169.254.169.254 is a link-local",
		"{url: 'http://x:y z/'}":                        "url: is not a well-formed URL",
		"{url: 'https://x', method: post}":              "method: must be a method as GET or POST, in capitals",
		"{url: 'https://x', method: GET, body: x}":      "method: a GET has no body",
		"{url: 'https://x', method: CONNECT}":           "method: must be a method as GET or POST",
		"{url: 'https://x', body: '{\"tag\": \"v1\"}'}": "body: is JSON: write it below json",
		"{url: 'https://x', body: ' [1]'}":              "body: is JSON: write it below json",
		"{url: 'https://x', body: 'null', headers: {content-type: application/vnd.x+json; charset=utf-8}}": "body: is JSON: write it below json",
		"{url: 'https://x', sign: {as: github}}":                                                           "sign.secret: is missing",
		"{url: 'https://x', sign: {as: md5, secret: {env: PLANTED_TOKEN}}}":                                "sign.as: must be github or standard-webhooks, not",
		"{url: 'https://x', sign: {as: github, secret: {env: ABSENT}}}":                                    "sign.secret: environment variable ABSENT is not set",
		"{url: 'https://x', sign: {as: standard-webhooks, secret: {env: PLANTED_TOKEN}}}":                  "sign.secret: must be whsec_ and base64",
		"{url: 'https://x', tls: {cert: x.pem}}":                                                           "tls: needs cert and key",
		"{url: 'https://x', tls: {cert: /absent.pem, key: /absent.pem}}":                                   "tls: open /absent.pem: no such file",
		"{url: 'https://x', tls: {ca: /absent.pem}}":                                                       "tls.ca: open /absent.pem: no such file",
		"{url: 'https://x', proxy: proxy.example.com}":                                                     "proxy: must be the URL of a proxy",
		"{url: 'https://x', proxy: 'http://u:p@proxy.example.com'}":                                        "proxy: holds a user or password: keep it as a secret",
		"{url: 'https://x', json: {}, body: x}":                                                            "json: there is a body too",
		"{url: 'https://x', json: {1: x}}":                                                                 "json: cannot be written as JSON",
		"{url: 'https://x', headers: {Host: x}}":                                                           "headers.Host: is set by dockbell itself",
		"{url: 'https://x', headers: {'A B': x}}":                                                          "is not a header name",
		`{url: 'https://x', headers: {A: "x\r\nB: y"}}`:                                                    "headers.A: a header must be one line",
		"{url: 'https://x', expect: []}":                                                                   "expect: must name at least one status",
		"{url: 'https://x', expect: [ok]}":                                                                 "expect: must hold statuses",
		"{url: 'https://x', retryOn: [200]}":                                                               "retryOn: must hold statuses",
		"{url: 'https://x', headers: {A: {env: ABSENT_HEADER}}}":                                           "headers.A: environment variable ABSENT_HEADER is not set",
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

// What a receiver says is kept with the run: all its lines, bounded, without
// what a terminal would take for orders.
func TestHTTPKeepsTheAnswer(t *testing.T) {
	plant(t)
	for says, want := range map[string]string{
		"{\n  \"id\": 7\n}\n":            "{\n  \"id\": 7\n}\n",
		"":                               "",
		"a\x1b[31mb\x00\xff":             "a[31mb�\n",
		"token=" + plantedToken:          "token=<secret>\n",
		"<html><p>ok</p></html>":         "ok\n",
		strings.Repeat("x", 2*keptLimit): strings.Repeat("x", keptLimit) + "…\n",
	} {
		server := serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, says) })
		a := mustBuild(t, HTTP(aClient()), "{url: "+server+"/x, headers: {X-Token: {env: PLANTED_TOKEN}}}")
		var log strings.Builder
		if err := a.Do(t.Context(), aRun, &log); err != nil || log.String() != "POST "+server+"/x answered 200 OK\n"+want {
			t.Errorf("%q: %v, %q", says, err, log.String())
		}
	}
}

// The signatures are those of the examples that GitHub's "Validating webhook
// deliveries" and the libraries of Standard Webhooks give.
func TestHTTPSignatures(t *testing.T) {
	t.Setenv("GITHUB_SECRET", "It's a Secret to Everybody")
	t.Setenv("STANDARD_SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	synctest.Test(t, func(t *testing.T) {
		var got http.Header
		client := clientOf(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = r.Header }))
		do := func(spec string) {
			if err := mustBuild(t, HTTP(client), "{url: https://example.com, "+spec+"}").Do(t.Context(), aRun, io.Discard); err != nil {
				t.Fatal(err)
			}
		}
		do("body: 'Hello, World!', sign: {as: github, secret: {env: GITHUB_SECRET}}")
		if s := got.Get("X-Hub-Signature-256"); s != "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17" {
			t.Error(s)
		}
		do("json: {test: 2432232314}, sign: {as: standard-webhooks, secret: {env: STANDARD_SECRET}}")
		id, at := got.Get("webhook-id"), got.Get("webhook-timestamp")
		if id != "dockbell-77" || at != strconv.FormatInt(time.Now().Unix(), 10) {
			t.Errorf("id %q, timestamp %q", id, at)
		}
		if s := got.Get("webhook-signature"); s != "v1,"+base64.StdEncoding.EncodeToString(sum([]byte{
			0x31, 0xf2, 0x90, 0xf6, 0xbf, 0x06, 0x29, 0x8a, 0xab, 0x4f, 0x08, 0xd4, 0x3c, 0x3f, 0x08, 0x2c, 0xf6, 0x48, 0xa3, 0x62, 0xda, 0x2d, 0xa4, 0xb0,
		}, id+"."+at+`.{"test":2432232314}`)) {
			t.Error(s)
		}
	})
	key, err := base64.StdEncoding.DecodeString("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	if err != nil {
		t.Fatal(err)
	}
	const known = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
	if got := "v1," + base64.StdEncoding.EncodeToString(sum(key, `msg_p5jXN8AQM9LWM0D4loKWxJek.1614265330.{"test": 2432232314}`)); got != known {
		t.Errorf("%s, want %s", got, known)
	}
}
