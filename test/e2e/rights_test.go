package e2e

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// rightsValues are those of a release that deploys in one other namespace.
const rightsValues = `
log: {format: text, level: debug}
ruleResources: true
rbac:
  namespaces: [%[1]s]
  pullSecrets: {%[1]s: [registry-pull]}
config:
  sources: {registry: {type: distribution, auth: none}}
  rules:
    - name: web
      repo: registry.example.com/shop/web
      actions:
        - kubernetes: {target: deployment/web, namespace: %[1]s, wait: 2m, rollback: true}
`

// teamRule is one that stands in the namespace that it is for.
const teamRule = `
apiVersion: dockbell.dev/v1alpha1
kind: Rule
metadata: {name: team, namespace: %s}
spec:
  repo: registry.example.com/shop/team
  actions: [{kubernetes: {target: deployment/web}}]
`

var teamRules = schema.GroupVersionResource{Group: "dockbell.dev", Version: "v1alpha1", Resource: "rules"}

// asInstalled runs dockbell as the chart would in the cluster: with its
// arguments and configuration, as its service account with its rights and no
// others. Before that, change may change the rights.
func asInstalled(t *testing.T, target string, change func(role *unstructured.Unstructured)) (d *daemon, account string) {
	t.Helper()
	ns := namespace(t)
	ensureNamespace(t, target, nil)
	values := filepath.Join(t.TempDir(), "values.yaml")
	if err := os.WriteFile(values, fmt.Appendf(nil, rightsValues, target), 0o600); err != nil {
		t.Fatal(err)
	}
	made := templated(t, ns, "--values", values)
	for _, role := range made.of("Role") {
		change(role)
	}
	made.of("CustomResourceDefinition").apply(t)
	slices.Concat(made.of("ServiceAccount"), made.of("Role"), made.of("RoleBinding")).apply(t)
	if t.Failed() {
		t.FailNow()
	}
	pod := made.deployment(t).Spec.Template.Spec
	account = "system:serviceaccount:" + ns + ":" + pod.ServiceAccountName
	token, err := cluster.Client.CoreV1().ServiceAccounts(ns).CreateToken(t.Context(), pod.ServiceAccountName, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	kubeconfig := clientcmdapi.NewConfig()
	kubeconfig.Clusters["test"] = &clientcmdapi.Cluster{Server: cluster.Config.Host, InsecureSkipTLSVerify: true}
	kubeconfig.AuthInfos["test"] = &clientcmdapi.AuthInfo{Token: token.Status.Token}
	kubeconfig.Contexts["test"] = &clientcmdapi.Context{Cluster: "test", AuthInfo: "test"}
	kubeconfig.CurrentContext = "test"
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*kubeconfig, path); err != nil {
		t.Fatal(err)
	}

	here := strings.NewReplacer(" :8080", " 127.0.0.1:0", " :8081", " 127.0.0.1:0", "/var/lib/dockbell/", "")
	d = prepare(t, here.Replace(made.config(t)))
	args := slices.DeleteFunc(slices.Clone(pod.Containers[0].Args), func(arg string) bool {
		return arg == "serve" || strings.HasPrefix(arg, "--config=")
	})
	d.argv = []string{"sh", "-c", `program=$0 more=$1; shift; exec "$program" "$@" $more`, program, strings.Join(args, " ")}
	d.env = append(d.env, "KUBECONFIG="+path)
	d.start()
	for _, probe := range []*corev1.Probe{pod.Containers[0].StartupProbe, pod.Containers[0].LivenessProbe, pod.Containers[0].ReadinessProbe} {
		eventually(t, probe.HTTPGet.Path+" is fine", func() error {
			resp, err := client.Get(d.admin + probe.HTTPGet.Path)
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			if body, err := io.ReadAll(resp.Body); resp.StatusCode != http.StatusOK {
				return fmt.Errorf("%s: %s, %v", resp.Status, body, err)
			}
			return nil
		})
	}
	return d, account
}

// may asks the API server whether somebody may do something.
func may(t *testing.T, account, verb, group, resource, ns, name string) bool {
	t.Helper()
	review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User: account, Groups: []string{"system:serviceaccounts", "system:authenticated"},
		ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: verb, Group: group, Resource: resource, Namespace: ns, Name: name},
	}}
	review, err := cluster.Client.AuthorizationV1().SubjectAccessReviews().Create(t.Context(), review, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return review.Status.Allowed
}

// The chart's Roles are enough for all that dockbell does: finding, changing,
// waiting, naming broken pods, putting back, writing events, taking rules from
// the namespace and saying so there. And they are no more than that.
func TestChartRights(t *testing.T) {
	target := "chart-rights-shop"
	ensureNamespace(t, target, nil)
	patient(t, target, 2)
	d, account := asInstalled(t, target, func(*unstructured.Unstructured) {})
	eventually(t, "the rights are known", func() error {
		if !may(t, account, "patch", "apps", "deployments", target, "web") || !may(t, account, "get", "", "secrets", target, "registry-pull") {
			return fmt.Errorf("%s may do nothing", account)
		}
		return nil
	})

	d.mustPost(http.StatusAccepted, "registry", pushTag("v1.1.0", 1))
	if r := d.ended()[0]; r.State != "succeeded" {
		t.Fatalf("the run is %s: %s", r.State, r.Reason)
	}
	rolledOut(t, target, "web", shop+"v1.1.0")
	d.mustPost(http.StatusAccepted, "registry", pushTag("v1.2.0-noimage", 2))
	if r := d.ended()[0]; r.State != "rolled-back" || !strings.Contains(r.Reason, "ImagePullBackOff") {
		t.Errorf("the bad one is %s: %s", r.State, r.Reason)
	}
	rolledOut(t, target, "web", shop+"v1.1.0")
	served(t, "dockbell.dev/v1alpha1")
	objects(t, fmt.Sprintf(teamRule, target)).apply(t)
	eventually(t, "the Rule of the namespace is in force", func() error {
		rule, err := dynamic.NewForConfigOrDie(cluster.Config).Resource(teamRules).Namespace(target).Get(t.Context(), "team", metav1.GetOptions{})
		if err != nil {
			return err
		}
		conditions, _, _ := unstructured.NestedSlice(rule.Object, "status", "conditions")
		if len(conditions) == 0 || conditions[0].(map[string]any)["status"] != "True" {
			return fmt.Errorf("its status is %v", rule.Object["status"])
		}
		return nil
	})
	for _, reason := range []string{"ImageUpdated", "ImageRolledBack"} {
		eventually(t, "an event "+reason, func() error {
			events, err := cluster.Client.EventsV1().Events(target).List(t.Context(), metav1.ListOptions{FieldSelector: "reason=" + reason})
			if err != nil || len(events.Items) == 0 {
				return fmt.Errorf("%d events, %v", len(events.Items), err)
			}
			return nil
		})
	}
	for _, workloads := range []string{"apps/deployments", "apps/statefulsets", "apps/daemonsets", "batch/cronjobs"} {
		group, resource, _ := strings.Cut(workloads, "/")
		for _, verb := range []string{"get", "list", "watch", "patch"} {
			if !may(t, account, verb, group, resource, target, "") {
				t.Errorf("it may not %s %s", verb, resource)
			}
		}
	}
	if n := d.log.count("(?i)forbidden|cannot watch"); n > 0 {
		t.Errorf("the log has %d lines of refusals", n)
	}

	for _, not := range []struct{ verb, group, resource, ns, name string }{
		{"get", "", "secrets", target, "other"},
		{"list", "", "secrets", target, ""},
		{"get", "", "configmaps", target, ""},
		{"delete", "apps", "deployments", target, "web"},
		{"create", "apps", "deployments", target, ""},
		{"update", "apps", "deployments", target, "web"},
		{"patch", "apps", "deployments/scale", target, "web"},
		{"delete", "", "pods", target, "web"},
		{"create", "", "pods/exec", target, "web"},
		{"patch", "apps", "deployments", "default", "web"},
		{"get", "apps", "deployments", "", ""},
		{"patch", "rbac.authorization.k8s.io", "roles", target, ""},
	} {
		if may(t, account, not.verb, not.group, not.resource, not.ns, not.name) {
			t.Errorf("it may %s %s/%s in %q", not.verb, not.resource, not.name, not.ns)
		}
	}
}

// Without one verb of the Role the run says which is missing, on what, and
// where.
func TestChartRightsMissing(t *testing.T) {
	target := "chart-rights-missing-shop"
	ensureNamespace(t, target, nil)
	patient(t, target, 60)
	d, account := asInstalled(t, target, func(role *unstructured.Unstructured) {
		rules, _, _ := unstructured.NestedSlice(role.Object, "rules")
		apps := rules[0].(map[string]any)
		apps["verbs"] = slices.DeleteFunc(apps["verbs"].([]any), func(verb any) bool { return verb == "patch" })
		if err := unstructured.SetNestedSlice(role.Object, rules, "rules"); err != nil {
			t.Fatal(err)
		}
	})
	eventually(t, "the rights are known", func() error {
		if !may(t, account, "watch", "apps", "deployments", target, "") {
			return fmt.Errorf("%s may do nothing", account)
		}
		return nil
	})
	d.mustPost(http.StatusAccepted, "registry", pushTag("v1.1.0", 1))
	r := d.ended()[0]
	for _, want := range []string{"patch", "deployments", "namespace " + target} {
		if r.State != "failed" || !strings.Contains(r.Reason, want) {
			t.Errorf("the run is %s: %s\nwithout %q", r.State, r.Reason, want)
		}
	}
}
