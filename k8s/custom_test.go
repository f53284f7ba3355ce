package k8s

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/yaml"

	"github.com/dockbell/dockbell/trigger"
)

// objectOf reads generation 2 of a custom resource.
func objectOf(t *testing.T, apiVersion, text string) *unstructured.Unstructured {
	t.Helper()
	u := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(text), &u.Object); err != nil {
		t.Fatal(err)
	}
	u.SetAPIVersion(apiVersion)
	u.SetGeneration(2)
	return u
}

func TestCustomProgress(t *testing.T) {
	const goesOn, done, failed = "goes on", "done", "failed"
	const argo, knative, flux = "rollout.argoproj.io", "service.serving.knative.dev", "helmrelease.helm.toolkit.fluxcd.io"
	ready := func(status, more string) string {
		return fmt.Sprintf("status: {observedGeneration: 2, conditions: [{type: Ready, status: '%s', reason: Why, message: because}%s]}", status, more)
	}
	for _, test := range []struct {
		name, kind, object, is, says string
		canWait                      bool
	}{
		{"not seen yet", argo, "status: {observedGeneration: '1', phase: Healthy}", goesOn, "its controller has not seen the change", false},
		{"never seen", argo, "{}", goesOn, "its controller has not seen the change", false},
		{"on its way", argo, "status: {observedGeneration: '2', phase: Progressing, message: more replicas need to be updated}", goesOn, "its phase is Progressing: more replicas need to be updated", false},
		{"between two steps", argo, "status: {observedGeneration: '2', phase: Paused, message: CanaryPauseStep}", goesOn, "its phase is Paused: CanaryPauseStep", false},
		{"there", argo, "status: {observedGeneration: '2', phase: Healthy}", done, "its phase is Healthy", false},
		{"aborted", argo, "status: {observedGeneration: '2', phase: Degraded}", failed, "its controller calls it Degraded", false},
		{"paused by hand", argo, "{spec: {paused: true}, status: {}}", done, "it is paused", false},

		{"not seen yet", knative, strings.Replace(ready("True", ""), "2", "1", 1), goesOn, "its controller has not seen the change", true},
		{"on its way", knative, ready("Unknown", ""), goesOn, "its condition Ready is Unknown: Why: because", true},
		{"there", knative, ready("True", ""), done, "its condition Ready is True", true},
		{"failed", knative, ready("False", ""), failed, "its controller calls it not ready", true},

		{"no status", flux, "{}", goesOn, "its controller has not seen the change", false},
		{"conditions of no generation", flux, "status: {conditions: [{type: Ready, status: 'True'}]}", goesOn, "its controller has not seen the change", false},
		{"not ready yet", flux, ready("False", ""), goesOn, "its condition Ready is False", true},
		{"ready, and at it again", flux, ready("True", ", {type: Reconciling, status: 'True'}"), goesOn, "its condition Ready is True", true},
		{"there", flux, ready("True", ", {type: Stalled, status: 'False'}"), done, "its condition Ready is True", true},
		{"stalled", flux, ready("False", ", {type: Stalled, status: 'True', reason: RetriesExceeded, message: no more}"), failed, "it is stalled, RetriesExceeded: no more", true},
		{"the condition is older than the status", flux, "status: {observedGeneration: 2, conditions: [{type: Ready, status: 'True', observedGeneration: 1}]}", goesOn, "its controller has not seen the change", true},
		{"conditions that are none", flux, "status: {observedGeneration: 2, conditions: [x, {type: 1}]}", goesOn, "its condition Ready is", false},
	} {
		t.Run(test.kind+": "+test.name, func(t *testing.T) {
			k, _ := kindOf(test.kind)
			o := objectOf(t, k.group()+"/v1", test.object)
			p := k.progress(o, time.Time{})
			is, says := goesOn, p.how
			switch {
			case p.done:
				is = done
			case p.failed != "":
				is, says = failed, p.failed
			}
			if is != test.is || !strings.Contains(says, test.says) {
				t.Errorf("%s (%s), want %s (%s)", is, says, test.is, test.says)
			}
			if canWait(o) != test.canWait {
				t.Errorf("can be waited for: %v", canWait(o))
			}
		})
	}
}

// The template of a Knative Service may have no metadata, and its container no
// name; the patch makes the first and tests the second.
func TestBareTemplate(t *testing.T) {
	a, err := build(t, nil, "{target: service.serving.knative.dev/web, namespace: prod}")
	if err != nil {
		t.Fatal(err)
	}
	d := a.(*deploy)
	w, err := d.view(objectOf(t, "serving.knative.dev/v1", "{metadata: {annotations: {mine: kept}}, spec: {template: {spec: {containers: [{image: '"+shop+"v1.0.0'}]}}}}"))
	if err != nil {
		t.Fatal(err)
	}
	ch, err := d.plan(w, run("v1.1.0", digest1))
	if err != nil {
		t.Fatal(err)
	}
	want := []op{
		{"test", "/spec/template/spec/containers/0/name", nil},
		{"test", "/spec/template/spec/containers/0/image", shop + "v1.0.0"},
		{"replace", "/spec/template/spec/containers/0/image", shop + "v1.1.0"},
		{"test", "/spec/template/metadata", nil},
		{"add", "/spec/template/metadata", map[string]any{"annotations": map[string]string{"content.dockbell.dev/container": digest1}}},
	}
	if diff := cmp.Diff(want, ch.ops[:len(want)]); diff != "" {
		t.Error(diff)
	}
}

// In which version a kind is there, and what its plural is, is asked once it
// is there, and of its own group alone.
func TestDiscover(t *testing.T) {
	asked := map[string]int{}
	answers := map[string]any{}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked[r.URL.Path]++
		if answer, ok := answers[r.URL.Path]; ok {
			reply(w, http.StatusOK, answer)
			return
		}
		http.NotFound(w, r)
	}))
	defer srv.Close()
	c, err := clustersAt(t, srv.URL).connect(DefaultCluster)
	if err != nil {
		t.Fatal(err)
	}
	k, _ := kindOf("tool.example.com")
	look := func(want string) *resource {
		t.Helper()
		r, err := c.resource(t.Context(), k)
		if want == "" && err == nil {
			return r
		}
		if _, again := trigger.Retryable(err); want == "" || !again || err.Error() != want {
			t.Errorf("%v, want %q", err, want)
		}
		return nil
	}
	look("cluster default has no tool.example.com: its CustomResourceDefinition is not installed")
	version := func(v string) metav1.GroupVersionForDiscovery {
		return metav1.GroupVersionForDiscovery{GroupVersion: "example.com/" + v, Version: v}
	}
	answers["/apis/example.com"] = metav1.APIGroup{
		TypeMeta: metav1.TypeMeta{Kind: "APIGroup", APIVersion: "v1"}, Name: "example.com",
		Versions: []metav1.GroupVersionForDiscovery{version("v1beta1"), version("v1")}, PreferredVersion: version("v1"),
	}
	list := metav1.APIResourceList{TypeMeta: metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"}, APIResources: []metav1.APIResource{{Name: "tools/status", Kind: "Tool", Namespaced: true}}}
	answers["/apis/example.com/v1"], answers["/apis/example.com/v1beta1"] = list, list
	look("cluster default has no tool.example.com, though it knows example.com: its CustomResourceDefinition is not installed")
	list.APIResources = append(list.APIResources, metav1.APIResource{Name: "tools", Kind: "Tool", Namespaced: true})
	answers["/apis/example.com/v1"] = list
	clear(asked)
	r := look("")
	if want := (schema.GroupVersionKind{Group: "example.com", Version: "v1", Kind: "Tool"}); r == nil || r.gvk != want || r.plural != "tools" {
		t.Fatalf("found %+v", r)
	}
	if look("") != r || len(asked) != 2 || asked["/apis/example.com/v1"] != 1 {
		t.Errorf("asked for %v", asked)
	}
	c.forget(k)
	if look("") == r {
		t.Error("it was not asked for again")
	}

	list.APIResources[1].Namespaced = false
	c.forget(k)
	_, err = c.resource(t.Context(), k)
	if _, again := trigger.Retryable(err); err == nil || again || !strings.Contains(err.Error(), "is in no namespace") {
		t.Errorf("without a namespace: %v", err)
	}
}
