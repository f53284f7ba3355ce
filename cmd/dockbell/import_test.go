package main

import (
	"bytes"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/Masterminds/semver/v3"

	"github.com/dockbell/dockbell/k8s"
	"github.com/dockbell/dockbell/trigger"
)

// Each set of manifests becomes the configuration beside it, which is good: it
// is checked as a user would.
func TestImportKeel(t *testing.T) {
	inputs, err := filepath.Glob("../../testdata/keel/*.yaml")
	if err != nil || len(inputs) == 0 {
		t.Fatal("no manifests", err)
	}
	for _, input := range inputs {
		t.Run(filepath.Base(input), func(t *testing.T) {
			out, errs, ok := dockbell(t, "", "import", "keel", "-f", input)
			if !ok {
				t.Fatal(errs)
			}
			golden := strings.TrimSuffix(input, ".yaml") + ".golden"
			if *update {
				if err := os.WriteFile(golden, []byte(out), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if out != string(want) {
				t.Errorf("differs from %s; see the change with -update:\n%s", golden, out)
			}
			setNamed(t, out)
			if says, errs, ok := dockbell(t, "", "check", golden); !ok {
				t.Error(says, errs)
			}
			// What differs is said on standard error, too.
			for _, line := range strings.Split(strings.TrimSpace(errs), "\n") {
				if _, note, _ := strings.Cut(line, ": "); !strings.Contains(out, "# - "+note) {
					t.Errorf("not among the comments: %s", line)
				}
			}
		})
	}
}

// setNamed gives each variable that a configuration names another value.
func setNamed(t *testing.T, config string) {
	t.Helper()
	for _, m := range regexp.MustCompile(`\{env: (\w+)\}`).FindAllStringSubmatch(config, -1) {
		t.Setenv(m[1], "hush-"+m[1])
	}
}

// keelUpdates is what keel's policies say, as its documentation and its code
// have it: whether an image with one tag is updated to another.
func keelUpdates(policy, current, pushed string, matchTag, samePre bool) bool {
	switch kind, pattern, _ := strings.Cut(policy, ":"); kind {
	case "glob":
		ok, _ := path.Match(pattern, pushed)
		return ok
	case "regexp":
		return regexp.MustCompile(pattern).MatchString(pushed)
	}
	from, fromErr := semver.NewVersion(current)
	to, toErr := semver.NewVersion(pushed)
	if policy == "force" {
		return !matchTag && (fromErr != nil || toErr != nil || to.GreaterThan(from)) || current == pushed
	}
	switch {
	case fromErr != nil || toErr != nil || !strings.Contains(pushed, "."):
		return false
	case policy != "all" && samePre && from.Prerelease() != to.Prerelease():
		return false
	case !to.GreaterThan(from):
		return false
	}
	return policy == "all" || policy == "major" || from.Major() == to.Major() && (policy == "minor" || from.Minor() == to.Minor())
}

// Each rule takes the tags that keel takes, and no other: what the rule matches
// and the order guard lets through is compared with keel's own decision. Only
// to a lower version nothing goes.
func TestImportedRulesDecideAsKeel(t *testing.T) {
	tags := []string{
		"0.4.1", "0.4.2", "0.5.0", "1.0.0", "1.2.2", "1.2.3", "v1.2.3", "1.2.4", "v1.2.10", "1.3.0", "2.0.0", "10.0.0",
		"1.2.3-rc.1", "1.2.4-rc.1", "1.2.4-rc.2", "1.3.0-rc.1", "2.0.0-rc.1", "1.2.3-alpine", "1.2.4-alpine", "1.3.0-alpine", "2.0.0-alpine",
		"main", "main-1", "build-7", "build-8.x", "latest", "7", "1.2.3.4",
	}
	policies := []string{"all", "major", "minor", "patch", "force", "glob:build-*", "glob:*.x", "glob:main", "regexp:^main", "regexp:build|7", "regexp:^v.*0$"}
	decisions := 0
	for _, policy := range policies {
		for _, current := range tags {
			for _, flags := range []struct{ matchTag, samePre bool }{{false, true}, {true, true}, {false, false}} {
				isSemver := !strings.Contains(policy, ":") && policy != "force"
				if isSemver && current == "latest" || current == "7" {
					continue // differs on purpose, and says so
				}
				conf := imported(t, policy, current, flags.matchTag, flags.samePre)
				for _, pushed := range tags {
					if policy == "force" && (pushed == "7" || current != pushed && sameVersion(current, pushed)) {
						continue // told by time: neither is a higher version of three numbers
					}
					want := keelUpdates(policy, current, pushed, flags.matchTag, flags.samePre) &&
						trigger.Backwards(trigger.Release{Tag: current}, trigger.Release{Tag: pushed}, trigger.OrderDefault) == ""
					if got := decides(conf, current, pushed); got != want {
						t.Errorf("%s (matchTag %t, matchPreRelease %t): from %s to %s: %t, want %t", policy, flags.matchTag, flags.samePre, current, pushed, got, want)
					}
					decisions++
				}
			}
		}
	}
	if decisions < 20_000 {
		t.Errorf("only %d decisions were compared", decisions)
	}
}

// imported is the configuration made of one Deployment; nil when nothing was.
func imported(t *testing.T, policy, current string, matchTag, samePre bool) *config {
	t.Helper()
	keel := k8s.TranslateKeel([]k8s.KeelWorkload{{
		Kind: "deployment", Namespace: "shop", Name: "web",
		Annotations: map[string]string{"keel.sh/policy": policy, "keel.sh/matchTag": strconv.FormatBool(matchTag), "keel.sh/matchPreRelease": strconv.FormatBool(samePre)},
		Images:      []k8s.KeelImage{{Name: "web", Reference: "docker.io/shop/web:" + current}},
	}}, k8s.KeelOptions{})
	if len(keel.Rules) == 0 {
		return nil
	}
	text := keelConfig(keel)
	setNamed(t, string(text))
	conf, err := parseConfig("imported", text, offlineKinds(t.Context(), true))
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return conf
}

// decides reports whether a push changes what runs: a rule matches, and the
// order guard finds no step back. A version that runs is not pushed again here.
func decides(conf *config, current, pushed string) bool {
	if conf == nil {
		return false
	}
	img := trigger.Image{Registry: "docker.io", Repository: "shop/web", Tag: pushed}
	runs, _ := conf.rules.Match(trigger.Event{Image: img, Action: trigger.Push}, time.Now())
	if len(runs) != 1 {
		return false
	}
	if trigger.IsVersion(current) && slices.Contains([]trigger.Order{trigger.OrderSemver, trigger.OrderMinor, trigger.OrderPatch}, runs[0].Order) && sameVersion(current, pushed) {
		return false
	}
	return trigger.Backwards(trigger.Release{Tag: current}, trigger.Release{Tag: pushed}, runs[0].Order) == ""
}

func sameVersion(a, b string) bool { return strings.TrimPrefix(a, "v") == strings.TrimPrefix(b, "v") }

func TestImportKeelInputs(t *testing.T) {
	dir := t.TempDir()
	manifest := func(name, kind, rest string) string {
		return fmt.Sprintf(`{"apiVersion": "apps/v1", "kind": %q, "metadata": {"name": %q, "annotations": {"keel.sh/policy": "all"}%s}, "spec": {"template": {"spec": {"containers": [{"name": "c", "image": "shop/%s:1.0.0"}]}}}}`, kind, name, rest, name)
	}
	for name, text := range map[string]string{
		"a.yaml": manifest("a", "Deployment", ""), "below/b.json": manifest("b", "StatefulSet", `, "namespace": "other"`), "below/c.yml": "---\n", "README.md": "{{",
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out, errs, ok := dockbell(t, manifest("stdin", "DaemonSet", ""), "import", "keel", "-f", dir, "-f", "-", "-n", "mine", "--rules-only", "--poll-schedule", "0 */5 * * * *")
	if !ok {
		t.Fatal(errs)
	}
	names := regexp.MustCompile(`(?m)^  - name: (.*)$`).FindAllStringSubmatch(out, -1)
	if len(names) != 3 || names[0][1] != "mine.a" || names[1][1] != "mine.stdin.daemonset" || names[2][1] != "other.b.statefulset" {
		t.Errorf("rules %q", names)
	}
	if strings.Contains(out, "sources:") {
		t.Errorf("more than the rules:\n%s", out)
	}

	file := filepath.Join(dir, "out")
	if out, errs, ok := dockbell(t, "", "import", "keel", "-f", dir, "-o", file); !ok || out != "" {
		t.Error(out, errs)
	}
	written, err := os.ReadFile(file)
	if err != nil || !strings.Contains(string(written), "\nrules:\n  # Of deployment default/a") {
		t.Errorf("%v:\n%s", err, written)
	}
	if _, errs, ok := dockbell(t, "", "import", "keel", "-f", dir, "-o", file); ok || !strings.Contains(errs, "is there already") {
		t.Errorf("a file was written over: %s", errs)
	}
	if now, _ := os.ReadFile(file); !bytes.Equal(now, written) {
		t.Error("the file has changed")
	}
}

func TestImportKeelFaults(t *testing.T) {
	for _, test := range []struct{ args, stdin, want string }{
		{"-f /nowhere", "", "no such file"},
		{"-f -", "{{", "standard input: document 1: "},
		{"-f -", "", "nothing to import: of 0 workloads that were read, keel updates none"},
		{"-f - --context x", "", "[context file] were all set"},
		{"--kubeconfig /nowhere", "", "/nowhere"},
		{"-f - --poll-schedule often", "", "--poll-schedule: keel cannot read it either"},
	} {
		_, errs, ok := dockbell(t, test.stdin, append([]string{"import", "keel"}, strings.Fields(test.args)...)...)
		if ok || !strings.Contains(errs, test.want) {
			t.Errorf("%s: %t, %q, want %s", test.args, ok, errs, test.want)
		}
	}
}

// What a dockbell needs that follows keel is a configuration, too.
func TestImportKeelLive(t *testing.T) {
	out, errs, ok := dockbell(t, "", "import", "keel", "--live", "-f", "../../testdata/keel/policies.yaml")
	if !ok {
		t.Fatal(errs)
	}
	setNamed(t, out)
	if says, errs, ok := dockbell(t, "", "check", writeConfig(t, out)); !ok || !strings.Contains(says, "1 sources, 0 rules") {
		t.Errorf("%s%s\n%s", says, errs, out)
	}
}

// The page for those who come from keel names each key.
func TestKeelKeysAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/from-keel.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range k8s.KeelKeys() {
		if !strings.Contains(string(page), "| `"+key+"` |") {
			t.Errorf("docs/from-keel.md has no row for `%s`", key)
		}
	}
}
