package k8s

import (
	"encoding/json"
	"log/slog"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/dockbell/dockbell/trigger"
)

// A resource may say of a deploy what a rule in a file may. Whoever adds a key
// has to say what it may hold in the resource and, where it can reach out of a
// namespace, to refuse that in within.
func TestResourceHasTheKeysOfADeploy(t *testing.T) {
	text, err := os.ReadFile("../charts/dockbell/crds/rules.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var definition any
	if err := yaml.Unmarshal(text, &definition); err != nil {
		t.Fatal(err)
	}
	at := definition
	for _, key := range []string{"spec", "versions", "0", "schema", "openAPIV3Schema", "properties", "spec", "properties", "actions", "items", "properties", "kubernetes", "properties"} {
		if list, ok := at.([]any); ok {
			at = list[0]
			continue
		}
		at = at.(map[string]any)[key]
	}
	have := at.(map[string]any)
	var want []string
	for _, f := range reflect.VisibleFields(reflect.TypeFor[deploySpec]()) {
		key, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		want = append(want, key)
	}
	for _, key := range want {
		if _, ok := have[key]; ok == (key == "cluster" || key == "namespaces") { // it is the one that the rule is in
			t.Errorf("%s: in the resource is %t", key, ok)
		}
	}
	// What else is there is for actions of every kind.
	options := []string{"attempts", "backoff", "deadline", "mode", "onFailure", "order", "timeout", "when"}
	for key := range have {
		if !slices.Contains(want, key) && !slices.Contains(options, key) {
			t.Errorf("%s is in the resource, and no deploy has it", key)
		}
	}
}

func TestWithin(t *testing.T) {
	c := New(t.Context(), map[string]ClusterSpec{"other": {}}, nil, slog.New(slog.DiscardHandler))
	for text, want := range map[string]string{
		"{target: deployment/web, namespace: shop}":                   "",
		"{target: deployment/web, namespace: shop, cluster: default}": "",
		"{target: deployment/web}":                                    `namespace: must be shop or be left out, not ""`,
		"{target: deployment/web, namespace: prod}":                   `namespace: must be shop or be left out, not "prod"`,
		"{target: deployment/web, namespace: shop, cluster: other}":   "cluster: must be left out",
	} {
		_, err := Within("shop", c.Deploy)(func(v any) error { return yaml.Unmarshal([]byte(text), v) })
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
	// Of what it does not know it cannot say where it reaches.
	_, err := Within("shop", func(decode func(any) error) (trigger.Action, error) {
		return nil, decode(&struct{ Namespace string }{})
	})(func(any) error { return nil })
	if err == nil || !strings.Contains(err.Error(), "cannot be kept within namespace shop") {
		t.Errorf("another kind of action: %v", err)
	}
}

// The status is written when it tells something new, and not when it does not.
func TestStatusOfARule(t *testing.T) {
	u := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{"repo": "shop/web"}}}
	u.SetNamespace("shop")
	u.SetName("web")
	u.SetGeneration(3)
	// write does what the API server would.
	write := func(report RuleReport) ruleStatus {
		t.Helper()
		status, changed := ruleOf(u).next(report)
		if !changed {
			t.Errorf("%+v is nothing new", report)
		}
		text, err := json.Marshal(status)
		if err != nil {
			t.Fatal(err)
		}
		var object map[string]any
		if err := json.Unmarshal(text, &object); err != nil {
			t.Fatal(err)
		}
		u.Object["status"] = object
		if !ruleOf(u).Tells(report) {
			t.Errorf("%+v is written again and again", report)
		}
		return status
	}
	if r := ruleOf(u); r.String() != "shop/web" || string(r.Spec) != `{"repo":"shop/web"}` || r.LastRun() != (RuleRun{}) {
		t.Errorf("%+v", r)
	}
	first := write(RuleReport{}).Conditions[0]
	if first.Status != "True" || first.ObservedGeneration != 3 || first.LastTransitionTime.IsZero() {
		t.Errorf("%+v", first)
	}
	report := RuleReport{Event: RuleEvent{ID: "1", Image: "shop/web:v1", At: "2026-01-02T03:04:05Z"}, Run: RuleRun{ID: "2", State: "running", At: "2026-01-02T03:04:05Z"}}
	if s := write(report); s.Conditions[0].LastTransitionTime.Time.Compare(first.LastTransitionTime.Time) > 0 || s.LastEvent.Image != "shop/web:v1" {
		t.Errorf("%+v", s)
	}
	report.Run.State = "succeeded"
	write(report)
	if r := ruleOf(u).LastRun(); r != report.Run {
		t.Errorf("%+v", r)
	}
	write(RuleReport{Fault: "tag: no"}) // the runs from before stay
	if s := ruleOf(u).status; s.LastRun.ID != "2" || s.Conditions[0].Status != "False" || s.Conditions[0].Message != "tag: no" {
		t.Errorf("%+v", s)
	}
	u.SetGeneration(4)
	if s := write(RuleReport{Fault: "tag: no"}); s.ObservedGeneration != 4 || s.Conditions[0].ObservedGeneration != 4 {
		t.Errorf("%+v", s)
	}
	u.Object["status"] = "spoilt"
	write(RuleReport{})
}
