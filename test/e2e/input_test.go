package e2e

import (
	"bytes"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// dockbell runs a command to its end.
func dockbell(t *testing.T, dir string, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd := exec.Command(program, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &out, &errs
	err = cmd.Run()
	return out.String(), errs.String(), err
}

// A bad configuration is refused by check and serve alike, with the line and
// the place of each fault, all of them at once.
func TestBadConfiguration(t *testing.T) {
	const good = `sources:
  hub: {type: dockerhub, auth: none}
rules:
  - name: web
    repo: shop/web
    actions:
      - http: {url: "http://127.0.0.1:1/"}
`
	for _, test := range []struct {
		name   string
		change []string // pairs: what is replaced, and by what
		want   []string // parts of what is said
	}{
		{"broken YAML", []string{"sources:", "sources: ["}, []string{"dockbell.yaml:3: did not find expected"}},
		{"empty", []string{good, ""}, []string{"the file is empty"}},
		{"unknown keys", []string{"name: web", "name: web\n    jbo: 1", "sources:", "servr: {}\nsources:"}, []string{`dockbell.yaml:1: unknown key "servr"`, `dockbell.yaml:6: rules[0]: unknown key "jbo"`}},
		{"bad regexp", []string{"repo: shop/web", "repo: shop/web\n    tag: 'v('"}, []string{"dockbell.yaml:6: rules[0].tag:", "missing closing )"}},
		{"bad pattern", []string{"repo: shop/web", "repo: 'shop/['"}, []string{"dockbell.yaml:5: rules[0].repo:", "not a valid pattern"}},
		{"bad version range", []string{"repo: shop/web", "repo: shop/web\n    semver: about-one"}, []string{"dockbell.yaml:6: rules[0].semver:"}},
		{"unknown action", []string{"http:", "htpt:"}, []string{`dockbell.yaml:7: rules[0].actions[0]: unknown action "htpt"`, "jenkins"}},
		{"unknown key of an action", []string{`{url:`, `{ulr: 1, url:`}, []string{"dockbell.yaml:7:", `unknown key "ulr"`}},
		{"missing name in a template", []string{"http://127.0.0.1:1/", "http://127.0.0.1:1/{{.Nope}}"}, []string{"dockbell.yaml:7:", "Nope"}},
		{"missing secret", []string{"auth: none", "auth: {token: {env: NOT_SET_ANYWHERE}}"}, []string{"dockbell.yaml:2: sources.hub.auth.token:", "NOT_SET_ANYWHERE is not set"}},
		{"secret in place", []string{"auth: none", "auth: {token: hunter2}"}, []string{"dockbell.yaml:2:", "a secret is a reference"}},
		{"no authentication", []string{", auth: none", ""}, []string{"dockbell.yaml:2: sources.hub: auth is missing"}},
		{"unknown sender", []string{"dockerhub", "dockerhbu"}, []string{"dockbell.yaml:2: sources.hub.type:", "known are aliyun, aws-ecr, "}},
		{"three faults at once", []string{"dockerhub", "dockerhbu", "repo: shop/web", "repo: shop/web\n    tag: 'v('", "http:", "htpt:"}, []string{"dockbell.yaml:2:", "dockbell.yaml:6:", "dockbell.yaml:8:", "faults found: 3"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			config := strings.NewReplacer(test.change...).Replace(good)
			if err := os.WriteFile(filepath.Join(dir, "dockbell.yaml"), []byte(config), 0o600); err != nil {
				t.Fatal(err)
			}
			_, said, err := dockbell(t, dir, "check", "dockbell.yaml")
			if err == nil {
				t.Error("check ended with status 0")
			}
			for _, want := range test.want {
				if !strings.Contains(said, want) {
					t.Errorf("check says\n%s\nwant %q in it", said, want)
				}
			}
			if strings.Contains(said, "hunter2") {
				t.Error("check printed a secret")
			}
			if _, served, err := dockbell(t, dir, "serve"); err == nil || !strings.Contains(served, strings.Split(said, "\n")[0]) {
				t.Errorf("serve says\n%s\nwant what check says", served)
			}
		})
	}
}

// What is no delivery of its sender is refused with a status and a reason,
// and leaves nothing behind.
func TestBadDeliveries(t *testing.T) {
	d := serve(t, header+`
sources:
  registry: {type: distribution, auth: {bearer: {env: TOKEN}}}
  azure: {type: azure-eventgrid, auth: {token: {env: TOKEN}}}
rules:
  - {name: all, repo: "**", actions: [{command: {argv: ["true"]}}]}
`, "TOKEN=hush")
	good := version(1)
	auth := []string{"Authorization", "Bearer hush"}
	for _, test := range []struct {
		name    string
		source  string
		body    []byte
		headers []string
		status  int
		says    string
	}{
		{"unknown source", "nowhere", good, auth, http.StatusNotFound, "no such source"},
		{"no credentials", "registry", good, nil, http.StatusUnauthorized, "credentials"},
		{"wrong credentials", "registry", good, []string{"Authorization", "Bearer hash"}, http.StatusUnauthorized, "credentials"},
		{"not JSON", "registry", []byte(`{"events":[`), auth, http.StatusBadRequest, "not JSON"},
		{"another sender's", "registry", sample(t, "dockerhub", "shop/web", "v1"), auth, http.StatusBadRequest, "envelope of a distribution registry"},
		{"empty", "registry", nil, auth, http.StatusBadRequest, "empty"},
		{"huge", "registry", bytes.Repeat([]byte(" "), 1<<20+1), auth, http.StatusRequestEntityTooLarge, "larger than 1048576 bytes"},
	} {
		r, err := d.post(test.source, test.body, test.headers...)
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		if r.Status != test.status || !strings.Contains(r.Error, test.says) {
			t.Errorf("%s: answered %d %q, want %d and %q", test.name, r.Status, r.Error, test.status, test.says)
		}
	}
	if resp, err := client.Get(d.hooks + "registry"); err != nil || resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("GET: %v %v, want 405", resp, err)
	}
	if runs := d.runs(""); len(runs) > 0 {
		t.Errorf("refused deliveries made runs: %+v", runs)
	}

	// Understood and unwanted is 200: a sender would repeat anything else.
	pull := bytes.Replace(good, []byte(`"action":"push"`), []byte(`"action":"pull"`), 1)
	if r := d.mustPost(http.StatusOK, "registry", pull, auth...); len(r.Ignored) != 1 || r.Ignored[0].Reason != "pull" {
		t.Errorf("a pull: %+v", r)
	}
	validation := []byte(`[{"id":"1","eventType":"Microsoft.EventGrid.SubscriptionValidationEvent","data":{"validationCode":"code","validationUrl":"http://127.0.0.1:1/"}}]`)
	if _, err := d.post("azure?token=hush", validation); err != nil {
		t.Error(err)
	}
}

// The secrets that a delivery carries are neither logged nor kept.
func TestSecretsStayOut(t *testing.T) {
	d := serve(t, header+`
sources:
  registry: {type: distribution, auth: {token: {env: TOKEN}}}
  other: {type: distribution, auth: {token: {env: TOKEN}, header: X-Token}}
rules:
  - {name: all, repo: "**", actions: [{command: {argv: ["true"]}}]}
`, "TOKEN=planted-secret")
	d.mustPost(http.StatusAccepted, "registry?token=planted-secret", version(1), "Authorization", "Bearer planted-secret", "Cookie", "planted-secret")
	d.mustPost(http.StatusAccepted, "other", version(2), "X-Token", "planted-secret")
	d.mustPost(http.StatusUnauthorized, "other?token=planted-secret", version(3))
	d.ended()
	d.stop()
	files, err := filepath.Glob(d.dir + "/dockbell.db*")
	if err != nil || len(files) == 0 {
		t.Fatal("no store", err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(data, []byte("planted-secret")) {
			t.Errorf("%s holds the secret", filepath.Base(file))
		}
	}
	if strings.Contains(d.log.tail(1000), "planted-secret") {
		t.Error("the log holds the secret")
	}
}
