package server

import (
	"context"
	"crypto"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/dockbell/dockbell/trigger"
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
		{"one of several", "POST", "/hooks/several?token=" + token, hubPush("shop/web", "v4"), nil, 202, `"runs":["`},
		{"another of several", "POST", "/hooks/several", envelope(registryEvent("d", "push", "shop/web", "v4")), []string{"Authorization", bearer}, 202, `"runs":["`},
		{"one of several who needs no credentials", "POST", "/hooks/several", gridPush("shop/api"), nil, 202, `"runs":["`},
		{"one of several checks the endpoint", "POST", "/hooks/several", gridValidation, nil, 200, `{"validationResponse":"c0de"}`},

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
		{"one of several with the credentials of another", "POST", "/hooks/several", hubPush("shop/web", "v5"), []string{"Authorization", bearer}, 401, "wrong or missing credentials for source several"},
		{"none of several", "POST", "/hooks/several?token=" + token, `{"image":"shop/web:v5"}`, []string{"Authorization", bearer}, 401, "wrong or missing credentials for source several"},
		{"from elsewhere", "POST", "/hooks/office?token=" + token, hubPush("shop/web", "v1"), nil, 401, "wrong or missing credentials for source office"},
		{"from elsewhere, as it says itself from there", "POST", "/hooks/office?token=" + token, hubPush("shop/web", "v1"), []string{"X-Forwarded-For", "203.0.113.7"}, 401, "wrong or missing credentials for source office"},
		{"handshake without credentials", "POST", "/hooks/grid", gridValidation, nil, 401, "wrong or missing credentials"},

		{"unknown source", "POST", "/hooks/nobody", hubPush("shop/web", "v1"), nil, 404, "there is no such source"},
		{"OPTIONS at an unknown source", "OPTIONS", "/hooks/nobody", "", nil, 404, "there is no such source"},
		{"GET", "GET", "/hooks/hub?token=" + token, "", nil, 405, "this source takes POST only"},
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

// Who is believed about where a request is from, end to end.
func TestFrom(t *testing.T) {
	s := newStation(t)
	for i, tt := range []struct {
		connection string
		forwarded  []string
		status     int
	}{
		{"203.0.113.7:1234", nil, 202},
		{"[::ffff:203.0.113.7]:1234", nil, 202},
		{"[2001:db8::7]:1234", nil, 202},
		{"198.51.100.1:1234", nil, 401},
		{"[2001:db8::8]:1234", nil, 401},
		{"10.1.2.3:1234", nil, 401}, // the proxy itself
		{"10.1.2.3:1234", []string{"203.0.113.7"}, 202},
		{"10.1.2.3:1234", []string{"203.0.113.7, 10.9.9.9"}, 202},
		{"10.1.2.3:1234", []string{"203.0.113.7", "10.9.9.9"}, 202},
		{"10.1.2.3:1234", []string{"203.0.113.7, 198.51.100.1"}, 401},           // written by the sender
		{"10.1.2.3:1234", []string{"203.0.113.7", "198.51.100.1"}, 401},         // in a header of its own
		{"10.1.2.3:1234", []string{"203.0.113.7, 10.9.9.9, 198.51.100.1"}, 401}, // as if by a proxy
		{"198.51.100.1:1234", []string{"203.0.113.7"}, 401},                     // past the proxy
		{"198.51.100.1:1234", []string{"203.0.113.7, 10.1.2.3"}, 401},
		{"10.1.2.3:1234", []string{"203.0.113.7, somebody"}, 401},
		{"@", nil, 401},
	} {
		r := httptest.NewRequest(http.MethodPost, "/hooks/office?token="+token, strings.NewReader(hubPush("shop/web", fmt.Sprint("v", i))))
		r.RemoteAddr = tt.connection
		r.Header["X-Forwarded-For"] = tt.forwarded
		r.Header.Set("X-Real-Ip", "203.0.113.7")
		r.Header.Set("Forwarded", "for=203.0.113.7")
		w := httptest.NewRecorder()
		s.hooks.ServeHTTP(w, r)
		if w.Code != tt.status {
			t.Errorf("%s %q: %d %s, want %d", tt.connection, tt.forwarded, w.Code, w.Body, tt.status)
		}
		if w.Code == http.StatusUnauthorized && strings.Contains(w.Body.String(), "203.0.113") {
			t.Errorf("the answer tells which addresses are let in: %s", w.Body)
		}
	}
	if want := "from=198.51.100.1"; !strings.Contains(s.log.String(), want) {
		t.Errorf("the log does not tell who was refused:\n%s", s.log)
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
		if got, want := strings.TrimSpace(w.Body.String()), `{"error":"the store cannot write now; this delivery is not acknowledged, send it again"}`; got != want {
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

// wire answers requests to the rest of the world.
type wire func(*http.Request) (*http.Response, error)

func (w wire) RoundTrip(r *http.Request) (*http.Response, error) { return w(r) }

// Whatever credentials are checked by: what they are checked with may be away.
func TestCredentialsThatCannotBeChecked(t *testing.T) {
	s := newStation(t)
	s.client = &http.Client{Transport: wire(func(*http.Request) (*http.Response, error) { return nil, errors.New("no route to anybody") })}
	ca := s.path("ca.pem")
	ours := newAuthority(t)
	ours.write(ca)
	s.more = `
identity: {type: google-gar, auth: {oidc: {issuer: 'https://id.example', audience: a, subject: s}}}
topic: {type: aws-ecr, auth: {sns: {topics: ['` + snsTopic + `']}}}
mutual: {type: dockerhub, auth: {certificate: {ca: '` + ca + `'}}}
either: {type: dockerhub, auth: [{token: {env: TEST_TOKEN}}, {token: {file: 'SECRETFILE'}, header: X-Dock}]}
auto: {type: auto, senders: {dockerhub: {auth: {token: {file: 'SECRETFILE'}, header: X-Dock}}}}
`
	s.use(s.store)
	for _, file := range []string{"ca.pem", "secret"} {
		if err := os.Remove(s.path(file)); err != nil {
			t.Fatal(err)
		}
	}
	client := ours.client("registry.example.com")
	for target, want := range map[string]string{
		"/hooks/identity":              "no route to anybody",
		"/hooks/topic":                 "no route to anybody",
		"/hooks/mutual":                "ca.pem: no such file",
		"/hooks/either":                "secret: no such file",
		"/hooks/auto":                  "secret: no such file",
		"/hooks/either?token=" + token: "",
	} {
		body := hubPush("shop/web", "v1")
		if target == "/hooks/topic" {
			body = newSNSSigner(t).sign(snsMessage("Notification"))
		}
		r := httptest.NewRequest(http.MethodPost, target, strings.NewReader(body))
		r.Header.Set("Authorization", "Bearer x.y.z")
		r.Header.Set("X-Dock", token)
		r.TLS = &tls.ConnectionState{PeerCertificates: client.chain}
		w := httptest.NewRecorder()
		s.hooks.ServeHTTP(w, r)
		if want == "" {
			if w.Code != http.StatusAccepted {
				t.Errorf("%s: %d %s", target, w.Code, w.Body)
			}
			continue
		}
		if got := strings.TrimSpace(w.Body.String()); w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") != "5" ||
			got != `{"error":"the credentials of this source cannot be checked now; this delivery is not acknowledged, send it again"}` {
			t.Errorf("%s: %d, Retry-After %q, %s", target, w.Code, w.Header().Get("Retry-After"), got)
		}
		if !strings.Contains(s.log.String(), want) {
			t.Errorf("%s: the log does not say why:\n%s", target, s.log)
		}
	}
}

const snsTopic = "arn:aws:sns:eu-west-1:210987654321:pushes"

func snsMessage(kind string) map[string]string {
	m := map[string]string{
		"Type": kind, "MessageId": "5b0c1f7e-93d2-5a4b-9c86-1f2e3d4c5b6a", "TopicArn": snsTopic, "Message": "ahoy",
		"Timestamp": time.Now().UTC().Format("2006-01-02T15:04:05.000Z"), "SignatureVersion": "2",
		"SigningCertURL": "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-0123.pem",
	}
	if kind != "Notification" {
		m["Token"], m["SubscribeURL"] = "51b2ff3e", "https://sns.eu-west-1.amazonaws.com/?Action=ConfirmSubscription&Token=51b2ff3e"
	}
	return m
}

// snsSigner stands in for SNS.
type snsSigner struct {
	t    *testing.T
	key  *rsa.PrivateKey
	file []byte // its certificate
}

func newSNSSigner(t *testing.T) *snsSigner {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"sns.amazonaws.com"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return &snsSigner{t, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

func (s *snsSigner) sign(m map[string]string) string {
	s.t.Helper()
	var text strings.Builder
	for _, name := range []string{"Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"} {
		if v, ok := m[name]; ok {
			text.WriteString(name + "\n" + v + "\n")
		}
	}
	sum := sha256.Sum256([]byte(text.String()))
	signature, err := rsa.SignPKCS1v15(nil, s.key, crypto.SHA256, sum[:])
	if err != nil {
		s.t.Fatal(err)
	}
	m["Signature"] = base64.StdEncoding.EncodeToString(signature)
	body, err := json.Marshal(m)
	if err != nil {
		s.t.Fatal(err)
	}
	return string(body)
}

// A subscription is confirmed when SNS itself asked for it, and by nobody else.
func TestSubscription(t *testing.T) {
	signer := newSNSSigner(t)
	signed, unsigned := signer.sign(snsMessage("SubscriptionConfirmation")), newSNSSigner(t).sign(snsMessage("SubscriptionConfirmation"))
	const unproven = "not confirmed, since nothing proves that the vendor itself sent this"
	for _, tt := range []struct {
		name, target, body string
		answer             int // of SNS
		status             int
		want               string
		visits             int
	}{
		{"by token", "/hooks/bytoken?token=" + token, unsigned, 200, 200, `{"delivery":"","events":[],"ignored":[{"reason":"` + unproven, 0},
		{"by token, though signed", "/hooks/bytoken?token=" + token, signed, 200, 200, unproven, 0},
		{"by token, wrong", "/hooks/bytoken?token=x", signed, 200, 401, "wrong or missing credentials", 0},
		{"signed", "/hooks/bysns", signed, 200, 200, "", 1},
		{"signed by another", "/hooks/bysns", unsigned, 200, 401, "wrong or missing credentials", 0},
		{"signed, SNS broken", "/hooks/bysns", signed, 500, 503, "the address that confirms the endpoint cannot be visited now", 1},
		{"signed, SNS refuses", "/hooks/bysns", signed, 403, 503, "the address that confirms the endpoint cannot be visited now", 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			visits := 0
			s := newStation(t)
			s.client = &http.Client{Transport: wire(func(r *http.Request) (*http.Response, error) {
				w := httptest.NewRecorder()
				if strings.HasSuffix(r.URL.Path, ".pem") {
					_, _ = w.Write(signer.file)
				} else {
					visits++
					w.WriteHeader(tt.answer)
				}
				return w.Result(), nil
			})}
			s.more = "bytoken: {type: aws-ecr, auth: {token: {env: TEST_TOKEN}}}\nbysns: {type: aws-ecr, auth: {sns: {topics: ['" + snsTopic + "']}}}\n"
			s.use(s.store)
			w := s.post(tt.target, tt.body, "Content-Type", "text/plain; charset=UTF-8", "X-Amz-Sns-Message-Type", "SubscriptionConfirmation")
			if w.Code != tt.status || !strings.Contains(w.Body.String(), tt.want) || visits != tt.visits {
				t.Errorf("%d %s after %d visits", w.Code, w.Body, visits)
			}
			if got := w.Header().Get("Retry-After"); (got != "") != (tt.status == 503) {
				t.Errorf("Retry-After %q", got)
			}
			if runs := s.get("/api/v1/events").Body.String(); !strings.Contains(runs, `"events":[]`) || strings.Contains(s.onDisk(), "51b2ff3e") {
				t.Errorf("a handshake is no delivery, and was kept as one: %s", runs)
			}
			if confirmable := strings.Contains(s.log.String(), "https://sns.eu-west-1.amazonaws.com/?Action=ConfirmSubscription"); confirmable != strings.Contains(tt.want, unproven) {
				t.Errorf("the log is no help to who must confirm it by hand:\n%s", s.log)
			}
		})
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

// Gitea can be told to deliver by GET. The signature is over the payload.
func TestDeliveryByGet(t *testing.T) {
	s := newStation(t)
	s.more = "gitea: {type: gitea, auth: {signature: {env: TEST_TOKEN}}}\n"
	s.use(s.store)
	const payload = `{"action":"created","package":{"type":"container","name":"web","version":"v1","owner":{"login":"shop"},"html_url":"https://gitea.example/shop/-/packages/container/web/v1"}}`
	mac := hmac.New(sha256.New, []byte(token))
	mac.Write([]byte(payload))
	header := []string{"X-Gitea-Event", "package", "X-Gitea-Signature", hex.EncodeToString(mac.Sum(nil))}
	for _, tt := range []struct {
		target string
		status int
	}{
		{"/hooks/gitea?payload=" + url.QueryEscape(payload), 202},
		{"/hooks/gitea?payload=" + url.QueryEscape(payload+" "), 401},
		{"/hooks/gitea", 405},
		{"/hooks/hub?token=" + token + "&payload=" + url.QueryEscape(hubPush("shop/web", "v1")), 405},
	} {
		if w := ask(s.hooks, http.MethodGet, tt.target, "", header...); w.Code != tt.status {
			t.Errorf("%s: %d %s, want %d", tt.target, w.Code, w.Body, tt.status)
		}
	}
}

// unreadable fails the test when somebody reads it.
type unreadable struct{ t *testing.T }

func (u unreadable) Read([]byte) (int, error) {
	u.t.Error("the body was read")
	return 0, io.EOF
}

// The body of a request whose credentials are wrong already is not read, and no
// more bodies are read at once than fit in memory.
func TestBodiesThatAreNotRead(t *testing.T) {
	s := newStation(t)
	r := httptest.NewRequest(http.MethodPost, "/hooks/hub?token=guess", unreadable{t})
	w := httptest.NewRecorder()
	if s.hooks.ServeHTTP(w, r); w.Code != http.StatusUnauthorized {
		t.Errorf("wrong token: %d", w.Code)
	}

	held, release := make(chan bool, mostReading), make(chan bool)
	var group sync.WaitGroup
	for range mostReading {
		group.Go(func() {
			r := httptest.NewRequest(http.MethodPost, "/hooks/open", slowBody{held, release})
			s.hooks.ServeHTTP(httptest.NewRecorder(), r)
		})
	}
	for range mostReading {
		<-held
	}
	if w := s.post("/hooks/open", hubPush("shop/web", "v1")); w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
		t.Errorf("one more: %d %s", w.Code, w.Body)
	}
	close(release)
	group.Wait()
	if w := s.post("/hooks/open", hubPush("shop/web", "v1")); w.Code != http.StatusAccepted {
		t.Errorf("afterwards: %d %s", w.Code, w.Body)
	}
}

// slowBody says when it is read, and ends when it is released.
type slowBody struct{ held, release chan bool }

func (b slowBody) Read([]byte) (int, error) {
	b.held <- true
	<-b.release
	return 0, io.EOF
}

// Who may be delivered by GET is decided by the sender, not by its neighbours.
func TestGetBesideGitea(t *testing.T) {
	s := newStation(t)
	s.more = "all: {type: auto, senders: {gitea: {auth: {token: {env: TEST_TOKEN}}}, dockerhub: {auth: {token: {env: TEST_TOKEN}}}}}\n"
	s.use(s.store)
	target := "/hooks/all?token=" + token + "&payload=" + url.QueryEscape(hubPush("shop/web", "v1"))
	if w := ask(s.hooks, http.MethodGet, target, ""); w.Code != http.StatusMethodNotAllowed {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// agreeing is a store that accepts everything and keeps nothing.
type agreeing struct{ Store }

func (agreeing) Accept(_ context.Context, _ trigger.Delivery, planned []trigger.Planned) (trigger.Receipt, error) {
	receipt := trigger.Receipt{Delivery: 1, Events: make([]trigger.ReceiptEvent, len(planned))}
	for i, p := range planned {
		receipt.Events[i] = trigger.ReceiptEvent{ID: 1, Runs: make([]trigger.Admitted, len(p.Runs))}
		for j := range p.Runs {
			receipt.Events[i].Runs[j] = trigger.Admitted{ID: 1, New: true}
		}
	}
	return receipt, nil
}

// BenchmarkDeliver is what a delivery costs besides the connection and the
// store.
func BenchmarkDeliver(b *testing.B) {
	s := newStation(b)
	s.use(agreeing{s.store})
	for _, bench := range []struct {
		name, target, body string
		header             []string
	}{
		{"distribution", "/hooks/registry", envelope(registryEvent("a", "push", "shop/web", "v1")), []string{"Authorization", bearer}},
		{"dockerhub", "/hooks/hub?token=" + token, hubPush("shop/web", "v1"), nil},
		{"auto", "/hooks/several", envelope(registryEvent("a", "push", "shop/web", "v1")), []string{"Authorization", bearer}},
	} {
		b.Run(bench.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if w := s.post(bench.target, bench.body, bench.header...); w.Code != http.StatusAccepted {
					b.Fatal(w.Code, w.Body)
				}
			}
		})
	}
}
