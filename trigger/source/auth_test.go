package source

import (
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"hash"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
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
				err = s.Verify(query, r.header, []byte(body))
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
	tests := map[string][]string{
		"none":                       nil,
		"{token: {env: DOCK_TOKEN}}": {"token", "secret"},
		"{token: {env: DOCK_TOKEN}, header: X-T}":                 {"X-T"},
		"{bearer: {env: DOCK_TOKEN}}":                             {"Authorization"},
		"{basic: {username: crane, password: {env: DOCK_TOKEN}}}": {"Authorization"},
		"{hmac: {secret: {env: DOCK_TOKEN}, header: X-S}}":        {"X-S"},
	}
	for auth, want := range tests {
		if got := mustLoad(t, "{type: distribution, auth: "+auth+"}").Hidden(); !slices.Equal(got, want) {
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
		return s.Verify(nil, http.Header{"Authorization": {"Bearer " + token}}, nil)
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
		if err := s.Verify(query, nil, nil); err == nil || errors.Is(err, ErrUnauthorized) {
			t.Errorf("%v: %v", query, err)
		}
	}
}

func TestAuthAlias(t *testing.T) {
	if _, err := load(t, "{registry: &x none, type: distribution, auth: *x}"); err != nil {
		t.Error(err)
	}
}

func TestLoadFaults(t *testing.T) {
	t.Setenv("DOCK_TOKEN", "s3cret")
	tests := []struct {
		name, text string
		want       []string
	}{
		{"unknown type", "type: dockerhob\nauth: none", []string{`dockbell.yaml:1: type: unknown type "dockerhob"; known are aliyun, azure-eventgrid, distribution, dockerhub`}},
		{"no type", "auth: none", []string{`dockbell.yaml:1: type: unknown type "";`}},
		{"no auth", "type: dockerhub", []string{"dockbell.yaml:1: auth is missing: say how this source authenticates itself, or `auth: none`"}},
		{"auth another word", "type: dockerhub\nauth: open", []string{`dockbell.yaml:2: auth: must be none or a mapping`}},
		{"auth null", "type: dockerhub\nauth:", []string{`dockbell.yaml:2: auth: must be none or a mapping`}},
		{"auth empty", "type: dockerhub\nauth: {}", []string{`dockbell.yaml:2: auth: needs exactly one of token, bearer, basic, hmac`}},
		{"two schemes", "type: dockerhub\nauth:\n  token: {env: DOCK_TOKEN}\n  bearer: {env: DOCK_TOKEN}", []string{`dockbell.yaml:3: auth: needs exactly one of token, bearer, basic, hmac`}},
		{"value in place of a reference", "type: dockerhub\nauth:\n  token: hunter2", []string{`dockbell.yaml:3: auth.token: a secret is a reference`}},
		{"secret that is not set", "type: dockerhub\nauth:\n  bearer: {env: DOCK_NOWHERE}", []string{`dockbell.yaml:3: auth.bearer: environment variable DOCK_NOWHERE is not set`}},
		{"header without token", "type: dockerhub\nauth:\n  bearer: {env: DOCK_TOKEN}\n  header: X-Token", []string{`dockbell.yaml:4: auth.header: goes with token`}},
		{"basic without username", "type: dockerhub\nauth:\n  basic:\n    password: {env: DOCK_TOKEN}", []string{`auth.basic.username: is missing`}},
		{"basic without password", "type: dockerhub\nauth:\n  basic:\n    username: crane", []string{`auth.basic.password: no secret is given`}},
		{"hmac without header", "type: dockerhub\nauth:\n  hmac:\n    secret: {env: DOCK_TOKEN}", []string{`auth.hmac.header: is missing`}},
		{"hmac of another kind", "type: dockerhub\nauth:\n  hmac:\n    secret: {env: DOCK_TOKEN}\n    header: X-S\n    algorithm: md5", []string{`dockbell.yaml:6: auth.hmac.algorithm: unknown algorithm "md5"; known are sha1, sha256, sha512`}},
		{"unknown key", "type: dockerhub\nauth: none\nregistri: x", []string{`dockbell.yaml:3: unknown key "registri"; known are auth, callback, registry, type`}},
		{"unknown key in auth", "type: dockerhub\nauth:\n  tokens: {env: DOCK_TOKEN}", []string{`dockbell.yaml:3: auth: unknown key "tokens"`}},
		{"bad registry", "type: aliyun\nauth: none\nregistry: https://x/", []string{`dockbell.yaml:3: registry: registry "https://x/" is not host[:port]`}},
		{"callback elsewhere", "type: aliyun\nauth: none\ncallback: true", []string{`dockbell.yaml:3: callback: only dockerhub has a callback`}},
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
