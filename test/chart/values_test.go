package chart

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"
)

// value is a key of values.yaml that is no group of others.
type value struct{ path, meaning, preset string }

// values reads the chart's, each with its comment.
func values(t *testing.T) (all []value) {
	t.Helper()
	text, err := os.ReadFile(chart + "/values.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var document yaml.Node
	if err := yaml.Unmarshal(text, &document); err != nil {
		t.Fatal(err)
	}
	var walk func(prefix string, n *yaml.Node)
	walk = func(prefix string, n *yaml.Node) {
		for i := 0; i < len(n.Content); i += 2 {
			key, v := n.Content[i], n.Content[i+1]
			path := prefix + key.Value
			if v.Kind == yaml.MappingNode && len(v.Content) > 0 {
				walk(path+".", v)
				continue
			}
			if key.HeadComment == "" {
				t.Errorf("values.yaml:%d: %s has no comment", key.Line, path)
			}
			all = append(all, value{path: path, meaning: strings.Join(strings.Fields(strings.ReplaceAll(key.HeadComment, "#", "")), " "), preset: preset(t, v)})
		}
	}
	walk("", document.Content[0])
	return all
}

// preset is a value on one line.
func preset(t *testing.T, n *yaml.Node) string {
	t.Helper()
	flow := *n
	flow.Style |= yaml.FlowStyle
	text, err := yaml.Marshal(&flow)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

const tableBegins = "| value | meaning | default |\n|---|---|---|\n"

// The README's table says what values.yaml says.
func TestReadme(t *testing.T) {
	var table strings.Builder
	for _, v := range values(t) {
		fmt.Fprintf(&table, "| `%s` | %s | `%s` |\n", v.path, strings.ReplaceAll(v.meaning, "|", `\|`), v.preset)
	}
	const file = chart + "/README.md"
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(text), tableBegins)
	if !ok {
		t.Fatalf("%s has no table that begins\n%s", file, tableBegins)
	}
	_, after, _ := strings.Cut(rest, "\n\n")
	is(t, file, before+tableBegins+table.String()+"\n"+after)
}

// The plain manifests are what the chart makes today, without the labels that
// say that Helm looks after them.
func TestManifests(t *testing.T) {
	out, err := render(t, "--values", manifests+"/values.yaml")
	if err != nil {
		t.Fatal(err)
	}
	lines := slices.DeleteFunc(strings.SplitAfter(out, "\n"), func(line string) bool {
		return strings.Contains(line, "app.kubernetes.io/managed-by: Helm") || strings.Contains(line, "helm.sh/") || strings.HasPrefix(line, "# Source: ")
	})
	is(t, manifests+"/dockbell.yaml", "# Written by `make manifests` from the Helm chart with values.yaml.\n"+strings.Join(lines, ""))
}

// is compares a file with what it should be, or makes it so.
func is(t *testing.T, file, want string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("%s is not current: `make manifests` writes it", file)
	}
}

// The schema knows the keys of values.yaml, and no others.
func TestSchema(t *testing.T) {
	text, err := os.ReadFile(chart + "/values.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	var schema object
	if err := json.Unmarshal(text, &schema); err != nil {
		t.Fatal(err)
	}
	used := map[string]bool{} // by key of the schema
	schema.leaves("", used)
	delete(used, "global") // Helm's own
	for _, v := range values(t) {
		path := v.path
		for i := len(path); i >= 0; i = strings.LastIndexByte(path, '.') {
			path = path[:i] // what is inside of an object of Kubernetes is not the schema's business
			if _, ok := used[path]; ok {
				break
			}
		}
		if _, ok := used[path]; !ok {
			t.Errorf("the schema has no %s", v.path)
		}
		used[path] = true
	}
	for path, ok := range used {
		if !ok {
			t.Errorf("values.yaml has no %s", path)
		}
	}
}

// object is the part of a schema that says which keys there are.
type object struct {
	Properties map[string]object `json:"properties"`
}

// leaves finds the keys that are no groups of others.
func (o object) leaves(path string, into map[string]bool) {
	if len(o.Properties) == 0 {
		into[path] = false
		return
	}
	for key, inner := range o.Properties {
		inner.leaves(strings.TrimPrefix(path+"."+key, "."), into)
	}
}
