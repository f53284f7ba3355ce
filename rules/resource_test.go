package rules

import (
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/dockbell/dockbell/trigger"
	"github.com/dockbell/dockbell/trigger/strictyaml"
)

// schema is a piece of the schema of the resource Rule.
type schema struct {
	Type       string            `yaml:"type"`
	Preserve   bool              `yaml:"x-kubernetes-preserve-unknown-fields"`
	Properties map[string]schema `yaml:"properties"`
	Items      *schema           `yaml:"items"`
}

// resourceSchema is that of the specification.
func resourceSchema(t *testing.T) schema {
	t.Helper()
	text, err := os.ReadFile("../charts/dockbell/crds/rules.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var definition struct {
		Spec struct {
			Versions []struct {
				Schema struct {
					OpenAPIV3Schema schema `yaml:"openAPIV3Schema"`
				} `yaml:"schema"`
			} `yaml:"versions"`
		} `yaml:"spec"`
	}
	if err := yaml.Unmarshal(text, &definition); err != nil {
		t.Fatal(err)
	}
	return definition.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["spec"]
}

// A rule has the same keys in a file and as a resource. Whoever adds one has to
// say there what it may hold.
func TestResourceHasTheKeysOfARule(t *testing.T) {
	s := resourceSchema(t)
	compareKeys(t, "spec", s, reflect.TypeFor[spec](), "name") // it has one from its metadata
	kubernetes := s.Properties["actions"].Items.Properties["kubernetes"]
	fields := keysOf(reflect.TypeFor[options]())
	if want := slices.Sorted(slices.Values(optionKeys)); !slices.Equal(fields, want) {
		t.Errorf("the options have the keys %q, and optionKeys says %q", fields, want)
	}
	for _, key := range optionKeys {
		if _, ok := kubernetes.Properties[key]; ok == (key == "lane") { // which no resource may name
			t.Errorf("spec.actions[].kubernetes.%s: in the resource is %t", key, ok)
		}
	}
	if !kubernetes.Preserve || !s.Properties["actions"].Items.Preserve {
		t.Error("unknown keys of actions are dropped in silence")
	}
}

// compareKeys finds keys that only one of the two has, and places where unknown
// ones would be dropped in silence.
func compareKeys(t *testing.T, path string, s schema, v reflect.Type, except ...string) {
	t.Helper()
	if !s.Preserve {
		t.Errorf("%s drops unknown keys in silence", path)
	}
	var keys []string
	for key := range s.Properties {
		keys = append(keys, key)
	}
	want := slices.DeleteFunc(keysOf(v), func(key string) bool { return slices.Contains(except, key) })
	if slices.Sort(keys); !slices.Equal(keys, want) {
		t.Errorf("%s has the keys\n%q in the resource and\n%q in the file", path, keys, want)
	}
	for _, f := range reflect.VisibleFields(v) {
		if f.Type.Kind() == reflect.Struct && f.Type.Name() == "" {
			key := f.Tag.Get("yaml")
			compareKeys(t, path+"."+key, s.Properties[key], f.Type)
		}
	}
}

// keysOf are the keys of a struct, sorted.
func keysOf(v reflect.Type) []string {
	var keys []string
	for _, f := range reflect.VisibleFields(v) {
		keys = append(keys, f.Tag.Get("yaml"))
	}
	slices.Sort(keys)
	return keys
}

// A set with the rules of others asks its own first, and tells of all.
func TestWith(t *testing.T) {
	const one = "[{name: NAME, repo: 'registry.example.com/shop/*', actions: [call: {to: x}]}]"
	own := mustLoad(t, strings.Replace(one, "NAME", "own", 1))
	before := own.Len()
	a, b := mustLoad(t, strings.Replace(one, "NAME", "a", 1)), mustLoad(t, strings.Replace(one, "NAME", "b", 1))
	all := own.With(a, b)
	runs, why := all.Match(push(t, "registry.example.com/shop/web:v1"), time.Now())
	var names []string
	for _, r := range runs {
		names = append(names, r.Rule)
	}
	if !slices.Equal(names, []string{"own", "a", "b"}) || all.Len() != 3 || own.Len() != before {
		t.Errorf("%q of %d rules: %s", names, all.Len(), why)
	}
	if other := own.With(b); other.Len() != 2 || all.rules[1].name != "a" {
		t.Error("two sets share their rules")
	}
}

// A notification may be about a rule that comes and goes, and asks no gate,
// whatever it is called.
func TestNotificationsAndRulesOfTheCluster(t *testing.T) {
	n, err := strictyaml.Parse("n", strings.NewReader("[{name: web, on: failed, rules: [shop/web], call: {to: x}}]"))
	if err != nil {
		t.Fatal(err)
	}
	set := &Set{}
	set.LoadNotices(n, "", kinds, decodeSpec)
	if err := n.Err(); err != nil {
		t.Fatal(err)
	}
	shut, err := strictyaml.Parse("r", strings.NewReader("{repo: '*', freeze: {from: 2020-01-01, to: 2120-01-01}, actions: [call: {to: x}]}"))
	if err != nil {
		t.Fatal(err)
	}
	set = set.With(LoadOne(shut, "notify/web", kinds, nil, nil, decodeSpec))
	now := time.Now()
	for rule, want := range map[string]int{"shop/web": 1, "shop/api": 0, "web": 0} {
		tell := set.Notices(told(trigger.Run{ID: 1, Rule: rule, State: trigger.Failed}), now)
		if len(tell) != want {
			t.Errorf("%s: %d notifications, want %d", rule, len(tell), want)
		}
		for _, r := range tell {
			if _, why := set.Gate(r, now); why != "" {
				t.Errorf("the notification waits: %s", why)
			}
		}
	}
	if _, why := set.Gate(trigger.Run{Rule: "notify/web"}, now); why == "" {
		t.Error("the rule does not wait")
	}
}

// A rule that comes alone is called as it is told, and is as good as one of a
// list.
func TestLoadOne(t *testing.T) {
	for text, want := range map[string]string{
		"{repo: shop/web, actions: [{call: {to: x}}]}":              "",
		"{name: other, repo: shop/web, actions: [{call: {to: x}}]}": "r:1: name: is not for the rule to say: it is called shop/web",
		"{repo: shop/web, actions: [{call: {to: x, lane: other}}]}": `r:1: actions[0].call: unknown key "lane"`,
		"[]": "r:1: must be a mapping, not a list",
		"{repo: shop/web, actions: [{call: {to: '{{.Rule}}'}}]}": "r:1: actions[0].call: template: there is no .Rule",
	} {
		n, err := strictyaml.Parse("r", strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		set := LoadOne(n, "shop/web", kinds, []string{"hub"}, nil, decodeSpec)
		if err := n.Err(); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
		if set.Len() != 1 {
			t.Errorf("%s: %d rules", text, set.Len())
		}
	}
}
