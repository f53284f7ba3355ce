package source

import (
	"context"
	"crypto/ecdsa"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"hash"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dockbell/dockbell/trigger/strictyaml"
)

const (
	token = "s3cret-of-the-dock"
	body  = `{"events": []}`
)

func sign(algorithm func() hash.Hash, key, text string) string {
	mac := hmac.New(algorithm, []byte(key))
	mac.Write([]byte(text))
	return hex.EncodeToString(mac.Sum(nil))
}

func basic(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

func verify(t *testing.T, s *Source, query url.Values, h http.Header, body string) error {
	t.Helper()
	found, err := s.Verify(t.Context(), Request{Query: query, Header: h, Body: []byte(body)})
	if (found == s) != (err == nil) {
		t.Errorf("Verify gave %v with %v", found, err)
	}
	return err
}

func TestVerify(t *testing.T) {
	t.Setenv("DOCK_TOKEN", token)
	good := sign(sha256.New, token, body)
	type request struct {
		name, query string
		header      http.Header
		ok          bool
	}
	header := func(name string, values ...string) http.Header {
		return http.Header{http.CanonicalHeaderKey(name): values}
	}
	authorization := func(values ...string) http.Header { return header("Authorization", values...) }

	tests := []struct {
		name, auth string
		requests   []request
	}{
		{"none", "none", []request{
			{name: "nothing", ok: true},
			{name: "something", query: "token=x", ok: true},
		}},
		{"token", "{token: {env: DOCK_TOKEN}}", []request{
			{name: "token", query: "token=" + token, ok: true},
			{name: "secret", query: "secret=" + token, ok: true},
			{name: "beside others", query: "a=b&secret=" + token, ok: true},
			{name: "wrong", query: "token=guess"},
			{name: "missing"},
			{name: "empty", query: "token=&secret="},
			{name: "beginning only", query: "token=" + token[:5]},
			{name: "more than that", query: "token=" + token + "x"},
			{name: "another case", query: "token=" + strings.ToUpper(token)},
			{name: "in a header", header: header("Token", token)},
			{name: "as bearer", header: authorization("Bearer " + token)},
		}},
		{"token in a header", "{token: {env: DOCK_TOKEN}, header: x-dock-token}", []request{
			{name: "right", header: header("X-Dock-Token", token), ok: true},
			{name: "wrong", header: header("X-Dock-Token", "guess")},
			{name: "missing", header: http.Header{}},
			{name: "empty", header: header("X-Dock-Token", "")},
			{name: "with a scheme", header: header("X-Dock-Token", "Bearer "+token)},
			{name: "in the query", query: "token=" + token},
			{name: "in another header", header: header("X-Dock", token)},
		}},
		{"token as Authorization", "{token: {env: DOCK_TOKEN}, header: Authorization}", []request{
			{name: "right", header: authorization(token), ok: true},
			{name: "bearer", header: authorization("Bearer " + token)},
		}},
		{"bearer", "{bearer: {env: DOCK_TOKEN}}", []request{
			{name: "right", header: authorization("Bearer " + token), ok: true},
			{name: "scheme in lower case", header: authorization("bearer " + token), ok: true},
			{name: "wrong", header: authorization("Bearer guess")},
			{name: "missing"},
			{name: "no token", header: authorization("Bearer ")},
			{name: "no space", header: authorization("Bearer")},
			{name: "no scheme", header: authorization(token)},
			{name: "another scheme", header: authorization("Token " + token)},
			{name: "basic", header: authorization(basic("crane", token))},
			{name: "first of two counts", header: authorization("Bearer guess", "Bearer "+token)},
			{name: "in the query", query: "token=" + token},
		}},
		{"basic", "{basic: {username: crane, password: {env: DOCK_TOKEN}}}", []request{
			{name: "right", header: authorization(basic("crane", token)), ok: true},
			{name: "scheme in lower case", header: authorization(strings.Replace(basic("crane", token), "Basic", "basic", 1)), ok: true},
			{name: "wrong password", header: authorization(basic("crane", "guess"))},
			{name: "wrong user", header: authorization(basic("pilot", token))},
			{name: "no user", header: authorization(basic("", token))},
			{name: "empty password", header: authorization(basic("crane", ""))},
			{name: "missing"},
			{name: "not base64", header: authorization("Basic crane:" + token)},
			{name: "bearer", header: authorization("Bearer " + token)},
		}},
		{"hmac", "{hmac: {secret: {env: DOCK_TOKEN}, header: x-signature, prefix: 'sha256='}}", []request{
			{name: "right", header: header("X-Signature", "sha256="+good), ok: true},
			{name: "hex in upper case", header: header("X-Signature", "sha256="+strings.ToUpper(good)), ok: true},
			{name: "prefix in another case", header: header("X-Signature", "SHA256="+good)},
			{name: "no prefix", header: header("X-Signature", good)},
			{name: "prefix only", header: header("X-Signature", "sha256=")},
			{name: "another prefix", header: header("X-Signature", "sha1="+good)},
			{name: "missing"},
			{name: "empty", header: header("X-Signature", "")},
			{name: "not hex", header: header("X-Signature", "sha256="+strings.Repeat("zz", 32))},
			{name: "half of it", header: header("X-Signature", "sha256="+good[:32])},
			{name: "another secret", header: header("X-Signature", "sha256="+sign(sha256.New, "guess", body))},
			{name: "empty secret", header: header("X-Signature", "sha256="+sign(sha256.New, "", body))},
			{name: "another body", header: header("X-Signature", "sha256="+sign(sha256.New, token, body+" "))},
			{name: "another algorithm", header: header("X-Signature", "sha256="+sign(sha1.New, token, body))},
			{name: "the secret itself", header: header("X-Signature", "sha256="+token)},
		}},
		{"hmac sha1", "{hmac: {secret: {env: DOCK_TOKEN}, header: X-Signature, algorithm: sha1}}", []request{
			{name: "right", header: header("X-Signature", sign(sha1.New, token, body)), ok: true},
			{name: "empty", header: header("X-Signature", "")},
			{name: "another algorithm", header: header("X-Signature", good)},
		}},
		{"hmac sha512", "{hmac: {secret: {env: DOCK_TOKEN}, header: X-Signature, algorithm: sha512}}", []request{
			{name: "right", header: header("X-Signature", sign(sha512.New, token, body)), ok: true},
			{name: "another algorithm", header: header("X-Signature", good)},
		}},
	}
	for _, tt := range tests {
		s := mustLoad(t, "{type: distribution, auth: "+tt.auth+"}")
		for _, r := range tt.requests {
			t.Run(tt.name+"/"+r.name, func(t *testing.T) {
				query, err := url.ParseQuery(r.query)
				if err != nil {
					t.Fatal(err)
				}
				err = verify(t, s, query, r.header, body)
				if r.ok && err != nil || !r.ok && !errors.Is(err, ErrUnauthorized) {
					t.Errorf("got %v", err)
				}
				if err != nil && strings.Contains(err.Error(), token) {
					t.Errorf("the secret is in the error: %v", err)
				}
			})
		}
	}
}

func TestHidden(t *testing.T) {
	t.Setenv("DOCK_TOKEN", token)
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, newAuthority(t, "Dockyard", nil).pem(), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := map[string][]string{
		"none":                       nil,
		"{token: {env: DOCK_TOKEN}}": {"secret", "token"},
		"{token: {env: DOCK_TOKEN}, header: X-T}":                         {"X-T"},
		"{bearer: {env: DOCK_TOKEN}}":                                     {"Authorization"},
		"{basic: {username: crane, password: {env: DOCK_TOKEN}}}":         {"Authorization"},
		"{hmac: {secret: {env: DOCK_TOKEN}, header: x-s}}":                {"X-S"},
		"{signature: {env: DOCK_TOKEN}}":                                  {"X-Hub-Signature-256"},
		"{oidc: {issuer: 'https://id.example', audience: a, subject: s}}": {"Authorization"},
		"{certificate: {ca: " + file + "}}":                               nil,
		"{sns: {topics: ['" + snsTopic + "']}}":                           nil,
		"[{bearer: {env: DOCK_TOKEN}}, {token: {env: DOCK_TOKEN}}, {basic: {username: crane, password: {env: DOCK_TOKEN}}}]": {"Authorization", "secret", "token"},
	}
	for auth, want := range tests {
		kind := "distribution"
		if strings.Contains(auth, "signature") {
			kind = "github"
		} else if strings.Contains(auth, "sns") {
			kind = "aws-ecr"
		}
		if got := mustLoad(t, "{type: "+kind+", auth: "+auth+"}").Hidden(); !slices.Equal(got, want) {
			t.Errorf("%s: hidden %q, want %q", auth, got, want)
		}
	}
}

func TestRotatedSecret(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	write := func(s string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("first\n")
	s := mustLoad(t, "{type: distribution, auth: {bearer: {file: "+file+"}}}")
	try := func(token string) error {
		return verify(t, s, nil, http.Header{"Authorization": {"Bearer " + token}}, "")
	}
	if err := try("first"); err != nil {
		t.Error(err)
	}
	write("second")
	if err := try("second"); err != nil {
		t.Errorf("the new secret does not count: %v", err)
	}
	if err := try("first"); !errors.Is(err, ErrUnauthorized) {
		t.Errorf("the old secret still counts: %v", err)
	}
	// What cannot be read lets nobody in, and is not the sender's fault.
	write("\n")
	if err := try(""); err == nil || errors.Is(err, ErrUnauthorized) {
		t.Errorf("empty file: %v", err)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := try("second"); err == nil || errors.Is(err, ErrUnauthorized) {
		t.Errorf("no file: %v", err)
	}
}

func TestUnsetSecret(t *testing.T) {
	t.Setenv("DOCK_TOKEN", token)
	s := mustLoad(t, "{type: distribution, auth: {token: {env: DOCK_TOKEN}}}")
	t.Setenv("DOCK_TOKEN", "")
	for _, query := range []url.Values{{}, {"token": {""}}, {"token": {token}}} {
		if err := verify(t, s, query, nil, ""); err == nil || errors.Is(err, ErrUnauthorized) {
			t.Errorf("%v: %v", query, err)
		}
	}
}

func TestAuthAlias(t *testing.T) {
	if _, err := load(t, "{registry: &x none, type: distribution, auth: *x}"); err != nil {
		t.Error(err)
	}
}

// loadOutside makes a source that reaches the rest of the world by a client.
func loadOutside(t testing.TB, client *http.Client, text string) *Source {
	t.Helper()
	n, err := strictyaml.Parse("dockbell.yaml", strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	s := Load("dock", n, Outside{Client: client})
	if err := n.Err(); err != nil {
		t.Fatal(err)
	}
	return s
}

// verdict is in one word what a source says to a request.
func verdict(t testing.TB, s *Source, r Request) string {
	t.Helper()
	_, err := s.Verify(t.Context(), r)
	if err != nil && strings.Contains(err.Error(), token) {
		t.Errorf("the secret is in the error: %v", err)
	}
	switch {
	case err == nil:
		return "in"
	case errors.Is(err, ErrUnauthorized):
		return "out"
	}
	return "later"
}

// Each vendor's own signature, as the vendor documents it.
func TestSignature(t *testing.T) {
	t.Setenv("DOCK_TOKEN", token)
	tests := map[string]struct {
		header    string
		algorithm func() hash.Hash
		prefix    string
		optional  bool
	}{
		"cloudsmith": {"X-Cloudsmith-Signature", sha1.New, "sha1=", true},
		"gitea":      {"X-Gitea-Signature", sha256.New, "", false},
		"github":     {"X-Hub-Signature-256", sha256.New, "sha256=", false},
		"jfrog":      {"X-Jfrog-Event-Auth", sha256.New, "", false},
		"nexus":      {"X-Nexus-Webhook-Signature", sha1.New, "", false},
	}
	for _, kind := range Types() {
		if _, tested := tests[kind]; tested != (senders[kind].Signature != nil) {
			t.Errorf("%s: tested %v", kind, tested)
		}
	}
	for kind, tt := range tests {
		s := mustLoad(t, "{type: "+kind+", auth: {signature: {env: DOCK_TOKEN}}}")
		good := sign(tt.algorithm, token, body)
		other := sha512.New
		bare := "out"
		if tt.prefix == "" || tt.optional {
			bare = "in"
		}
		for _, r := range []struct{ name, value, body, want string }{
			{"right", tt.prefix + good, body, "in"},
			{"hex in upper case", tt.prefix + strings.ToUpper(good), body, "in"},
			{"digits alone", good, body, bare},
			{"another prefix", "md5=" + good, body, "out"},
			{"prefix twice", tt.prefix + "sha1=" + good, body, "out"},
			{"body changed", tt.prefix + good, body + " ", "out"},
			{"body gone", tt.prefix + good, "", "out"},
			{"missing", "", body, "out"},
			{"prefix alone", tt.prefix, body, "out"},
			{"cut off", tt.prefix + good[:8], body, "out"},
			{"wrong secret", tt.prefix + sign(tt.algorithm, "guess", body), body, "out"},
			{"empty secret", tt.prefix + sign(tt.algorithm, "", body), body, "out"},
			{"another algorithm", tt.prefix + sign(other, token, body), body, "out"},
			{"the secret itself", tt.prefix + token, body, "out"},
		} {
			h := http.Header{}
			if r.value != "" {
				h.Set(tt.header, r.value)
			}
			if got := verdict(t, s, Request{Header: h, Body: []byte(r.body)}); got != r.want {
				t.Errorf("%s, %s: %s, want %s", kind, r.name, got, r.want)
			}
		}
		if got := verdict(t, s, Request{Query: url.Values{"token": {token}}, Header: http.Header{"Authorization": {"Bearer " + token}}, Body: []byte(body)}); got != "out" {
			t.Errorf("%s, the secret in another place: %s", kind, got)
		}
	}
}

// Gitea signs the JSON, which a form holds in another spelling; GitHub signs
// the body, whatever it is.
func TestSignatureOfForm(t *testing.T) {
	t.Setenv("DOCK_TOKEN", token)
	form := url.Values{"payload": {body}}.Encode()
	for kind, signed := range map[string]string{"gitea": body, "github": form} {
		s := mustLoad(t, "{type: "+kind+", auth: {signature: {env: DOCK_TOKEN}}}")
		for _, text := range []string{body, form} {
			h := http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}
			h.Set(s.sender.Signature.Header, s.sender.Signature.Prefix+sign(sha256.New, token, text))
			want := map[bool]string{true: "in", false: "out"}[text == signed]
			if got := verdict(t, s, Request{Header: h, Body: []byte(form)}); got != want {
				t.Errorf("%s, signature of %s: %s, want %s", kind, text, got, want)
			}
		}
	}
}

// While a secret is being rotated, both count.
func TestAlternatives(t *testing.T) {
	dir := t.TempDir()
	write := func(name, secret string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(secret), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	old, renewed := write("old", token+"-old"), write("new", token+"-new")
	lists := map[string]string{
		"bearer":    "[{bearer: {file: " + old + "}}, {bearer: {file: " + renewed + "}}]",
		"signature": "[{signature: {file: " + old + "}}, {signature: {file: " + renewed + "}}]",
	}
	requests := map[string]func(secret string) http.Header{
		"bearer": func(secret string) http.Header { return http.Header{"Authorization": {"Bearer " + secret}} },
		"signature": func(secret string) http.Header {
			return http.Header{"X-Hub-Signature-256": {"sha256=" + sign(sha256.New, secret, body)}}
		},
	}
	for scheme, list := range lists {
		s := mustLoad(t, "{type: github, auth: "+list+"}")
		check := func(when, secret, want string) {
			t.Helper()
			if got := verdict(t, s, Request{Header: requests[scheme](secret), Body: []byte(body)}); got != want {
				t.Errorf("%s, %s, %s: %s, want %s", scheme, when, strings.TrimPrefix(secret, token), got, want)
			}
		}
		check("both there", token+"-old", "in")
		check("both there", token+"-new", "in")
		check("both there", token+"-third", "out")
		check("both there", "", "out")

		// What one cannot check, another may still pass; else it is not known.
		for gone, other := range map[string]string{old: "-new", renewed: "-old"} {
			if err := os.Rename(gone, gone+".away"); err != nil {
				t.Fatal(err)
			}
			check(filepath.Base(gone)+" away", token+other, "in")
			check(filepath.Base(gone)+" away", token+"-third", "later")
			if err := os.Rename(gone+".away", gone); err != nil {
				t.Fatal(err)
			}
		}
		check("both back", token+"-third", "out")
	}
}

// All schemes of one mapping must hold.
func TestSchemesTogether(t *testing.T) {
	t.Setenv("DOCK_TOKEN", token)
	t.Setenv("DOCK_OTHER", token+"-other")
	s := mustLoad(t, "{type: github, auth: {token: {env: DOCK_OTHER}, basic: {username: crane, password: {env: DOCK_TOKEN}}, signature: {env: DOCK_TOKEN}}}")
	for _, tt := range []struct {
		query, user, signature bool
		want                   string
	}{
		{true, true, true, "in"},
		{false, true, true, "out"},
		{true, false, true, "out"},
		{true, true, false, "out"},
		{false, false, false, "out"},
	} {
		r := Request{Query: url.Values{}, Header: http.Header{}, Body: []byte(body)}
		if tt.query {
			r.Query.Set("token", token+"-other")
		}
		if tt.user {
			r.Header.Set("Authorization", basic("crane", token))
		}
		if tt.signature {
			r.Header.Set("X-Hub-Signature-256", "sha256="+sign(sha256.New, token, body))
		}
		if got := verdict(t, s, r); got != tt.want {
			t.Errorf("%+v: %s", tt, got)
		}
	}
	if got, want := s.Hidden(), []string{"Authorization", "X-Hub-Signature-256", "secret", "token"}; !slices.Equal(got, want) {
		t.Errorf("hidden %q, want %q", got, want)
	}
}

func TestFrom(t *testing.T) {
	t.Setenv("DOCK_TOKEN", token)
	s := mustLoad(t, "{type: distribution, auth: {token: {env: DOCK_TOKEN}}, from: [192.0.2.0/24, 198.51.100.7, '2001:db8::/32', '::1', '::ffff:203.0.113.9', 10.1.2.3/8]}")
	good := url.Values{"token": {token}}
	for from, want := range map[string]string{
		"192.0.2.1":           "in",
		"192.0.2.255":         "in",
		"::ffff:192.0.2.1":    "in",
		"192.0.3.1":           "out",
		"198.51.100.7":        "in",
		"198.51.100.8":        "out",
		"::ffff:198.51.100.7": "in",
		"2001:db8:1::2":       "in",
		"2001:db9::1":         "out",
		"::1":                 "in",
		"127.0.0.1":           "out",
		"203.0.113.9":         "in",
		"10.200.0.1":          "in",
		"::c000:201":          "out", // 192.0.2.1 in another, deprecated form
		"":                    "out",
	} {
		var addr netip.Addr
		if from != "" {
			addr = netip.MustParseAddr(from)
		}
		if got := verdict(t, s, Request{Query: good, From: addr}); got != want {
			t.Errorf("from %q: %s, want %s", from, got, want)
		}
		// The right address is no credential.
		if got := verdict(t, s, Request{Query: url.Values{"token": {"guess"}}, From: addr}); got != "out" {
			t.Errorf("from %q with a wrong token: %s", from, got)
		}
	}
	everybody := mustLoad(t, "{type: distribution, auth: none, from: []}")
	if got := verdict(t, everybody, Request{}); got != "in" {
		t.Errorf("no list: %s", got)
	}
}

// authority issues certificates.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// newAuthority makes one that the other, or when that is nil it itself, stands
// for.
func newAuthority(t *testing.T, name string, parent *authority) *authority {
	t.Helper()
	a := &authority{t: t, key: newECKey(t)}
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	if parent == nil {
		parent = &authority{t: t, cert: template, key: a.key}
	}
	a.cert = parent.issue(template, a.key)
	return a
}

func (a *authority) issue(template *x509.Certificate, key *ecdsa.PrivateKey) *x509.Certificate {
	a.t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert
}

// client is a certificate for a client, with what is changed of it.
func (a *authority) client(change func(*x509.Certificate)) *x509.Certificate {
	a.t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), DNSNames: []string{"registry.example.com"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	if change != nil {
		change(template)
	}
	return a.issue(template, newECKey(a.t))
}

func (a *authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

func TestCertificate(t *testing.T) {
	ours, theirs := newAuthority(t, "Dockyard", nil), newAuthority(t, "Dockyard", nil)
	between := newAuthority(t, "Dockyard's deputy", ours)
	past := time.Now().Add(-time.Minute)
	file := filepath.Join(t.TempDir(), "ca.pem")
	write := func(content []byte) {
		t.Helper()
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(ours.pem())
	named := func(names func(*x509.Certificate)) *x509.Certificate {
		return ours.client(func(c *x509.Certificate) { c.DNSNames = nil; names(c) })
	}
	right := ours.client(nil)
	impostor := &authority{t: t, key: newECKey(t)}
	impostor.cert = ours.issue(&x509.Certificate{SerialNumber: big.NewInt(3), DNSNames: right.DNSNames, NotBefore: right.NotBefore, NotAfter: right.NotAfter}, impostor.key)

	strict := mustLoad(t, "{type: quay, auth: {certificate: {ca: "+file+", names: [registry.example.com, bell@example.com, 'spiffe://yard/registry']}}}")
	anyName := mustLoad(t, "{type: quay, auth: {certificate: {ca: "+file+"}}}")
	type chain []*x509.Certificate
	for _, tt := range []struct {
		name         string
		chain        chain
		strict, lone string
	}{
		{"right", chain{right}, "in", "in"},
		{"with its authority", chain{right, ours.cert}, "in", "in"},
		{"for any use", chain{ours.client(func(c *x509.Certificate) { c.ExtKeyUsage = nil })}, "in", "in"},
		{"by the name of the subject", chain{named(func(c *x509.Certificate) { c.Subject.CommonName = "registry.example.com" })}, "in", "in"},
		{"by an address", chain{named(func(c *x509.Certificate) { c.EmailAddresses = []string{"bell@example.com"} })}, "in", "in"},
		{"by a URI", chain{named(func(c *x509.Certificate) { c.URIs = []*url.URL{{Scheme: "spiffe", Host: "yard", Path: "/registry"}} })}, "in", "in"},
		{"by one of several", chain{ours.client(func(c *x509.Certificate) { c.DNSNames = []string{"a.example", "registry.example.com"} })}, "in", "in"},
		{"through a deputy", chain{between.client(nil), between.cert}, "in", "in"},
		{"another name", chain{ours.client(func(c *x509.Certificate) { c.DNSNames = []string{"registry.example.com.evil.example"} })}, "out", "in"},
		{"a wider name", chain{ours.client(func(c *x509.Certificate) { c.DNSNames = []string{"*.example.com"} })}, "out", "in"},
		{"no name", chain{named(func(*x509.Certificate) {})}, "out", "in"},
		{"none", nil, "out", "out"},
		{"expired", chain{ours.client(func(c *x509.Certificate) { c.NotAfter = past })}, "out", "out"},
		{"not valid yet", chain{ours.client(func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) })}, "out", "out"},
		{"a server's", chain{ours.client(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })}, "out", "out"},
		{"another authority of that name", chain{theirs.client(nil)}, "out", "out"},
		{"brings its authority along", chain{theirs.client(nil), theirs.cert}, "out", "out"},
		{"brings ours along", chain{theirs.client(nil), ours.cert}, "out", "out"},
		{"brings a right one along", chain{theirs.client(nil), right}, "out", "out"},
		{"deputy not shown", chain{between.client(nil)}, "out", "out"},
		{"issued by no authority", chain{impostor.client(nil), impostor.cert}, "out", "out"},
	} {
		r := Request{Certificates: tt.chain}
		if got := verdict(t, strict, r); got != tt.strict {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.strict)
		}
		if got := verdict(t, anyName, r); got != tt.lone {
			t.Errorf("%s, of any name: %s, want %s", tt.name, got, tt.lone)
		}
	}

	// The authority is read at every request, as secrets are.
	write(theirs.pem())
	if got := verdict(t, strict, Request{Certificates: chain{right}}); got != "out" {
		t.Errorf("of the authority before: %s", got)
	}
	write(append(theirs.pem(), ours.pem()...))
	if got := verdict(t, strict, Request{Certificates: chain{right}}); got != "in" {
		t.Errorf("of the second authority in the file: %s", got)
	}
	write([]byte("soon"))
	if got := verdict(t, strict, Request{Certificates: chain{right}}); got != "later" {
		t.Errorf("authority unreadable: %s", got)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if got := verdict(t, strict, Request{Certificates: chain{right}}); got != "later" {
		t.Errorf("authority gone: %s", got)
	}
	if got := verdict(t, strict, Request{}); got != "out" {
		t.Errorf("no certificate, authority gone: %s", got)
	}
}

func TestNeedsCertificate(t *testing.T) {
	t.Setenv("DOCK_TOKEN", token)
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, newAuthority(t, "Dockyard", nil).pem(), 0o600); err != nil {
		t.Fatal(err)
	}
	certificate := "{certificate: {ca: " + file + "}}"
	for text, want := range map[string]bool{
		"{type: quay, auth: none}":                                                             false,
		"{type: quay, auth: {token: {env: DOCK_TOKEN}}}":                                       false,
		"{type: quay, auth: " + certificate + "}":                                              true,
		"{type: quay, auth: [{token: {env: DOCK_TOKEN}}, " + certificate + "]}":                true,
		"{type: auto, senders: {quay: {auth: none}, zot: {auth: {token: {env: DOCK_TOKEN}}}}}": false,
		"{type: auto, senders: {quay: {auth: " + certificate + "}, harbor: {auth: none}}}":     true,
	} {
		if got := mustLoad(t, text).NeedsCertificate(); got != want {
			t.Errorf("%s: %v", text, got)
		}
	}
}

func TestSNSSource(t *testing.T) {
	service := newSNSService(t, snsTemplate)
	s := loadOutside(t, service.client, "{type: aws-ecr, auth: {sns: {topics: ['"+snsTopic+"']}}}")
	other := loadOutside(t, service.client, "{type: aws-ecr, auth: {sns: {topics: ['"+snsTopic+"-other']}}}")
	signed := service.sign(t, notification())
	for _, tt := range []struct {
		name   string
		source *Source
		body   []byte
		want   string
	}{
		{"signed", s, signed, "in"},
		{"signed for another topic", other, signed, "out"},
		{"unsigned", s, marshal(t, notification()), "out"},
		{"no message", s, []byte(body), "out"},
	} {
		if got := verdict(t, tt.source, Request{Body: tt.body}); got != tt.want {
			t.Errorf("%s: %s", tt.name, got)
		}
	}
	if err := s.auth.sign(Request{Header: http.Header{}, Query: url.Values{}}); err == nil {
		t.Error("somebody else than SNS signs")
	}
	if len(s.Hidden()) != 0 {
		t.Errorf("hidden %q", s.Hidden())
	}

	down := newSNSService(t, snsTemplate)
	down.answers(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
	s = loadOutside(t, down.client, "{type: aws-ecr, auth: {sns: {topics: ['"+snsTopic+"']}}}")
	if got := verdict(t, s, Request{Body: down.sign(t, notification())}); got != "later" {
		t.Errorf("certificate not to be had: %s", got)
	}
}

func TestOIDCSource(t *testing.T) {
	p := newIdentityProvider(t, yardIssuer)
	s := loadOutside(t, p.client, "{type: google-gar, auth: {oidc: {issuer: '"+yardIssuer+"', audience: '"+yardAudience+"', email: "+yardEmail+"}}}")
	for name, tt := range map[string]struct {
		header http.Header
		want   string
	}{
		"right":            {bearer(p.token(t, nil)), "in"},
		"another account":  {bearer(p.token(t, map[string]any{"email": "mole@dockyard.iam.example.com"})), "out"},
		"another audience": {bearer(p.token(t, map[string]any{"aud": "https://elsewhere.example.com"})), "out"},
		"none":             {http.Header{}, "out"},
	} {
		if got := verdict(t, s, Request{Header: tt.header}); got != tt.want {
			t.Errorf("%s: %s", name, got)
		}
	}
	if err := s.auth.sign(Request{Header: http.Header{}, Query: url.Values{}}); err == nil {
		t.Error("somebody else than the provider signs")
	}
	if got := s.Hidden(); !slices.Equal(got, []string{"Authorization"}) {
		t.Errorf("hidden %q", got)
	}

	down := newIdentityProvider(t, yardIssuer)
	down.down.Store(true)
	s = loadOutside(t, down.client, "{type: google-gar, auth: {oidc: {issuer: '"+yardIssuer+"', audience: '"+yardAudience+"', email: "+yardEmail+"}}}")
	good := bearer(down.token(t, nil))
	if got := verdict(t, s, Request{Header: good}); got != "later" {
		t.Errorf("provider down: %s", got)
	}
}

// Commands that only read the configuration have no client to offer.
func TestLoadOffline(t *testing.T) {
	mustLoad(t, "{type: aws-ecr, auth: {sns: {topics: ['"+snsTopic+"']}}}")
	mustLoad(t, "{type: google-gar, auth: {oidc: {issuer: '"+yardIssuer+"', audience: '"+yardAudience+"', email: "+yardEmail+"}}}")
}

func TestConfirm(t *testing.T) {
	t.Setenv("DOCK_TOKEN", token)
	service := newSNSService(t, snsTemplate)
	var visits atomic.Int32
	var status atomic.Int32
	service.answers(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/" {
			_, _ = w.Write(service.file)
			return
		}
		visits.Add(1)
		if r.Method != http.MethodGet || r.URL.Query().Get("Action") != "ConfirmSubscription" || r.Header.Get("Authorization") != "" {
			t.Errorf("visited by %s %s", r.Method, r.URL)
		}
		w.WriteHeader(int(status.Load()))
	})
	const byToken, bySNS = "{token: {env: DOCK_TOKEN}}", "{sns: {topics: ['" + snsTopic + "']}}"
	query := url.Values{"token": {token}}
	signed := service.sign(t, confirmation("SubscriptionConfirmation"))
	unsigned := marshal(t, confirmation("SubscriptionConfirmation"))
	elsewhere := service.sign(t, with(confirmation("SubscriptionConfirmation"), "TopicArn", snsTopic+"-other"))

	for _, tt := range []struct {
		name, auth string
		body       []byte
		status     int32
		want       string // in the error; "" for none
		visits     int32
	}{
		{"signed", bySNS, signed, 200, "", 1},
		{"signed, with a token besides", "{token: {env: DOCK_TOKEN}, sns: {topics: ['" + snsTopic + "']}}", signed, 200, "", 1},
		{"signed, where a token would do", "[" + byToken + ", " + bySNS + "]", signed, 200, "", 1},
		{"refused by SNS", bySNS, signed, 403, "not confirmed: sns.eu-west-1.amazonaws.com answered 403", 1},
		{"SNS broken", bySNS, signed, 500, "not confirmed: sns.eu-west-1.amazonaws.com answered 500", 1},
		{"a token", byToken, signed, 200, ErrUnproven.Error(), 0},
		{"a token, unsigned", byToken, unsigned, 200, ErrUnproven.Error(), 0},
		{"unsigned, where a token would do", "[" + byToken + ", " + bySNS + "]", unsigned, 200, ErrUnproven.Error(), 0},
		{"of another topic, where a token would do", "[" + bySNS + ", " + byToken + "]", elsewhere, 200, ErrUnproven.Error(), 0},
		{"anybody", "none", signed, 200, ErrUnproven.Error(), 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			visits.Store(0)
			status.Store(tt.status)
			s := loadOutside(t, service.client, "{type: aws-ecr, auth: "+tt.auth+"}")
			r := Request{Query: query, Header: http.Header{}, Body: tt.body}
			found, err := s.Verify(t.Context(), r)
			if err != nil {
				t.Fatal(err)
			}
			reply := found.Handshake(r.Header, r.Body)
			if reply == nil || reply.Confirm == "" {
				t.Fatalf("no handshake: %+v", reply)
			}
			err = found.Confirm(t.Context(), r, reply)
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got %v, want %s", err, tt.want)
			}
			if errors.Is(err, ErrUnproven) != (tt.want == ErrUnproven.Error()) {
				t.Errorf("got %v", err)
			}
			if n := visits.Load(); n != tt.visits {
				t.Errorf("visited %d times", n)
			}
		})
	}
	s := loadOutside(t, service.client, "{type: aws-ecr, auth: "+bySNS+"}")
	if err := s.Confirm(t.Context(), Request{}, &Reply{}); err != nil {
		t.Errorf("nothing to visit: %v", err)
	}
	// Nobody to be asked is not the same as a yes.
	s.client = &http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		return nil, errors.New("no route")
	}}}
	r := Request{Header: http.Header{}, Body: signed}
	if err := s.Confirm(t.Context(), r, s.Handshake(r.Header, r.Body)); err == nil || errors.Is(err, ErrUnproven) {
		t.Errorf("no answer: %v", err)
	}
}

func TestLoadFaults(t *testing.T) {
	t.Setenv("DOCK_TOKEN", "s3cret")
	tests := []struct {
		name, text string
		want       []string
	}{
		{"unknown type", "type: dockerhob\nauth: none", []string{`dockbell.yaml:1: type: unknown type "dockerhob"; known are aliyun, `}},
		{"no type", "auth: none", []string{`dockbell.yaml:1: type: unknown type "";`}},
		{"no auth", "type: dockerhub", []string{"dockbell.yaml:1: auth is missing: say how this source authenticates itself, or `auth: none`"}},
		{"auth another word", "type: dockerhub\nauth: open", []string{`dockbell.yaml:2: auth: must be none, a mapping with one of`}},
		{"auth null", "type: dockerhub\nauth:", []string{`dockbell.yaml:2: auth: must be none, a mapping with one of`}},
		{"auth empty", "type: dockerhub\nauth: {}", []string{`dockbell.yaml:2: auth: needs one of token, bearer, basic, signature, hmac, certificate, oidc, sns`}},
		{"two schemes in one header", "type: dockerhub\nauth:\n  basic: {username: u, password: {env: DOCK_TOKEN}}\n  bearer: {env: DOCK_TOKEN}", []string{`dockbell.yaml:3: auth: two of these are both in Authorization`}},
		{"value in place of a reference", "type: dockerhub\nauth:\n  token: hunter2", []string{`dockbell.yaml:3: auth.token: a secret is a reference`}},
		{"secret that is not set", "type: dockerhub\nauth:\n  bearer: {env: DOCK_NOWHERE}", []string{`dockbell.yaml:3: auth.bearer: environment variable DOCK_NOWHERE is not set`}},
		{"header without token", "type: dockerhub\nauth:\n  bearer: {env: DOCK_TOKEN}\n  header: X-Token", []string{`dockbell.yaml:4: auth.header: goes with token`}},
		{"basic without username", "type: dockerhub\nauth:\n  basic:\n    password: {env: DOCK_TOKEN}", []string{`auth.basic.username: is missing`}},
		{"basic without password", "type: dockerhub\nauth:\n  basic:\n    username: crane", []string{`auth.basic.password: no secret is given`}},
		{"hmac without header", "type: dockerhub\nauth:\n  hmac:\n    secret: {env: DOCK_TOKEN}", []string{`auth.hmac.header: is missing`}},
		{"hmac of another kind", "type: dockerhub\nauth:\n  hmac:\n    secret: {env: DOCK_TOKEN}\n    header: X-S\n    algorithm: md5", []string{`dockbell.yaml:6: auth.hmac.algorithm: unknown algorithm "md5"; known are sha1, sha256, sha512`}},
		{"unknown key", "type: dockerhub\nauth: none\nregistri: x", []string{`dockbell.yaml:3: unknown key "registri"; known are auth, callback, fields, from, registry, senders, type`}},
		{"unknown key in auth", "type: dockerhub\nauth:\n  tokens: {env: DOCK_TOKEN}", []string{`dockbell.yaml:3: auth: unknown key "tokens"`}},
		{"bad registry", "type: aliyun\nauth: none\nregistry: https://x/", []string{`dockbell.yaml:3: registry: registry "https://x/" is not host[:port]`}},
		{"callback elsewhere", "type: aliyun\nauth: none\ncallback: true", []string{`dockbell.yaml:3: callback: only dockerhub has a callback`}},
		{"two schemes in one header, spelt in two ways", "type: dockerhub\nauth:\n  token: {env: DOCK_TOKEN}\n  header: authorization\n  bearer: {env: DOCK_TOKEN}", []string{`dockbell.yaml:3: auth: two of these are both in Authorization`}},
		{"token and an hmac in a header of that name", "type: dockerhub\nauth: {token: {env: DOCK_TOKEN}, hmac: {secret: {env: DOCK_TOKEN}, header: Token}}\nregistri: x", []string{`unknown key "registri"`}},
		{"auth an empty list", "type: dockerhub\nauth: []", []string{"dockbell.yaml:2: auth: is empty: say none to accept requests from anybody"}},
		{"none among others", "type: dockerhub\nauth: [none, {bearer: {env: DOCK_TOKEN}}]", []string{"dockbell.yaml:2: auth[0]: must be a mapping"}},
		{"nothing among others", "type: dockerhub\nauth: [{}, {bearer: {env: DOCK_TOKEN}}]", []string{"dockbell.yaml:2: auth[0]: needs one of token, "}},
		{"fault in the second", "type: dockerhub\nauth:\n- bearer: {env: DOCK_TOKEN}\n- bearer: {env: DOCK_NOWHERE}\n- token: hunter2", []string{"dockbell.yaml:4: auth[1].bearer: environment variable DOCK_NOWHERE is not set", "dockbell.yaml:5: auth[2].token: a secret is a reference"}},
		{"signature of who does not sign", "type: dockerhub\nauth:\n  signature: {env: DOCK_TOKEN}", []string{"dockbell.yaml:3: auth.signature: this sender does not sign; use one of token, bearer, basic, hmac"}},
		{"signature that is not set", "type: github\nauth:\n  signature: {env: DOCK_NOWHERE}", []string{"dockbell.yaml:3: auth.signature: environment variable DOCK_NOWHERE is not set"}},
		{"certificate without authority", "type: quay\nauth:\n  certificate: {names: [a]}", []string{"dockbell.yaml:3: auth.certificate.ca: is missing: name the file"}},
		{"certificate of an authority that is not there", "type: quay\nauth:\n  certificate:\n    ca: /nowhere/ca.pem", []string{"dockbell.yaml:4: auth.certificate.ca: open /nowhere/ca.pem: no such file or directory"}},
		{"certificate of an authority that is none", "type: quay\nauth:\n  certificate:\n    ca: auth_test.go", []string{"dockbell.yaml:4: auth.certificate.ca: auth_test.go holds no certificate in PEM form"}},
		{"sns elsewhere", "type: generic-json\nauth:\n  sns: {topics: [a]}", []string{"dockbell.yaml:3: auth: sns goes with aws-ecr"}},
		{"sns without topics", "type: aws-ecr\nauth:\n  sns: {}", []string{"dockbell.yaml:3: auth.sns.topics: is missing: anybody can"}},
		{"oidc of anybody", "type: google-gar\nauth:\n  oidc: {issuer: http://id.example}", []string{"dockbell.yaml:3: auth.oidc.issuer: must be an https address", "auth.oidc.audience: is missing", "dockbell.yaml:3: auth.oidc: needs email, subject or app"}},
		{"oidc and bearer", "type: google-gar\nauth:\n  bearer: {env: DOCK_TOKEN}\n  oidc: {issuer: https://id.example, audience: a, subject: s}", []string{"dockbell.yaml:3: auth: two of these are both in Authorization"}},
		{"from is no network", "type: quay\nauth: none\nfrom:\n- 192.0.2.0/24\n- office", []string{`dockbell.yaml:5: from[1]: "office" is neither an address nor a network as 203.0.113.0/24`}},
		{"from is no list", "type: quay\nauth: none\nfrom: 192.0.2.7", []string{"dockbell.yaml:3: from: must be a list"}},
		{"from too wide", "type: quay\nauth: none\nfrom: [192.0.2.0/33]", []string{`dockbell.yaml:3: from[0]: "192.0.2.0/33" is neither`}},
		{"fields elsewhere", "type: quay\nauth: none\nfields: {image: x}", []string{"dockbell.yaml:3: fields: only generic-json has fields"}},
		{"senders elsewhere", "type: quay\nauth: none\nsenders: {quay: {auth: none}}", []string{"dockbell.yaml:3: senders: only auto has senders"}},
		{"several at once", "type: x\nregistri: y\nregistry: ' '", []string{"unknown type", "unknown key", "is not host", "auth is missing"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := load(t, tt.text)
			if err == nil {
				t.Fatal("no fault")
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("got  %v\nwant %s", err, want)
				}
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the value is in the error: %v", err)
			}
		})
	}
}

func TestParseNetwork(t *testing.T) {
	for in, want := range map[string]string{
		"203.0.113.7":          "203.0.113.7/32",
		"203.0.113.7/24":       "203.0.113.0/24",
		"::ffff:203.0.113.7":   "203.0.113.7/32",
		"::ffff:192.0.2.0/120": "192.0.2.0/24",
		"2001:db8::7/32":       "2001:db8::/32",
	} {
		if got, err := ParseNetwork(in); err != nil || got.String() != want {
			t.Errorf("%s: got %v, %v, want %s", in, got, err, want)
		}
	}
	for _, in := range []string{"", "example.com", "203.0.113.7/33", "203.0.113"} {
		if got, err := ParseNetwork(in); err == nil {
			t.Errorf("%q: got %v", in, got)
		}
	}
}

// What no body can make good is refused before there is one.
func TestAdmit(t *testing.T) {
	t.Setenv("DOCK_TOKEN", token)
	right, wrong := url.Values{"token": {token}}, url.Values{"token": {"guess"}}
	for _, tt := range []struct {
		name, source string
		query        url.Values
		ok           bool
	}{
		{"open", "{type: github, auth: none}", nil, true},
		{"token", "{type: github, auth: {token: {env: DOCK_TOKEN}}}", right, true},
		{"wrong token", "{type: github, auth: {token: {env: DOCK_TOKEN}}}", wrong, false},
		{"signature", "{type: github, auth: {signature: {env: DOCK_TOKEN}}}", nil, true},
		{"wrong token beside a signature", "{type: github, auth: {signature: {env: DOCK_TOKEN}, token: {env: DOCK_TOKEN}}}", wrong, false},
		{"wrong token or a signature", "{type: github, auth: [{signature: {env: DOCK_TOKEN}}, {token: {env: DOCK_TOKEN}}]}", wrong, true},
		{"another address", "{type: github, auth: none, from: [192.0.2.1]}", nil, false},
		{"any of the senders", "{type: auto, senders: {github: {auth: {token: {env: DOCK_TOKEN}}}, quay: {auth: none}}}", wrong, true},
		{"none of the senders", "{type: auto, senders: {github: {auth: {token: {env: DOCK_TOKEN}}}, quay: {auth: {token: {env: DOCK_TOKEN}}}}}", wrong, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := mustLoad(t, tt.source).Admit(t.Context(), Request{Query: tt.query, Header: http.Header{}})
			if tt.ok && err != nil || !tt.ok && !errors.Is(err, ErrUnauthorized) {
				t.Error(err)
			}
		})
	}
}

// Who has not been authenticated cannot make a first sight expensive.
func TestGlanceIsBounded(t *testing.T) {
	var many strings.Builder
	many.WriteString(`{"first": 1`)
	for i := range 100_000 {
		fmt.Fprintf(&many, `, "k%d": 1`, i)
	}
	many.WriteString("}")
	for name, body := range map[string]string{
		"many keys":     many.String(),
		"long list":     `[{"first": 1}` + strings.Repeat(",1", 500_000) + "]",
		"cut off later": `{"first": 1, ` + strings.Repeat(`"k": 1, `, 1000),
	} {
		l := look{}
		allocated := testing.AllocsPerRun(1, func() { l = glance(http.Header{}, []byte(body)) })
		if (name != "cut off later" && !l.has("first")) || len(l.keys) > manyKeys || allocated > 5000 {
			t.Errorf("%s: %d keys, %.0f allocations", name, len(l.keys), allocated)
		}
	}
}
