package server

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"
)

// Who sends a personal token is that person; who sends that of all says who.
func TestPeople(t *testing.T) {
	s := fill(t)
	if code, text := s.change("runs/2/cancel", by, ""); code != http.StatusForbidden || !strings.Contains(text, "set server.token or server.people") {
		t.Errorf("without a token in the configuration: %d %s", code, text)
	}
	s.token = secretly("of-all")
	s.people = map[string]Person{
		"anna":  {secretly("of-anna"), Approver},
		"bob":   {secretly("of-bob"), Admin},
		"carol": {secretly(""), Admin},
		"dora":  {secretly("twice"), Admin},
		"emil":  {secretly("twice"), Admin},
	}
	l := &ledger{Store: s.store}
	s.use(l)
	const wrong = "wrong or missing bearer token"
	for _, tt := range []struct {
		name, authorization, path, body string
		code                            int
		text                            string
		by                              string // who is on record
	}{
		{"no token", "", "runs/2/approve", by, 401, wrong, ""},
		{"empty token", "Bearer ", "runs/2/approve", by, 401, wrong, ""},
		{"wrong token", "Bearer of-carol", "runs/2/approve", by, 401, wrong, ""},
		{"another scheme", "Basic of-all", "runs/2/approve", by, 401, wrong, ""},
		{"no scheme", "of-all", "runs/2/approve", by, 401, wrong, ""},
		{"her own", "Bearer of-anna", "runs/2/approve", "", 200, "", "anna"},
		{"her own, and her name", "Bearer of-anna", "runs/2/approve", by, 200, "", "anna"},
		{"her own, another's name", "Bearer of-anna", "runs/2/approve", `{"by": "bob"}`, 403, "this is the token of anna, not of bob", ""},
		{"an administrator's", "Bearer of-bob", "runs/2/reject", `{"reason": "no"}`, 200, "", "bob"},
		{"that of all", "Bearer of-all", "runs/2/approve", `{"by": "zoe"}`, 200, "", "zoe"},
		{"that of all, no name", "Bearer of-all", "runs/2/approve", "", 400, "say who you are", ""},
		{"that of all, the name of one with a token", "Bearer of-all", "runs/2/approve", by, 403, "anna has a token, which this is not", ""},
		{"that of two", "Bearer twice", "runs/2/approve", "", 403, "this token is that of several", ""},
		{"approver cancels", "Bearer of-anna", "runs/2/cancel", "", 403, "anna may not do this: it takes the role admin in server.people", ""},
		{"approver retries", "Bearer of-anna", "runs/2/retry", "", 403, "role admin", ""},
		{"approver replays a delivery", "Bearer of-anna", "deliveries/1/replay", "", 403, "role admin", ""},
		{"approver replays an event", "Bearer of-anna", "events/1/replay", "", 403, "role admin", ""},
		{"approver holds", "Bearer of-anna", "holds", `{"lane": "a", "reason": "x"}`, 201, `"by":"anna"`, ""},
		{"approver releases", "Bearer of-anna", "holds/1/release", "", 200, `"releasedBy":"anna"`, ""},
		{"administrator cancels", "Bearer of-bob", "runs/2/cancel", "", 200, "cancelled by bob", ""},
	} {
		l.votes = nil
		w := ask(s.admin, http.MethodPost, "/api/v1/"+tt.path, tt.body, "Authorization", tt.authorization)
		who := ""
		if len(l.votes) > 0 {
			who = l.votes[0].By
		}
		if w.Code != tt.code || !strings.Contains(w.Body.String(), tt.text) || who != tt.by {
			t.Errorf("%s: %d %s by %q, want %d %s by %q", tt.name, w.Code, w.Body, who, tt.code, tt.text, tt.by)
		}
		if got := w.Header().Get("WWW-Authenticate"); (got == "Bearer") != (tt.code == 401) {
			t.Errorf("%s: WWW-Authenticate %q", tt.name, got)
		}
	}
	if text := s.log.String(); strings.Contains(text, "of-anna") || strings.Contains(text, "of-all") {
		t.Errorf("the log has a token:\n%s", text)
	}
}

func TestWhoAmI(t *testing.T) {
	s := newStation(t)
	s.token, s.people = secretly("of-all"), map[string]Person{"anna": {secretly("of-anna"), Approver}}
	s.use(s.store)
	for token, want := range map[string]Caller{"of-all": {"", Admin}, "of-anna": {"anna", Approver}} {
		w := ask(s.admin, http.MethodGet, "/api/v1/me", "", "Authorization", "Bearer "+token)
		var got Caller
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || got != want || w.Code != http.StatusOK {
			t.Errorf("%s: %d %s", token, w.Code, w.Body)
		}
	}
	if w := s.get("/api/v1/me"); w.Code != http.StatusUnauthorized {
		t.Errorf("nobody: %d", w.Code)
	}
}

// A token that cannot be read shuts out its owner alone.
func TestTokenThatCannotBeRead(t *testing.T) {
	s := fill(t)
	s.token = secretly("of-all")
	s.people = map[string]Person{"anna": {func() (string, error) { return "", errors.New("the file is away") }, Approver}}
	s.use(&ledger{Store: s.store})
	if code, text := s.change("runs/2/approve", "", "of-anna"); code != http.StatusServiceUnavailable || strings.Contains(text, "the file is away") {
		t.Errorf("%d %s", code, text)
	}
	if code, text := s.change("runs/2/approve", `{"by": "zoe"}`, "of-all"); code != http.StatusOK {
		t.Errorf("%d %s", code, text)
	}
	if !strings.Contains(s.log.String(), `of=anna error="the file is away"`) {
		t.Error(s.log)
	}
}
