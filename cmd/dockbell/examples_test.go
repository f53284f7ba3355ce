package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/dockbell/dockbell/trigger/action"
	"github.com/dockbell/dockbell/trigger/strictyaml"
)

// exampleSecrets are the secrets that the examples in docs/actions name.
var exampleSecrets = []string{
	"ARGOCD_TOKEN", "ARGO_EVENTS_TOKEN", "CHAT_TOKEN", "GITHUB_TOKEN", "GITLAB_TOKEN", "GITLAB_TRIGGER", "GRAFANA_TOKEN", "JENKINS_TOKEN", "JENKINS_WEBHOOK", "RELAY_SECRET", "TEKTON_SECRET",
}

// example is the text of the scenario's example.
func (s *scenario) example(t *testing.T) string {
	t.Helper()
	page, number, _ := strings.Cut(s.Example, "#")
	n, err := strconv.Atoi(number)
	all := examples(t, filepath.Join("../../docs/actions", page))
	if err != nil || n < 1 || n > len(all) {
		t.Fatalf("there is no example %s", s.Example)
	}
	text := all[n-1]
	for from, to := range s.With {
		if !strings.Contains(text, from) {
			t.Fatalf("example %s holds no %q", s.Example, from)
		}
		text = strings.ReplaceAll(text, from, to)
	}
	return text
}

// examples are the rules and notifications that a page shows, in order.
func examples(t *testing.T, page string) (all []string) {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	for _, block := range strings.Split(string(text), "\n```yaml\n")[1:] {
		block, _, _ = strings.Cut(block, "\n```")
		if strings.HasPrefix(block, "rules:") || strings.HasPrefix(block, "notify:") {
			all = append(all, block)
		}
	}
	return all
}

// pages are those of docs/actions.
func pages(t *testing.T) []string {
	t.Helper()
	paths, err := filepath.Glob("../../docs/actions/*.md")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no pages: %v", err)
	}
	return paths
}

// onRealParts are pages whose examples need more than a scenario has.
var onRealParts = []string{"kubernetes.md"} // a cluster: test/e2e

// Each rule that a page of docs/actions shows is what a scenario runs.
func TestExamplesAreScenarios(t *testing.T) {
	run := map[string]bool{}
	named := regexp.MustCompile(`(?m)^example: (\S+)$`)
	for _, path := range filesIn(t, "../../testdata/scenarios") {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if m := named.FindStringSubmatch(string(text)); m != nil {
			run[m[1]] = true
		}
	}
	for _, page := range pages(t) {
		if slices.Contains(onRealParts, filepath.Base(page)) {
			continue
		}
		for i := range examples(t, page) {
			if name := fmt.Sprintf("%s#%d", filepath.Base(page), i+1); !run[name] {
				t.Errorf("no scenario runs %s", name)
			}
		}
	}
}

// Each kind that a rule can name has a page, and its page has a row for each of
// its keys.
func TestPagesNameAllKeys(t *testing.T) {
	known := regexp.MustCompile(`known are (.*)`)
	for kind, row := range offlineKinds(t.Context(), true)(outboundClient(strictyaml.Node{}, action.Outbound{}), nil, nil) {
		n, err := strictyaml.Parse("rule.yaml", strings.NewReader("{bogus: 1}"))
		if err != nil {
			t.Fatal(err)
		}
		_, err = row.Build(func(v any) error { n.Decode(v); return n.Err() })
		m := known.FindStringSubmatch(fmt.Sprint(err))
		if m == nil {
			t.Fatalf("%s: an unknown key: %v", kind, err)
		}
		page := kind
		if row.Message != nil {
			page = "notify" // those that tell people share one
		}
		text, err := os.ReadFile("../../docs/actions/" + page + ".md")
		if errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s has no page in docs/actions", kind)
			continue
		} else if err != nil {
			t.Fatal(err)
		}
		var named []string
		for _, cell := range regexp.MustCompile("(?m)^\\| (`[^|]*) \\|").FindAllStringSubmatch(string(text), -1) {
			for _, word := range regexp.MustCompile("`([A-Za-z_]+)").FindAllStringSubmatch(cell[1], -1) {
				named = append(named, word[1])
			}
		}
		for _, key := range strings.Split(m[1], ", ") {
			if key != "dryRun" && !slices.Contains(named, key) { // that one is in the README
				t.Errorf("docs/actions/%s.md has no row for %s of %s", page, key, kind)
			}
		}
	}
}
