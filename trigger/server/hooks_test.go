package server

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"testing/iotest"

	"net/http/httptest"
)

const webDigest = "sha256:2222222222222222222222222222222222222222222222222222222222222222"

func hubPush(repo, tag string) string {
	return fmt.Sprintf(`{"push_data":{"pushed_at":1772600767,"pusher":"crane","tag":%q},"repository":{"repo_name":%q}}`, tag, repo)
}

// registryEvent is one of a registry's envelope.
func registryEvent(id, action, repo, tag string) string {
	mediaType := "application/vnd.oci.image.manifest.v1+json"
	return fmt.Sprintf(`{"id":%q,"timestamp":"2026-03-04T05:06:07Z","action":%q,"target":{"mediaType":%q,"digest":%q,"repository":%q,"tag":%q},"request":{"host":"registry.example.com"}}`,
		id, action, mediaType, webDigest, repo, tag)
}

func envelope(events ...string) string { return `{"events":[` + strings.Join(events, ",") + `]}` }

func gridPush(repo string) string {
	return fmt.Sprintf(`[{"id":"1","eventType":"Microsoft.ContainerRegistry.ImagePushed","eventTime":"2026-03-04T05:06:07Z","data":{"action":"push","target":{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":%q,"repository":%q,"tag":"v1"},"request":{"host":"dock.azurecr.io"}}}]`, webDigest, repo)
}

const gridValidation = `[{"id":"1","eventType":"Microsoft.EventGrid.SubscriptionValidationEvent","data":{"validationCode":"c0de","validationUrl":"https://example.com"}}]`

const bearer = "Bearer " + token

func TestStatus(t *testing.T) {
	sum := hmac.New(sha256.New, []byte(token))
	sum.Write([]byte(hubPush("shop/web", "signed")))
	tests := []struct {
		name, method, target, body string
		header                     []string
		status                     int
		body200                    string // a part of the answer
	}{
		{"accepted", "POST", "/hooks/hub?token=" + token, hubPush("shop/web", "v1"), nil, 202, `"runs":["`},
		{"accepted by the other name of a query token", "POST", "/hooks/hub?secret=" + token, hubPush("shop/web", "v2"), nil, 202, `"runs":["`},
		{"accepted with a signature", "POST", "/hooks/signed", hubPush("shop/web", "signed"), []string{"X-Dock-Sum", hex.EncodeToString(sum.Sum(nil))}, 202, `"runs":["`},
		{"accepted from anybody", "POST", "/hooks/open", hubPush("shop/web", "v3"), nil, 202, `"runs":["`},
		{"no rule matches", "POST", "/hooks/hub?token=" + token, hubPush("other/web", "v1"), nil, 200, `"ignored":"no rule is for the repository docker.io/other/web"`},
		{"nothing that could start anything", "POST", "/hooks/registry", envelope(registryEvent("a", "pull", "shop/web", "v1")), []string{"Authorization", bearer}, 200, `"ignored":[{"reason":"pull"`},
		{"no events at all", "POST", "/hooks/registry", `{"events":[]}`, []string{"Authorization", bearer}, 200, `"events":[]`},
		{"a delete that no rule wants", "POST", "/hooks/registry", envelope(registryEvent("b", "delete", "shop/web", "v1")), []string{"Authorization", bearer}, 200, `"ignored":[{"reason":"delete"`},
		{"a delete that one wants", "POST", "/hooks/registry", envelope(registryEvent("c", "delete", "shop/gone", "v1")), []string{"Authorization", bearer}, 202, `"action":"delete","runs":["`},
		{"Event Grid", "POST", "/hooks/grid?token=" + token, gridPush("shop/web"), nil, 202, `"runs":["`},
		{"validation handshake", "POST", "/hooks/grid?token=" + token, gridValidation, []string{"Aeg-Event-Type", "SubscriptionValidation"}, 200, `{"validationResponse":"c0de"}`},

		{"not JSON", "POST", "/hooks/hub?token=" + token, `{"push_data"`, nil, 400, `not a valid delivery`},
		{"empty", "POST", "/hooks/hub?token=" + token, "", nil, 400, `the body is empty`},
		{"another vendor's", "POST", "/hooks/hub?token=" + token, envelope(), nil, 400, `no push_data`},

		{"no token", "POST", "/hooks/hub", hubPush("shop/web", "v1"), nil, 401, "wrong or missing credentials for source hub"},
		{"empty token", "POST", "/hooks/hub?token=", hubPush("shop/web", "v1"), nil, 401, "wrong or missing credentials"},
		{"wrong token", "POST", "/hooks/hub?token=hunter3", hubPush("shop/web", "v1"), nil, 401, "wrong or missing credentials"},
		{"token in the wrong place", "POST", "/hooks/registry?token=" + token, envelope(), nil, 401, "wrong or missing credentials"},
		{"wrong bearer", "POST", "/hooks/registry", envelope(), []string{"Authorization", bearer + "x"}, 401, "wrong or missing credentials"},
		{"wrong signature", "POST", "/hooks/signed", hubPush("shop/web", "v9"), []string{"X-Dock-Sum", hex.EncodeToString(sum.Sum(nil))}, 401, "wrong or missing credentials"},
		{"malformed and wrong credentials", "POST", "/hooks/hub", "{", nil, 401, "wrong or missing credentials"},
		{"handshake without credentials", "POST", "/hooks/grid", gridValidation, nil, 401, "wrong or missing credentials"},

		{"unknown source", "POST", "/hooks/nobody", hubPush("shop/web", "v1"), nil, 404, "there is no such source"},
		{"OPTIONS at an unknown source", "OPTIONS", "/hooks/nobody", "", nil, 404, "there is no such source"},
		{"GET", "GET", "/hooks/hub?token=" + token, "", nil, 405, "GET is not allowed at /hooks/hub"},
		{"PUT", "PUT", "/hooks/hub?token=" + token, hubPush("shop/web", "v1"), nil, 405, "PUT is not allowed at /hooks/hub"},
		{"OPTIONS where nobody asks so", "OPTIONS", "/hooks/hub", "", nil, 405, "this source takes POST only"},
		{"too large", "POST", "/hooks/hub?token=" + token, strings.Repeat("x", 10_001), nil, 413, "larger than 10000 bytes; server.maxBody allows more"},
		{"as large as allowed", "POST", "/hooks/hub?token=" + token, strings.Repeat("x", 10_000), nil, 400, "not a valid delivery"},
	}
	s := newStation(t)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := ask(s.hooks, tt.method, tt.target, tt.body, tt.header...)
			if w.Code != tt.status || !strings.Contains(w.Body.String(), tt.body200) {
				t.Errorf("%d %s, want %d with %s", w.Code, w.Body, tt.status, tt.body200)
			}
			if got := w.Header().Get("Content-Type"); got != "application/json" {
				t.Errorf("content type %q", got)
			}
			if tt.status >= 300 && !strings.HasPrefix(w.Body.String(), `{"error":"`) {
				t.Errorf("an error of another shape: %s", w.Body)
			}
			if got := w.Header().Get("Allow"); (tt.status == 405) != (got == "POST") {
				t.Errorf("allow %q", got)
			}
			if strings.Contains(w.Body.String(), token) {
				t.Errorf("the answer shows the secret: %s", w.Body)
			}
		})
	}
	if strings.Contains(s.log.String(), token) || strings.Contains(s.log.String(), "hunter3") {
		t.Errorf("the log shows a credential:\n%s", s.log)
	}
	if strings.Contains(s.onDisk(), token) {
		t.Error("the database holds the secret")
	}
}

var ids = regexp.MustCompile(`"(delivery|event)":"\d+"|"runs":\["\d+"(,"\d+")*\]`)

// The shape of the reply is promised to senders and to those who read their
// logs.
func TestReply(t *testing.T) {
	s := newStation(t)
	auth := []string{"Authorization", bearer}
	tests := []struct {
		name, target, body, want string
	}{
		{"all that a registry tells", "/hooks/registry", envelope(registryEvent("a", "push", "shop/web", "v1")),
			`{"delivery":"1","events":[{"event":"1","registry":"registry.example.com","repository":"shop/web","tag":"v1","digest":"` + webDigest + `","action":"push","runs":["1"]}]}`},
		{"null for what the sender does not tell", "/hooks/open", hubPush("shop/web", "v1"),
			`{"delivery":"2","events":[{"event":"2","registry":"docker.io","repository":"shop/web","tag":"v1","digest":null,"action":"push","runs":["2"]}]}`},
		{"a push by digest", "/hooks/registry", envelope(registryEvent("b", "push", "shop/web", "")),
			`{"delivery":"3","events":[{"event":"3","registry":"registry.example.com","repository":"shop/web","tag":null,"digest":"` + webDigest + `","action":"push","runs":["3"]}]}`},
		{"several events, several runs, some ignored", "/hooks/registry", envelope(registryEvent("c", "push", "shop/two", "v1"), registryEvent("d", "pull", "shop/two", "v1"), registryEvent("e", "push", "other", "v1"), registryEvent("f", "delete", "shop/web", "v2")),
			`{"delivery":"4","events":[{"event":"4","registry":"registry.example.com","repository":"shop/two","tag":"v1","digest":"` + webDigest + `","action":"push","runs":["4","5"]},` +
				`{"event":"5","registry":"registry.example.com","repository":"other","tag":"v1","digest":"` + webDigest + `","action":"push","runs":[],"ignored":"no rule is for the repository registry.example.com/other"}],` +
				`"ignored":[{"reason":"pull","repository":"shop/two","tag":"v1"},{"reason":"delete","repository":"shop/web","tag":"v2"}]}`},
		{"sent again", "/hooks/registry", envelope(registryEvent("a", "push", "shop/web", "v1")),
			`{"delivery":"5","events":[{"event":"6","registry":"registry.example.com","repository":"shop/web","tag":"v1","digest":"` + webDigest + `","action":"push","runs":[],"ignored":"run 1 already stands for this push"}]}`},
		{"nothing in it", "/hooks/registry", envelope(), `{"delivery":"6","events":[]}`},
	}
	for _, tt := range tests {
		w := s.post(tt.target, tt.body, auth...)
		if got := strings.TrimSpace(w.Body.String()); got != tt.want {
			t.Errorf("%s:\ngot  %s\nwant %s", tt.name, got, tt.want)
		}
		want := http.StatusOK
		if strings.Contains(tt.want, `"runs":["`) {
			want = http.StatusAccepted
		}
		if w.Code != want {
			t.Errorf("%s: %d, want %d", tt.name, w.Code, want)
		}
		if !ids.MatchString(w.Body.String()) {
			t.Errorf("%s: ids are not strings of digits: %s", tt.name, w.Body)
		}
	}
}

func TestOptionsHandshake(t *testing.T) {
	s := newStation(t)
	w := ask(s.hooks, http.MethodOptions, "/hooks/grid", "", "WebHook-Request-Origin", "eventgrid.azure.net", "WebHook-Request-Rate", "120")
	if w.Code != http.StatusOK || w.Header().Get("WebHook-Allowed-Origin") != "eventgrid.azure.net" || w.Header().Get("WebHook-Allowed-Rate") != "120" {
		t.Errorf("%d %v", w.Code, w.Header())
	}
}

func TestValidationHandshakeIsExactly(t *testing.T) {
	s := newStation(t)
	w := s.post("/hooks/grid?token="+token, gridValidation)
	if w.Code != http.StatusOK || w.Body.String() != `{"validationResponse":"c0de"}` {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if strings.Contains(s.onDisk(), "c0de") {
		t.Error("a handshake is no delivery, and was kept as one")
	}
}

// A store that cannot write must never be answered for with 2xx, nor with what
// a sender takes as final.
func TestStoreThatFails(t *testing.T) {
	s := newStation(t)
	s.use(broken{s.store, errors.New("no space left on device")})
	for _, body := range []string{hubPush("shop/web", "v1"), hubPush("other/web", "v1")} {
		w := s.post("/hooks/hub?token="+token, body)
		if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") != "5" {
			t.Errorf("%d, Retry-After %q", w.Code, w.Header().Get("Retry-After"))
		}
		if got, want := strings.TrimSpace(w.Body.String()), `{"error":"the store cannot write now; nothing of this delivery was kept, send it again"}`; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	if !strings.Contains(s.log.String(), "no space left on device") {
		t.Errorf("the log does not say why:\n%s", s.log)
	}
}

// The same with the real store, closed.
func TestStoreThatIsClosed(t *testing.T) {
	s := newStation(t)
	s.close()
	if w := s.post("/hooks/hub?token="+token, hubPush("shop/web", "v1")); w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// Credentials that cannot be checked are the operator's fault: the sender is
// to come back, not to give up.
func TestSecretFileThatVanishes(t *testing.T) {
	s := newStation(t)
	send := func(tag string) *httptest.ResponseRecorder {
		return s.post("/hooks/rotating?token="+token, hubPush("shop/web", tag))
	}
	if w := send("v1"); w.Code != http.StatusAccepted {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	if err := os.Remove(s.path("secret")); err != nil {
		t.Fatal(err)
	}
	w := send("v2")
	if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") != "5" || strings.Contains(w.Body.String(), s.dir) {
		t.Errorf("%d, Retry-After %q, %s", w.Code, w.Header().Get("Retry-After"), w.Body)
	}
	if !strings.Contains(s.log.String(), "no such file or directory") {
		t.Errorf("the log does not say why:\n%s", s.log)
	}
	if err := os.WriteFile(s.path("secret"), []byte("another\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if w := send("v3"); w.Code != http.StatusUnauthorized {
		t.Errorf("the old token after a rotation: %d", w.Code)
	}
}

func TestBodyThatBreaksOff(t *testing.T) {
	s := newStation(t)
	r := httptest.NewRequest(http.MethodPost, "/hooks/open", iotest.ErrReader(errors.New("connection reset")))
	w := httptest.NewRecorder()
	s.hooks.ServeHTTP(w, r)
	if w.Code != http.StatusBadRequest || strings.Contains(s.log.String(), "level=INFO") {
		t.Errorf("%d %s\n%s", w.Code, w.Body, s.log)
	}
}

// Whatever header carries a secret, by the configuration or by its name, it is
// not kept; what the parsers and a replay need is.
func TestRecordedHeadersHoldNoSecrets(t *testing.T) {
	s := newStation(t)
	planted := []string{
		"Authorization", "Proxy-Authorization", "Cookie", "X-Api-Key", "X-Auth-Token", "X-Gitlab-Token", "X-Jfrog-Event-Auth", "X-Amz-Security-Token", "X-Hub-Signature-256",
		"X-Forwarded-Access-Token", "Ocp-Apim-Subscription-Key", "X-Goog-Iap-Jwt-Assertion", "X-Webhook-Secret", "X-Original-Uri", "X-Forwarded-Uri", "X-Original-Url", "X-Rewrite-Url", "Referer",
	}
	header := []string{"X-Dock", token, "X-Harmless", "kept-this-one", "Aeg-Event-Type", "kept-that-one", "User-Agent", "kept-agent"}
	for _, name := range planted {
		header = append(header, name, "planted "+token)
	}
	if w := s.post("/hooks/custom?token="+token, hubPush("shop/web", "v1"), header...); w.Code != http.StatusAccepted {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	disk := s.onDisk()
	if strings.Contains(disk, token) || strings.Contains(disk, "planted") {
		t.Error("a secret is on disk")
	}
	for _, want := range []string{"kept-this-one", "kept-that-one", "kept-agent", `"pusher":"crane"`} {
		if !strings.Contains(disk, want) {
			t.Errorf("%s is not on disk", want)
		}
	}
	if strings.Contains(s.log.String(), token) {
		t.Errorf("a secret is in the log:\n%s", s.log)
	}
}

// An event's line in the log can be found by the ids in the reply.
func TestLogNamesTheIDs(t *testing.T) {
	s := newStation(t)
	s.post("/hooks/open", hubPush("shop/web", "v1"))
	if want := `level=INFO msg=event source=open delivery=1 event=1 image=docker.io/shop/web:v1 action=push runs=[1]`; !strings.Contains(s.log.String(), want) {
		t.Errorf("got\n%s\nwant %s", s.log, want)
	}
}
