package rules

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dockbell/dockbell/trigger"
	"github.com/dockbell/dockbell/trigger/strictyaml"
)

const twoRules = `
- {name: web, repo: shop/web, tag: '(?P<sha>[0-9a-f]{40})', actions: [set: {to: x}]}
- {name: api, repo: shop/api, actions: [call: {to: x}]}
`

// loadNotices makes a set of two rules, web and api, with notifications.
func loadNotices(t testing.TB, text string) (*Set, error) {
	t.Helper()
	set := mustLoad(t, twoRules)
	n, err := strictyaml.Parse("n.yaml", strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	set.LoadNotices(n, "https://dockbell.example.com/", withChat(), decodeSpec)
	return set, n.Err()
}

// ended is a run of rule web as the store has it when it has ended.
func ended(t testing.TB, state trigger.State) trigger.Run {
	return trigger.Run{
		ID: 42, EventID: 7, Event: push(t, "ghcr.io/shop/web:v1@"+digest), Rule: "web", Kind: "set", Target: "deployment prod/web",
		State: state, Reason: "no such host", Attempt: 3,
	}
}

// Of what runs there can be is known before there are any.
func TestKinds(t *testing.T) {
	set, err := loadNotices(t, "[{on: failed, call: {to: a}}, {name: desk, on: failed, set: {to: b}}]")
	if err != nil {
		t.Fatal(err)
	}
	set = set.With(mustLoad(t, "- {name: two, repo: a, actions: [call: {to: x}, set: {to: y}]}"))
	var got []string
	for rule, kind := range set.Kinds() {
		got = append(got, rule+" "+kind)
	}
	want := []string{"web set", "api call", "two call", "two set", "notify/1 call", "notify/desk set"}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestNoticesOfStates(t *testing.T) {
	set, err := loadNotices(t, `
- {on: [failed, unknown, rolled-back], call: {to: a}}
- {on: approval, call: {to: b}}
- {name: web-only, on: [succeeded, failed], rules: [web], call: {to: c}}
- {name: api-only, on: [superseded, skipped, expired, rejected], rules: [api], call: {to: d}}
- {name: declarative, on: [failed], set: {to: e}}
`)
	if err != nil {
		t.Fatal(err)
	}
	waits := func(of int) func(*trigger.Run) {
		return func(r *trigger.Run) { r.Approvals, r.Approved = 2, of }
	}
	of := func(rule string) func(*trigger.Run) { return func(r *trigger.Run) { r.Rule = rule } }
	for _, tt := range []struct {
		state  trigger.State
		change func(*trigger.Run)
		want   string
	}{
		{trigger.Failed, nil, "notify/1 notify/web-only notify/declarative"},
		{trigger.Failed, of("api"), "notify/1 notify/declarative"},
		{trigger.Unknown, nil, "notify/1"},
		{trigger.RolledBack, nil, "notify/1"},
		{trigger.Succeeded, nil, "notify/web-only"},
		{trigger.Succeeded, of("api"), ""},
		{trigger.Skipped, nil, ""},
		{trigger.Skipped, of("api"), "notify/api-only"},
		{trigger.Superseded, of("api"), "notify/api-only"},
		{trigger.Expired, of("api"), "notify/api-only"},
		{trigger.Rejected, of("api"), "notify/api-only"},
		{trigger.Waiting, nil, ""},
		{trigger.Running, nil, ""},
		{trigger.Waiting, waits(0), "notify/2"},
		{trigger.Waiting, waits(1), "notify/2"},
		{trigger.Waiting, waits(2), ""},
		{trigger.Failed, func(r *trigger.Run) { r.Tells = 41 }, ""}, // it is a notification itself
	} {
		run := ended(t, tt.state)
		if tt.change != nil {
			tt.change(&run)
		}
		var got []string
		for _, r := range set.Notices(told(run), now) {
			got = append(got, r.Rule)
		}
		if strings.Join(got, " ") != tt.want {
			t.Errorf("%s of %s: %q, want %q", run.State, run.Rule, got, tt.want)
		}
	}
	if got, want := set.NoticeStates(), "approval expired failed rejected rolled-back skipped succeeded superseded unknown"; strings.Join(got, " ") != want {
		t.Errorf("states %q, want %s", got, want)
	}
	if got := mustLoad(t, twoRules).NoticeStates(); len(got) != 0 {
		t.Errorf("states without notifications: %q", got)
	}
}

// told are runs as people are told of them.
func told(runs ...trigger.Run) (all []trigger.Notice) {
	for _, r := range runs {
		all = append(all, trigger.Notice{Run: r})
	}
	return all
}

// A notification is a call in a lane of its own, of whatever kind it is.
func TestNoticeRun(t *testing.T) {
	set, err := loadNotices(t, `
- {name: set, on: failed, set: {to: chat, list: ["{{.State}}"]}}
- {name: call, on: failed, call: {to: "{{.Rule}}", timeout: 5s, attempts: 7, deadline: 1h, backoff: {first: 2s, most: 1m}}}
`)
	if err != nil {
		t.Fatal(err)
	}
	later := now.Add(time.Minute)
	got := set.Notices(told(ended(t, trigger.Failed)), later)
	for i, want := range []trigger.Run{
		{Rule: "notify/set", Kind: "set", Target: "chat", Spec: []byte(`{"to":"chat","list":["failed"]}`), Lane: "notify/set", Timeout: 30 * time.Second},
		{Rule: "notify/call", Kind: "call", Target: "web", Spec: []byte(`{"to":"web"}`), Lane: "notify/call", Timeout: 5 * time.Second,
			Attempts: 7, Deadline: time.Hour, FirstBackoff: 2 * time.Second, MostBackoff: time.Minute},
	} {
		want.Event, want.EventID, want.Tells, want.Mode = ended(t, "").Event, 7, 42, trigger.Queue
		want.CreatedAt, want.NotBefore = later, later
		if len(got) != 2 || fmt.Sprintf("%+v", got[i]) != fmt.Sprintf("%+v", want) {
			t.Errorf("got  %+v\nwant %+v", got, want)
		}
	}
}

func TestNoticeTemplates(t *testing.T) {
	for template, want := range map[string]string{
		"{{.Rule}}":       "web",
		"{{.State}}":      "failed",
		"{{.Reason}}":     "no such host",
		"{{.Target}}":     "deployment prod/web",
		"{{.Kind}}":       "set",
		"{{.Run}}":        "42",
		"{{.Attempt}}":    "3",
		"{{.Image}}":      "ghcr.io/shop/web:v1",
		"{{.Pinned}}":     "ghcr.io/shop/web:v1@" + digest,
		"{{.Actor}}":      "crane",
		"{{.OccurredAt}}": "2026-05-06T07:08:09Z",
		"{{if gt .Attempt 1}}again{{else}}{{.Repository}}{{end}}": "again",
	} {
		set, err := loadNotices(t, "- {on: failed, call: {to: '"+template+"'}}")
		if err != nil {
			t.Errorf("%s: %v", template, err)
			continue
		}
		if runs := set.Notices(told(ended(t, trigger.Failed)), now); runs[0].Target != want || runs[0].State != "" {
			t.Errorf("%s: %q, %s %s; want %q", template, runs[0].Target, runs[0].State, runs[0].Reason, want)
		}
	}
	set, err := loadNotices(t, "- {on: approval, call: {to: '{{.State}}'}}")
	if err != nil {
		t.Fatal(err)
	}
	waiting := ended(t, trigger.Waiting)
	waiting.Approvals = 1
	if runs := set.Notices(told(waiting), now); runs[0].Target != "approval" {
		t.Errorf("the state of a run that waits for people is %q", runs[0].Target)
	}
}

// A template that fails is seen, and the other notifications are sent.
func TestNoticeThatFails(t *testing.T) {
	set, err := loadNotices(t, `
- {name: bad, on: failed, call: {to: '{{slice .Reason 0 13}}'}}
- {name: good, on: failed, call: {to: '{{.Reason}}'}}
`)
	if err != nil {
		t.Fatal(err)
	}
	runs := set.Notices(told(ended(t, trigger.Failed)), now)
	if r := runs[0]; r.State != trigger.Failed || !strings.Contains(r.Reason, "index out of range: 13") || !r.FinishedAt.Equal(now) || r.Tells != 42 || r.Lane != "notify/bad" {
		t.Errorf("%+v", r)
	}
	if r := runs[1]; r.State != "" || r.Target != "no such host" {
		t.Errorf("%+v", r)
	}
}

// The templates of a notification about a rule are tried with what that rule
// matches.
func TestSampleFitsTheRuleThatIsToldOf(t *testing.T) {
	if _, err := loadNotices(t, "- {on: failed, rules: web, call: {to: '{{slice .Tag 0 12}}', name: '{{trimPrefix \"shop/\" .Repository}}'}}"); err != nil {
		t.Error(err)
	}
}

func TestNoticeFaults(t *testing.T) {
	const words = "succeeded, failed, unknown, rolled-back, expired, rejected, superseded, skipped, approval"
	for _, tt := range []struct{ name, text, want string }{
		{"no list", "on: failed", "n.yaml:1: must be a list of notifications"},
		{"no mapping", "- failed", "n.yaml:1: [0]: must be a mapping, not a string"},
		{"on nothing", "- call: {}", "n.yaml:1: [0].on: is missing: what to tell people of, some of " + words},
		{"on an empty list", "- {on: [], call: {}}", "n.yaml:1: [0].on: is missing: what to tell people of, some of " + words},
		{"unknown state", "- {on: [failed, waiting], call: {}}", `n.yaml:1: [0].on: there is no state "waiting" to tell people of; there are ` + words},
		{"unknown rule", "- on: failed\n  rules: [web, wob]\n  call: {}", `n.yaml:2: [0].rules: there is no rule "wob"`},
		{"bad name", "- {name: a/b, on: failed, call: {}}", "n.yaml:1: [0].name: must be of letters, digits, dots, dashes and underscores, at most 64: it is in logs, metrics and lanes"},
		{"two of one name", "- {name: a, on: failed, call: {}}\n- {name: a, on: failed, call: {}}", `n.yaml:2: [1].name: another notification is named "a", on line 1`},
		{"the name that another has by its position", "- {name: '2', on: failed, call: {}}\n- {on: failed, call: {}}", `n.yaml:2: [1].name: another notification is named "2", on line 1`},
		{"no action", "- {on: failed}", "n.yaml:1: [0]: needs one action beside name, on, rules, atMost: one of call, chat, set; it has none"},
		{"two actions", "- {on: failed, call: {}, set: {}}", "n.yaml:1: [0]: needs one action beside name, on, rules, atMost: one of call, chat, set; it has call, set"},
		{"a key misspelt", "- {on: failed, rule: web, call: {}}", "n.yaml:1: [0]: needs one action beside name, on, rules, atMost: one of call, chat, set; it has rule, call"},
		{"unknown action", "- {on: failed, coll: {}}", `n.yaml:1: [0]: unknown action "coll"; known are call, chat, set`},
		{"repeated key", "- {on: failed, on: skipped, call: {}}", "n.yaml:1: [0].on: the key is there twice; the other is on line 1"},
		{"too few at once", "- {on: failed, atMost: 0, chat: {}}", "n.yaml:1: [0].atMost: must be at least 1: how many messages at once are not summed up in one"},
		{"calls are not summed up", "- {on: failed, atMost: 5, call: {}}", "n.yaml:1: [0].atMost: is for messages to people; call actions tell of each outcome by itself"},
		{"message that is refused", "- on: failed\n  chat:\n    name: '{{.Title}}'", `n.yaml:3: [0].chat.name: "deployment prod/web failed: registry.example.com/shop/web:v1.2.3" is not a name`},
		{"options of lanes", "- {on: failed, call: {lane: a}}", `n.yaml:1: [0].call: unknown key "lane"; known are any, count, list, name, on, params, to, attempts, backoff, deadline, timeout`},
		{"hold", "- {on: failed, call: {onFailure: hold}}", `n.yaml:1: [0].call: unknown key "onFailure"; known are any, count, list, name, on, params, to, attempts, backoff, deadline, timeout`},
		{"groups of the tag", "- {on: failed, rules: web, call: {to: '{{.Match.sha}}'}}", "n.yaml:1: [0].call: template: there is no .Match; there are .Registry, .Repository, .Tag, .Digest, .Image, .Pinned, .Actor, .Source, .Action, .OccurredAt, .Rule, .State, .Reason, .Target, .Kind, .Run, .Attempt, .From, .Took, .StartedAt, .FinishedAt, .Link, .Title, .Text, .Count"},
		{"template whose result is refused", "- on: failed\n  call:\n    name: '{{.Image}}'", `n.yaml:3: [0].call.name: "registry.example.com/shop/web:v1.2.3" is not a name`},
		{"several", "- {on: [], call: {timeout: 0s}}\n- {on: what, coll: {}}", "n.yaml:1: [0].on: is missing: what to tell people of, some of " + words +
			"\nn.yaml:1: [0].call.timeout: must be longer than nothing, as in 30s\nn.yaml:2: [1].on: there is no state \"what\" to tell people of; there are " + words +
			"\nn.yaml:2: [1]: unknown action \"coll\"; known are call, chat, set"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := loadNotices(t, tt.text); fmt.Sprint(err) != tt.want {
				t.Errorf("got\n%v\nwant\n%s", err, tt.want)
			}
		})
	}
}

// What only notifications know is not there in a rule.
func TestRulesKnowNoOutcome(t *testing.T) {
	for _, name := range []string{"Rule", "State", "Reason", "Target", "Kind", "Run", "Attempt", "From", "Title", "Link"} {
		if _, err := ruleWith(t, "actions: [call: {to: '{{."+name+"}}'}]"); err == nil || !strings.Contains(err.Error(), "there is no ."+name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What the words stand for are the states that a run can end in.
func TestNoticeWordsAreOutcomes(t *testing.T) {
	if len(noticeWords) != len(stateWords) {
		t.Errorf("%d words and %d ways to say them", len(noticeWords), len(stateWords))
	}
	for _, word := range noticeWords {
		if gravity(word) == len(stateWords) {
			t.Errorf("nothing says that a run is %s", word)
		}
		if word != onApproval && !trigger.State(word).Ended() {
			t.Errorf("%s is no outcome", word)
		}
	}
}
