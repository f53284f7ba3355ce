package source

import (
	"net/http"
	"net/url"
	"testing"
)

func TestNotGitea(t *testing.T) {
	refused(t, "gitea", map[string]string{
		"empty object":    `{}`,
		"a list":          `[]`,
		"git push":        `{"ref": "refs/heads/main", "repository": {"name": "pilot"}}`,
		"no action":       `{"package": {"type": "container", "name": "a", "version": "1"}}`,
		"no type":         `{"action": "created", "package": {"name": "a", "version": "1"}}`,
		"package null":    `{"action": "created", "package": null}`,
		"version no text": `{"action": "created", "package": {"type": "container", "name": "a", "version": 1}}`,
	})
}

// Whatever the body is sent in, the signature is over the JSON in it.
func TestGiteaSigned(t *testing.T) {
	const body = `{"action": "created & signed"}`
	form := []byte(url.Values{"payload": {body}}.Encode())
	signed := senders["gitea"].Signature.Signed
	if got := signed(http.Header{"Content-Type": {"application/json"}}, []byte(body)); string(got) != body {
		t.Errorf("of JSON: %s", got)
	}
	if got := signed(http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}, form); string(got) != body {
		t.Errorf("of a form: %s", got)
	}
}

func FuzzParseGitea(f *testing.F) { fuzzParse(f, "gitea") }
