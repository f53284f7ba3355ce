package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/dockbell/dockbell/trigger"
	"github.com/dockbell/dockbell/trigger/server"
)

// dockbell runs a command line. An error is added to the error output as main
// does.
func dockbell(t *testing.T, stdin string, args ...string) (stdout, stderr string, ok bool) {
	t.Helper()
	var out, errs bytes.Buffer
	root := rootCommand()
	root.SetArgs(args)
	root.SetIn(strings.NewReader(stdin))
	root.SetOut(&out)
	root.SetErr(&errs)
	err := root.ExecuteContext(t.Context())
	if err != nil && !errors.Is(err, errSilent) {
		fmt.Fprintln(&errs, "dockbell:", err)
	}
	return out.String(), errs.String(), err == nil
}

func writeConfig(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "dockbell.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Every command says in a line what it does and shows how to call it.
func TestEveryCommandExplainsItself(t *testing.T) {
	count := 0
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		count++
		if c.Short == "" || strings.HasSuffix(c.Short, ".") {
			t.Errorf("%s: short help %q", c.CommandPath(), c.Short)
		}
		if c.HasParent() && !c.Hidden && !strings.Contains(c.Example, "  "+c.CommandPath()) {
			t.Errorf("%s: the example does not call it: %q", c.CommandPath(), c.Example)
		}
		if c.Runnable() && c.Args == nil {
			t.Errorf("%s takes whatever arguments it is given", c.CommandPath())
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(rootCommand())
	if count < 8 {
		t.Errorf("only %d commands", count)
	}
	help, _, ok := dockbell(t, "", "explain", "--help")
	if !ok || !strings.Contains(help, "Examples:\n  dockbell explain --config") {
		t.Error(help)
	}
}

func TestVersion(t *testing.T) {
	out, _, ok := dockbell(t, "", "version")
	if !ok || !regexp.MustCompile(`^dockbell \S+\n$`).MatchString(out) {
		t.Errorf("%q", out)
	}
}

func TestWrongCommandLines(t *testing.T) {
	for line, want := range map[string]string{
		"sreve":                            `unknown command "sreve" for "dockbell"`,
		"version now":                      `unknown command "now" for "dockbell version"`,
		"check":                            "accepts 1 arg(s), received 0",
		"explain --config x y":             `required flag(s) "source" not set`,
		"runs --colour":                    "unknown flag: --colour",
		"runs -o yaml":                     `--output "yaml": must be table or json`,
		"runs show 1 -o yaml":              `--output "yaml": must be table or json`,
		"events -o yaml":                   `--output "yaml": must be table or json`,
		"holds -o yaml":                    `--output "yaml": must be table or json`,
		"hold --lane a":                    `required flag(s) "reason" not set`,
		"hold --reason x":                  "at least one of the flags in the group [digest lane run] is required",
		"hold --reason x --lane a --run 1": "[lane run] were all set",
		"hold --reason x --run y":          `"y" is not the id of a run`,
		"release x":                        `"x" is not the id of a hold`,
		"runs reject 1":                    `required flag(s) "reason" not set`,
		"runs approve x":                   `"x" is not the id of a run`,
		"replay 12":                        `"12" is neither delivery/ID nor event/ID`,
		"replay run/12":                    `"run/12" is neither delivery/ID nor event/ID`,
		"replay event/../12":               `"event/../12" is neither`,
		"explain -s hub -o yaml y":         `--output "yaml": must be table or json`,
		"runs --server 127.0.0.1":          `--server "127.0.0.1": must be a URL, as in http://127.0.0.1:8081`,
		"serve --log-format xml":           `--log-format "xml": must be text or json`,
		"serve --log-level loud":           `--log-level "loud": must be debug, info, warn or error`,
		"serve --config /nowhere/x":        "open /nowhere/x: no such file or directory",
		"explain -s hub -c /nowhere y":     "open /nowhere: no such file or directory",
	} {
		out, errs, ok := dockbell(t, "", strings.Fields(line)...)
		if ok || out != "" || !strings.Contains(errs, want) || !strings.HasPrefix(errs, "dockbell: ") {
			t.Errorf("%s: %t, %q, %q; want %s", line, ok, out, errs, want)
		}
	}
}

func TestCheck(t *testing.T) {
	t.Setenv("SET_TOKEN", "hunter2")
	t.Setenv("OTHER_TOKEN", "another")
	out, errs, ok := dockbell(t, "", "check", configs+"/good/everything.yaml")
	if want := configs + "/good/everything.yaml is good: 6 sources, 3 rules\n"; !ok || out != want || errs != "" {
		t.Errorf("%t, %q, %q; want %q", ok, out, errs, want)
	}
	bad := configs + "/bad/bad-address.yaml"
	out, errs, ok = dockbell(t, "", "check", bad)
	want := bad + ":5: server.listen: \"8080\" is not HOST:PORT or :PORT\n" + bad + ":6: server.admin: \"localhost:http\" is not HOST:PORT or :PORT\nfaults found: 2\n"
	if ok || out != "" || errs != want {
		t.Errorf("%t, %q\ngot  %s\nwant %s", ok, out, errs, want)
	}
	out, errs, ok = dockbell(t, "", "check", "/nowhere/x")
	if ok || out != "" || !strings.Contains(errs, "open /nowhere/x") {
		t.Errorf("%t, %q, %q", ok, out, errs)
	}
	commands := configs + "/bad/commands-not-allowed.yaml"
	if _, errs, ok := dockbell(t, "", "check", commands); !ok {
		t.Errorf("commands are refused although they may be allowed: %s", errs)
	}
	if _, errs, ok := dockbell(t, "", "check", "--no-commands", commands); ok || !strings.Contains(errs, "command actions are off") {
		t.Errorf("commands are good without leave: %s", errs)
	}
}

func TestCheckWithoutSecrets(t *testing.T) {
	missing := configs + "/bad/missing-secret.yaml"
	if _, errs, ok := dockbell(t, "", "check", missing); ok || !strings.Contains(errs, "faults found: 2") {
		t.Errorf("missing secrets are no faults: %s", errs)
	}
	out, errs, ok := dockbell(t, "", "check", "--ignore-missing-secrets", missing)
	if want := missing + " is good but for the secrets that are missing here: 2\n"; !ok || out != want || errs != "" {
		t.Errorf("%t, %q, %q", ok, out, errs)
	}
	// Everything else is still found, in actions too.
	path := writeConfig(t, `sources: {hub: {type: dockerhub, auth: {token: {env: UNSET_TOKEN}}}}
rules:
- name: web
  repo: shop/web
  actions:
  - http: {url: ftp://example.com, headers: {Authorization: {env: UNSET_TOKEN}}}
  - http: {url: {env: UNSET_TOKEN}}
`)
	out, errs, ok = dockbell(t, "", "check", "--ignore-missing-secrets", path)
	if want := path + ":6: rules[0].actions[0].http.url: must begin with https:// or http:// and a host\nfaults found: 1\n"; ok || out != "" || errs != want {
		t.Errorf("%t, %q, %q; want %q", ok, out, errs, want)
	}
	broken := configs + "/bad/empty.yaml"
	if _, errs, ok := dockbell(t, "", "check", "--ignore-missing-secrets", broken); ok || !strings.Contains(errs, "the file is empty") {
		t.Errorf("%t, %s", ok, errs)
	}
}

const explained = `sources:
  hub: {type: dockerhub, auth: none}
  grid: {type: azure-eventgrid, auth: none}
  registry: {type: distribution, auth: none}
rules:
- name: web
  repo: shop/web
  tag: 'v(?P<version>.*)'
  actions:
  - http: {url: "https://example.com/{{.Match.version}}?a=1&b=2", json: {text: "{{.Image}} <new>"}}
  - command: {argv: ["{{slice .Tag 0 3}}"]}
- {name: api, repo: shop/api, actions: [http: {url: "https://example.com"}]}
`

func hubPush(repo, tag string) string {
	return fmt.Sprintf(`{"push_data":{"pusher":"crane","tag":%q},"repository":{"repo_name":%q}}`, tag, repo)
}

func TestExplain(t *testing.T) {
	path := writeConfig(t, explained)
	tests := []struct {
		name, body string
		args       []string
		ok         bool
		out, errs  string
	}{
		{"what matches", hubPush("shop/web", "v1.2"), []string{"-s", "hub"}, true, `Event 1 of 1: push docker.io/shop/web:v1.2
  rule web  line 6   matches   
  rule api  line 12  no: repo  docker.io/shop/web does not match shop/api
  would do: http POST https://example.com/1.2 (rule web, lane rule/web/0) {"url":"https://example.com/1.2?a=1&b=2","json":{"text":"docker.io/shop/web:v1.2 <new>"}}
  would do: command v1. (rule web, lane rule/web/1) {"argv":["v1."]}
`, ""},
		{"what would fail", hubPush("shop/web", "v1"), []string{"-s", "hub"}, true, `Event 1 of 1: push docker.io/shop/web:v1
  rule web  line 6   matches   
  rule api  line 12  no: repo  docker.io/shop/web does not match shop/api
  would do: http POST https://example.com/1 (rule web, lane rule/web/0) {"url":"https://example.com/1?a=1&b=2","json":{"text":"docker.io/shop/web:v1 <new>"}}
  would fail: command of rule web: template: <slice .Tag 0 3>: error calling slice: index out of range: 3
`, ""},
		{"what does not match", hubPush("shop/web", "main"), []string{"-s", "hub"}, true, `Event 1 of 1: push docker.io/shop/web:main
  rule web  line 6   no: tag   "main" does not match v(?P<version>.*)
  rule api  line 12  no: repo  docker.io/shop/web does not match shop/api
`, ""},
		{"what starts nothing", `{"events":[{"id":"a","action":"pull","target":{"repository":"shop/web","tag":"v1","mediaType":"application/vnd.oci.image.manifest.v1+json"}}]}`, []string{"-s", "registry"}, true,
			"Event 1 of 1:  shop/web:v1\n  starts nothing: pull\n", ""},
		{"no event", `{"events":[]}`, []string{"-s", "registry"}, true, "The payload is understood and holds no event.\n", ""},
		{"the wanted rule", hubPush("shop/api", "v1"), []string{"-s", "hub", "--want", "api"}, true, `Event 1 of 1: push docker.io/shop/api:v1
  rule web  line 6   no: repo  docker.io/shop/api does not match shop/web
  rule api  line 12  matches   
  would do: http POST https://example.com (rule api, lane rule/api/0) {"url":"https://example.com"}
`, ""},
		{"not the wanted rule", hubPush("shop/api", "v1"), []string{"-s", "hub", "--want", "web"}, false, `Event 1 of 1: push docker.io/shop/api:v1
  rule web  line 6   no: repo  docker.io/shop/api does not match shop/web
  rule api  line 12  matches   
  would do: http POST https://example.com (rule api, lane rule/api/0) {"url":"https://example.com"}
`, "no event matches a rule web\n"},
		{"a handshake", `[{"id":"1","eventType":"Microsoft.EventGrid.SubscriptionValidationEvent","data":{"validationCode":"c0de"}}]`, []string{"-s", "grid", "-H", "aeg-event-type: SubscriptionValidation"}, false, "",
			"dockbell: this is the check of the endpoint, not a delivery; it is answered 200 {\"validationResponse\":\"c0de\"}\n"},
		{"an unknown source", "{}", []string{"-s", "hob"}, false, "", "dockbell: there is no source \"hob\" in the configuration\n"},
		{"a bad payload", "{}", []string{"-s", "hub"}, false, "", "dockbell: not a valid delivery: expected a push of Docker Hub, {\"push_data\": {…}, \"repository\": {…}}: no push_data\n"},
		{"a bad header", "{}", []string{"-s", "hub", "-H", "x"}, false, "", "dockbell: --header \"x\": must be Name: value\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			out, errs, ok := dockbell(t, tt.body, append([]string{"explain", "-c", path, "-"}, tt.args...)...)
			if ok != tt.ok || out != tt.out || errs != tt.errs {
				t.Errorf("%t\n%s\n%s\nwant %t\n%s\n%s", ok, out, errs, tt.ok, tt.out, tt.errs)
			}
		})
	}
}

func TestExplainReadsFilesAndRefusesBadConfigurations(t *testing.T) {
	path := writeConfig(t, explained)
	body := filepath.Join(filepath.Dir(path), "push.json")
	if err := os.WriteFile(body, []byte(hubPush("shop/web", "v1.2")), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, _, ok := dockbell(t, "", "explain", "-c", path, "-s", "hub", body); !ok || !strings.Contains(out, "rule web") {
		t.Errorf("%t, %s", ok, out)
	}
	if _, errs, ok := dockbell(t, "", "explain", "-c", path, "-s", "hub", body+".absent"); ok || !strings.Contains(errs, "no such file") {
		t.Errorf("%t, %s", ok, errs)
	}
	bad := writeConfig(t, "rules: []\n")
	if _, errs, ok := dockbell(t, "", "explain", "-c", bad, "-s", "hub", body); ok || !strings.Contains(errs, " cannot be used:\n"+bad+":1: sources: is missing") {
		t.Errorf("%t, %s", ok, errs)
	}
}

// What explain shows is what a run is made of, to the letter.
func TestExplainShowsWhatIsDone(t *testing.T) {
	out, errs, ok := dockbell(t, hubPush("shop/web", "v1.2.3"), "explain", "-c", writeConfig(t, explained), "-s", "hub", "-o", "json", "-")
	if !ok {
		t.Fatal(errs)
	}
	var shown []struct {
		Event trigger.Event
		Runs  []trigger.Run
	}
	if err := json.Unmarshal([]byte(out), &shown); err != nil {
		t.Fatal(err)
	}
	receiver := newReceiver(t, nil)
	d := startDaemon(t, explained, receiver.address)
	if status, reply := d.post("hub", json.RawMessage(hubPush("shop/web", "v1.2.3"))); status != http.StatusAccepted {
		t.Fatal(status, reply)
	}
	runs := d.runs()
	if len(shown) != 1 || len(shown[0].Runs) != 2 || len(runs) != 2 {
		t.Fatalf("explain shows %+v, there are %d runs", shown, len(runs))
	}
	for i, want := range shown[0].Runs {
		got := runs[len(runs)-1-i].Run
		if compact(t, got.Spec) != compact(t, want.Spec) || got.Rule != want.Rule || got.Index != want.Index || got.Lane != want.Lane || got.Mode != want.Mode ||
			got.Target != want.Target || got.Kind != want.Kind || got.Attempts != want.Attempts {
			t.Errorf("got  %+v\nwant %+v", got, want)
		}
	}
	if got := shown[0].Event.Image.String(); got != "docker.io/shop/web:v1.2.3" {
		t.Error(got)
	}
}

func compact(t *testing.T, spec json.RawMessage) string {
	t.Helper()
	var v any
	if err := json.Unmarshal(spec, &v); err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestRunsAndEvents(t *testing.T) {
	receiver := newReceiver(t, map[string][]any{"POST /broken": {404}})
	d := startDaemon(t, strings.ReplaceAll(`sources: {hub: {type: dockerhub, auth: none}}
rules:
- {name: web, repo: shop/web, actions: [http: {url: "http://RECEIVER/web"}, command: {argv: [printf, "first\nlast"]}]}
- {name: api, repo: shop/api, actions: [http: {url: "http://RECEIVER/broken"}]}
`, "RECEIVER", receiver.address), receiver.address)

	for command, want := range map[string]string{
		"runs":   "No runs. `dockbell events` shows what was received and why it started nothing.\n",
		"events": "No events. Does the registry's notification reach the hooks address, and is it answered 2xx?\n",
	} {
		if out, _, ok := dockbell(t, "", command, "--server", d.admin); !ok || out != want {
			t.Errorf("%s: %t, %q", command, ok, out)
		}
	}
	for _, body := range []string{hubPush("shop/web", "v1"), hubPush("shop/api", "v1"), hubPush("other/web", "v1")} {
		if status, reply := d.post("hub", json.RawMessage(body)); status/100 != 2 {
			t.Fatal(status, reply)
		}
	}
	step{Ended: 3}.do(t, d, receiver)
	t.Setenv("DOCKBELL_SERVER", d.admin)
	tests := []struct {
		line string
		want string // a regular expression
	}{
		{"runs", `^RUN  STATE      RULE  TARGET  .*\n3    failed     api   POST http://\S+/broken +docker.io/shop/api:v1  1  .*\n2    succeeded  web   printf .*\n1    succeeded  web   POST http://\S+/web .*\n$`},
		{"runs --state failed", `^RUN .*\n3 .*\n$`},
		{"runs --rule web", `^RUN .*\n2 .*\n1 .*\n$`},
		{"runs --repo shop/api", `^RUN .*\n3 .*\n$`},
		{"runs --repo docker.io/shop/api", "^No runs. Its registry is not part of a repository's name: --repo shop/api. `dockbell events` .*\n$"},
		{"events --repo registry:5000/shop/api", "^No events. Its registry is not part of a repository's name: --repo shop/api. Does .*\n$"},
		{"runs --event 1 --limit 1", `^RUN .*\n2 .*\n$`},
		{"runs --limit 1 -o json", `^\{\n  "runs": \[\n    \{\n      "id": "3",(?s:.*)"next": "3"\n\}\n$`},
		{"runs show 1", `^Run         1 of event 1\nState       succeeded\nImage       docker.io/shop/web:v1\nPushed      .*, seen by source hub\nRule        web, action 0: http\nTarget      POST http://\S+/web\n` +
			`Lane        rule/web/0 \(queue\)\nEnded       .* after it was accepted\nParameters  \{"url":"http://\S+/web"\}\n\n` +
			`\S+ \S+ \S+  received from source hub: push of docker.io/shop/web:v1 by crane\n.*  accepted by rule web, action 0: http POST http://\S+/web\n(?s:.*)  try 1 took \S+: succeeded\n    POST http://\S+/web answered 200 OK\n$`},
		{"runs show 2", `(?s)^Run .*  try 1 took [^\n]*: succeeded\n    first\n    last\n$`},
		{"runs show 3", `(?s)^Run .*\nState       failed\nReason      POST .*  try 1 took [^\n]*: failed: POST [^\n]*\n.*$`},
		{"runs show 1 -o json", `^\{\n  "id": "1",(?s:.*)"log": "POST http:`},
		{"events", `^EVENT  SOURCE  ACTION  IMAGE  .*\n3      hub     push    docker.io/other/web:v1 .* no rule is for the repository docker.io/other/web\n2 .*\n1      hub     push    docker.io/shop/web:v1 +\d+s +1 2 *\n$`},
		{"events --repo shop/api", `^EVENT .*\n2 .*\n$`},
		{"events show 1", `^Event     1 of delivery 1\nImage     docker.io/shop/web:v1\nAction    push\nActor     crane\nSource    hub\nReceived  .*\n\nRUN .*\n2 .*\n1 .*\n\nDelivery 1, without what is secret in its headers:\n(?s:.*)  Content-Type: application/json\n(?s:.*)\n  \{"push_data":\{"pusher":"crane",.*\}\n$`},
		{"events show 3", `(?s)^Event .*\nReason    no rule is for the repository docker.io/other/web\n\nDelivery 3, .*$`},
		{"events show 2 -o json", `(?s)^\{\n  "id": "2",.*"delivery": \{\n    "id": "2",.*"runs": \[\n    \{\n      "id": "3",.*$`},
		{"events --limit 1 -o json", `^\{\n  "events": \[\n    \{\n      "id": "3",(?s:.*)"next": "3"\n\}\n$`},
	}
	for _, tt := range tests {
		out, errs, ok := dockbell(t, "", strings.Fields(tt.line)...)
		if !ok || !regexp.MustCompile(tt.want).MatchString(out) {
			t.Errorf("%s: %t\n%s%s\nwant %s", tt.line, ok, out, errs, tt.want)
		}
	}
	for line, want := range map[string]string{
		"runs show 99":        "dockbell: there is no run 99\n",
		"runs show x":         "dockbell: \"x\" is not the id of a run, which is a number\n",
		"runs show ../events": "dockbell: \"../events\" is not the id of a run, which is a number\n",
		"runs --state fialed": "dockbell: state must be one of waiting, running, succeeded, failed, superseded, skipped, rejected, expired, rolled-back, unknown, not \"fialed\"\n",
		"events show 99":      "dockbell: there is no event 99, or it is not kept any more\n",
		"events show x":       "dockbell: \"x\" is not the id of an event, which is a number\n",
		"runs --limit 0":      "dockbell: limit must be a number from 1 to 1000, not \"0\"\n",
		"events --limit 5000": "dockbell: limit must be a number from 1 to 1000, not \"5000\"\n",
	} {
		if out, errs, ok := dockbell(t, "", strings.Fields(line)...); ok || out != "" || errs != want {
			t.Errorf("%s: %t, %q, %q; want %q", line, ok, out, errs, want)
		}
	}
}

func TestServerThatIsNoDockbell(t *testing.T) {
	other := httptest.NewServer(http.NotFoundHandler())
	defer other.Close()
	if _, errs, ok := dockbell(t, "", "runs", "--server", other.URL); ok || errs != "dockbell: "+other.URL+" answered 404 Not Found\n" {
		t.Errorf("%t, %q", ok, errs)
	}
	empty := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "{}") }))
	defer empty.Close()
	if _, errs, ok := dockbell(t, "", "runs", "show", "1", "--server", empty.URL); ok || errs != "dockbell: "+empty.URL+" does not answer as a dockbell of this version does\n" {
		t.Errorf("%t, %q", ok, errs)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	nobody := "http://" + l.Addr().String()
	if _, errs, ok := dockbell(t, "", "runs", "--server", nobody); ok || !strings.Contains(errs, "no dockbell answers at "+nobody+": dial tcp") || !strings.Contains(errs, "is it running") {
		t.Errorf("%t, %q", ok, errs)
	}
}

func TestRunsAreReadable(t *testing.T) {
	long := strings.Repeat("é", 200)
	page := server.RunPage{Runs: []server.RunView{{Run: trigger.Run{ID: 1, Reason: "first\nsecond"}}, {Run: trigger.Run{ID: 2, Reason: long}}}}
	var out bytes.Buffer
	if err := printRuns(&out, page, ""); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(out.String(), "\n"); n != 3 || !strings.Contains(out.String(), strings.Repeat("é", 100)+"…") || strings.Contains(out.String(), "second") {
		t.Errorf("%s", out.String())
	}
}
