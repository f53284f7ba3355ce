package main

import (
	"io"
	"net/http"
	"strings"
	"testing"
)

// scrape is what Prometheus gets.
func (d *daemon) scrape() string {
	d.t.Helper()
	resp, err := http.Get(d.admin + "/metrics")
	if err != nil {
		d.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		d.t.Fatal(err)
	}
	return string(text)
}

// Nothing has happened yet, and all that can is counted: for the first failure
// an alert needs the 0 before it. That is so for what a reload brings, too.
func TestMetricsBeginWithZero(t *testing.T) {
	t.Setenv("API_TOKEN", "hush")
	const config = `sources:
  hub: {type: dockerhub, auth: none}
  mirror: {type: poll, schedule: "@yearly", repositories: "127.0.0.1:1/none"}
rules: [{name: web, repo: shop/web, actions: [http: {url: 'http://127.0.0.1:1'}]}]
notify: [{name: desk, on: failed, http: {url: 'http://127.0.0.1:1'}}]
`
	d := startDaemon(t, config, "")
	has := func(want ...string) {
		t.Helper()
		text := d.scrape()
		for _, line := range want {
			if !strings.Contains(text, "\n"+line+" 0\n") {
				t.Errorf("no %s 0 in\n%s", line, text)
			}
		}
	}
	has(
		`dockbell_deliveries_total{source="",verdict="unknown source"}`,
		`dockbell_deliveries_total{source="hub",verdict="unauthorized"}`,
		`dockbell_deliveries_total{source="mirror",verdict="accepted"}`,
		`dockbell_run_tries_total{kind="http",rule="web",state="failed"}`,
		`dockbell_run_tries_total{kind="http",rule="notify/desk",state="unknown"}`,
		`dockbell_runs_running{kind="http"}`,
		`dockbell_run_try_seconds_count{kind="http"}`,
		`dockbell_pruned_total{what="runs"}`,
		`dockbell_cluster_rules{ready="false"}`,
	)
	d.mustBecome(strings.NewReplacer("hub:", "later:", "name: web", "name: api").Replace(config))
	has(
		`dockbell_deliveries_total{source="later",verdict="unavailable"}`,
		`dockbell_run_tries_total{kind="http",rule="api",state="waiting"}`,
	)
	if text := d.scrape(); strings.Contains(text, `rule="web"`) {
		t.Errorf("a rule that is gone is counted in\n%s", text)
	}
}
