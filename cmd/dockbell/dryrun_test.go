package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/dockbell/dockbell/trigger"
	"github.com/dockbell/dockbell/trigger/server"
)

// With --dry-run the API server is asked to check a deploy, and nothing else
// is called.
func TestDryRun(t *testing.T) {
	const deployment = "/apis/apps/v1/namespaces/prod/deployments/web"
	answer := func(image string) map[string]any {
		return map[string]any{"body": map[string]any{
			"apiVersion": "apps/v1", "kind": "Deployment", "metadata": map[string]any{"name": "web", "namespace": "prod"},
			"spec": map[string]any{"template": map[string]any{"spec": map[string]any{"containers": []any{map[string]any{"name": "web", "image": image}}}}},
		}}
	}
	r := newReceiver(t, map[string][]any{"GET " + deployment: {answer("shop/web:1.0.0")}, "PATCH " + deployment: {answer("shop/web:1.1.0")}})
	d := startDaemon(t, strings.ReplaceAll(`
clusters: {default: {kubeconfig: DIR/kubeconfig}}
sources: {hub: {type: dockerhub, auth: none, callback: true}}
rules:
  - name: web
    repo: docker.io/shop/web
    actions:
      - kubernetes: {target: deployment/web, namespace: prod}
      - http: {url: "http://RECEIVER/told"}
`, "RECEIVER", r.address), r.address)
	d.stop()
	d.options.dryRun = true
	d.start()
	body := map[string]any{
		"callback_url": "https://registry.hub.docker.com/u/shop/web/hook/1/",
		"push_data":    map[string]any{"tag": "1.1.0", "pushed_at": 1795248000},
		"repository":   map[string]any{"repo_name": "shop/web", "name": "web", "namespace": "shop"},
	}
	if status, reply := d.post("hub", body); status != 202 {
		t.Fatalf("answered %d %q", status, reply)
	}
	ended := func() bool {
		return !slices.ContainsFunc(d.runs(), func(r server.RunView) bool { return !r.State.Ended() })
	}
	until(t, ended)
	states := map[string]trigger.State{}
	for _, run := range d.runs() {
		states[run.Kind] = run.State
		if log := run.Tries[0].Log; run.Kind == "kubernetes" && !strings.Contains(log, "as a rehearsal: shop/web:1.0.0 -> shop/web:1.1.0; nothing is changed") {
			t.Errorf("the log does not show the change: %s", log)
		}
	}
	if states["kubernetes"] != trigger.Succeeded || states["http"] != trigger.Skipped || states[callbackKind] != trigger.Skipped {
		t.Errorf("the runs are %v", states)
	}
	if slices.ContainsFunc(r.all(), func(call string) bool { return strings.HasPrefix(call, "POST ") }) {
		t.Errorf("called %q", r.all())
	}
}

// A rule can have one of its actions rehearsed.
func TestDryRunOfAnAction(t *testing.T) {
	r := newReceiver(t, nil)
	d := startDaemon(t, strings.ReplaceAll(`
sources: {hub: {type: dockerhub, auth: none}}
rules:
  - name: web
    repo: docker.io/shop/web
    actions:
      - http: {url: "http://RECEIVER/rehearsed", dryRun: true}
      - http: {url: "http://RECEIVER/done", dryRun: false}
`, "RECEIVER", r.address), r.address)
	if status, reply := d.post("hub", map[string]any{"push_data": map[string]any{"tag": "1.1.0"}, "repository": map[string]any{"repo_name": "shop/web"}}); status != 202 {
		t.Fatalf("answered %d %q", status, reply)
	}
	until(t, func() bool {
		return !slices.ContainsFunc(d.runs(), func(r server.RunView) bool { return !r.State.Ended() })
	})
	if got := r.all(); len(got) != 1 || !strings.HasPrefix(got[0], "POST /done") {
		t.Errorf("called %q", got)
	}
	for _, run := range d.runs() {
		if run.Index == 0 && (run.State != trigger.Skipped || !strings.HasPrefix(run.Reason, "not done: it is a rehearsal")) {
			t.Errorf("%s: %s", run.State, run.Reason)
		}
	}
}

// A kind that rehearses by itself is told to, and does the rest.
func TestDryRunOfWhatRehearses(t *testing.T) {
	var spec struct {
		DryRun bool `yaml:"dryRun"`
	}
	row := trigger.Kind{Build: func(decode func(any) error) (trigger.Action, error) { return nil, decode(&spec) }}
	for text, want := range map[string]struct{ one, always bool }{`{}`: {false, true}, `{"dryRun": true}`: {true, true}, `{"dryRun": false}`: {false, true}} {
		for _, always := range []bool{false, true} {
			spec.DryRun = false
			a, err := rehearsable(row, always).Build(decodeSpec([]byte(text)))
			if expected := always && want.always || want.one; err != nil || a != nil || spec.DryRun != expected {
				t.Errorf("%s, always %t: %v, %v, %t", text, always, a, err, spec.DryRun)
			}
		}
	}
}
