package chart

import (
	"path/filepath"
	"strings"
	"testing"
)

func TestLint(t *testing.T) {
	for _, values := range variants(t) {
		t.Run(filepath.Base(values), func(t *testing.T) {
			if _, err := bin.Helm(t.Context(), t.TempDir(), "lint", chart, "--strict", "--quiet", "--values", values); err != nil {
				t.Error(err)
			}
		})
	}
}

// What cannot work is refused with what to do, before anything changes.
func TestRefused(t *testing.T) {
	for _, tt := range []struct{ name, set, want string }{
		{"replicas of SQLite", "replicas=2", "several replicas cannot share SQLite: set store.type=postgres"},
		{"PostgreSQL nowhere", "store.type=postgres", "store.postgres.secret is missing"},
		{"no rules", "config.rules=null", "config needs sources and rules"},
		{"no sources", "config.sources=null", "config needs sources and rules"},
		{"two configurations", "configFrom.name=mine", "config is not used where configFrom.name is"},
		{"an address", "config.server.listen=:80", "config.server.listen and config.server.admin are the chart's"},
		{"a store", "config.store=sqlite:mine.db", "config.store is the chart's"},
		{"an Ingress for nobody", "hooks.ingress.enabled=true", "hooks.ingress.hosts is missing"},
		{"a route from nowhere", "hooks.httpRoute.enabled=true", "hooks.httpRoute.parentRefs is missing"},
		{"everywhere and somewhere", "rbac.clusterWide=true", "rbac.namespaces is not used where rbac.clusterWide is"},
		{"a rule elsewhere", "rbac.namespaces={blog}", "rule web deploys in the namespace shop, where dockbell may not: add it to rbac.namespaces"},
		{"a secret that it may not read", "config.registries[0].host=r.example.com,config.registries[0].pullSecret.namespace=shop,config.registries[0].pullSecret.name=pull",
			"registry r.example.com needs the Secret pull of the namespace shop"},
		{"a typo", "replica=2", "additional properties 'replica' not allowed"},
		{"a typo inside", "store.sqlite.sise=2Gi", "additional properties 'sise' not allowed"},
		{"a kind that is no workload", "rbac.workloads={secrets}", "at '/rbac/workloads/0'"},
		{"secrets without names", "rbac.pullSecrets.shop={}", "at '/rbac/pullSecrets/shop'"},
		{"a number in words", "replicas=two", "at '/replicas'"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := render(t, "--values", chart+"/ci/sqlite.yaml", "--set", tt.set)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v\nwant %q", err, tt.want)
			}
		})
	}
}

// dockbell sees by itself that its configuration has changed: no pod is
// replaced for it.
func TestConfigurationRestartsNothing(t *testing.T) {
	pods := func(args ...string) string {
		out, err := render(t, append(args, "--values", chart+"/ci/sqlite.yaml", "--show-only", "templates/deployment.yaml")...)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	if before, after := pods(), pods("--set", "config.rules[0].name=other,config.sources.more.type=harbor"); before != after {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	if before, after := pods(), pods("--set", "graceSeconds=21"); before == after {
		t.Error("the test sees no changes")
	}
}
