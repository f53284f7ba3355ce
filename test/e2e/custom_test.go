package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/dynamic"
)

// The kinds of other projects, as far as a deploy sees of them: where the image
// is, and what their status says. Their controllers do not run here; tests write
// the status in their place.
var (
	rollouts     = schema.GroupVersionResource{Group: "argoproj.io", Version: "v1alpha1", Resource: "rollouts"}
	applications = schema.GroupVersionResource{Group: "argoproj.io", Version: "v1alpha1", Resource: "applications"}
	services     = schema.GroupVersionResource{Group: "serving.knative.dev", Version: "v1", Resource: "services"}
	helmReleases = schema.GroupVersionResource{Group: "helm.toolkit.fluxcd.io", Version: "v2", Resource: "helmreleases"}
	widgets      = schema.GroupVersionResource{Group: "widgets.example.com", Version: "v1", Resource: "widgets"}

	crdResource = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
)

// resourcesOf speaks to the API server about resources without Go types.
func resourcesOf(t *testing.T, of schema.GroupVersionResource) dynamic.NamespaceableResourceInterface {
	t.Helper()
	client, err := dynamic.NewForConfig(cluster.Config)
	if err != nil {
		t.Fatal(err)
	}
	return client.Resource(of)
}

// object reads a manifest.
func object(t *testing.T, manifest string) *unstructured.Unstructured {
	t.Helper()
	text, err := yaml.ToJSON([]byte(manifest))
	if err != nil {
		t.Fatal(err)
	}
	u := &unstructured.Unstructured{}
	if err := json.Unmarshal(text, &u.Object); err != nil {
		t.Fatal(err)
	}
	return u
}

// define installs a CustomResourceDefinition, once for all tests, and returns
// when there can be resources of it.
func define(t *testing.T, of schema.GroupVersionResource, kind string) {
	t.Helper()
	_, err := resourcesOf(t, crdResource).Create(t.Context(), object(t, fmt.Sprintf(`
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: %[1]s.%[2]s}
spec:
  group: %[2]s
  scope: Namespaced
  names: {kind: %[4]s, plural: %[1]s, singular: %[5]s}
  versions:
  - name: %[3]s
    served: true
    storage: true
    subresources: {status: {}}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec: {type: object, x-kubernetes-preserve-unknown-fields: true}
          status: {type: object, x-kubernetes-preserve-unknown-fields: true}
`, of.Resource, of.Group, of.Version, kind, strings.ToLower(kind))), metav1.CreateOptions{})
	if err != nil && !errors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	eventually(t, "the API server has "+of.Resource, func() error {
		_, err := resourcesOf(t, of).List(t.Context(), metav1.ListOptions{})
		return err
	})
}

// newObject makes a custom resource named web.
func newObject(t *testing.T, of schema.GroupVersionResource, ns, kind, spec string) {
	t.Helper()
	manifest := fmt.Sprintf("apiVersion: %s\nkind: %s\nmetadata: {name: web}\nspec: %s", of.GroupVersion(), kind, spec)
	if _, err := resourcesOf(t, of).Namespace(ns).Create(t.Context(), object(t, manifest), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func getObject(t *testing.T, of schema.GroupVersionResource, ns string) *unstructured.Unstructured {
	t.Helper()
	u, err := resourcesOf(t, of).Namespace(ns).Get(context.Background(), "web", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// setStatus does a controller's part. GENERATION in it is that of the object.
func setStatus(t *testing.T, of schema.GroupVersionResource, ns, status string) {
	t.Helper()
	status = strings.ReplaceAll(status, "GENERATION", fmt.Sprint(getObject(t, of, ns).GetGeneration()))
	patch, err := json.Marshal(object(t, "status: "+status).Object)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := resourcesOf(t, of).Namespace(ns).Patch(t.Context(), "web", types.MergePatchType, patch, metav1.PatchOptions{}, "status"); err != nil {
		t.Fatal(err)
	}
}

// value is the text at a path of names and numbers.
func value(u *unstructured.Unstructured, path ...any) string {
	var at any = u.Object
	for _, step := range path {
		switch step := step.(type) {
		case string:
			m, _ := at.(map[string]any)
			at = m[step]
		case int:
			list, _ := at.([]any)
			if step >= len(list) {
				return ""
			}
			at = list[step]
		}
	}
	return fmt.Sprint(at)
}

const podSpec = "{replicas: 1, template: {spec: {containers: [{name: log, image: 'log:1'}, {name: web, image: '" + shop + "v1.0.0'}]}}}"

// An Argo Rollout is a workload like any other: its template has no metadata
// at first, its status is Argo's.
func TestArgoRollout(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	define(t, rollouts, "Rollout")
	newObject(t, rollouts, ns, "Rollout", podSpec)
	d := serve(t, oneRollout(ns, "rollout.argoproj.io/web", "wait: 2m, rollback: true"))
	for i, test := range []struct{ tag, status, state, says string }{
		{"v1.1.0", "{observedGeneration: 'GENERATION', phase: Healthy}", "succeeded", ""},
		{"v1.2.0", "{observedGeneration: 'GENERATION', phase: Degraded, message: 'the analysis has failed'}", "rolled-back", "its controller calls it Degraded; its phase is Degraded: the analysis has failed"},
	} {
		d.mustPost(http.StatusAccepted, "registry", pushTag(test.tag, i+1))
		eventually(t, test.tag+" is there", func() error {
			if image := value(getObject(t, rollouts, ns), "spec", "template", "spec", "containers", 1, "image"); image != shop+test.tag {
				return fmt.Errorf("it runs %s", image)
			}
			return nil
		})
		if state := d.runs("")[0].State; state != "running" {
			t.Errorf("before its controller has seen it the run is %s", state)
		}
		setStatus(t, rollouts, ns, test.status)
		if r := d.ended()[0]; r.State != test.state || !strings.Contains(r.Reason, test.says) {
			t.Errorf("%s is %s: %s", test.tag, r.State, r.Reason)
		}
	}
	if image := value(getObject(t, rollouts, ns), "spec", "template", "spec", "containers", 1, "image"); image != shop+"v1.1.0" {
		t.Errorf("in the end it runs %s", image)
	}
	if content := value(getObject(t, rollouts, ns), "spec", "template", "metadata", "annotations", "content.dockbell.dev/web"); content != digestOf(1) {
		t.Errorf("in the end its content is %s", content)
	}
}

// A Knative Service may leave its container without a name.
func TestKnativeService(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	define(t, services, "Service")
	newObject(t, services, ns, "Service", "{template: {spec: {containers: [{image: '"+shop+"v1.0.0'}]}}}")
	d := serve(t, strings.Replace(oneRollout(ns, "service.serving.knative.dev/web", "wait: 2m"), "container: web, ", "", 1))
	d.mustPost(http.StatusAccepted, "registry", pushTag("v1.1.0", 1))
	eventually(t, "the image is there", func() error {
		if image := value(getObject(t, services, ns), "spec", "template", "spec", "containers", 0, "image"); image != shop+"v1.1.0" {
			return fmt.Errorf("it runs %s", image)
		}
		return nil
	})
	setStatus(t, services, ns, "{observedGeneration: GENERATION, conditions: [{type: Ready, status: 'True'}]}")
	if r := d.ended()[0]; r.State != "succeeded" {
		t.Errorf("it is %s: %s", r.State, r.Reason)
	}
}

// Fields of custom resources: the values of a HelmRelease, a parameter of an
// Application by name. What stands beside them stays.
func TestFields(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	define(t, helmReleases, "HelmRelease")
	define(t, applications, "Application")
	newObject(t, helmReleases, ns, "HelmRelease", "{values: {image: {repository: registry.example.com/shop/web, tag: v1.0.0}, replicas: 3}}")
	newObject(t, applications, ns, "Application", "{source: {helm: {parameters: [{name: replicas, value: '3'}, {name: image.tag, value: v1.0.0}]}}}")
	d := serve(t, header+fmt.Sprintf(`
sources: {registry: {type: distribution, auth: none}}
rules:
  - name: web
    repo: registry.example.com/shop/web
    actions:
      - kubernetes: {target: helmrelease.helm.toolkit.fluxcd.io/web, namespace: %[1]s, path: spec.values.image.tag, value: tag, wait: 2m, rollback: true}
      - kubernetes: {target: application.argoproj.io/web, namespace: %[1]s, path: 'spec.source.helm.parameters[name=image.tag].value', value: tag}
`, ns))
	d.mustPost(http.StatusAccepted, "registry", pushTag("v1.1.0", 1))
	byTarget := func() map[string]aRun {
		all := map[string]aRun{}
		for _, r := range d.ended() {
			kind, _, _ := strings.Cut(r.Target, ".")
			if _, ok := all[kind]; !ok {
				all[kind] = r // the newest
			}
		}
		return all
	}
	runs := byTarget()
	if r := runs["helmrelease"]; r.State != "failed" || !strings.Contains(r.Reason, "its status does not tell how far it is") {
		t.Errorf("a HelmRelease without status is %s: %s", r.State, r.Reason)
	}
	if r := runs["application"]; r.State != "succeeded" {
		t.Errorf("the Application is %s: %s", r.State, r.Reason)
	}
	if got := value(getObject(t, applications, ns), "spec"); got != "map[source:map[helm:map[parameters:[map[name:replicas value:3] map[name:image.tag value:v1.1.0]]]]]" {
		t.Errorf("the Application has %s", got)
	}

	setStatus(t, helmReleases, ns, "{observedGeneration: GENERATION, conditions: [{type: Ready, status: 'True', reason: ok, message: '', lastTransitionTime: '2026-11-21T12:00:00Z'}]}")
	for i, test := range []struct{ tag, status, state, says, then string }{
		{"v1.2.0", "{observedGeneration: GENERATION, conditions: [{type: Ready, status: 'True'}]}", "succeeded", "", "v1.2.0"},
		{"v1.3.0", "{observedGeneration: GENERATION, conditions: [{type: Ready, status: 'False'}, {type: Stalled, status: 'True', reason: RetriesExceeded, message: 'no more'}]}", "rolled-back", "it is stalled, RetriesExceeded: no more", "v1.2.0"},
	} {
		d.mustPost(http.StatusAccepted, "registry", pushTag(test.tag, i+2))
		eventually(t, test.tag+" is there", func() error {
			if tag := value(getObject(t, helmReleases, ns), "spec", "values", "image", "tag"); tag != test.tag {
				return fmt.Errorf("it has %s", tag)
			}
			return nil
		})
		setStatus(t, helmReleases, ns, test.status)
		if r := byTarget()["helmrelease"]; r.State != test.state || !strings.Contains(r.Reason, test.says) {
			t.Errorf("%s is %s: %s", test.tag, r.State, r.Reason)
		}
		if got := value(getObject(t, helmReleases, ns), "spec"); got != "map[values:map[image:map[repository:registry.example.com/shop/web tag:"+test.then+"] replicas:3]]" {
			t.Errorf("after %s the HelmRelease has %s", test.tag, got)
		}
	}
	d.mustPost(http.StatusAccepted, "registry", pushTag("v1.1.5", 9))
	if r := byTarget()["helmrelease"]; r.State != "skipped" || !strings.Contains(r.Reason, "v1.1.5 is a lower version than v1.2.0") {
		t.Errorf("a step back is %s: %s", r.State, r.Reason)
	}
}

// A kind that is not installed yet is waited for; when it goes and comes in
// another version it is found again.
func TestDefinitionComesLate(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	d := serve(t, header+fmt.Sprintf(`
sources: {registry: {type: distribution, auth: none}}
rules:
  - name: web
    repo: registry.example.com/shop/web
    actions:
      - kubernetes: {target: widget.widgets.example.com/web, namespace: %s, path: 'spec.images[0]', backoff: {first: 100ms, most: 1s}}
`, ns))
	d.mustPost(http.StatusAccepted, "registry", pushTag("v1.1.0", 1))
	eventually(t, "the run says what is missing", func() error {
		if r := d.runs("")[0]; r.State != "waiting" || !strings.Contains(r.Reason, "cluster default has no widget.widgets.example.com: its CustomResourceDefinition is not installed") {
			return fmt.Errorf("it is %s: %s", r.State, r.Reason)
		}
		return nil
	})
	for i, version := range []string{"v1", "v2"} {
		widgets := widgets
		widgets.Version = version
		tag := fmt.Sprintf("v1.%d.0", i+2)
		if i > 0 {
			// The other version takes the place of the first: what is stored is gone.
			if err := resourcesOf(t, crdResource).Delete(t.Context(), "widgets.widgets.example.com", metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the definition is gone", func() error {
				if _, err := resourcesOf(t, crdResource).Get(t.Context(), "widgets.widgets.example.com", metav1.GetOptions{}); !errors.IsNotFound(err) {
					return fmt.Errorf("it is there: %v", err)
				}
				return nil
			})
		}
		define(t, widgets, "Widget")
		newObject(t, widgets, ns, "Widget", "{images: ['"+shop+"v1.0.0']}")
		d.mustPost(http.StatusAccepted, "registry", pushTag(tag, i+2))
		eventually(t, "the image is there", func() error {
			if image := value(getObject(t, widgets, ns), "spec", "images", 0); image != shop+tag {
				return fmt.Errorf("it has %s; the run: %s", image, d.runs("")[0].Reason)
			}
			return nil
		})
	}
}
