package main

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/dockbell/dockbell/k8s"
	"github.com/dockbell/dockbell/trigger"
)

// ofCluster is a configuration whose rules are in the cluster.
func ofCluster(t *testing.T, more string) *config {
	t.Helper()
	setSecrets(t)
	c, err := parseConfig("dockbell.yaml", []byte("sources: {registry: {type: distribution, auth: none}}\n"+more), offlineKinds(t.Context(), true))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func teamRule(spec string) k8s.Rule {
	return k8s.Rule{Namespace: "shop", Name: "web", Spec: json.RawMessage(spec)}
}

var pushedWeb = trigger.Event{
	Image:  trigger.Image{Registry: "registry.example.com", Repository: "shop/web", Tag: "v1.2.3", Digest: "sha256:" + strings.Repeat("0", 64)},
	Source: "registry", Action: trigger.Push,
}

// A rule of the cluster acts in its own namespace, and the run that it makes
// says so: whoever does it later knows no more of the rule.
func TestRuleOfTheCluster(t *testing.T) {
	c := ofCluster(t, "rulesFrom: cluster\n")
	set, err := c.compileRule(teamRule(`{"repo": "shop/web", "tag": "v(?P<version>.*)", "settle": "30s", "actions": [{"kubernetes": {"target": "deployment/web", "wait": "5m", "attempts": 3}}]}`))
	if err != nil {
		t.Fatal(err)
	}
	runs, _ := c.rules.With(set).Match(pushedWeb, time.Now())
	if len(runs) != 1 {
		t.Fatalf("%+v", runs)
	}
	r := runs[0]
	if r.Rule != "shop/web" || !strings.Contains(r.Target, "shop/web") || !strings.Contains(string(r.Spec), `"namespace":"shop"`) || r.Attempts != 3 || !strings.Contains(r.Reason, "settle") {
		t.Errorf("%+v with %s", r, r.Spec)
	}
}

func TestRulesOfTheClusterThatAreRefused(t *testing.T) {
	allowing := "rulesFrom: {cluster: {kinds: [kubernetes, http]}}\n"
	for name, tt := range map[string]struct{ config, action, want string }{
		"another namespace":    {allowing, `{"kubernetes": {"target": "deployment/web", "namespace": "prod"}}`, `actions[0].kubernetes.namespace: must be shop or be left out, not "prod"`},
		"a namespace by event": {allowing, `{"kubernetes": {"target": "deployment/web", "namespace": "{{.Actor}}"}}`, "actions[0].kubernetes.namespace: must be shop"},
		"another cluster":      {"clusters: {other: {}}\n" + allowing, `{"kubernetes": {"target": "deployment/web", "cluster": "other"}}`, "actions[0].kubernetes.cluster: must be left out"},
		"no mapping":           {allowing, `{"kubernetes": "deployment/web"}`, "actions[0].kubernetes: must be a mapping"},
		"a kind not allowed":   {"rulesFrom: cluster\n", `{"http": {"url": "https://example.com"}}`, "actions[0].http: a rule of the cluster cannot have this action: rulesFrom.cluster.kinds allows kubernetes"},
		"commands":             {allowing, `{"command": {"argv": ["id"]}}`, "actions[0].command: a rule of the cluster cannot have this action: rulesFrom.cluster.kinds allows kubernetes, http"},
		"a secret":             {allowing, `{"http": {"url": "https://example.com", "headers": {"Authorization": {"env": "SET_TOKEN"}}}}`, "actions[0].http.headers.Authorization: a rule of the cluster cannot name secrets"},
		"a secret in a list":   {allowing, `{"http": {"url": "https://example.com", "json": [{"file": "/run/secrets/token"}]}}`, "actions[0].http.json[0]: a rule of the cluster cannot name secrets"},
		"a lane":               {allowing, `{"http": {"url": "https://example.com", "lane": "others"}}`, `actions[0].http: unknown key "lane"`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ofCluster(t, tt.config).compileRule(teamRule(`{"repo": "shop/web", "actions": [` + tt.action + `]}`))
			if err == nil {
				t.Fatal("it was taken")
			}
			if faults := faultsOf(err); !slices.ContainsFunc(faults, func(f string) bool { return strings.HasPrefix(f, tt.want) }) {
				t.Errorf("%q, want %s", faults, tt.want)
			}
		})
	}
	if _, err := ofCluster(t, allowing).compileRule(teamRule(`{"repo": "shop/web", "actions": [{"http": {"url": "https://example.com"}}]}`)); err != nil {
		t.Errorf("what is allowed: %v", err)
	}
}

// The example of the documentation is a good rule.
func TestDocumentedRule(t *testing.T) {
	page, err := os.ReadFile("../../docs/rules-as-resources.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(page), "```yaml\n")
	block, _, _ := strings.Cut(rest, "```")
	var resource struct {
		Metadata struct{ Name, Namespace string }
		Spec     map[string]any
	}
	if err := yaml.Unmarshal([]byte(block), &resource); err != nil {
		t.Fatal(err)
	}
	spec, err := json.Marshal(resource.Spec)
	if err != nil {
		t.Fatal(err)
	}
	rule := k8s.Rule{Namespace: resource.Metadata.Namespace, Name: resource.Metadata.Name, Spec: spec}
	if set, err := ofCluster(t, "rulesFrom: cluster\n").compileRule(rule); err != nil || set.Len() != 1 || rule.String() != "shop/web" {
		t.Errorf("%s: %v", rule, err)
	}
}

// Good rules are in force whatever the others are, and a reload that takes away
// what a rule needs makes it faulty.
func TestBadRulesHarmNoOthers(t *testing.T) {
	good := teamRule(`{"repo": "shop/web", "sources": ["registry"], "actions": [{"kubernetes": {"target": "deployment/web"}}]}`)
	bad := good
	bad.Name, bad.Spec = "bad", json.RawMessage(`{"repo": "shop/[", "actions": []}`)
	broken := good
	broken.Name, broken.Spec = "broken", nil
	s := clusterState{rules: []k8s.Rule{bad, broken, good}}
	c := ofCluster(t, "rulesFrom: cluster\nrules: [{name: web, repo: other, actions: [http: {url: 'https://example.com'}]}]\n")
	set := c.rules.With(s.compile(c)...)
	if runs, why := set.Match(pushedWeb, time.Now()); set.Len() != 2 || len(runs) != 1 {
		t.Errorf("%d rules, %d runs: %s", set.Len(), len(runs), why)
	}
	if s.faulty() != 2 || len(s.compiled["shop/bad"].faults) != 2 || len(s.compiled["shop/broken"].faults) == 0 {
		t.Errorf("%+v", s.compiled)
	}
	// What has not changed is not compiled again.
	before := s.compiled["shop/web"].set
	s.rules[0].Generation++
	if s.compile(c); s.compiled["shop/web"].set != before {
		t.Error("it was compiled again")
	}
	s.rules[2].Generation++
	if s.compile(c); s.compiled["shop/web"].set == before {
		t.Error("what has changed was not compiled")
	}
	without, err := parseConfig("dockbell.yaml", []byte("sources: {hub: {type: dockerhub, auth: none}}\nrulesFrom: cluster\n"), offlineKinds(t.Context(), true))
	if err != nil {
		t.Fatal(err)
	}
	if sets := s.compile(without); len(sets) != 0 || !strings.HasPrefix(s.compiled["shop/web"].faults[0], `sources: there is no source "registry"`) {
		t.Errorf("%+v", s.compiled)
	}
}
