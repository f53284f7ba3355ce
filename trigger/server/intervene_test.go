package server

import (
	"errors"
	"net/http"
	"strings"
	"testing"
)

// Only who knows the token changes something, and says who it is.
func TestIntervene(t *testing.T) {
	s := fill(t)
	change := func(path, body string, header ...string) (int, string) {
		w := ask(s.admin, http.MethodPost, "/api/v1/runs/"+path, body, header...)
		return w.Code, w.Body.String()
	}
	const by = `{"by": "anna"}`
	if code, text := change("2/cancel", by, "Authorization", "Bearer "); code != http.StatusForbidden || !strings.Contains(text, "server.token") {
		t.Errorf("without a token in the configuration: %d %s", code, text)
	}
	readable := true
	s.token = func() (string, error) {
		if !readable {
			return "", errors.New("the file is away")
		}
		return "hunter2", nil
	}
	s.use(s.store)
	for _, tt := range []struct {
		name, path, body, authorization string
		code                            int
		text                            string
	}{
		{"no token", "2/cancel", by, "", 401, "wrong or missing bearer token"},
		{"wrong token", "2/cancel", by, "Bearer hunter3", 401, "wrong or missing bearer token"},
		{"another scheme", "2/cancel", by, "Basic hunter2", 401, "wrong or missing bearer token"},
		{"nobody", "2/cancel", `{}`, "Bearer hunter2", 400, "say who you are"},
		{"nobody visible", "2/cancel", `{"by": " \u0000\n"}`, "Bearer hunter2", 400, "say who you are"},
		{"no JSON", "2/cancel", "anna", "Bearer hunter2", 400, "say who you are"},
		{"endless", "2/cancel", `{"by": "` + strings.Repeat("a", 10_000) + `"}`, "Bearer hunter2", 400, "say who you are"},
		{"no id", "x/cancel", by, "Bearer hunter2", 400, "is a number"},
		{"no run", "99/retry", by, "Bearer hunter2", 404, "there is no run 99"},
		{"not as it stands", "1/retry", by, "Bearer hunter2", 409, "run 1 is succeeded"},
		{"cancel", "2/cancel", "{\"by\": \"an\\nna\"}", "Bearer hunter2", 200, `"reason":"cancelled by anna"`},
		{"a second time", "2/cancel", by, "Bearer hunter2", 409, "run 2 is skipped"},
	} {
		if code, text := change(tt.path, tt.body, "Authorization", tt.authorization); code != tt.code || !strings.Contains(text, tt.text) {
			t.Errorf("%s: %d %s, want %d %s", tt.name, code, text, tt.code, tt.text)
		}
	}
	readable = false
	if code, _ := change("3/cancel", by, "Authorization", "Bearer hunter2"); code != http.StatusServiceUnavailable {
		t.Errorf("while the token cannot be read: %d", code)
	}
	if w := ask(s.admin, http.MethodGet, "/api/v1/runs/3/cancel", ""); w.Code != http.StatusMethodNotAllowed {
		t.Errorf("GET: %d", w.Code)
	}
	if text := s.log.String(); strings.Contains(text, "hunter2") || !strings.Contains(text, `msg="run cancelled" run=2 by=anna`) {
		t.Error(text)
	}
}
