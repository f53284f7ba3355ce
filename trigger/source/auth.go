package source

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"maps"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/dockbell/dockbell/trigger"
	"github.com/dockbell/dockbell/trigger/secret"
	"github.com/dockbell/dockbell/trigger/strictyaml"
)

// Request is a delivery as it came, with all by which its sender can be known.
type Request struct {
	Query  url.Values
	Header http.Header
	Body   []byte

	// From is the address of the sender, behind the proxies that are trusted.
	From netip.Addr

	// Certificates are those of the TLS client, its own first. Nobody has
	// verified them yet.
	Certificates []*x509.Certificate
}

// credentials are what a source demands of a request: one mapping, of which
// everything must hold.
//
//	{token: REF}                          ?token=… or ?secret=…
//	{token: REF, header: X-Token}         in that header, as it is
//	{bearer: REF}                         Authorization: Bearer …
//	{basic: {username: u, password: REF}}
//	{signature: REF}                      the vendor's own signature
//	{hmac: {secret: REF, header: X-Signature, algorithm: sha256, prefix: "sha256="}}
//	{certificate: {ca: FILE, names: [registry.example.com]}}
//	{oidc: {issuer: …, audience: …, email: …}}
//	{sns: {topics: [arn:aws:sns:…]}}
type credentials struct {
	Token     secret.Ref `yaml:"token"`
	Header    string     `yaml:"header"`
	Bearer    secret.Ref `yaml:"bearer"`
	Signature secret.Ref `yaml:"signature"`
	Basic     *struct {
		Username string     `yaml:"username"`
		Password secret.Ref `yaml:"password"`
	} `yaml:"basic"`
	HMAC *struct {
		Secret    secret.Ref `yaml:"secret"`
		Header    string     `yaml:"header"`
		Algorithm string     `yaml:"algorithm"`
		Prefix    string     `yaml:"prefix"` // before the hex digits, as in sha256=
	} `yaml:"hmac"`
	Certificate *struct {
		CA    string   `yaml:"ca"`
		Names []string `yaml:"names"`
	} `yaml:"certificate"`
	OIDC *oidcSpec `yaml:"oidc"`
	SNS  *struct {
		Topics []string `yaml:"topics"`
	} `yaml:"sns"`
}

const schemeNames = "token, bearer, basic, signature, hmac, certificate, oidc, sns"

// auth is how a source authenticates itself: by any of the alternatives. None
// of them means that it is open to anybody.
type auth []alternative

// alternative is a set of schemes that must all hold.
type alternative []scheme

// scheme is one way to know a sender. Secrets are read at every request, so
// that a rotated file counts at once.
type scheme struct {
	// check is nil for a request of the sender, ErrUnauthorized for any other,
	// and another error when it cannot be known now.
	check func(ctx context.Context, r Request) error

	// sign gives a request its credentials; nil when only the vendor can.
	sign func(r Request) error

	early       bool     // the body is not needed
	hidden      []string // headers and query parameters that carry the credentials
	proves      bool     // that the vendor itself made the body, not only somebody who knows a secret
	certificate bool     // asks for a TLS client's
}

// verify checks a request against each alternative.
func (a auth) verify(ctx context.Context, r Request) error {
	if len(a) == 0 {
		return nil
	}
	var refused error
	for _, alternative := range a {
		err := alternative.verify(ctx, r)
		if err == nil {
			return nil
		}
		if refused == nil || !errors.Is(err, ErrUnauthorized) {
			refused = err
		}
	}
	return refused
}

func (a alternative) verify(ctx context.Context, r Request) error {
	for _, s := range a {
		if err := s.check(ctx, r); err != nil {
			return err
		}
	}
	return nil
}

// early refuses a request that no body can make good: each of the alternatives
// has something that does not hold already.
func (a auth) early(ctx context.Context, r Request) error {
	var refused error
	for _, alternative := range a {
		err := alternative.early(ctx, r)
		if err == nil || !errors.Is(err, ErrUnauthorized) {
			return nil
		}
		refused = cmp.Or(refused, err)
	}
	return refused
}

func (a alternative) early(ctx context.Context, r Request) error {
	for _, s := range a {
		if s.early {
			if err := s.check(ctx, r); err != nil {
				return err
			}
		}
	}
	return nil
}

// proven reports whether the vendor itself is known to have made the body.
func (a auth) proven(ctx context.Context, r Request) bool {
	for _, alternative := range a {
		proves := slices.ContainsFunc(alternative, func(s scheme) bool { return s.proves })
		if proves && alternative.verify(ctx, r) == nil {
			return true
		}
	}
	return false
}

// sign adds the credentials of the first alternative to a request.
func (a auth) sign(r Request) error {
	if len(a) == 0 {
		return nil
	}
	for _, s := range a[0] {
		if s.sign == nil {
			return errors.New("only the vendor itself can sign for this source; try with another alternative first in its auth, as a token")
		}
		if err := s.sign(r); err != nil {
			return err
		}
	}
	return nil
}

func (a auth) provesVendor() bool {
	return slices.ContainsFunc(a, func(a alternative) bool { return slices.ContainsFunc(a, func(s scheme) bool { return s.proves }) })
}

func (a auth) needsCertificate() bool {
	return slices.ContainsFunc(a, func(a alternative) bool {
		return slices.ContainsFunc(a, func(s scheme) bool { return s.certificate })
	})
}

// hidden names the headers and query parameters that carry credentials.
func (a auth) hidden() []string {
	var all []string
	for _, alternative := range a {
		for _, s := range alternative {
			all = append(all, s.hidden...)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// loadAuth reads the `auth` of a source: the word none, one mapping, or a list
// of them of which any will do, as while a secret is being rotated. What is
// wrong with it is reported as faults of the node.
func loadAuth(n strictyaml.Node, signature *Signature, client *http.Client) (auth, bool) {
	switch y := n.YAML(); {
	case y.Kind == yaml.ScalarNode:
		if y.Value != "none" {
			n.Faultf("must be none, a mapping with one of %s, or a list of those", schemeNames)
		}
		return nil, y.Value == "none"
	case y.Kind != yaml.SequenceNode:
		a, ok := loadAlternative(n, signature, client)
		return auth{a}, ok
	case len(y.Content) == 0:
		n.Faultf("is empty: say none to accept requests from anybody")
		return nil, false
	}
	var all auth
	good := true
	for _, item := range n.Items() {
		a, ok := loadAlternative(item, signature, client)
		all, good = append(all, a), good && ok
	}
	return all, good
}

func loadAlternative(n strictyaml.Node, signature *Signature, client *http.Client) (alternative, bool) {
	var c credentials
	if !n.Decode(&c) {
		return nil, false
	}
	a, err := c.compile(signature, client)
	if err != nil {
		n.Fault(err)
		return nil, false
	}
	return a, true
}

func (c credentials) compile(signature *Signature, client *http.Client) (alternative, error) {
	var all alternative
	var errs []error
	fault := func(field, format string, args ...any) { errs = append(errs, trigger.Field(field, format, args...)) }
	readable := func(field string, ref secret.Ref) {
		if _, err := ref.Read(); err != nil {
			fault(field, "%w", err)
		}
	}

	switch {
	case c.Token.IsZero() && c.Header != "":
		fault("header", "goes with token")
	case c.Token.IsZero():
	case c.Header != "":
		readable("token", c.Token)
		all = append(all, byHeader(c.Token, c.Header))
	default:
		readable("token", c.Token)
		all = append(all, byQuery(c.Token))
	}
	if !c.Bearer.IsZero() {
		readable("bearer", c.Bearer)
		all = append(all, byBearer(c.Bearer))
	}
	if b := c.Basic; b != nil {
		if b.Username == "" {
			fault("basic.username", "is missing")
		}
		readable("basic.password", b.Password)
		all = append(all, byBasic(b.Username, b.Password))
	}
	if !c.Signature.IsZero() {
		readable("signature", c.Signature)
		if signature == nil {
			fault("signature", "this sender does not sign; use one of token, bearer, basic, hmac")
		} else {
			all = append(all, bySignature(c.Signature, *signature))
		}
	}
	if m := c.HMAC; m != nil {
		if m.Header == "" {
			fault("hmac.header", "is missing: name the header that carries the signature")
		}
		m.Algorithm = cmp.Or(m.Algorithm, "sha256")
		if _, ok := algorithms[m.Algorithm]; !ok {
			fault("hmac.algorithm", "unknown algorithm %q; known are %s", m.Algorithm, strings.Join(slices.Sorted(maps.Keys(algorithms)), ", "))
		}
		readable("hmac.secret", m.Secret)
		all = append(all, bySignature(m.Secret, Signature{Header: m.Header, Algorithm: m.Algorithm, Prefix: m.Prefix}))
	}
	if t := c.Certificate; t != nil {
		if _, err := readPool(t.CA); err != nil {
			fault("certificate.ca", "%w", err)
		}
		all = append(all, byCertificate(t.CA, t.Names))
	}
	if o := c.OIDC; o != nil {
		errs = append(errs, o.faults()...)
		all = append(all, byOIDC(client, *o))
	}
	if s := c.SNS; s != nil {
		if len(s.Topics) == 0 {
			fault("sns.topics", "is missing: anybody can have Amazon sign a message of a topic of theirs")
		}
		all = append(all, bySNS(client, s.Topics))
	}

	switch {
	case len(errs) > 0:
		return nil, errors.Join(errs...)
	case len(all) == 0:
		return nil, fmt.Errorf("needs one of %s", schemeNames)
	}
	headers := map[string]bool{}
	for _, s := range all {
		for _, h := range s.hidden {
			if headers[h] {
				return nil, fmt.Errorf("two of these are both in %s, which carries one; in a list, any of them will do", h)
			}
			headers[h] = true
		}
	}
	return all, nil
}

func byQuery(ref secret.Ref) scheme {
	return scheme{
		early: true,
		check: withSecret(ref, func(secret string, r Request) bool {
			token, second := equal(r.Query.Get("token"), secret), equal(r.Query.Get("secret"), secret)
			return token || second
		}),
		sign: signedWith(ref, func(secret string, r Request) { r.Query.Set("token", secret) }), hidden: []string{"token", "secret"},
	}
}

func byHeader(ref secret.Ref, name string) scheme {
	return scheme{
		early: true,
		check: withSecret(ref, func(secret string, r Request) bool { return equal(r.Header.Get(name), secret) }),
		sign:  signedWith(ref, func(secret string, r Request) { r.Header.Set(name, secret) }), hidden: []string{http.CanonicalHeaderKey(name)},
	}
}

func byBearer(ref secret.Ref) scheme {
	return scheme{
		early: true,
		check: withSecret(ref, func(secret string, r Request) bool {
			scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
			return strings.EqualFold(scheme, "bearer") && equal(token, secret)
		}),
		sign: signedWith(ref, func(secret string, r Request) { r.Header.Set("Authorization", "Bearer "+secret) }), hidden: []string{"Authorization"},
	}
}

func byBasic(username string, ref secret.Ref) scheme {
	return scheme{
		early: true,
		check: withSecret(ref, func(secret string, r Request) bool {
			user, password, ok := (&http.Request{Header: r.Header}).BasicAuth()
			return ok && equal(user, username) && equal(password, secret)
		}),
		sign: signedWith(ref, func(secret string, r Request) { (&http.Request{Header: r.Header}).SetBasicAuth(username, secret) }), hidden: []string{"Authorization"},
	}
}

func bySignature(ref secret.Ref, s Signature) scheme {
	return scheme{
		check: withSecret(ref, func(secret string, r Request) bool {
			digits, ok := strings.CutPrefix(r.Header.Get(s.Header), s.Prefix)
			if !ok && !s.Optional {
				return false
			}
			got, err := hex.DecodeString(digits)
			return err == nil && hmac.Equal(got, s.sum(secret, r))
		}),
		sign:   signedWith(ref, func(secret string, r Request) { r.Header.Set(s.Header, s.Prefix+hex.EncodeToString(s.sum(secret, r))) }),
		hidden: []string{http.CanonicalHeaderKey(s.Header)},
	}
}

var algorithms = map[string]func() hash.Hash{"sha1": sha1.New, "sha256": sha256.New, "sha512": sha512.New}

func (s Signature) sum(secret string, r Request) []byte {
	body := r.Body
	if s.Signed != nil {
		body = s.Signed(r.Header, body)
	}
	mac := hmac.New(algorithms[s.Algorithm], []byte(secret))
	mac.Write(body)
	return mac.Sum(nil)
}

// byCertificate knows the sender by the certificate of its TLS client, which
// an authority of the operator's must have issued for one of the names.
func byCertificate(ca string, names []string) scheme {
	return scheme{certificate: true, early: true, check: func(_ context.Context, r Request) error {
		if len(r.Certificates) == 0 {
			return ErrUnauthorized
		}
		roots, err := readPool(ca)
		if err != nil {
			return err
		}
		others := x509.NewCertPool()
		for _, c := range r.Certificates[1:] {
			others.AddCert(c)
		}
		client := r.Certificates[0]
		if _, err := client.Verify(x509.VerifyOptions{Roots: roots, Intermediates: others, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
			return fmt.Errorf("%w: client certificate: %w", ErrUnauthorized, err)
		}
		if len(names) > 0 && !slices.ContainsFunc(namesOf(client), func(name string) bool { return slices.Contains(names, name) }) {
			return fmt.Errorf("%w: client certificate is for %q", ErrUnauthorized, namesOf(client))
		}
		return nil
	}}
}

// namesOf are the names that a certificate was issued for.
func namesOf(c *x509.Certificate) []string {
	names := slices.Concat(c.DNSNames, c.EmailAddresses)
	for _, u := range c.URIs {
		names = append(names, u.String())
	}
	if c.Subject.CommonName != "" {
		names = append(names, c.Subject.CommonName)
	}
	return names
}

func readPool(path string) (*x509.CertPool, error) {
	if path == "" {
		return nil, errors.New("is missing: name the file with the certificates of the authority")
	}
	pem, err := os.ReadFile(path)
	if err != nil {
		return nil, trigger.Retry(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate in PEM form", path)
	}
	return pool, nil
}

func byOIDC(client *http.Client, s oidcSpec) scheme {
	check := oidcCheck(client, s)
	return scheme{
		check:  func(ctx context.Context, r Request) error { return check(ctx, r.Header) },
		hidden: []string{"Authorization"},
	}
}

func bySNS(client *http.Client, topics []string) scheme {
	check := snsCheck(client, topics)
	return scheme{
		check:  func(ctx context.Context, r Request) error { return check(ctx, r.Header, r.Body) },
		proves: true,
	}
}

// withSecret is a check with a secret, which is never empty.
func withSecret(ref secret.Ref, holds func(secret string, r Request) bool) func(context.Context, Request) error {
	return func(_ context.Context, r Request) error {
		secret, err := ref.Read()
		if err != nil {
			return err
		}
		if !holds(secret, r) {
			return ErrUnauthorized
		}
		return nil
	}
}

func signedWith(ref secret.Ref, sign func(secret string, r Request)) func(Request) error {
	return func(r Request) error {
		secret, err := ref.Read()
		if err != nil {
			return err
		}
		sign(secret, r)
		return nil
	}
}

// equal compares in a time that depends on neither content nor length.
func equal(got, want string) bool {
	g, w := sha256.Sum256([]byte(got)), sha256.Sum256([]byte(want))
	return subtle.ConstantTimeCompare(g[:], w[:]) == 1
}
