package source

import (
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"hash"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/dockbell/dockbell/trigger"
	"github.com/dockbell/dockbell/trigger/secret"
	"github.com/dockbell/dockbell/trigger/strictyaml"
)

// authSpec is how a source authenticates itself: the word none, or exactly
// one of the schemes.
//
//	auth: none
//	auth: {token: REF}                          ?token=… or ?secret=…
//	auth: {token: REF, header: X-Token}         in that header, as it is
//	auth: {bearer: REF}                         Authorization: Bearer …
//	auth: {basic: {username: u, password: REF}}
//	auth: {hmac: {secret: REF, header: X-Signature, algorithm: sha256, prefix: "sha256="}}
type authSpec struct {
	Token  secret.Ref `yaml:"token"`
	Header string     `yaml:"header"`
	Bearer secret.Ref `yaml:"bearer"`
	Basic  *struct {
		Username string     `yaml:"username"`
		Password secret.Ref `yaml:"password"`
	} `yaml:"basic"`
	HMAC *struct {
		Secret    secret.Ref `yaml:"secret"`
		Header    string     `yaml:"header"`
		Algorithm string     `yaml:"algorithm"`
		Prefix    string     `yaml:"prefix"` // before the hex digits, as in sha256=
	} `yaml:"hmac"`
}

// auth checks requests by one scheme. The secret is read at every request, so
// that a rotated file counts at once.
type auth struct {
	secret secret.Ref // zero: the source is open to anybody
	verify verifier
	hidden []string // headers and query parameters that carry the credentials
}

// verifier reports whether the request was made by somebody who knows the
// secret, which is never empty.
type verifier func(secret string, query url.Values, h http.Header, body []byte) bool

var algorithms = map[string]func() hash.Hash{"sha1": sha1.New, "sha256": sha256.New, "sha512": sha512.New}

// loadAuth reads the `auth` of a source; what is wrong with it is reported as
// faults of the node.
func loadAuth(n strictyaml.Node) (auth, bool) {
	y := n.YAML()
	if y.Kind == yaml.AliasNode {
		y = y.Alias
	}
	if y.Kind == yaml.ScalarNode {
		if y.Value != "none" {
			n.Faultf("must be none or a mapping with one of token, bearer, basic, hmac")
		}
		return auth{}, y.Value == "none"
	}
	var s authSpec
	if !n.Decode(&s) {
		return auth{}, false
	}
	a, err := s.compile()
	if err != nil {
		n.Fault(err)
		return auth{}, false
	}
	return a, true
}

func (s authSpec) compile() (auth, error) {
	var schemes []auth
	var errs []error
	fault := func(field, format string, args ...any) { errs = append(errs, trigger.Field(field, format, args...)) }
	check := func(field string, ref secret.Ref) {
		if _, err := ref.Read(); err != nil {
			fault(field, "%w", err)
		}
	}

	if !s.Token.IsZero() {
		check("token", s.Token)
		if s.Header != "" {
			schemes = append(schemes, auth{s.Token, byHeader(s.Header), []string{s.Header}})
		} else {
			schemes = append(schemes, auth{s.Token, byQuery, []string{"token", "secret"}})
		}
	} else if s.Header != "" {
		fault("header", "goes with token")
	}
	if !s.Bearer.IsZero() {
		check("bearer", s.Bearer)
		schemes = append(schemes, auth{s.Bearer, byBearer, []string{"Authorization"}})
	}
	if b := s.Basic; b != nil {
		if b.Username == "" {
			fault("basic.username", "is missing")
		}
		check("basic.password", b.Password)
		schemes = append(schemes, auth{b.Password, byBasic(b.Username), []string{"Authorization"}})
	}
	if m := s.HMAC; m != nil {
		if m.Header == "" {
			fault("hmac.header", "is missing: name the header that carries the signature")
		}
		if m.Algorithm == "" {
			m.Algorithm = "sha256"
		}
		algorithm, ok := algorithms[m.Algorithm]
		if !ok {
			fault("hmac.algorithm", "unknown algorithm %q; known are %s", m.Algorithm, strings.Join(slices.Sorted(maps.Keys(algorithms)), ", "))
		}
		check("hmac.secret", m.Secret)
		schemes = append(schemes, auth{m.Secret, byHMAC(m.Header, algorithm, m.Prefix), []string{m.Header}})
	}

	switch {
	case len(errs) > 0:
		return auth{}, errors.Join(errs...)
	case len(schemes) != 1:
		return auth{}, errors.New("needs exactly one of token, bearer, basic, hmac")
	}
	return schemes[0], nil
}

func byQuery(secret string, query url.Values, _ http.Header, _ []byte) bool {
	token, second := query.Get("token"), query.Get("secret")
	return equal(token, secret) || equal(second, secret)
}

func byHeader(name string) verifier {
	return func(secret string, _ url.Values, h http.Header, _ []byte) bool {
		return equal(h.Get(name), secret)
	}
}

func byBearer(secret string, _ url.Values, h http.Header, _ []byte) bool {
	scheme, token, _ := strings.Cut(h.Get("Authorization"), " ")
	return strings.EqualFold(scheme, "bearer") && equal(token, secret)
}

func byBasic(username string) verifier {
	return func(secret string, _ url.Values, h http.Header, _ []byte) bool {
		user, password, ok := (&http.Request{Header: h}).BasicAuth()
		return ok && equal(user, username) && equal(password, secret)
	}
}

func byHMAC(header string, algorithm func() hash.Hash, prefix string) verifier {
	return func(secret string, _ url.Values, h http.Header, body []byte) bool {
		digits, ok := strings.CutPrefix(h.Get(header), prefix)
		if !ok {
			return false
		}
		got, err := hex.DecodeString(digits)
		if err != nil {
			return false
		}
		mac := hmac.New(algorithm, []byte(secret))
		mac.Write(body)
		return hmac.Equal(got, mac.Sum(nil))
	}
}

// equal compares in a time that depends on neither content nor length.
func equal(got, want string) bool {
	g, w := sha256.Sum256([]byte(got)), sha256.Sum256([]byte(want))
	return subtle.ConstantTimeCompare(g[:], w[:]) == 1
}
