package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dockbell/dockbell/trigger"
)

const by = `{"by": "anna"}`

// secretly is a token that is known.
func secretly(token string) func() (string, error) {
	return func() (string, error) { return token, nil }
}

// change posts to the API.
func (s *station) change(path, body, token string) (int, string) {
	w := ask(s.admin, http.MethodPost, "/api/v1/"+path, body, "Authorization", "Bearer "+token)
	return w.Code, w.Body.String()
}

// Only who knows the token changes something, and says who it is.
func TestIntervene(t *testing.T) {
	s := fill(t)
	s.token = secretly("hunter2")
	s.use(s.store)
	for _, tt := range []struct {
		name, path, body string
		code             int
		text             string
	}{
		{"nobody", "2/cancel", `{}`, 400, "say who you are"},
		{"nobody and nothing", "2/cancel", ``, 400, "say who you are"},
		{"nobody visible", "2/cancel", `{"by": " \u0000\n"}`, 400, "say who you are"},
		{"no JSON", "2/cancel", "anna", 400, "the body must be JSON"},
		{"misspelt", "2/cancel", `{"by": "anna", "digset": "x"}`, 400, `unknown field \"digset\"`},
		{"endless", "2/cancel", `{"by": "` + strings.Repeat("a", 10_000) + `"}`, 400, "of at most 8192 bytes"},
		{"no id", "x/cancel", by, 400, "is a number"},
		{"no run", "99/retry", by, 404, "there is no run 99"},
		{"not as it stands", "1/retry", by, 409, "run 1 is succeeded"},
		{"cancel", "2/cancel", "{\"by\": \"an\\n\\u0007na\"}", 200, `"reason":"cancelled by an na"`},
		{"a second time", "2/cancel", by, 409, "run 2 is skipped"},
	} {
		if code, text := s.change("runs/"+tt.path, tt.body, "hunter2"); code != tt.code || !strings.Contains(text, tt.text) {
			t.Errorf("%s: %d %s, want %d %s", tt.name, code, text, tt.code, tt.text)
		}
	}
	for path, want := range map[string]string{"runs/3/cancel": "POST", "holds": "GET, POST", "runs": "GET"} {
		if w := ask(s.admin, http.MethodPut, "/api/v1/"+path, ""); w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") != want {
			t.Errorf("PUT %s: %d, Allow %q", path, w.Code, w.Header().Get("Allow"))
		}
	}
	if text := s.log.String(); strings.Contains(text, "hunter2") || !strings.Contains(text, `msg="run cancelled" run=2 by="an na"`) {
		t.Error(text)
	}
}

// ledger is a store that takes down what people do, or refuses it.
type ledger struct {
	Store
	refuse error
	votes  []trigger.Vote
	holds  []trigger.Hold
	all    bool // released ones were asked for
}

func (l *ledger) Vote(_ context.Context, _ int64, v trigger.Vote, _ time.Time) error {
	if l.refuse == nil {
		l.votes = append(l.votes, v)
	}
	return l.refuse
}

func (l *ledger) Hold(_ context.Context, h trigger.Hold) (int64, error) {
	h.ID, h.At = int64(len(l.holds)+1), time.Time{}
	l.holds = append(l.holds, h)
	return h.ID, l.refuse
}

func (l *ledger) Release(_ context.Context, id int64, by string, _ time.Time) error {
	if l.refuse == nil {
		l.holds[id-1].ReleasedBy = by
	}
	return l.refuse
}

func (l *ledger) Holds(_ context.Context, released bool) ([]trigger.Hold, error) {
	l.all = released
	return slices.Clone(l.holds), l.refuse
}

func TestVotes(t *testing.T) {
	s := fill(t)
	s.token = secretly("hunter2")
	l := &ledger{Store: s.store}
	s.use(l)
	long := strings.Repeat("é", mostReason)
	for _, tt := range []struct {
		name, path, body string
		refuse           error
		code             int
		text             string
		want             trigger.Vote // none when it is zero
	}{
		{"yes", "2/approve", `{"by": "anna", "digest": "sha256:1"}`, nil, 200, `"id":"2"`, trigger.Vote{By: "anna", Yes: true, Digest: "sha256:1"}},
		{"yes, to what has no digest", "2/approve", by, nil, 200, `"id":"2"`, trigger.Vote{By: "anna", Yes: true}},
		{"yes, and why", "2/approve", `{"by": "anna", "reason": "seen it\nrun"}`, nil, 200, "", trigger.Vote{By: "anna", Yes: true, Reason: "seen it run"}},
		{"no", "2/reject", `{"by": "anna", "digest": "sha256:1", "reason": "too early"}`, nil, 200, "", trigger.Vote{By: "anna", Digest: "sha256:1", Reason: "too early"}},
		{"no, at length", "2/reject", `{"by": "anna", "reason": "` + long + `"}`, nil, 200, "", trigger.Vote{By: "anna", Reason: long[:mostReason]}},
		{"no, without a reason", "2/reject", by, nil, 400, `say why: {\"reason\"`, trigger.Vote{}},
		{"no, with an empty reason", "2/reject", `{"by": "anna", "reason": " \n"}`, nil, 400, "say why", trigger.Vote{}},
		{"no id", "x/approve", by, nil, 400, "the id of a run is a number", trigger.Vote{}},
		{"no run", "99/approve", by, fmt.Errorf("run 99: %w", trigger.ErrNotFound), 404, "there is no run 99", trigger.Vote{}},
		{"refused", "2/approve", by, trigger.Refuse("the digest is another one"), 409, "the digest is another one", trigger.Vote{}},
		{"store broken", "2/approve", by, errors.New("disk of glass"), 500, "see the log", trigger.Vote{}},
	} {
		l.votes, l.refuse = nil, tt.refuse
		code, text := s.change("runs/"+tt.path, tt.body, "hunter2")
		var got trigger.Vote
		if len(l.votes) == 1 {
			got = l.votes[0]
		}
		if code != tt.code || !strings.Contains(text, tt.text) || got != tt.want {
			t.Errorf("%s: %d %s, %+v; want %d %s, %+v", tt.name, code, text, got, tt.code, tt.text, tt.want)
		}
	}
	if text := s.log.String(); !strings.Contains(text, `msg="run rejected" run=2 by=anna reason="too early"`) {
		t.Error(text)
	}
}

func TestHolds(t *testing.T) {
	s := fill(t)
	s.token = secretly("hunter2")
	l := &ledger{Store: s.store}
	s.use(l)
	for _, tt := range []struct {
		name, body string
		code       int
		text       string
	}{
		{"a digest", `{"by": "anna", "digest": "` + webDigest + `", "reason": "leaks"}`, 201, `{"id":"1","digest":"` + webDigest + `","reason":"leaks","by":"anna",`},
		{"a lane", `{"by": "anna", "lane": "rule/web/0", "reason": "migration"}`, 201, `{"id":"2","lane":"rule/web/0","reason":"migration",`},
		{"both", `{"by": "anna", "lane": "a", "digest": "sha512:` + strings.Repeat("a", 128) + `", "reason": "x"}`, 201, `{"id":"3","lane":"a","digest":"sha512:`},
		{"neither", `{"by": "anna", "reason": "x"}`, 400, "say what to hold"},
		{"no reason", `{"by": "anna", "lane": "a"}`, 400, "say why"},
		{"a short digest", `{"by": "anna", "digest": "sha256:12", "reason": "x"}`, 400, `64 hexadecimal digits, or sha512: and 128, not \"sha256:12\"`},
		{"a tag", `{"by": "anna", "digest": "v1", "reason": "x"}`, 400, "digest must be"},
		{"nobody", `{"lane": "a", "reason": "x"}`, 400, "say who you are"},
	} {
		if code, text := s.change("holds", tt.body, "hunter2"); code != tt.code || !strings.Contains(text, tt.text) {
			t.Errorf("%s: %d %s, want %d %s", tt.name, code, text, tt.code, tt.text)
		}
	}
	if list := get[HoldList](t, s, "/api/v1/holds"); len(list.Holds) != 3 || list.Holds[1].Lane != "rule/web/0" || l.all {
		t.Errorf("%+v", list)
	}
	if get[HoldList](t, s, "/api/v1/holds?released=true"); !l.all {
		t.Error("released ones were not asked for")
	}
	if code, text := s.change("holds/2/release", `{"by": "bob"}`, "hunter2"); code != 200 || text != `{"id":"2","releasedBy":"bob"}`+"\n" || l.holds[1].ReleasedBy != "bob" {
		t.Errorf("%d %s", code, text)
	}
	for want, refuse := range map[string]error{
		"404 there is no hold 9":       fmt.Errorf("hold 9: %w", trigger.ErrNotFound),
		"409 hold 9 is released by x":  trigger.Refuse("hold 9 is released by x"),
		"500 the store could not be r": errors.New("disk of glass"),
	} {
		l.refuse = refuse
		code, text := s.change("holds/9/release", by, "hunter2")
		var answer struct{ Error string }
		if err := json.Unmarshal([]byte(text), &answer); err != nil || !strings.HasPrefix(fmt.Sprint(code, " ", answer.Error), want) {
			t.Errorf("%d %s, want %s", code, text, want)
		}
	}
	if code, text := s.change("holds/x/release", by, "hunter2"); code != 400 || !strings.Contains(text, "the id of a hold is a number") {
		t.Errorf("%d %s", code, text)
	}
}

// A run shows the holds that it falls under, and no others.
func TestHoldsOfARun(t *testing.T) {
	s := fill(t)
	l := &ledger{Store: s.store, holds: []trigger.Hold{
		{ID: 1, Lane: "rule/web/0"}, {ID: 2, Lane: "rule/other/0"}, {ID: 3, Digest: webDigest}, {ID: 4, Lane: "rule/web/0", Digest: webDigest},
	}}
	s.use(l)
	if w := s.post("/hooks/registry", envelope(registryEvent("a", "push", "shop/web", "v9")), "Authorization", bearer); w.Code != http.StatusAccepted {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	for path, want := range map[string]string{"1": "[]", "2": "[1]", "6": "[1 3 4]"} {
		ids := []int64{}
		for _, h := range get[RunView](t, s, "/api/v1/runs/"+path).Holds {
			ids = append(ids, h.ID)
		}
		if got := fmt.Sprint(ids); got != want {
			t.Errorf("run %s: %s, want %s", path, got, want)
		}
	}
}
