package rules

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/dockbell/dockbell/trigger"
	"github.com/dockbell/dockbell/trigger/strictyaml"
)

// testSpec has every shape of parameter that actions use.
type testSpec struct {
	To     string            `yaml:"to"`
	Name   string            `yaml:"name"` // a word in lower case, as names in clusters are
	Count  int               `yaml:"count"`
	On     bool              `yaml:"on"`
	List   []string          `yaml:"list"`
	Params map[string]string `yaml:"params"`
	Any    any               `yaml:"any"`
}

type testAction struct{ testSpec }

func (a testAction) Target() string                                 { return a.To }
func (testAction) Do(context.Context, trigger.Run, io.Writer) error { return nil }

func build(decode func(any) error) (trigger.Action, error) {
	var a testAction
	if err := decode(&a.testSpec); err != nil {
		return nil, err
	}
	if strings.ContainsFunc(a.Name, func(r rune) bool { return (r < 'a' || r > 'z') && r != '-' }) {
		return nil, trigger.Field("name", "%q is not a name", a.Name)
	}
	if a.To == "away" {
		return nil, trigger.Retry(errors.New("the secret is away"))
	}
	return a, nil
}

var kinds = map[string]trigger.Kind{
	"call": {Build: build, Attempts: 3, Timeout: time.Minute},
	"set":  {Build: build, Declarative: true, Timeout: 30 * time.Second},
}

func decodeSpec(spec json.RawMessage) func(any) error {
	return func(v any) error {
		n, err := strictyaml.Parse("specification", bytes.NewReader(spec))
		if err != nil {
			return err
		}
		n.Decode(v)
		return n.Err()
	}
}

func load(t testing.TB, text string) (*Set, error) {
	t.Helper()
	n, err := strictyaml.Parse("r.yaml", strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return Load(n, kinds, []string{"hub", "registry"}, trigger.Aliases{"registry:5000": "registry.example.com"}, decodeSpec), n.Err()
}

func mustLoad(t testing.TB, text string) *Set {
	t.Helper()
	set, err := load(t, text)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

var now = time.Date(2026, 5, 6, 7, 8, 9, 0, time.UTC)

// push is an event for a reference.
func push(t testing.TB, ref string) trigger.Event {
	t.Helper()
	img, err := trigger.ParseImage(ref)
	if err != nil {
		t.Fatal(err)
	}
	return trigger.Event{Image: img, Action: trigger.Push, Source: "registry", Actor: "crane", ReceivedAt: now}
}

const digest = "sha256:1111111111111111111111111111111111111111111111111111111111111111"

// The rule of these tests is called r, matches everything and does nothing,
// unless the test says otherwise.
func ruleWith(t *testing.T, conditions string) (*Set, error) {
	t.Helper()
	text := "- name: r\n  " + strings.ReplaceAll(conditions, "\n", "\n  ")
	if !strings.Contains(conditions, "repo:") {
		text += "\n  repo: '**'"
	}
	if !strings.Contains(conditions, "actions:") {
		text += "\n  actions: [call: {to: x}]"
	}
	return load(t, text)
}

// Each condition with events that meet it and with events that do not and why.
func TestConditions(t *testing.T) {
	of := func(ref string, change func(*trigger.Event)) trigger.Event {
		e := push(t, ref)
		change(&e)
		return e
	}
	deleted := func(e *trigger.Event) { e.Action = trigger.Delete }
	byDigest := of("shop/web@"+digest, func(*trigger.Event) {})
	tests := []struct {
		rule  string
		event trigger.Event
		want  string // condition: reason; "" when it matches
	}{
		{"", push(t, "shop/web:v1"), ""},
		{"", byDigest, "tag: it was pushed by digest, without a tag; a rule for those says `untagged: true`"},
		{"untagged: true", byDigest, ""},
		{"untagged: true", push(t, "shop/web:v1"), ""},
		{"untagged: true\ntag: v1", byDigest, ""},
		{"untagged: true\nsemver: '>1'", byDigest, `semver: "" is not a semantic version`},
		{"untagged: true\nexclude: {tag: '.*'}", byDigest, ""},

		{"", of("shop/web:v1", deleted), "event: it is a delete, the rule is for a push"},
		{"event: delete", of("shop/web:v1", deleted), ""},
		{"event: delete", push(t, "shop/web:v1"), "event: it is a push, the rule is for a delete"},
		{"event: delete", of("shop/web@"+digest, deleted), ""},
		{"event: delete\ntag: v1", of("shop/web@"+digest, deleted), "tag: it was pushed by digest, without a tag; a rule for those says `untagged: true`"},
		{"", of("shop/web:v1", func(e *trigger.Event) { e.Ignored = "pull" }), "event: it is no image push: pull"},

		{"sources: [hub]", push(t, "shop/web:v1"), "sources: it comes from registry, the rule listens to hub"},
		{"sources: registry", push(t, "shop/web:v1"), ""},
		{"sources: [hub, registry]", push(t, "shop/web:v1"), ""},

		{"tag: v1", push(t, "shop/web:v1"), ""},
		{"tag: v1", push(t, "shop/web:v10"), `tag: "v10" does not match v1`},
		{"tag: v1", push(t, "shop/web:xv1"), `tag: "xv1" does not match v1`},
		{"tag: a|b", push(t, "shop/web:a"), ""},
		{"tag: a|b", push(t, "shop/web:b"), ""},
		{"tag: a|b", push(t, "shop/web:ax"), `tag: "ax" does not match a|b`},
		{"tag: a|b", push(t, "shop/web:xb"), `tag: "xb" does not match a|b`},
		{"tag: a|ab", push(t, "shop/web:ab"), ""},
		{"tag: '(?i)MAIN'", push(t, "shop/web:main"), ""},
		{"tag: '(?m)a$'", push(t, "shop/web:a"), ""},
		{`tag: 'v(?P<version>\d+)'`, push(t, "shop/web:v1"), ""},
		{"exclude: {tag: [nightly, '.*-rc.*']}", push(t, "shop/web:nightly"), `exclude.tag: "nightly" matches nightly`},
		{"exclude: {tag: [nightly, '.*-rc.*']}", push(t, "shop/web:v1-rc2"), `exclude.tag: "v1-rc2" matches .*-rc.*`},
		{"exclude: {tag: nightly}", push(t, "shop/web:nightly2"), ""},

		{"semver: '>=1.4'", push(t, "shop/web:1.4.0"), ""},
		{"semver: '>=1.4'", push(t, "shop/web:v1.10.0"), ""},
		{"semver: '>=1.4'", push(t, "shop/web:1.3.9"), `semver: "1.3.9" is less than "1.4"`},
		{"semver: '>=1.4'", push(t, "shop/web:2.0.0-rc.1"), `semver: "2.0.0-rc.1" is a prerelease version and the constraint is only looking for release versions`},
		{"semver: '>=1.4-0'", push(t, "shop/web:2.0.0-rc.1"), ""},
		{"semver: '>=1.4'", push(t, "shop/web:main"), `semver: "main" is not a semantic version`},
		{"semver: '>=1.4'\ntag: 'rel-(?P<version>.*)-amd64'", push(t, "shop/web:rel-1.5.0-amd64"), ""},
		{"semver: '>=1.4'\ntag: 'rel-(?P<version>.*)-amd64'", push(t, "shop/web:rel-1.3.0-amd64"), `semver: "1.3.0" is less than "1.4"`},
		{"semver: '>=1.4'\ntag: 'v(?P<other>.*)'", push(t, "shop/web:v1.5.0"), ""},
		{"semver: '>=1.4 <2 || 3.x'", push(t, "shop/web:2.5.0"), `semver: "2.5.0" is greater than or equal to "2", "2.5.0" is less than "3.x"`},

		{"repo: registry:5000/shop/*", push(t, "registry.example.com/shop/web:v1"), ""},
		{"repo: registry:5001/shop/*", push(t, "registry.example.com/shop/web:v1"), "repo: registry.example.com/shop/web does not match registry:5001/shop/*"},
		{"repo: shop/*", push(t, "ghcr.io/shop/web:v1"), ""},
		{"repo: shop/*", push(t, "ghcr.io/shop/a/b:v1"), "repo: ghcr.io/shop/a/b does not match shop/*"},
		{"repo: [shop/*, Quay.io/x]", push(t, "ghcr.io/y:v1"), "repo: ghcr.io/y does not match shop/*, Quay.io/x"},
		{"repo: shop/**\nexclude: {repo: [shop/old, '*.azurecr.io/**']}", push(t, "ghcr.io/shop/old:v1"), "exclude.repo: ghcr.io/shop/old matches shop/old"},
		{"repo: shop/**\nexclude: {repo: '*.azurecr.io/**'}", push(t, "dock.azurecr.io/shop/web:v1"), "exclude.repo: dock.azurecr.io/shop/web matches *.azurecr.io/**"},
		{"repo: shop/**\nexclude: {repo: '*.azurecr.io/**'}", push(t, "ghcr.io/shop/web:v1"), ""},
		{"repo: x/y\nsources: hub\ntag: z", push(t, "shop/web:v1"), "repo: docker.io/shop/web does not match x/y"},
	}
	for _, tt := range tests {
		t.Run(tt.rule+" "+tt.event.Image.String(), func(t *testing.T) {
			set, err := ruleWith(t, tt.rule)
			if err != nil {
				t.Fatal(err)
			}
			v := set.Explain(tt.event)[0]
			got := v.Condition + ": " + v.Reason
			if v.Matched {
				got = ""
			}
			if got != tt.want || v.Rule != "r" || v.Line != 1 {
				t.Errorf("got  %s (%+v)\nwant %s", got, v, tt.want)
			}
			runs, _ := set.Match(tt.event, now)
			if v.Matched != (len(runs) == 1) {
				t.Errorf("Explain says %t, Match gives %d runs", v.Matched, len(runs))
			}
		})
	}
}

func TestReasonOfNoMatch(t *testing.T) {
	set := mustLoad(t, `
- {name: a, repo: shop/web, tag: v1, actions: [call: {to: x}]}
- {name: b, repo: shop/*, sources: hub, actions: [call: {to: x}]}
- {name: c, repo: ghcr.io/shop/api, event: delete, actions: [call: {to: x}]}
- {name: d, repo: only/this, tag: v1, actions: [call: {to: x}]}
`)
	nameless := push(t, "other/thing:v1")
	nameless.Registry = ""
	tests := []struct {
		event trigger.Event
		want  string
	}{
		{push(t, "ghcr.io/shop/web:v2"), `rule a: tag: "v2" does not match v1 (rules for this repository: 2, see ` + "`dockbell explain`)"},
		{push(t, "ghcr.io/shop/api:v2"), "rule b: sources: it comes from registry, the rule listens to hub (rules for this repository: 2, see `dockbell explain`)"},
		{push(t, "ghcr.io/only/this:v2"), `rule d: tag: "v2" does not match v1`},
		{push(t, "ghcr.io/shop/a/b:v2"), "no rule is for the repository ghcr.io/shop/a/b"},
		{push(t, "ghcr.io/other/thing:v2"), "no rule is for the repository ghcr.io/other/thing"},
		{nameless, "no rule is for the repository other/thing; the sender does not tell its registry, so rules that name one cannot match: set `registry:` on the source"},
	}
	for _, tt := range tests {
		runs, got := set.Match(tt.event, now)
		if len(runs) != 0 || got != tt.want {
			t.Errorf("%s: %d runs\ngot  %s\nwant %s", tt.event.Image, len(runs), got, tt.want)
		}
	}
	if runs, reason := set.Match(push(t, "ghcr.io/shop/web:v1"), now); len(runs) != 1 || reason != "" {
		t.Errorf("%d runs with the reason %q", len(runs), reason)
	}
}

func TestRunsAreInTheOrderOfTheFile(t *testing.T) {
	set := mustLoad(t, `
- {name: z, repo: '**', actions: [call: {to: z0}, set: {to: z1}]}
- {name: y, repo: docker.io/shop/web, actions: [call: {to: y0}]}
- {name: x, repo: shop/*, actions: [call: {to: x0}]}
- {name: w, repo: [shop/web, shop/*, 'docker.io/**'], actions: [call: {to: w0}]}
`)
	runs, _ := set.Match(push(t, "shop/web:v1"), now)
	var got []string
	for _, r := range runs {
		got = append(got, fmt.Sprintf("%s/%d %s", r.Rule, r.Index, r.Target))
		if !r.CreatedAt.Equal(now) || !r.NotBefore.Equal(now) || r.State != "" || r.Event.Tag != "v1" {
			t.Errorf("run %+v", r)
		}
	}
	if want := "[z/0 z0 z/1 z1 y/0 y0 x/0 x0 w/0 w0]"; fmt.Sprint(got) != want {
		t.Errorf("got %v, want %s", got, want)
	}
}

func TestOptions(t *testing.T) {
	type want struct {
		lane     string
		mode     trigger.Mode
		order    trigger.Order
		ordered  bool
		attempts int
		timeout  time.Duration
		spec     string
	}
	tests := []struct {
		action string
		want   want
	}{
		{"call: {to: x}", want{"rule/r/0", trigger.Queue, "", false, 3, time.Minute, `{"to":"x"}`}},
		{"set: {to: x}", want{"set/x", trigger.Latest, "", true, 0, 30 * time.Second, `{"to":"x"}`}},
		{"call: {timeout: 5s, to: x, attempts: 0, lane: mine, mode: parallel}", want{"lane/mine", trigger.Parallel, "", false, 0, 5 * time.Second, `{"to":"x"}`}},
		{"call: {to: x, mode: latest, lane: '{{.Repository}}'}", want{"lane/shop/web", trigger.Latest, "", false, 3, time.Minute, `{"to":"x"}`}},
		{"set: {to: x, order: any, mode: queue}", want{"set/x", trigger.Queue, trigger.OrderAny, false, 0, 30 * time.Second, `{"to":"x"}`}},
		{"set: {to: x, order: time}", want{"set/x", trigger.Latest, trigger.OrderTime, true, 0, 30 * time.Second, `{"to":"x"}`}},
		{"set: {to: '{{.Tag}}', order: semver, attempts: 2}", want{"set/v1", trigger.Latest, trigger.OrderSemver, true, 2, 30 * time.Second, `{"to":"v1"}`}},
		{"set: {to: x, lane: '{{with .Digest}}{{.}}{{end}}'}", want{"set/x", trigger.Latest, "", true, 0, 30 * time.Second, `{"to":"x"}`}},
	}
	for _, tt := range tests {
		t.Run(tt.action, func(t *testing.T) {
			set, err := ruleWith(t, "actions:\n- "+tt.action)
			if err != nil {
				t.Fatal(err)
			}
			runs, _ := set.Match(push(t, "shop/web:v1"), now)
			r := runs[0]
			if got := (want{r.Lane, r.Mode, r.Order, r.Ordered, r.Attempts, r.Timeout, string(r.Spec)}); got != tt.want {
				t.Errorf("got  %+v\nwant %+v", got, tt.want)
			}
		})
	}
}

// How long it is tried, how often, and what happens when that was in vain.
func TestTries(t *testing.T) {
	type tries struct {
		deadline, first, most time.Duration
		hold                  bool
	}
	for options, want := range map[string]tries{
		"":                               {},
		"deadline: 1h":                   {deadline: time.Hour},
		"backoff: {first: 1s, most: 5m}": {first: time.Second, most: 5 * time.Minute},
		"backoff: {first: 2m}":           {first: 2 * time.Minute},
		"backoff: {most: 1h}":            {most: time.Hour},
		"backoff: {first: 5s, most: 5s}": {first: 5 * time.Second, most: 5 * time.Second},
		"onFailure: hold":                {hold: true},
		"deadline: 10m, onFailure: hold, to: 'x'": {deadline: 10 * time.Minute, hold: true},
	} {
		for _, kind := range []string{"call", "set"} {
			r := only(t, "", kind+": {"+options+"}", push(t, "shop/web:v1"))
			if got := (tries{r.Deadline, r.FirstBackoff, r.MostBackoff, r.HoldFailed}); got != want {
				t.Errorf("%s with %s: %+v, want %+v", kind, options, got, want)
			}
			if !strings.Contains(options, "to:") && string(r.Spec) != "{}" {
				t.Errorf("%s with %s is kept as %s", kind, options, r.Spec)
			}
		}
	}
}

func TestLoadFaults(t *testing.T) {
	const knownNames = "there are .Registry, .Repository, .Tag, .Digest, .Image, .Pinned, .Actor, .Source, .Action, .OccurredAt, .Match"
	tests := []struct{ name, text, want string }{
		{"no list", "name: a", "r.yaml:1: must be a list of rules"},
		{"no mapping", "- a", "r.yaml:1: [0]: must be a mapping, not a string\n" +
			"r.yaml:1: [0].name: a rule needs a name of letters, digits, dots, dashes and underscores, at most 64: it is in logs, metrics and lanes\n" +
			"r.yaml:1: [0].repo: is missing: name a repository, or ** for all of them\nr.yaml:1: [0].actions: is missing: a rule needs at least one action"},
		{"bad name", "- {name: 'a b', repo: x, actions: [call: {}]}", "r.yaml:1: [0].name: a rule needs a name of letters, digits, dots, dashes and underscores, at most 64: it is in logs, metrics and lanes"},
		{"wrong types are not missing", "- name: a\n  repo: {a: b}\n  actions: {call: {}}\n", "r.yaml:2: [0].repo: must be a string, not a mapping\nr.yaml:3: [0].actions: must be a list, not a mapping"},
		{"two of one name", "- {name: a, repo: x, actions: [call: {}]}\n- {name: b, repo: x, actions: [call: {}]}\n- repo: x\n  name: a\n  actions: [call: {}]", `r.yaml:4: [2].name: another rule is named "a", on line 1`},
		{"unknown event", "- {name: a, repo: x, event: pull, actions: [call: {}]}", `r.yaml:1: [0].event: must be push or delete, not "pull"`},
		{"unknown source", "- name: a\n  repo: x\n  sources: [hub, hob]\n  actions: [call: {}]", `r.yaml:3: [0].sources: there is no source "hob"; there are hub, registry`},
		{"unknown key and what else is wrong", "- name: a\n  repo: x\n  tags: v1\n  tag: '('\n  actions: [call: {}]", "r.yaml:3: [0]: unknown key \"tags\"; known are actions, approve, event, exclude, freeze, minAge, name, repo, semver, sequence, settle, sources, tag, untagged, window\n" +
			"r.yaml:4: [0].tag: \"(\": error parsing regexp: missing closing ): `(`"},
		{"stray parenthesis", "- {name: a, repo: x, tag: 'a)(b', actions: [call: {}]}", "r.yaml:1: [0].tag: \"a)(b\": error parsing regexp: unexpected ): `a)(b`"},
		{"bad excludes", "- name: a\n  repo: x\n  exclude:\n    repo: [y, 'z{']\n    tag:\n    - ok\n    - '['\n  actions: [call: {}]", "r.yaml:4: [0].exclude.repo[1]: \"z{\": not a valid pattern; * matches within a path segment, ** across\n" +
			"r.yaml:7: [0].exclude.tag[1]: \"[\": error parsing regexp: missing closing ]: `[`"},
		{"bad constraint", "- {name: a, repo: x, semver: newest, actions: [call: {}]}", `r.yaml:1: [0].semver: "newest": improper constraint: "newest"`},

		{"no actions", "- {name: a, repo: x, actions: []}", "r.yaml:1: [0].actions: is missing: a rule needs at least one action"},
		{"unknown kind", "- {name: a, repo: x, actions: [coll: {}]}", `r.yaml:1: [0].actions[0]: unknown action "coll"; known are call, set`},
		{"two kinds in one", "- {name: a, repo: x, actions: [{call: {}, set: {}}]}", "r.yaml:1: [0].actions[0]: an action is a mapping with one key, its kind: call, set"},
		{"action that is no mapping", "- {name: a, repo: x, actions: [call]}", "r.yaml:1: [0].actions[0]: an action is a mapping with one key, its kind: call, set"},
		{"parameters that are none", "- {name: a, repo: x, actions: [call: x]}", "r.yaml:1: [0].actions[0].call: must be a mapping with the parameters of the call action"},
		{"unknown parameter", "- {name: a, repo: x, actions: [call: {timout: 5s}]}", `r.yaml:1: [0].actions[0].call: unknown key "timout"; known are any, count, list, name, on, params, to, attempts, backoff, deadline, lane, mode, onFailure, order, timeout, when`},
		{"repeated parameter", "- {name: a, repo: x, actions: [call: {to: a, to: b}]}", "r.yaml:1: [0].actions[0].call.to: the key is there twice; the other is on line 1"},
		{"repeated option", "- {name: a, repo: x, actions: [call: {lane: a, lane: b}]}", "r.yaml:1: [0].actions[0].call.lane: the key is there twice; the other is on line 1"},
		{"bad parameter", "- name: a\n  repo: x\n  actions:\n  - call:\n      to: x\n      name: No\n", `r.yaml:6: [0].actions[0].call.name: "No" is not a name`},
		{"wrong type of a parameter", "- {name: a, repo: x, actions: [call: {count: many}]}", "r.yaml:1: [0].actions[0].call.count: must be a whole number, not a string (many)"},
		{"options", "- name: a\n  repo: x\n  actions:\n  - call:\n      timeout: 0s\n      attempts: -1\n      mode: fast\n      order: time\n  - set: {order: new, timeout: 30}", "r.yaml:5: [0].actions[0].call.timeout: must be longer than nothing, as in 30s\n" +
			"r.yaml:6: [0].actions[0].call.attempts: must not be negative\nr.yaml:7: [0].actions[0].call.mode: must be latest, queue or parallel, not \"fast\"\n" +
			"r.yaml:8: [0].actions[0].call.order: call actions have no order: each call is made\nr.yaml:9: [0].actions[1].set.timeout: must be a duration, as in 30s, not a number (30)"},

		{"backoff and deadline", "- name: a\n  repo: x\n  actions:\n  - call:\n      deadline: 0s\n      backoff: {first: 0s}\n      onFailure: stop\n  - call:\n      backoff:\n        first: 2m\n        most: 1m\n  - call: {backoff: {most: 61m}, deadline: }\n  - call: {backoff: {frist: 1s}}\n  - call: {backoff: 1s}",
			"r.yaml:5: [0].actions[0].call.deadline: must be longer than nothing, as in 1h\n" +
				"r.yaml:6: [0].actions[0].call.backoff.first: must be longer than nothing and at most an hour, as in 5s\n" +
				"r.yaml:7: [0].actions[0].call.onFailure: can be hold, which keeps the image from being tried again until a person releases it; not \"stop\"\n" +
				"r.yaml:10: [0].actions[1].call.backoff.first: must not be longer than most, 1m0s\n" +
				"r.yaml:12: [0].actions[2].call.deadline: must be longer than nothing, as in 1h\n" +
				"r.yaml:12: [0].actions[2].call.backoff.most: must be longer than nothing and at most an hour, as in 5s\n" +
				"r.yaml:13: [0].actions[3].call.backoff: unknown key \"frist\"; known are first, most\n" +
				"r.yaml:14: [0].actions[4].call.backoff: must be a mapping, not a string"},

		{"template with a missing name", "- name: a\n  repo: x\n  actions:\n  - call:\n      to: x\n      list: [a, '{{.Tagg}}']\n", "r.yaml:6: [0].actions[0].call: template: there is no .Tagg; " + knownNames},
		{"missing name in a branch not taken", "- {name: a, repo: x, actions: [call: {to: '{{if eq .Tag \"never\"}}{{.Tagg}}{{end}}'}]}", "r.yaml:1: [0].actions[0].call: template: there is no .Tagg; " + knownNames},
		{"missing name in the other branch", "- {name: a, repo: x, actions: [call: {to: '{{if .Tag}}a{{else}}{{.Tagg}}{{end}}'}]}", "r.yaml:1: [0].actions[0].call: template: there is no .Tagg; " + knownNames},
		{"missing name from the root", "- {name: a, repo: x, actions: [call: {to: '{{with .Tag}}{{$.Tagg}}{{end}}'}]}", "r.yaml:1: [0].actions[0].call: template: there is no .Tagg; " + knownNames},
		{"missing name in an argument", "- {name: a, repo: x, actions: [call: {to: '{{lower (printf \"%s\" .Tagg)}}'}]}", "r.yaml:1: [0].actions[0].call: template: there is no .Tagg; " + knownNames},
		{"missing group", `- {name: a, repo: x, tag: '(?P<one>.*)-(?P<two>.*)', actions: [call: {to: '{{.Match.three}}'}]}`, "r.yaml:1: [0].actions[0].call: template: there is no .Match.three; the named groups of the rule's tag are one, two"},
		{"no groups at all", `- {name: a, repo: x, actions: [call: {to: '{{.Match.version}}'}]}`, "r.yaml:1: [0].actions[0].call: template: there is no .Match.version; the named groups of the rule's tag are none"},
		{"template that does not close", "- name: a\n  repo: x\n  actions:\n  - call:\n      to: '{{.Tag'\n", "r.yaml:5: [0].actions[0].call: template: unclosed action"},
		{"unknown function", "- {name: a, repo: x, actions: [call: {to: '{{env \"HOME\"}}'}]}", `r.yaml:1: [0].actions[0].call: template: function "env" not defined`},
		{"template in a key", "- {name: a, repo: x, actions: [call: {params: {'{{.Tag}}': x}}]}", "r.yaml:1: [0].actions[0].call: a key cannot be a template"},
		{"template of a lane", "- name: a\n  repo: x\n  actions:\n  - call:\n      to: x\n      lane: '{{.Nope}}'\n", "r.yaml:6: [0].actions[0].call.lane: template: there is no .Nope; " + knownNames},
		{"template that fails", "- {name: a, repo: x, actions: [call: {to: '{{slice .Tag 0 99}}'}]}", "r.yaml:1: [0].actions[0].call: template: <slice .Tag 0 99>: error calling slice: index out of range: 99"},
		{"template into a number", "- {name: a, repo: x, actions: [call: {count: '{{.Tag}}'}]}", "r.yaml:1: [0].actions[0].call.count: must be a whole number, not a string (v1.2.3)"},
		{"template whose result is refused", "- {name: a, repo: shop/web, actions: [call: {name: '{{.Repository}}'}]}", `r.yaml:1: [0].actions[0].call.name: "shop/web" is not a name`},
		{"binary", "- {name: a, repo: x, actions: [call: {to: !!binary aGk=}]}", "r.yaml:1: [0].actions[0].call: binary values are not understood here"},
		{"key that is no word", "- {name: a, repo: x, actions: [call: {params: {[a]: b}}]}", "r.yaml:1: [0].actions[0].call: a key must be a plain word"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := load(t, tt.text)
			if got := fmt.Sprint(err); got != tt.want {
				t.Errorf("got\n%s\nwant\n%s", got, tt.want)
			}
		})
	}
}

// What an anchor stands for counts as if it were written there.
func TestAnchorsInRules(t *testing.T) {
	set := mustLoad(t, `
- &base
  name: a
  repo: shop/web
  actions:
  - call: &params {to: x, timeout: 5s}
  - &second {call: {<<: *params, to: y}}
- {<<: *base, name: b}
- {name: c, repo: shop/web, actions: [*second, call: *params]}
`)
	runs, _ := set.Match(push(t, "shop/web:v1"), now)
	var got []string
	for _, r := range runs {
		got = append(got, fmt.Sprintf("%s %s %s", r.Rule, r.Spec, r.Timeout))
	}
	want := `[a {"to":"x"} 5s a {"to":"y"} 5s b {"to":"x"} 5s b {"to":"y"} 5s c {"to":"y"} 5s c {"to":"x"} 5s]`
	if fmt.Sprint(got) != want {
		t.Errorf("got  %v\nwant %s", got, want)
	}
}
