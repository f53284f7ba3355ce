package source

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-json-experiment/json/v1"

	"github.com/dockbell/dockbell/trigger"
)

// oidcSpec is whose tokens are accepted: those that the issuer signed for the
// audience, and for one caller. Google Pub/Sub sends such tokens (Pub/Sub,
// "Authentication for push subscriptions"), Azure Event Grid does (Event Grid,
// "Deliver events to Microsoft Entra protected endpoints").
//
//	oidc: {issuer: https://accounts.google.com, audience: …, email: …}
//	oidc: {issuer: https://sts.windows.net/TENANT/, audience: …, app: …}
type oidcSpec struct {
	Issuer   string `yaml:"issuer"`
	Audience string `yaml:"audience"`
	Email    string `yaml:"email"`   // of a service account; the issuer must have verified it
	Subject  string `yaml:"subject"` // the claim sub
	App      string `yaml:"app"`     // the claim azp; in version 1 of Microsoft's tokens appid
}

// faults are what is wrong with the specification.
func (s oidcSpec) faults() []error {
	var errs []error
	if s.Issuer == "" {
		errs = append(errs, trigger.Field("oidc.issuer", "is missing"))
	} else if u, err := url.Parse(s.Issuer); err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || !oidcSecure(u) {
		errs = append(errs, trigger.Field("oidc.issuer", "must be an https address"))
	}
	if s.Audience == "" {
		errs = append(errs, trigger.Field("oidc.audience", "is missing"))
	}
	if s.Email == "" && s.Subject == "" && s.App == "" {
		errs = append(errs, trigger.Field("oidc", "needs email, subject or app: anybody can have a token made out for any audience"))
	}
	return errs
}

// oidcSecure reports whether nobody on the way can change what the address serves.
func oidcSecure(u *url.URL) bool {
	if u.Scheme == "https" {
		return true
	}
	name := u.Hostname()
	ip := net.ParseIP(name)
	return u.Scheme == "http" && (name == "localhost" || ip != nil && ip.IsLoopback())
}

// oidcAlgorithms are those whose keys the provider can publish: whatever it
// or a token says, never none and none with a shared secret.
var oidcAlgorithms = []string{
	oidc.RS256, oidc.RS384, oidc.RS512,
	oidc.ES256, oidc.ES384, oidc.ES512,
	oidc.PS256, oidc.PS384, oidc.PS512,
	oidc.EdDSA,
}

const (
	// oidcPause is for how long an answer of the provider, good or bad, is
	// taken for its answer to the same question. A token with an unknown key
	// makes the keys be fetched anew, and anybody can send such tokens.
	oidcPause = 5 * time.Second

	// oidcTime is how long the provider is waited for.
	oidcTime = 5 * time.Second

	// oidcSize bounds what is read of the provider: real answers have a few KB.
	oidcSize = 1 << 20
)

// oidcCheck makes a check of the bearer token of a request. It gives
// ErrUnauthorized for a wrong one, and another error when it cannot tell now
// because the provider does not answer. The provider is not asked before the
// first request.
func oidcCheck(client *http.Client, s oidcSpec) func(ctx context.Context, h http.Header) error {
	return newOIDCProvider(client, s, oidcPause).check
}

// oidcProvider is the issuer of tokens: what it says of itself, and its keys.
type oidcProvider struct {
	spec   oidcSpec
	client *http.Client

	mu   sync.Mutex
	keys *oidc.RemoteKeySet // nil until the provider has answered
}

func newOIDCProvider(client *http.Client, s oidcSpec, pause time.Duration) *oidcProvider {
	c := *client
	next := c.Transport
	if next == nil {
		next = http.DefaultTransport
	}
	c.Transport = &oidcTransport{next: next, pause: pause, answers: map[string]oidcAnswer{}}
	c.Timeout = oidcTime
	return &oidcProvider{spec: s, client: &c}
}

func (p *oidcProvider) check(ctx context.Context, h http.Header) error {
	scheme, raw, _ := strings.Cut(h.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "bearer") || raw == "" {
		return ErrUnauthorized
	}
	remote, err := p.discover(ctx)
	if err != nil {
		return fmt.Errorf("identity provider %s: %w", p.spec.Issuer, err)
	}
	keys := &oidcKeys{remote: remote}
	verifier := oidc.NewVerifier(p.spec.Issuer, keys, &oidc.Config{ClientID: p.spec.Audience, SupportedSigningAlgs: oidcAlgorithms})
	token, err := verifier.Verify(ctx, raw)
	if keys.err != nil {
		return fmt.Errorf("identity provider %s: %w", p.spec.Issuer, keys.err)
	}
	if err != nil || !p.spec.allows(token) {
		return ErrUnauthorized
	}
	return nil
}

// allows reports whether the token is the caller's.
func (s oidcSpec) allows(token *oidc.IDToken) bool {
	var claims struct {
		Email         string `json:"email"`
		EmailVerified bool   `json:"email_verified"`
		AZP           string `json:"azp"`
		AppID         string `json:"appid"`
	}
	if token.Claims(&claims) != nil {
		return false
	}
	switch {
	case s.Email == "" && s.Subject == "" && s.App == "":
		return false
	case s.Email != "" && (s.Email != claims.Email || !claims.EmailVerified):
		return false
	case s.Subject != "" && s.Subject != token.Subject:
		return false
	case s.App != "" && s.App != cmp.Or(claims.AZP, claims.AppID):
		return false
	}
	return true
}

// discover gives the provider's keys; where they are, the provider says
// (OpenID Connect Discovery 1.0, section 4). Microsoft's two issuers serve
// that document below their own address as everybody does, the older with a
// slash at its end that is part of the name.
func (p *oidcProvider) discover(ctx context.Context) (*oidc.RemoteKeySet, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.keys != nil {
		return p.keys, nil
	}
	// What is fetched serves others, too, so it does not end with this
	// request; the client has its own time limit.
	ctx = oidc.ClientContext(context.WithoutCancel(ctx), p.client)
	provider, err := oidc.NewProvider(ctx, p.spec.Issuer)
	if err != nil {
		return nil, err
	}
	var document struct {
		Keys string `json:"jwks_uri"`
	}
	if err := provider.Claims(&document); err != nil {
		return nil, err
	}
	if u, err := url.Parse(document.Keys); err != nil || u.Host == "" || !oidcSecure(u) {
		return nil, errors.New("its keys are not at an https address")
	}
	p.keys = oidc.NewRemoteKeySet(ctx, document.Keys)
	return p.keys, nil
}

// oidcKeys are the keys for one token. It keeps apart what the verifier does
// not: a signature that is wrong, and keys that cannot be had.
type oidcKeys struct {
	remote *oidc.RemoteKeySet
	err    error // the keys could not be had
}

func (k *oidcKeys) VerifySignature(ctx context.Context, jwt string) ([]byte, error) {
	payload, err := k.remote.VerifySignature(ctx, jwt)
	var failure *oidcFailure
	switch {
	case err == nil:
	case errors.As(err, &failure):
		k.err = failure
	case ctx.Err() != nil:
		k.err = ctx.Err()
	}
	return payload, err
}

// oidcTransport asks the provider one question at a time, and none again
// before the pause is over.
type oidcTransport struct {
	next  http.RoundTripper
	pause time.Duration

	mu      sync.Mutex
	answers map[string]oidcAnswer // by address: that of the document, that of the keys
}

type oidcAnswer struct {
	at   time.Time
	body []byte
	err  error
}

// oidcFailure is an answer that is none.
type oidcFailure struct{ err error }

func (f *oidcFailure) Error() string { return f.err.Error() }
func (f *oidcFailure) Unwrap() error { return f.err }

func (t *oidcTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	address := req.URL.String()
	a, ok := t.answers[address]
	if !ok || time.Since(a.at) > t.pause {
		a.body, a.err = t.fetch(req)
		a.at = time.Now()
		t.answers[address] = a
	}
	if a.err != nil {
		return nil, &oidcFailure{a.err}
	}
	return &http.Response{
		Status: "200 OK", StatusCode: http.StatusOK,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header:        http.Header{"Content-Type": {"application/json"}},
		Body:          io.NopCloser(bytes.NewReader(a.body)),
		ContentLength: int64(len(a.body)),
		Request:       req,
	}, nil
}

// fetch takes nothing but a document: a redirection leads to whom the issuer's
// name does not stand for.
func (t *oidcTransport) fetch(req *http.Request) ([]byte, error) {
	resp, err := t.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, errors.New(resp.Status)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, oidcSize))
	if err != nil {
		return nil, err
	}
	var object map[string]json.RawMessage
	if err := json.Unmarshal(body, &object); err != nil {
		return nil, readable(err)
	}
	return body, nil
}
