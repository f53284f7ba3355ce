package rules

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/dockbell/dockbell/trigger"
)

// only is the one run that a rule with this action makes of an event.
func only(t *testing.T, conditions, action string, e trigger.Event) trigger.Run {
	t.Helper()
	set, err := ruleWith(t, strings.TrimPrefix(conditions+"\nactions:\n- "+action, "\n"))
	if err != nil {
		t.Fatal(err)
	}
	runs, reason := set.Match(e, now)
	if len(runs) != 1 {
		t.Fatalf("%d runs: %s", len(runs), reason)
	}
	return runs[0]
}

func TestTemplateVariablesAndFunctions(t *testing.T) {
	e := push(t, "registry:5000/Shop/web:v1.2.3@"+digest)
	e.OccurredAt = time.Date(2026, 2, 3, 4, 5, 6, 0, time.FixedZone("", 3600))
	tests := map[string]string{
		"{{.Registry}}":                     "registry:5000",
		"{{.Repository}}":                   "Shop/web",
		"{{.Tag}}":                          "v1.2.3",
		"{{.Digest}}":                       digest,
		"{{.Image}}":                        "registry:5000/Shop/web:v1.2.3",
		"{{.Pinned}}":                       "registry:5000/Shop/web:v1.2.3@" + digest,
		"{{.Actor}}":                        "crane",
		"{{.Source}}":                       "registry",
		"{{.Action}}":                       "push",
		"{{.OccurredAt}}":                   "2026-02-03T03:05:06Z",
		`{{.OccurredAt.Format "2006"}}`:     "2026",
		"{{.Match.version}}":                "1.2.3",
		"{{.Match.major}}":                  "1",
		"{{$.Match.major}}":                 "1",
		`{{index .Match "major"}}`:          "1",
		"{{.Repository | lower}}":           "shop/web",
		"{{upper .Tag}}":                    "V1.2.3",
		`{{.Repository | replace "/" "-"}}`: "Shop-web",
		`{{trimPrefix "v" .Tag}}`:           "1.2.3",
		`{{.Tag | trimSuffix ".3"}}`:        "v1.2",
		"{{json .Match}}":                   `{"major":"1","version":"1.2.3"}`,
		"{{range $k, $v := .Match}}{{$k}}={{$v}};{{end}}":           "major=1;version=1.2.3;",
		"{{with .Tag}}{{.}}{{end}}":                                 "v1.2.3",
		`{{define "x"}}[{{.}}]{{end}}{{template "x" .Tag}}`:         "[v1.2.3]",
		`{{if eq .Registry "ghcr.io"}}a{{else if .Digest}}b{{end}}`: "b",
		"a {{- .Tag -}} b":                                          "av1.2.3b",
		"{ {.Tag} }":                                                "{ {.Tag} }",
	}
	for template, want := range tests {
		quoted, err := json.Marshal(template)
		if err != nil {
			t.Fatal(err)
		}
		run := only(t, `tag: 'v(?P<version>(?P<major>\d+)\..*)'`, "call: {to: "+string(quoted)+"}", e)
		if run.Target != want || run.State != "" {
			t.Errorf("%s: %q, %s %s; want %q", template, run.Target, run.State, run.Reason, want)
		}
	}
}

func TestOccurredAtIsWhenItArrivedIfNobodyTells(t *testing.T) {
	if run := only(t, "", "call: {to: '{{.OccurredAt}}'}", push(t, "shop/web:v1")); run.Target != "2026-05-06T07:08:09Z" {
		t.Error(run.Target)
	}
}

// What an event holds stays inside the string that the template is.
func TestNothingBreaksOutOfItsString(t *testing.T) {
	const actions = `call: {to: "{{.Actor}}", list: ["a {{.Actor}}", b], params: {who: "{{.Actor}}", json: "{{json .Actor}}"}, any: {deep: [{who: "{{.Actor}}"}], fixed: 1}}`
	for _, actor := range []string{
		`","x":"`, `"}`, `"]`, `\`, `\"`, "a\nb", "a\r\n", "\t", "\x00", "{{.Tag}}", "{{", "${x}", "$(id)", "' or 1", "# no comment", "- a", ": ", "*a &b !c", "<<", "null", "true", "1.10", "\u2028", "é \U0001F514", "", "~",
	} {
		e := push(t, "shop/web:v1")
		e.Actor = actor
		run := only(t, "", actions, e)
		if run.State != "" {
			t.Errorf("%q: %s", actor, run.Reason)
			continue
		}
		var got testSpec
		if err := decodeSpec(run.Spec)(&got); err != nil {
			t.Errorf("%q: %s: %v", actor, run.Spec, err)
			continue
		}
		inJSON, err := json.Marshal(actor)
		if err != nil {
			t.Fatal(err)
		}
		want := testSpec{To: actor, List: []string{"a " + actor, "b"}, Params: map[string]string{"who": actor, "json": string(inJSON)}, Any: map[string]any{"deep": []any{map[string]any{"who": actor}}, "fixed": 1}}
		if fmt.Sprintf("%#v", got) != fmt.Sprintf("%#v", want) {
			t.Errorf("%q:\ngot  %#v\nwant %#v", actor, got, want)
		}
		if !json.Valid(run.Spec) {
			t.Errorf("%q: not JSON: %s", actor, run.Spec)
		}
	}
}

// What stands in the file without a template arrives as it was written.
func TestValuesStayAsTheyAreWritten(t *testing.T) {
	tests := []struct{ parameter, spec, text string }{ // text is what a string parameter gets
		{"1.10", `1.10`, "1.10"},
		{"1.0", `1.0`, "1.0"},
		{"007", `"007"`, "007"},
		{"0x1F", `"0x1F"`, "0x1F"},
		{"1e3", `1e3`, "1e3"},
		{"1_000", `"1_000"`, "1_000"},
		{"+5", `"+5"`, "+5"},
		{".inf", `".inf"`, ".inf"},
		{"99999999999999999999", `99999999999999999999`, "99999999999999999999"},
		{"true", `true`, "true"},
		{"yes", `"yes"`, "yes"},
		{"2026-01-02", `"2026-01-02"`, "2026-01-02"},
		{"!!str 5", `"5"`, "5"},
		{"'a & b < c'", `"a & b < c"`, "a & b < c"},
		{"|\n      two\n      lines", `"two\nlines\n"`, "two\nlines\n"},
	}
	for _, tt := range tests {
		run := only(t, "", "call:\n    to: "+tt.parameter, push(t, "shop/web:v1"))
		if got := string(run.Spec); got != `{"to":`+tt.spec+"}" {
			t.Errorf("%s is kept as %s, want %s", tt.parameter, got, tt.spec)
		}
		var got testSpec
		if err := decodeSpec(run.Spec)(&got); err != nil || got.To != tt.text || run.Target != tt.text {
			t.Errorf("%s arrives as %q, %v; the target is %q; want %q", tt.parameter, got.To, err, run.Target, tt.text)
		}
	}
	run := only(t, "", "call: {count: 5, on: true, list: [a, 1.10], any: [null, {a: 1.5}, ~, [], {}]}", push(t, "shop/web:v1"))
	if want := `{"count":5,"on":true,"list":["a",1.10],"any":[null,{"a":1.5},null,[],{}]}`; string(run.Spec) != want {
		t.Errorf("got  %s\nwant %s", run.Spec, want)
	}
}

// A template that is good for some events only makes a run that has failed, is
// seen, and is in nobody's way.
func TestTemplateThatFailsForThisEvent(t *testing.T) {
	for _, tt := range []struct{ conditions, action, ref, reason string }{
		{"tag: '(?P<version>.*)'\nuntagged: true", "set: {to: '{{.Match.version}}', onFailure: hold}", "shop/web@" + digest, `template: <.Match.version>: map has no entry for key "version"`},
		{"", "call: {to: x, list: ['{{slice .Tag 0 4}}']}", "shop/web:v1", "template: <slice .Tag 0 4>: error calling slice: index out of range: 4"},
		{"", "call: {to: x, lane: '{{slice .Tag 0 4}}'}", "shop/web:v1", "template: <slice .Tag 0 4>: error calling slice: index out of range: 4"},
		{"tag: '(?P<env>[a-z0-9]+)'", "set: {to: x, name: '{{.Match.env}}'}", "shop/web:9", `name: "9" is not a name`},
	} {
		run := only(t, tt.conditions, tt.action, push(t, tt.ref))
		if run.State != trigger.Failed || run.Reason != tt.reason || !run.FinishedAt.Equal(now) {
			t.Errorf("%s: %s at %s: %s, want %s", tt.action, run.State, run.FinishedAt, run.Reason, tt.reason)
		}
		if run.Lane != "rule/r/0" || string(run.Spec) != "null" || run.Ordered || run.HoldFailed || run.Target == "" {
			t.Errorf("%s: lane %s, specification %s, ordered %t, target %q", tt.action, run.Lane, run.Spec, run.Ordered, run.Target)
		}
	}
}

// A secret that is away when the rules are asked is the queue's business: it
// tries again.
func TestSecretAwayForTheMoment(t *testing.T) {
	run := only(t, "tag: '(?P<to>.*)'", "call: {to: '{{.Match.to}}'}", push(t, "shop/web:away"))
	if run.State != "" || run.Target != "call" || string(run.Spec) != `{"to":"away"}` || run.Lane != "rule/r/0" {
		t.Errorf("%+v", run)
	}
}

// Templates are tried with an event that the rule could match, so that a good
// rule is not refused for a sample it would never see.
func TestSampleFitsTheRule(t *testing.T) {
	for _, tt := range []struct{ conditions, template string }{
		{"tag: '(?P<env>prod|staging)-.*'", "{{.Match.env}}"},
		{"tag: '(?P<env>[a-z]+)[.]x'", "{{.Match.env}}"},
		{"tag: 'v?(?P<env>[a-z-]{3,})(-rc\\d+)?'", "{{.Match.env}}"},
		{"tag: '(?i)(?P<env>.+)'", "{{lower .Match.env}}"},
		{"repo: web", "{{.Repository}}"},
		{"repo: docker.io/web", `{{trimPrefix "library/" .Repository}}`},
		{"repo: 'team-*'", "{{.Repository}}"},
		{"repo: '{api,web}'", "{{.Repository}}"},
		{"repo: 'shop/**'", `{{trimPrefix "shop/" .Repository}}`},
		{"tag: 'main-(?P<sha>[0-9a-f]+)'", `{{slice .Match.sha 0 7}}`},
		{"tag: '(a-)*(?P<env>b+)'", `{{slice .Match.env 0 7}}`},
		{"event: delete", "{{.Action}}"},
		{"sources: hub", "{{.Source}}"},
		{"sources: hub", `{{if eq .Source "hub"}}hub{{else}}NO{{end}}`},
	} {
		if _, err := ruleWith(t, tt.conditions+"\nactions: [call: {name: '"+tt.template+"'}]"); err != nil {
			t.Errorf("%s with %s: %v", tt.conditions, tt.template, err)
		}
	}
}

func TestExampleTag(t *testing.T) {
	for expr, want := range map[string]string{
		`v\d+\.\d+`:   "v111111111111.111111111111",
		"main|latest": "main",
		"[^a-z]x":     "1x",
		"a{3}b?c*":    "aaabcccccccccccc",
		"(?i)rel":     "REL",
		"x(foo|)":     "xfoo",
		`\bword\b`:    "word",
		"":            "",
		"[.]a":        "", // no tag begins with a dot
		`a\b\Bb`:      "", // matches nothing
	} {
		re, err := trigger.CompileTag(expr)
		if err != nil {
			t.Fatal(err)
		}
		got, ok := exampleTag(re)
		if got != want || ok != (want != "") {
			t.Errorf("%s: %q, %t; want %q", expr, got, ok, want)
		}
	}
}

func FuzzExampleTag(f *testing.F) {
	for _, s := range []string{`v(?P<version>\d+\.\d+\.\d+)`, "a|b", "(?m)^a$", `\Qx`, "[^\\x00-\\x{10FFFF}]", "(((a)?){2}){3}"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, expr string) {
		re, err := trigger.CompileTag(expr)
		if err != nil {
			return
		}
		if example, ok := exampleTag(re); ok && !re.MatchString(example) {
			t.Errorf("%q does not match its example %q", expr, example)
		}
	})
}
