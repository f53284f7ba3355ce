package e2e

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// update changes the Deployment web as somebody else would.
func update(t *testing.T, ns string, patch string) {
	t.Helper()
	if _, err := cluster.Client.AppsV1().Deployments(ns).Patch(t.Context(), "web", types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
}

// logOf is what the first try of the newest run wrote.
func (d *daemon) logOf(state string) string {
	d.t.Helper()
	r := d.ended()[0]
	if r.State != state {
		d.t.Errorf("it is %s, not %s: %s", r.State, state, r.Reason)
	}
	return d.show(r.ID).Tries[0].Log
}

// What is paused gets its image and stays paused, which the run says.
func TestPaused(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	newDeployment(t, ns, "web", corev1.Container{Name: "web", Image: shop + "v1.0.0"})
	rolledOut(t, ns, "web", shop+"v1.0.0")
	update(t, ns, `{"spec":{"paused":true}}`)
	for _, keys := range []string{"", "wait: 2m"} {
		d := serve(t, oneRollout(ns, "deployment/web", keys))
		tag := fmt.Sprintf("v1.%d.0", 1+len(keys))
		d.mustPost(http.StatusAccepted, "registry", pushTag(tag, 1))
		if log := d.logOf("succeeded"); !strings.Contains(log, "it is paused, so nothing rolls out before somebody resumes it") {
			t.Errorf("the log does not say so: %s", log)
		}
		if got := getDeployment(t, ns, "web"); got.Spec.Template.Spec.Containers[0].Image != shop+tag || !got.Spec.Paused || got.Status.UpdatedReplicas != 0 {
			t.Errorf("it runs %s, paused %v, %d pods updated", got.Spec.Template.Spec.Containers[0].Image, got.Spec.Paused, got.Status.UpdatedReplicas)
		}
		d.stop()
	}
}

// An autoscaler scales while a deploy waits, and before it is undone: the
// number of pods is its.
func TestAutoscaler(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	d := stuck(t, ns, 5)
	scale := &autoscalingv1.Scale{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: ns}, Spec: autoscalingv1.ScaleSpec{Replicas: 5}}
	if _, err := cluster.Client.AppsV1().Deployments(ns).UpdateScale(t.Context(), "web", scale, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if r := d.ended()[0]; r.State != "rolled-back" {
		t.Errorf("it is %s: %s", r.State, r.Reason)
	}
	if got := rolledOut(t, ns, "web", shop+"v1.0.0"); *got.Spec.Replicas != 5 {
		t.Errorf("%d replicas, want the 5 of the autoscaler", *got.Spec.Replicas)
	}
}

// Whoever applies the image by server-side apply is named, and what it owns
// beside stays its own.
func TestAppliedByOthers(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	manifest := fmt.Sprintf(`{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"web"},"spec":{"replicas":2,"selector":{"matchLabels":{"app":"web"}},
		"template":{"metadata":{"labels":{"app":"web"}},"spec":{"containers":[{"name":"web","image":"%sv1.0.0","env":[{"name":"A","value":"b"}]}]}}}}`, shop)
	if _, err := cluster.Client.AppsV1().Deployments(ns).Patch(t.Context(), "web", types.ApplyPatchType, []byte(manifest), metav1.PatchOptions{FieldManager: "gitops"}); err != nil {
		t.Fatal(err)
	}
	d := serve(t, oneRule(ns))
	d.mustPost(http.StatusAccepted, "registry", version(1))
	if log := d.logOf("succeeded"); !strings.Contains(log, "container web: gitops applies it too (server-side), and may set it back") {
		t.Errorf("the log does not name it: %s", log)
	}
	if got := rolledOut(t, ns, "web", shop+"v1.1.0"); got.Spec.Template.Spec.Containers[0].Env[0].Value != "b" {
		t.Errorf("its environment is %v", got.Spec.Template.Spec.Containers[0].Env)
	}
}

// deploymentsOf are changes of the Deployments of a namespace.
func deploymentsOf(ns string) *admissionv1.MatchResources {
	return &admissionv1.MatchResources{
		NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"kubernetes.io/metadata.name": ns}},
		ResourceRules: []admissionv1.NamedRuleWithOperations{{RuleWithOperations: admissionv1.RuleWithOperations{
			Operations: []admissionv1.OperationType{admissionv1.Update},
			Rule:       admissionv1.Rule{APIGroups: []string{"apps"}, APIVersions: []string{"v1"}, Resources: []string{"deployments"}},
		}}},
	}
}

// rewrites has the API server take the images of Deployments of a namespace
// from another registry, as a policy of a company would.
func rewrites(t *testing.T, ns string) {
	t.Helper()
	admission := cluster.Client.AdmissionregistrationV1()
	policy := &admissionv1.MutatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: ns}, Spec: admissionv1.MutatingAdmissionPolicySpec{
		MatchConstraints:   deploymentsOf(ns),
		ReinvocationPolicy: admissionv1.NeverReinvocationPolicy,
		Mutations: []admissionv1.Mutation{{PatchType: admissionv1.PatchTypeJSONPatch, JSONPatch: &admissionv1.JSONPatch{
			Expression: `[JSONPatch{op: "replace", path: "/spec/template/spec/containers/0/image", value: object.spec.template.spec.containers[0].image.replace("registry.example.com", "mirror.example.net")}]`,
		}}},
	}}
	if _, err := admission.MutatingAdmissionPolicies().Create(t.Context(), policy, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	binding := &admissionv1.MutatingAdmissionPolicyBinding{ObjectMeta: metav1.ObjectMeta{Name: ns}, Spec: admissionv1.MutatingAdmissionPolicyBindingSpec{PolicyName: ns}}
	if _, err := admission.MutatingAdmissionPolicyBindings().Create(t.Context(), binding, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = admission.MutatingAdmissionPolicyBindings().Delete(context.Background(), ns, metav1.DeleteOptions{})
		_ = admission.MutatingAdmissionPolicies().Delete(context.Background(), ns, metav1.DeleteOptions{})
	})
	eventually(t, "the policy is in force", func() error {
		probe := fmt.Sprintf(`{"spec":{"template":{"spec":{"containers":[{"name":"web","image":"%sprobe"}]}}}}`, shop)
		got, err := cluster.Client.AppsV1().Deployments(ns).Patch(t.Context(), "web", types.StrategicMergePatchType, []byte(probe), metav1.PatchOptions{DryRun: []string{metav1.DryRunAll}})
		if err == nil && !strings.HasPrefix(got.Spec.Template.Spec.Containers[0].Image, "mirror.") {
			err = fmt.Errorf("it is %s", got.Spec.Template.Spec.Containers[0].Image)
		}
		return err
	})
}

// The API server rewrites what it is sent. The run says what became of it,
// waits for it, knows it again, and puts back what was there before.
func TestRewrittenOnAdmission(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	patient(t, ns, 4)
	rewrites(t, ns)
	const mirror = "mirror.example.net/shop/web:"
	d := serve(t, oneRollout(ns, "deployment/web", "wait: 2m, rollback: true"))
	d.mustPost(http.StatusAccepted, "registry", pushTag("v1.1.0", 1))
	if log := d.logOf("succeeded"); !strings.Contains(log, "container web: the API server made "+mirror+"v1.1.0 of it") || !strings.Contains(log, "rollout over after ") {
		t.Errorf("the log does not say so: %s", log)
	}
	good := rolledOut(t, ns, "web", mirror+"v1.1.0")

	// dockbell has lost its store: the workload itself tells what it runs.
	d.stop()
	d = serve(t, oneRollout(ns, "deployment/web", "wait: 2m, rollback: true"))
	d.mustPost(http.StatusAccepted, "registry", pushTag("v1.1.0", 1))
	if r := d.ended()[0]; r.State != "skipped" || r.Reason != "container web runs "+shop+"v1.1.0 already" {
		t.Errorf("the same again is %s: %s", r.State, r.Reason)
	}
	if again := getDeployment(t, ns, "web"); again.ResourceVersion != good.ResourceVersion {
		t.Error("the same again has changed it")
	}
	d.mustPost(http.StatusAccepted, "registry", pushTag("v1.0.5", 5))
	if r := d.ended()[0]; r.State != "skipped" || !strings.Contains(r.Reason, "v1.0.5 is a lower version than v1.1.0") {
		t.Errorf("a step back is %s: %s", r.State, r.Reason)
	}

	d.mustPost(http.StatusAccepted, "registry", pushTag("v1.2.0-crash", 2))
	d.waits(ns, mirror+"v1.2.0-crash")
	d.kill()
	d.start()
	if r := d.ended()[0]; r.State != "rolled-back" || !strings.Contains(r.Reason, mirror+"v1.1.0 is put back") {
		t.Errorf("a bad one is %s: %s", r.State, r.Reason)
	}
	rolledOut(t, ns, "web", mirror+"v1.1.0")
}

// A rehearsal shows what it would change, and changes nothing.
func TestRehearsal(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	newDeployment(t, ns, "web", corev1.Container{Name: "web", Image: shop + "v1.0.0"})
	before := rolledOut(t, ns, "web", shop+"v1.0.0")
	d := serve(t, oneRollout(ns, "deployment/web", "dryRun: server, wait: 2m"))
	d.mustPost(http.StatusAccepted, "registry", pushTag("v1.1.0", 1))
	if log := d.logOf("succeeded"); !strings.Contains(log, "as a rehearsal: "+shop+"v1.0.0 -> "+shop+"v1.1.0; nothing is changed") {
		t.Errorf("the log is %s", log)
	}
	if after := getDeployment(t, ns, "web"); after.ResourceVersion != before.ResourceVersion {
		t.Errorf("it was changed: %+v", after.ObjectMeta)
	}
	d.stop()

	// It is not taken for done when it is meant.
	d = serve(t, oneRollout(ns, "deployment/web", ""))
	d.mustPost(http.StatusAccepted, "registry", pushTag("v1.1.0", 1))
	rolledOut(t, ns, "web", shop+"v1.1.0")
	eventually(t, "there is an Event of the deploy, and none of the rehearsal", func() error {
		list, err := cluster.Client.EventsV1().Events(ns).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		updated := 0
		for _, e := range list.Items {
			if e.Reason == "ImageUpdated" {
				updated++
			}
		}
		if updated != 1 {
			return fmt.Errorf("there are %d", updated)
		}
		return nil
	})
}

// kubectl describe shows what was deployed and why, and what was put back.
func TestEvents(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	patient(t, ns, 2)
	d := serve(t, oneRollout(ns, "deployment/web", "wait: 2m, rollback: true"))
	d.mustPost(http.StatusAccepted, "registry", pushTag("v1.1.0-crash", 1))
	d.ended()
	kubectlShows(t, ns, corev1.EventTypeNormal, "ImageUpdated", shop+"v1.0.0 -> "+shop+"v1.1.0-crash (rule web, event 1, run 1)")
	kubectlShows(t, ns, corev1.EventTypeWarning, "ImageRolledBack", "no database; "+shop+"v1.0.0 is put back (run 1)")
}

// kubectlShows waits for an Event about deployment/web.
func kubectlShows(t *testing.T, ns, kind, reason, note string) {
	t.Helper()
	eventually(t, "there is an Event "+reason, func() error {
		list, err := cluster.Client.EventsV1().Events(ns).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, e := range list.Items {
			if e.Reason == reason && about(e, getDeployment(t, ns, "web").UID) && e.Type == kind && strings.Contains(e.Note, note) {
				return nil
			}
		}
		return fmt.Errorf("%d others", len(list.Items))
	})
}

func about(e eventsv1.Event, uid types.UID) bool {
	return e.Regarding.Kind == "Deployment" && e.Regarding.Name == "web" && e.Regarding.UID == uid
}
