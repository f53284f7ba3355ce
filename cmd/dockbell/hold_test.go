package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
)

// registryPush is one push as a registry reports it, with a digest.
func registryPush(repo, tag, digit string) json.RawMessage {
	return json.RawMessage(fmt.Sprintf(`{"events":[{"id":"%[2]s","action":"push","target":{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:%[3]s","repository":"%[1]s","tag":"%[2]s"},"request":{"host":"registry.example.com"}}]}`,
		repo, tag, strings.Repeat(digit, 64)))
}

// lines runs commands against a daemon, one after the other.
type lines []struct {
	line, want string // a regular expression
	ok         bool
}

func (l lines) run(t *testing.T, d *daemon) {
	t.Helper()
	t.Setenv("DOCKBELL_SERVER", d.admin)
	for _, tt := range l {
		out, errs, ok := dockbell(t, "", strings.Fields(tt.line)...)
		if ok != tt.ok || !regexp.MustCompile(tt.want).MatchString(out+errs) {
			t.Errorf("%s: %v\n%s%s\nwant %s", tt.line, ok, out, errs, tt.want)
		}
	}
}

func TestHoldAndRelease(t *testing.T) {
	t.Setenv("API_TOKEN", "hunter2")
	t.Setenv("DOCKBELL_TOKEN", "hunter2")
	t.Setenv("USER", "anna")
	receiver := newReceiver(t, nil)
	d := startDaemon(t, strings.ReplaceAll(`
sources: {registry: {type: distribution, auth: none}, hub: {type: dockerhub, auth: none}}
rules: [{name: web, repo: shop/web, actions: [http: {url: 'http://RECEIVER/x'}]}]
`, "RECEIVER", receiver.address), receiver.address)
	push := func(source string, body json.RawMessage) {
		t.Helper()
		if status, reply := d.post(source, body); status/100 != 2 {
			t.Fatal(status, reply)
		}
	}
	push("registry", registryPush("shop/web", "v1", "1"))
	push("hub", json.RawMessage(hubPush("shop/web", "v2")))
	step{Ended: 2}.do(t, d, receiver)
	first, second := "sha256:"+strings.Repeat("1", 64), "sha256:"+strings.Repeat("2", 64)
	lines{
		{"holds", `^Nothing is held.\n$`, true},
		{"hold --run 1 --reason leaks", "^hold 1: " + first + " is skipped in lane rule/web/0, until `dockbell release 1`\n$", true},
		{"hold --digest " + second + " --reason leaks --by bob", "^hold 2: " + second + " is skipped, until `dockbell release 2`\n$", true},
		{"hold --run 2 --reason leaks", `run 2 has no digest, its sender tells none: hold its lane by --lane rule/web/0\n$`, false},
		{"hold --digest sha256:12 --reason leaks", `digest must be sha256: and 64 hexadecimal digits`, false},
		{"holds", `^HOLD  LANE  .*\n2 +` + second + ` +\d+s +bob +leaks\n1 +rule/web/0 +` + first + ` +\d+s +anna +leaks\n$`, true},
	}.run(t, d)

	// A held digest is skipped, whatever its tag.
	push("registry", registryPush("shop/web", "v3", "2"))
	step{Ended: 3}.do(t, d, receiver)
	if run := d.runs()[0]; run.State != "skipped" || !strings.Contains(run.Reason, "held") {
		t.Errorf("%s: %s", run.State, run.Reason)
	}
	lines{
		{"release 2", `^hold 2 is released by anna\n$`, true},
		{"release 2", `hold 2 `, false},
		{"release 9", `there is no hold 9\n$`, false},
		{"holds", `^HOLD .*\n1 .*\n$`, true},
		{"holds --all", `^HOLD .*\n2 .* ago by anna +leaks\n1 .*\n$`, true},
		{"holds --all -o json", `(?s)^\{\n  "holds": \[\n    \{\n      "id": "2",.*"releasedBy": "anna"`, true},
		{"replay event/3 --force", `would start`, true},
	}.run(t, d)

	// The runs of a held lane wait.
	lines{{"hold --lane rule/web/0 --reason migration -o json", `(?s)^\{\n  "id": "3",\n  "lane": "rule/web/0",\n  "reason": "migration"`, true}}.run(t, d)
	push("registry", registryPush("shop/web", "v4", "4"))
	lines{
		{"runs --state waiting", `^RUN .*\n4 +waiting .*held.*\n$`, true},
		{"runs show 4", "(?s)^Run .*\nHeld +by anna: migration; `dockbell release 3` ends it\n", true},
		{"release 3", `^hold 3 is released by anna\n$`, true},
	}.run(t, d)
	step{Ended: 4}.do(t, d, receiver)
	if calls := receiver.all(); len(calls) != 3 {
		t.Errorf("%q", calls)
	}
}

func TestApproveAndReject(t *testing.T) {
	t.Setenv("API_TOKEN", "hunter2")
	t.Setenv("DOCKBELL_TOKEN", "hunter2")
	t.Setenv("USER", "anna")
	receiver := newReceiver(t, nil)
	d := startDaemon(t, strings.ReplaceAll(`
sources: {registry: {type: distribution, auth: none}}
rules:
- {name: web, repo: shop/web, approve: {count: 2, by: [anna, bob, carol], within: 1h}, actions: [http: {url: 'http://RECEIVER/web'}]}
- {name: api, repo: shop/api, approve: 1, actions: [http: {url: 'http://RECEIVER/api'}]}
`, "RECEIVER", receiver.address), receiver.address)
	for _, repo := range []string{"shop/web", "shop/api"} {
		if status, reply := d.post("registry", registryPush(repo, "v1", "1")); status != http.StatusAccepted {
			t.Fatal(status, reply)
		}
	}
	lines{
		{"runs", `^RUN .*\n2 +waiting .* 1 approval.*\n1 +waiting .* 2 approvals.*\n$`, true},
		{"runs show 1", `(?s)^Run .*\nApprovals +0 of 2, by anna, bob, carol, until \d`, true},
		{"runs approve 1", `^Image +registry.example.com/shop/web:v1@sha256:1{64}\nTarget +POST http://\S+/web\nRule +web, action 0: http\nApprovals +0 of 2, by anna, bob, carol, until .*\nrun 1 is waiting`, true},
		{"runs approve 1", `anna`, false},
		{"runs approve 1 --by dora", `dora`, false},
		{"runs show 1", `(?s)^Run .*\nApprovals +1 of 2, .*  [^\n]*approved by anna`, true},
		{"runs approve 1 --by bob -o json", `^\{\n  "id": "1",`, true},
		{"runs reject 2 --reason early --by bob", `^run 2 is rejected: .*bob.*early`, true},
		{"runs approve 2", `run 2 is rejected`, false},
		{"runs approve 9", `there is no run 9`, false},
		{"runs --state rejected", `^RUN .*\n2 +rejected .*\n$`, true},
	}.run(t, d)
	step{Ended: 2}.do(t, d, receiver)
	lines{{"runs show 1", `(?s)approved by anna.*approved by bob.*try 1 took [^\n]*: succeeded`, true}}.run(t, d)
	if calls := receiver.all(); len(calls) != 1 || calls[0] != "POST /web" {
		t.Errorf("%q", calls)
	}
}

// Who has a token of their own need not say who they are.
func TestPersonalToken(t *testing.T) {
	t.Setenv("API_TOKEN", "hunter2")
	t.Setenv("ANNA_TOKEN", "hunter3")
	t.Setenv("DOCKBELL_TOKEN", "hunter3")
	t.Setenv("USER", "root")
	d := startDaemon(t, oneRule, "")
	d.stop()
	text, err := os.ReadFile(d.options.config)
	if err != nil {
		t.Fatal(err)
	}
	with := strings.Replace(string(text), "{env: API_TOKEN}", "{env: API_TOKEN}, people: {anna: {token: {env: ANNA_TOKEN}, role: approver}}", 1)
	if err := os.WriteFile(d.options.config, []byte(with), 0o600); err != nil {
		t.Fatal(err)
	}
	d.start()
	lines{
		{"hold --lane a --reason x -o json", `"by": "anna"`, true},
		{"release 1 --by bob", `this is the token of anna, not of bob`, false},
		{"release 1 --by anna", `^hold 1 is released by anna\n$`, true},
		{"runs cancel 1", `anna may not do this: it takes the role admin in server.people`, false},
	}.run(t, d)
	t.Setenv("DOCKBELL_TOKEN", "hunter2")
	lines{
		{"hold --lane a --reason x -o json", `"by": "root"`, true},
		{"release 2 --by anna", `anna has a token, which this is not`, false},
	}.run(t, d)
}
