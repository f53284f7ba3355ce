package source

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-json-experiment/json/v1"
)

const (
	yardIssuer   = "https://id.dockyard.example/crew"
	yardAudience = "https://dockbell.example.com/hooks/pushes"
	yardEmail    = "bell@dockyard.iam.example.com"
)

// identityProvider publishes its keys and signs with them.
type identityProvider struct {
	issuer string
	client *http.Client

	mu   sync.Mutex
	keys map[string]crypto.Signer // by id; those that are published

	down          atomic.Bool
	documents     atomic.Int32
	fetches       atomic.Int32
	document, jwk atomic.Pointer[string] // what is served in place of the truth
}

func newIdentityProvider(t *testing.T, issuer string) *identityProvider {
	t.Helper()
	p := &identityProvider{issuer: issuer, keys: map[string]crypto.Signer{"rsa": newRSAKey(t), "ec": newECKey(t)}}
	host := strings.SplitN(issuer, "/", 4)[2]
	p.client = newHTTPS(t, p, host, "evil.example")
	return p
}

func (p *identityProvider) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if p.down.Load() {
		p.documents.Add(1)
		http.Error(w, "closed for the night", http.StatusServiceUnavailable)
		return
	}
	var replaced *string
	var body any
	switch "https://" + r.Host + r.URL.Path {
	case strings.TrimSuffix(p.issuer, "/") + "/.well-known/openid-configuration":
		p.documents.Add(1)
		replaced = p.document.Load()
		body = map[string]any{
			"issuer": p.issuer, "jwks_uri": strings.TrimSuffix(p.issuer, "/") + "/keys",
			// A provider that offers the wrong thing is not followed.
			"id_token_signing_alg_values_supported": []string{"none", "HS256", "RS256"},
		}
	case strings.TrimSuffix(p.issuer, "/") + "/keys":
		p.fetches.Add(1)
		replaced = p.jwk.Load()
		body = map[string]any{"keys": p.published()}
	default:
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if replaced != nil {
		_, _ = w.Write([]byte(*replaced))
		return
	}
	_ = json.NewEncoder(w).Encode(body)
}

func (p *identityProvider) published() []map[string]string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var keys []map[string]string
	for _, id := range slices.Sorted(maps.Keys(p.keys)) {
		switch key := p.keys[id].Public().(type) {
		case *rsa.PublicKey:
			keys = append(keys, map[string]string{"kty": "RSA", "use": "sig", "kid": id, "n": segment(key.N.Bytes()), "e": segment(big.NewInt(int64(key.E)).Bytes())})
		case *ecdsa.PublicKey:
			point, _ := key.Bytes()
			keys = append(keys, map[string]string{"kty": "EC", "crv": "P-256", "use": "sig", "kid": id, "x": segment(point[1:33]), "y": segment(point[33:])})
		}
	}
	return keys
}

func segment(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// claims are those of a token as Google makes them.
func claims(changes map[string]any) map[string]any {
	c := map[string]any{
		"iss": yardIssuer, "aud": yardAudience, "sub": "104", "azp": "app-1", "email": yardEmail, "email_verified": true,
		"iat": time.Now().Add(-time.Minute).Unix(), "exp": time.Now().Add(time.Hour).Unix(),
	}
	for k, v := range changes {
		if c[k] = v; v == nil {
			delete(c, k)
		}
	}
	return c
}

// signJWT makes a token with the key; which algorithm it is, the header says.
func signJWT(t *testing.T, header map[string]any, key any, payload map[string]any) string {
	t.Helper()
	text := segment(marshal(t, header)) + "." + segment(marshal(t, payload))
	sum := sha256.Sum256([]byte(text))
	var signature []byte
	var err error
	switch key := key.(type) {
	case *rsa.PrivateKey:
		signature, err = rsa.SignPKCS1v15(nil, key, crypto.SHA256, sum[:])
	case *ecdsa.PrivateKey:
		r, s, e := ecdsa.Sign(rand.Reader, key, sum[:])
		if err = e; err == nil {
			signature = append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
		}
	case []byte:
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(text))
		signature = mac.Sum(nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	return text + "." + segment(signature)
}

func (p *identityProvider) token(t *testing.T, changes map[string]any) string {
	t.Helper()
	return signJWT(t, map[string]any{"alg": "RS256", "typ": "JWT", "kid": "rsa"}, p.keys["rsa"], claims(changes))
}

func bearer(token string) http.Header {
	return http.Header{"Authorization": {"Bearer " + token}}
}

// yard is a check of the provider's tokens that asks it again without delay.
func (p *identityProvider) yard(s oidcSpec) func(context.Context, http.Header) error {
	s.Issuer, s.Audience = p.issuer, yardAudience
	return newOIDCProvider(p.client, s, 0).check
}

func TestOIDC(t *testing.T) {
	p := newIdentityProvider(t, yardIssuer)
	es256 := map[string]any{"alg": "ES256", "kid": "ec"}
	tests := []struct {
		name  string
		spec  oidcSpec
		token string
	}{
		{"e-mail", oidcSpec{Email: yardEmail}, p.token(t, nil)},
		{"subject", oidcSpec{Subject: "104"}, p.token(t, map[string]any{"email": nil, "email_verified": nil})},
		{"application", oidcSpec{App: "app-1"}, p.token(t, nil)},
		{"application of version 1", oidcSpec{App: "app-1"}, p.token(t, map[string]any{"azp": nil, "appid": "app-1"})},
		{"all of them", oidcSpec{Email: yardEmail, Subject: "104", App: "app-1"}, p.token(t, nil)},
		{"one of several audiences", oidcSpec{Subject: "104"}, p.token(t, map[string]any{"aud": []string{"x", yardAudience}})},
		{"elliptic curve", oidcSpec{Subject: "104"}, signJWT(t, es256, p.keys["ec"], claims(nil))},
		{"key not named", oidcSpec{Subject: "104"}, signJWT(t, map[string]any{"alg": "RS256"}, p.keys["rsa"], claims(nil))},
	}
	for _, tt := range tests {
		if err := p.yard(tt.spec)(t.Context(), bearer(tt.token)); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	if err := p.yard(oidcSpec{Subject: "104"})(t.Context(), http.Header{"Authorization": {"bearer " + p.token(t, nil)}}); err != nil {
		t.Errorf("scheme in lower case: %v", err)
	}
}

func TestNotOIDC(t *testing.T) {
	p := newIdentityProvider(t, yardIssuer)
	good := p.token(t, nil)
	parts := strings.Split(good, ".")
	public, err := x509.MarshalPKIXPublicKey(p.keys["rsa"].Public())
	if err != nil {
		t.Fatal(err)
	}
	hs256 := func(key []byte) string {
		return signJWT(t, map[string]any{"alg": "HS256", "kid": "rsa"}, key, claims(nil))
	}
	stranger := newRSAKey(t)

	tests := map[string]http.Header{
		"no header":           {},
		"no token":            bearer(""),
		"other scheme":        {"Authorization": {"Basic " + good}},
		"no scheme":           {"Authorization": {good}},
		"no JWT":              bearer("letmein"),
		"signature cut off":   bearer(parts[0] + "." + parts[1] + "."),
		"claims changed":      bearer(parts[0] + "." + segment(marshal(t, claims(map[string]any{"jti": "x"}))) + "." + parts[2]),
		"algorithm none":      bearer(signJWT(t, map[string]any{"alg": "none"}, nil, claims(nil))),
		"algorithm None":      bearer(signJWT(t, map[string]any{"alg": "None", "kid": "rsa"}, nil, claims(nil))),
		"public key, DER":     bearer(hs256(public)),
		"public key, PEM":     bearer(hs256(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}))),
		"wrong key":           bearer(signJWT(t, map[string]any{"alg": "RS256", "kid": "rsa"}, stranger, claims(nil))),
		"wrong key, no name":  bearer(signJWT(t, map[string]any{"alg": "RS256"}, stranger, claims(nil))),
		"unknown key":         bearer(signJWT(t, map[string]any{"alg": "RS256", "kid": "x"}, stranger, claims(nil))),
		"key in the token":    bearer(signJWT(t, map[string]any{"alg": "RS256", "jku": "https://evil.example/keys"}, stranger, claims(nil))),
		"other key's name":    bearer(signJWT(t, map[string]any{"alg": "RS256", "kid": "ec"}, p.keys["rsa"], claims(nil))),
		"wrong issuer":        bearer(p.token(t, map[string]any{"iss": "https://id.dockyard.example/guests"})),
		"issuer with a slash": bearer(p.token(t, map[string]any{"iss": yardIssuer + "/"})),
		"Google's issuer":     bearer(p.token(t, map[string]any{"iss": "accounts.google.com"})),
		"no issuer":           bearer(p.token(t, map[string]any{"iss": nil})),
		"wrong audience":      bearer(p.token(t, map[string]any{"aud": yardAudience + "/"})),
		"no audience":         bearer(p.token(t, map[string]any{"aud": nil})),
		"expired":             bearer(p.token(t, map[string]any{"exp": time.Now().Add(-time.Minute).Unix()})),
		"never expires":       bearer(p.token(t, map[string]any{"exp": nil})),
		"not valid yet":       bearer(p.token(t, map[string]any{"nbf": time.Now().Add(time.Hour).Unix()})),
		"wrong e-mail":        bearer(p.token(t, map[string]any{"email": "mole@dockyard.iam.example.com"})),
		"no e-mail":           bearer(p.token(t, map[string]any{"email": nil})),
		"unverified e-mail":   bearer(p.token(t, map[string]any{"email_verified": false})),
		"unknown if verified": bearer(p.token(t, map[string]any{"email_verified": nil})),
		"e-mail is a list":    bearer(p.token(t, map[string]any{"email": []string{yardEmail}})),
		"wrong subject":       bearer(p.token(t, map[string]any{"sub": "105"})),
		"no subject":          bearer(p.token(t, map[string]any{"sub": nil})),
		"wrong application":   bearer(p.token(t, map[string]any{"azp": "app-2", "appid": "app-1"})),
		"no application":      bearer(p.token(t, map[string]any{"azp": nil})),
	}
	check := p.yard(oidcSpec{Email: yardEmail, Subject: "104", App: "app-1"})
	for name, h := range tests {
		t.Run(name, func(t *testing.T) {
			if err := check(t.Context(), h); !errors.Is(err, ErrUnauthorized) {
				t.Errorf("got %v", err)
			}
		})
	}
	if err := check(t.Context(), bearer(good)); err != nil {
		t.Errorf("after all these: %v", err)
	}
	if err := p.yard(oidcSpec{})(t.Context(), bearer(good)); !errors.Is(err, ErrUnauthorized) {
		t.Errorf("a specification of nobody: %v", err)
	}
}

// The issuers of Google and Microsoft, with their peculiarities.
func TestOIDCIssuers(t *testing.T) {
	const entra1 = "https://sts.windows.net/3f1c7f0e-6a51-4f0b-9d86-1f2e3d4c5b6a/"
	const entra2 = "https://login.microsoftonline.com/3f1c7f0e-6a51-4f0b-9d86-1f2e3d4c5b6a/v2.0"
	tests := []struct {
		issuer, claimed string
		ok              bool
	}{
		{"https://accounts.google.com", "https://accounts.google.com", true},
		{"https://accounts.google.com", "accounts.google.com", true},
		{entra1, entra1, true},
		{entra1, strings.TrimSuffix(entra1, "/"), false},
		{entra2, entra2, true},
		{entra2, entra1, false},
	}
	for _, tt := range tests {
		p := newIdentityProvider(t, tt.issuer)
		err := p.yard(oidcSpec{Subject: "104"})(t.Context(), bearer(p.token(t, map[string]any{"iss": tt.claimed})))
		if (err == nil) != tt.ok || err != nil && !errors.Is(err, ErrUnauthorized) {
			t.Errorf("%s with a token of %s: %v", tt.issuer, tt.claimed, err)
		}
	}
}

func TestOIDCKeysRotate(t *testing.T) {
	p := newIdentityProvider(t, yardIssuer)
	check := p.yard(oidcSpec{Subject: "104"})
	old := p.token(t, nil)
	for range 3 {
		if err := check(t.Context(), bearer(old)); err != nil {
			t.Fatal(err)
		}
	}
	if d, f := p.documents.Load(), p.fetches.Load(); d != 1 || f != 1 {
		t.Errorf("%d documents and %d times the keys for three tokens", d, f)
	}
	p.mu.Lock()
	p.keys = map[string]crypto.Signer{"new": newRSAKey(t)}
	p.mu.Unlock()
	renewed := signJWT(t, map[string]any{"alg": "RS256", "kid": "new"}, p.keys["new"], claims(nil))
	if err := check(t.Context(), bearer(renewed)); err != nil {
		t.Errorf("new key: %v", err)
	}
	if err := check(t.Context(), bearer(old)); !errors.Is(err, ErrUnauthorized) {
		t.Errorf("old key: %v", err)
	}
}

func TestOIDCProviderDown(t *testing.T) {
	p := newIdentityProvider(t, yardIssuer)
	check := p.yard(oidcSpec{Subject: "104"})
	unavailable := func(when string) {
		t.Helper()
		if err := check(t.Context(), bearer(p.token(t, nil))); err == nil || errors.Is(err, ErrUnauthorized) || !strings.Contains(err.Error(), yardIssuer) {
			t.Errorf("%s: got %v", when, err)
		}
	}
	p.down.Store(true)
	unavailable("down from the start")
	if err := check(t.Context(), http.Header{}); !errors.Is(err, ErrUnauthorized) {
		t.Errorf("no token: %v", err)
	}
	p.down.Store(false)

	for name, document := range map[string]string{
		"a page":              "<html>",
		"a list":              "[]",
		"cut off":             `{"issuer": "` + yardIssuer,
		"another's":           `{"issuer": "https://evil.example", "jwks_uri": "https://evil.example/keys"}`,
		"no keys":             `{"issuer": "` + yardIssuer + `"}`,
		"keys over plaintext": `{"issuer": "` + yardIssuer + `", "jwks_uri": "http://id.dockyard.example/crew/keys"}`,
		"too long":            `{"issuer": "` + strings.Repeat(" ", oidcSize),
	} {
		p.document.Store(&document)
		unavailable(name)
	}
	p.document.Store(nil)

	for name, keys := range map[string]string{"a page": "<html>", "a list": "[]", "cut off": `{"keys": [`} {
		p.jwk.Store(&keys)
		unavailable("keys: " + name)
	}
	p.jwk.Store(nil)

	// Whoever asks while the last answer is being taken note of shares it, for
	// an instant.
	err := check(t.Context(), bearer(p.token(t, nil)))
	for end := time.Now().Add(5 * time.Second); err != nil && time.Now().Before(end); err = check(t.Context(), bearer(p.token(t, nil))) {
		time.Sleep(time.Millisecond)
	}
	if err != nil {
		t.Errorf("up again: %v", err)
	}
	p.down.Store(true)
	if err := check(t.Context(), bearer(p.token(t, nil))); err != nil {
		t.Errorf("down, with the key known: %v", err)
	}
	unknown := bearer(signJWT(t, map[string]any{"alg": "RS256", "kid": "new"}, newRSAKey(t), claims(nil)))
	if err := check(t.Context(), unknown); err == nil || errors.Is(err, ErrUnauthorized) {
		t.Errorf("down, with an unknown key: %v", err)
	}
}

func TestOIDCAsksSeldom(t *testing.T) {
	p := newIdentityProvider(t, yardIssuer)
	check := newOIDCProvider(p.client, oidcSpec{Issuer: yardIssuer, Audience: yardAudience, Subject: "104"}, time.Hour).check
	p.down.Store(true)
	var group sync.WaitGroup
	for range 20 {
		group.Go(func() {
			if err := check(t.Context(), bearer(p.token(t, nil))); err == nil || errors.Is(err, ErrUnauthorized) {
				t.Errorf("got %v", err)
			}
		})
	}
	group.Wait()
	if n := p.documents.Load(); n != 1 {
		t.Errorf("asked %d times while down", n)
	}

	p = newIdentityProvider(t, yardIssuer)
	check = newOIDCProvider(p.client, oidcSpec{Issuer: yardIssuer, Audience: yardAudience, Subject: "104"}, time.Hour).check
	stranger := newRSAKey(t)
	for i := range 20 {
		h := bearer(signJWT(t, map[string]any{"alg": "RS256", "kid": fmt.Sprint(i)}, stranger, claims(nil)))
		group.Go(func() {
			if err := check(t.Context(), h); !errors.Is(err, ErrUnauthorized) {
				t.Errorf("got %v", err)
			}
		})
	}
	group.Wait()
	if d, f := p.documents.Load(), p.fetches.Load(); d != 1 || f != 1 {
		t.Errorf("asked %d times for the document and %d for the keys by strangers", d, f)
	}
	if err := check(t.Context(), bearer(p.token(t, nil))); err != nil {
		t.Errorf("amid strangers: %v", err)
	}
}

func TestOIDCCancelled(t *testing.T) {
	p := newIdentityProvider(t, yardIssuer)
	check := p.yard(oidcSpec{Subject: "104"})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := check(ctx, bearer(p.token(t, nil))); errors.Is(err, ErrUnauthorized) {
		t.Errorf("got %v", err)
	}
	if err := check(t.Context(), bearer(p.token(t, nil))); err != nil {
		t.Errorf("the next one: %v", err)
	}
}

func TestOIDCRedirect(t *testing.T) {
	p := newIdentityProvider(t, yardIssuer)
	client := newHTTPS(t, http.RedirectHandler("https://evil.example/", http.StatusFound), "id.dockyard.example", "evil.example")
	s := oidcSpec{Issuer: yardIssuer, Audience: yardAudience, Subject: "104"}
	err := oidcCheck(client, s)(t.Context(), bearer(p.token(t, nil)))
	if err == nil || errors.Is(err, ErrUnauthorized) || !strings.Contains(err.Error(), "302") {
		t.Errorf("got %v", err)
	}
}

func TestOIDCFaults(t *testing.T) {
	tests := []struct {
		spec oidcSpec
		want string
	}{
		{oidcSpec{Issuer: "https://accounts.google.com", Audience: "a", Email: "e"}, ""},
		{oidcSpec{Issuer: "https://sts.windows.net/x/", Audience: "a", App: "e"}, ""},
		{oidcSpec{Issuer: "http://localhost:8080", Audience: "a", Subject: "e"}, ""},
		{oidcSpec{Issuer: "http://127.0.0.1:8080/x", Audience: "a", Subject: "e"}, ""},
		{oidcSpec{Issuer: "http://[::1]:8080", Audience: "a", Subject: "e"}, ""},
		{oidcSpec{}, "oidc.issuer: is missing\noidc.audience: is missing\noidc: needs email, subject or app: anybody can have a token made out for any audience"},
		{oidcSpec{Issuer: "http://id.example", Audience: "a", Subject: "e"}, "oidc.issuer: must be an https address"},
		{oidcSpec{Issuer: "http://127.0.0.1.evil.example", Audience: "a", Subject: "e"}, "oidc.issuer: must be an https address"},
		{oidcSpec{Issuer: "accounts.google.com", Audience: "a", Subject: "e"}, "oidc.issuer: must be an https address"},
		{oidcSpec{Issuer: "https:///x", Audience: "a", Subject: "e"}, "oidc.issuer: must be an https address"},
		{oidcSpec{Issuer: "https://a:b@id.example", Audience: "a", Subject: "e"}, "oidc.issuer: must be an https address"},
		{oidcSpec{Issuer: "https://id.example?x", Audience: "a", Subject: "e"}, "oidc.issuer: must be an https address"},
		{oidcSpec{Issuer: "https://id.example\n", Audience: "a", Subject: "e"}, "oidc.issuer: must be an https address"},
		{oidcSpec{Issuer: "ftp://id.example", Audience: "a", Subject: "e"}, "oidc.issuer: must be an https address"},
	}
	for _, tt := range tests {
		got := ""
		if err := errors.Join(tt.spec.faults()...); err != nil {
			got = err.Error()
		}
		if got != tt.want {
			t.Errorf("%+v: got %q, want %q", tt.spec, got, tt.want)
		}
	}
}
