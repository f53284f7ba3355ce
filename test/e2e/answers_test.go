package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// What is wrong with a deploy is told apart: no workload, no namespace, an
// object that the API server does not take.
func TestAnswers(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	newDeployment(t, ns, "web", corev1.Container{Name: "web", Image: shop + "v1.0.0"})
	d := serve(t, header+fmt.Sprintf(`
sources: {registry: {type: distribution, auth: none}}
rules:
  - {name: no-workload, repo: registry.example.com/shop/web, actions: [kubernetes: {target: daemonset/web, namespace: %[1]s}]}
  - {name: no-namespace, repo: registry.example.com/shop/web, actions: [kubernetes: {target: deployment/web, namespace: nowhere}]}
  - {name: no-container, repo: registry.example.com/shop/web, actions: [kubernetes: {target: deployment/web, namespace: %[1]s, container: app}]}
`, ns))
	d.mustPost(http.StatusAccepted, "registry", pushTag("v1.1.0", 1))
	d.ended()
	for rule, want := range map[string]string{
		"no-workload":  "daemonset " + ns + "/web in cluster default: there is none",
		"no-namespace": "deployment nowhere/web in cluster default: there is no namespace nowhere",
		"no-container": "deployment " + ns + `/web: it has no container "app"; it has web`,
	} {
		if r := d.runs("&rule=" + rule)[0]; r.State != "failed" || r.Reason != want {
			t.Errorf("%s is %s: %s", rule, r.State, r.Reason)
		}
	}
}

// A policy that denies an image is no late editor: the run ends, with the words
// of the policy.
func TestDeniedByPolicy(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	newDeployment(t, ns, "web", corev1.Container{Name: "web", Image: shop + "v1.0.0"})
	admission := cluster.Client.AdmissionregistrationV1()
	policy := &admissionv1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: ns}, Spec: admissionv1.ValidatingAdmissionPolicySpec{
		MatchConstraints: deploymentsOf(ns),
		Validations:      []admissionv1.Validation{{Expression: `!object.spec.template.spec.containers[0].image.contains("-denied")`, Message: "not this one"}},
	}}
	if _, err := admission.ValidatingAdmissionPolicies().Create(t.Context(), policy, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	binding := &admissionv1.ValidatingAdmissionPolicyBinding{ObjectMeta: metav1.ObjectMeta{Name: ns}, Spec: admissionv1.ValidatingAdmissionPolicyBindingSpec{
		PolicyName: ns, ValidationActions: []admissionv1.ValidationAction{admissionv1.Deny},
	}}
	if _, err := admission.ValidatingAdmissionPolicyBindings().Create(t.Context(), binding, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = admission.ValidatingAdmissionPolicyBindings().Delete(context.Background(), ns, metav1.DeleteOptions{})
		_ = admission.ValidatingAdmissionPolicies().Delete(context.Background(), ns, metav1.DeleteOptions{})
	})
	eventually(t, "the policy is in force", func() error {
		probe := fmt.Sprintf(`{"spec":{"template":{"spec":{"containers":[{"name":"web","image":"%sprobe-denied"}]}}}}`, shop)
		_, err := cluster.Client.AppsV1().Deployments(ns).Patch(t.Context(), "web", types.StrategicMergePatchType, []byte(probe), metav1.PatchOptions{DryRun: []string{metav1.DryRunAll}})
		if err == nil {
			return errors.New("it denies nothing")
		}
		return nil
	})
	d := serve(t, oneRule(ns))
	d.mustPost(http.StatusAccepted, "registry", pushTag("v1.1.0-denied", 1))
	if r := d.ended()[0]; r.State != "failed" || !strings.Contains(r.Reason, "cannot patch: ") || !strings.Contains(r.Reason, "not this one") {
		t.Errorf("it is %s: %s", r.State, r.Reason)
	}
}

// A cluster that nobody can reach, and one that swallows what it is sent, keep
// no deploy to another cluster waiting.
func TestClustersAreApart(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	newDeployment(t, ns, "web", corev1.Container{Name: "web", Image: shop + "v1.0.0"})
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	config := func(address string) string {
		return strings.NewReplacer("ADDRESS", address).Replace(`{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: c}}], clusters: [{name: c, cluster: {server: "https://ADDRESS"}}]}`)
	}
	var rules strings.Builder
	const many = 100 // more than there are workers
	for i := range many {
		fmt.Fprintf(&rules, "\n  - {name: down-%[1]d, repo: registry.example.com/shop/web, actions: [kubernetes: {target: deployment/web-%[1]d, namespace: prod, cluster: down}]}", i)
		fmt.Fprintf(&rules, "\n  - {name: silent-%[1]d, repo: registry.example.com/shop/web, actions: [kubernetes: {target: deployment/web-%[1]d, namespace: prod, cluster: silent}]}", i)
	}
	d := prepare(t, header+fmt.Sprintf(`
sources: {registry: {type: distribution, auth: none}}
clusters: {down: {kubeconfig: down}, silent: {kubeconfig: silent}}
rules:%s
  - {name: web, repo: registry.example.com/shop/web, actions: [kubernetes: {target: deployment/web, namespace: %s}]}
`, rules.String(), ns))
	for name, address := range map[string]string{"down": closed.Addr().String(), "silent": "192.0.2.1:6443"} { // the second is of the network for examples
		if err := os.WriteFile(filepath.Join(d.dir, name), []byte(config(address)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	d.start()
	for i := 1; i <= 3; i++ {
		tag := fmt.Sprintf("v1.%d.0", i)
		d.mustPost(http.StatusAccepted, "registry", pushTag(tag, i))
		rolledOut(t, ns, "web", shop+tag)
	}
	r := d.runs("&rule=down-0&state=waiting")
	if len(r) != 1 || !strings.Contains(r[0].Reason, "cannot reach the API server of cluster down") {
		t.Errorf("the other run is %+v", r)
	}
}
