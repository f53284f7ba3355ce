package main

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dockbell/dockbell/trigger/source"
)

const noRule = "rules: [{name: web, repo: nothing/at-all, actions: [http: {url: 'http://127.0.0.1:1'}]}]\n"

// A sample of each vendor, with its credentials, is understood by a running
// dockbell as one push of the image, also by a source that takes them all.
func TestSendEveryVendor(t *testing.T) {
	t.Setenv("SEND_TOKEN", "hunter2")
	single, all := "", "sources:\n  any:\n    type: auto\n    senders:\n"
	for _, vendor := range source.Types() {
		single += "  " + vendor + ": {type: " + vendor + ", auth: {token: {env: SEND_TOKEN}}}\n"
		all += "      " + vendor + ": {auth: {token: {env: SEND_TOKEN}}}\n"
	}
	for name, config := range map[string]string{"single": "sources:\n" + single, "auto": all} {
		d := startDaemon(t, config+noRule, "")
		for _, vendor := range source.Types() {
			t.Run(name+"/"+vendor, func(t *testing.T) {
				out, errs, ok := dockbell(t, "", "send", vendor, "registry.example.com/shop/web:v1.4.0", "--config", d.options.config, "--url", d.hooks)
				status, body, _ := strings.Cut(out, "\n")
				var reply struct {
					Events []struct{ Repository, Tag, Action string }
				}
				if err := json.Unmarshal([]byte(body), &reply); err != nil || !ok || status != "200 OK" || len(reply.Events) != 1 {
					t.Fatalf("%v, %v: %s%s", ok, err, out, errs)
				}
				e := reply.Events[0]
				if !strings.HasSuffix(e.Repository, "shop/web") || e.Tag != "v1.4.0" || e.Action != "push" {
					t.Errorf("understood as %+v", e)
				}
			})
		}
	}
}

func TestSendSigned(t *testing.T) {
	t.Setenv("SEND_TOKEN", "hunter2")
	d := startDaemon(t, "sources: {hub: {type: github, auth: {signature: {env: SEND_TOKEN}}}}\n"+noRule, "")
	out, errs, ok := dockbell(t, "", "send", "github", "-c", d.options.config, "--url", d.hooks)
	if !ok || !strings.HasPrefix(out, "200 OK\n") {
		t.Errorf("signed: %s%s", out, errs)
	}
	// One config says another secret than the running dockbell has.
	t.Setenv("SEND_TOKEN", "hunter3")
	other := writeConfig(t, "sources: {hub: {type: github, auth: {token: {env: SEND_TOKEN}}}}\n"+noRule)
	out, _, ok = dockbell(t, "", "send", "github", "-c", other, "--url", d.hooks)
	if ok || !strings.HasPrefix(out, "401 Unauthorized\n") {
		t.Errorf("not signed: %v %s", ok, out)
	}
}

func TestSendDryRun(t *testing.T) {
	t.Setenv("SEND_TOKEN", "hunter2")
	config := writeConfig(t, "server: {listen: ':8080'}\nsources: {hub: {type: dockerhub, auth: {token: {env: SEND_TOKEN}}}}\n"+noRule)
	out, _, ok := dockbell(t, "", "send", "dockerhub", "shop/web:v2", "-c", config, "--dry-run")
	if !ok || !strings.HasPrefix(out, "POST http://127.0.0.1:8080/hooks/hub\n") || !strings.Contains(out, `"v2"`) || strings.Contains(out, "hunter2") {
		t.Error(out)
	}
}

func TestSendFaults(t *testing.T) {
	t.Setenv("SEND_TOKEN", "hunter2")
	config := writeConfig(t, `
server: {listen: "127.0.0.1:1"}
sources:
  a: {type: quay, auth: {token: {env: SEND_TOKEN}}}
  b: {type: quay, auth: {token: {env: SEND_TOKEN}}}
  sns: {type: aws-ecr, auth: {sns: {topics: ["arn:aws:sns:eu-west-1:210987654321:ecr"]}}}
`+noRule)
	for name, tt := range map[string]struct {
		args []string
		want string
	}{
		"unknown vendor":   {[]string{"kway"}, `unknown vendor "kway"; known are aliyun, `},
		"no such type":     {[]string{"harbor"}, "no source in the configuration is of type harbor; add one"},
		"several":          {[]string{"quay"}, "several sources are of type quay: choose one by --source: a, b"},
		"no such source":   {[]string{"quay", "--source", "c"}, `there is no source "c" in the configuration; there are a, b, sns`},
		"of another type":  {[]string{"quay", "--source", "sns"}, "no source in the configuration is of type quay"},
		"bad image":        {[]string{"quay", "UPPER:::", "--source", "a"}, "image"},
		"vendor's own key": {[]string{"aws-ecr"}, "only the vendor itself can sign for this source"},
		"bad url":          {[]string{"quay", "--source", "a", "--url", "x"}, `--url "x": must be a URL`},
		"nobody there":     {[]string{"quay", "--source", "a"}, "no dockbell answers at http://127.0.0.1:1/hooks/a: "},
		"no configuration": {[]string{"quay", "--config", filepath.Join(t.TempDir(), "none.yaml")}, "cannot be used"},
	} {
		t.Run(name, func(t *testing.T) {
			_, errs, ok := dockbell(t, "", append([]string{"send", "--config", config}, tt.args...)...)
			if ok || !strings.Contains(errs, tt.want) || strings.Contains(errs, "hunter2") {
				t.Errorf("%v %s\nwant %s", ok, errs, tt.want)
			}
		})
	}
}
