package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/dynamic"

	"github.com/dockbell/dockbell/test/parts"
)

var (
	definitions   = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
	ruleResources = schema.GroupVersionResource{Group: "dockbell.dev", Version: "v1alpha1", Resource: "rules"}
)

// resources is a client for what has no Go types.
func resources(t *testing.T) *dynamic.DynamicClient {
	t.Helper()
	client, err := dynamic.NewForConfig(cluster.Config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// defineRules gives the cluster the resource of the chart.
func defineRules(t *testing.T) {
	t.Helper()
	text, err := os.ReadFile("../../charts/dockbell/crds/rules.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var definition unstructured.Unstructured
	if err := yaml.Unmarshal(text, &definition.Object); err != nil {
		t.Fatal(err)
	}
	client := resources(t).Resource(definitions)
	if _, err := client.Apply(t.Context(), definition.GetName(), &definition, metav1.ApplyOptions{FieldManager: "test"}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the resource is served", func() error {
		_, err := resources(t).Resource(ruleResources).List(t.Context(), metav1.ListOptions{})
		return err
	})
}

// applyRule makes or changes a Rule; spec is YAML.
func applyRule(t *testing.T, ns, name, spec string) error {
	t.Helper()
	rule := &unstructured.Unstructured{Object: map[string]any{}}
	if err := yaml.Unmarshal([]byte(spec), &rule.Object); err != nil {
		t.Fatal(err)
	}
	rule.Object = map[string]any{"spec": rule.Object}
	rule.SetAPIVersion("dockbell.dev/v1alpha1")
	rule.SetKind("Rule")
	rule.SetNamespace(ns)
	rule.SetName(name)
	_, err := resources(t).Resource(ruleResources).Namespace(ns).Apply(t.Context(), name, rule, metav1.ApplyOptions{FieldManager: "test", Force: true})
	return err
}

func mustApplyRule(t *testing.T, ns, name, spec string) {
	t.Helper()
	if err := applyRule(t, ns, name, spec); err != nil {
		t.Fatal(err)
	}
}

// ruleStatus is what dockbell says of a Rule.
type ruleStatus struct {
	ObservedGeneration int64
	Conditions         []metav1.Condition
	LastEvent          struct{ ID, Image, At string }
	LastRun            struct{ ID, Target, State, Reason, At string }
}

func statusOf(t *testing.T, ns, name string) (s ruleStatus, generation int64) {
	t.Helper()
	rule, err := resources(t).Resource(ruleResources).Namespace(ns).Get(context.Background(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return told(t, rule), rule.GetGeneration()
}

func told(t *testing.T, rule *unstructured.Unstructured) (s ruleStatus) {
	t.Helper()
	text, err := json.Marshal(rule.Object["status"])
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &s); err != nil {
		t.Fatal(err)
	}
	return s
}

// ready waits until dockbell says of a Rule as it is now that it is in force,
// or for a fault that it is not and why.
func ready(t *testing.T, ns, name, fault string) ruleStatus {
	t.Helper()
	var s ruleStatus
	eventually(t, "the status of rule "+name, func() error {
		var generation int64
		s, generation = statusOf(t, ns, name)
		c := meta.FindStatusCondition(s.Conditions, "Ready")
		switch {
		case c == nil || c.ObservedGeneration != generation || s.ObservedGeneration != generation:
			return fmt.Errorf("none of generation %d: %+v", generation, s)
		case fault == "" && c.Status != metav1.ConditionTrue, fault != "" && (c.Status != metav1.ConditionFalse || !strings.Contains(c.Message, fault)):
			return fmt.Errorf("%+v", *c)
		}
		return nil
	})
	return s
}

// withRules is a configuration that leaves the rules to some namespaces.
func withRules(namespaces ...string) string {
	return fmt.Sprintf(`
server: {listen: "127.0.0.1:0", admin: "127.0.0.1:0"}
store: sqlite:dockbell.db
sources: {registry: {type: distribution, auth: none}}
rulesFrom: {cluster: {namespaces: [%s]}}
`, strings.Join(namespaces, ", "))
}

const webRule = `
repo: registry.example.com/shop/web
tag: 'v(?P<version>\d+\.\d+\.\d+)'
actions: [{kubernetes: {target: deployment/web}}]
`

// A Rule of a namespace changes a workload there, its status tells what it
// did, and without it nothing happens any more.
func TestRuleOfTheCluster(t *testing.T) {
	defineRules(t)
	ns := namespace(t)
	newDeployment(t, ns, "web", corev1.Container{Name: "web", Image: "registry.example.com/shop/web:v1.0.0"})
	d := serve(t, withRules(ns))
	d.isReady()
	if r := d.mustPost(http.StatusOK, "registry", version(1)); !strings.Contains(r.Events[0].Ignored, "no rule is for the repository") {
		t.Errorf("without a rule: %+v", r)
	}
	mustApplyRule(t, ns, "web", webRule)
	ready(t, ns, "web", "")
	d.mustPost(http.StatusAccepted, "registry", version(2))
	rolledOut(t, ns, "web", "registry.example.com/shop/web:v1.2.0")
	run := d.ended()[0]
	if run.Rule != ns+"/web" || run.State != "succeeded" {
		t.Errorf("%+v", run)
	}
	eventually(t, "the status tells of the run", func() error {
		s, _ := statusOf(t, ns, "web")
		if s.LastRun.ID != run.ID || s.LastRun.State != "succeeded" || !strings.Contains(s.LastRun.Target, ns+"/web") || !strings.HasPrefix(s.LastEvent.Image, "registry.example.com/shop/web:v1.2.0") || s.LastEvent.ID != run.Event {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	mustApplyRule(t, ns, "web", strings.Replace(webRule, "shop/web", "shop/shop", 1)) // it changes
	ready(t, ns, "web", "")
	d.mustPost(http.StatusOK, "registry", version(3))

	if err := resources(t).Resource(ruleResources).Namespace(ns).Delete(t.Context(), "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the rule is gone", func() error {
		if n := d.metric(`dockbell_cluster_rules{ready="true"}`); n != 0 {
			return fmt.Errorf("%v rules", n)
		}
		return nil
	})
	d.mustPost(http.StatusOK, "registry", version(4))
}

// What the API server can know to be wrong it refuses.
func TestRulesThatTheAPIServerRefuses(t *testing.T) {
	defineRules(t)
	ns := namespace(t)
	for name, tt := range map[string]struct{ spec, want string }{
		"no-actions":               {"{repo: '**'}", "spec.actions: Required"},
		"none":                     {"{repo: '**', actions: []}", "spec.actions in body should have at least 1 items"},
		"two-kinds":                {"{repo: '**', actions: [{kubernetes: {target: deployment/web}, http: {}}]}", "spec.actions[0]"},
		"a-number":                 {"{repo: '**', tag: 5, actions: [{kubernetes: {target: deployment/web}}]}", "spec.tag"},
		"no-duration":              {"{repo: '**', settle: soon, actions: [{kubernetes: {target: deployment/web}}]}", "spec.settle"},
		"no-wait":                  {"{repo: '**', actions: [{kubernetes: {target: deployment/web, rollback: true}}]}", "rollback needs wait"},
		"another-pin":              {"{repo: '**', actions: [{kubernetes: {target: deployment/web, pin: sha}}]}", "spec.actions[0].kubernetes.pin"},
		"of-no-target":             {"{repo: '**', actions: [{kubernetes: {}}]}", "spec.actions[0].kubernetes.target: Required"},
		strings.Repeat("long", 16): {"{repo: '**', actions: [{kubernetes: {target: deployment/web}}]}", "at most 63 characters"},
	} {
		if err := applyRule(t, ns, name, tt.spec); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %s", name, err, tt.want)
		}
	}
}

// What only dockbell can know to be wrong is told in the status, and harms no
// other rule.
func TestRulesThatAreFaulty(t *testing.T) {
	defineRules(t)
	ns := namespace(t)
	newDeployment(t, ns, "web", corev1.Container{Name: "web", Image: "registry.example.com/shop/web:v1.0.0"})
	mustApplyRule(t, ns, "web", webRule)
	const action = "actions: [{kubernetes: {target: deployment/web}}]"
	faulty := map[string]struct{ spec, fault string }{
		"elsewhere":   {"{repo: '**', actions: [{kubernetes: {target: deployment/web, namespace: kube-system}}]}", "actions[0].kubernetes.namespace: must be " + ns + " or be left out, not \"kube-system\""},
		"template":    {"{repo: '**', actions: [{kubernetes: {target: deployment/web, namespace: '{{.Tag}}'}}]}", "actions[0].kubernetes.namespace: must be " + ns},
		"far":         {"{repo: '**', actions: [{kubernetes: {target: deployment/web, cluster: other}}]}", "actions[0].kubernetes.cluster: "},
		"misspelt":    {"{repo: '**', windwo: {cron: '@daily', for: 1h}, " + action + "}", `unknown key "windwo"`},
		"named":       {"{name: other, repo: '**', " + action + "}", "name: is not for the rule to say"},
		"of-a-lane":   {"{repo: '**', actions: [{kubernetes: {target: deployment/web, lane: others}}]}", `unknown key "lane"`},
		"pattern":     {"{repo: 'shop/[', " + action + "}", "repo: "},
		"source":      {"{repo: '**', sources: hub, " + action + "}", `sources: there is no source "hub"; there are registry`},
		"nobody":      {"{repo: '**', approve: 1, " + action + "}", "approve: needs 1 who may approve, and there are 0"},
		"calls":       {"{repo: '**', actions: [{http: {url: 'http://127.0.0.1:1'}}]}", "actions[0].http: a rule of the cluster cannot have this action: rulesFrom.cluster.kinds allows kubernetes"},
		"runs":        {"{repo: '**', actions: [{command: {argv: [id]}}]}", "actions[0].command: a rule of the cluster cannot have this action"},
		"two-of-them": {"{repo: 'shop/[', tag: '(', " + action + "}", "(faults: 2)"},
	}
	for name, tt := range faulty {
		mustApplyRule(t, ns, name, tt.spec)
	}
	d := serve(t, withRules(ns))
	for name, tt := range faulty {
		ready(t, ns, name, tt.fault)
	}
	ready(t, ns, "web", "")
	if r := d.mustPost(http.StatusAccepted, "registry", version(2)); len(r.Events[0].Runs) != 1 {
		t.Errorf("%+v", r)
	}
	rolledOut(t, ns, "web", "registry.example.com/shop/web:v1.2.0")
	mustApplyRule(t, ns, "misspelt", "{repo: '**', window: {cron: '@daily', for: 24h}, "+action+"}")
	ready(t, ns, "misspelt", "")
}

// Before the rules of the cluster are known, nothing is acknowledged: senders
// come back.
func TestRulesThatAreNotKnownYet(t *testing.T) {
	defineRules(t)
	ns := namespace(t)
	mustApplyRule(t, ns, "web", webRule)
	newDeployment(t, ns, "web", corev1.Container{Name: "web", Image: "registry.example.com/shop/web:v1.0.0"})
	d := as(t, parts.Stranger, withRules(ns))
	r := d.mustPost(http.StatusServiceUnavailable, "registry", version(1))
	if !strings.Contains(r.Error, "the rules of the cluster are not known yet") || r.RetryAfter == "" {
		t.Errorf("%+v", r)
	}
	if code := d.status("/readyz"); code != http.StatusServiceUnavailable {
		t.Errorf("/readyz: %d", code)
	}
	eventually(t, "the log says what is missing", func() error {
		if d.log.count("must allow list and watch on rules.dockbell.dev") == 0 {
			return errors.New("not yet")
		}
		return nil
	})
	grant(t, ns, parts.Stranger)
	d.isReady()
	d.mustPost(http.StatusAccepted, "registry", version(1))
	rolledOut(t, ns, "web", "registry.example.com/shop/web:v1.1.0")
}

// Little rights are enough, and the status is not written when there is nothing
// to tell.
func TestRightsForRules(t *testing.T) {
	defineRules(t)
	ns := namespace(t)
	newDeployment(t, ns, "web", corev1.Container{Name: "web", Image: "registry.example.com/shop/web:v1.0.0"})
	grant(t, ns, parts.Guest)
	mustApplyRule(t, ns, "web", webRule)
	d := as(t, parts.Guest, withRules(ns))
	ready(t, ns, "web", "")
	d.mustPost(http.StatusAccepted, "registry", version(2))
	rolledOut(t, ns, "web", "registry.example.com/shop/web:v1.2.0")
	eventually(t, "the status tells of the run", func() error {
		if s, _ := statusOf(t, ns, "web"); s.LastRun.State != "succeeded" {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	rules := resources(t).Resource(ruleResources).Namespace(ns)
	w, err := rules.Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	<-w.ResultChan() // as it is
	// What was spoilt by somebody is put right, and then there is silence for as
	// long as two reports take.
	if _, err := rules.Patch(t.Context(), "web", types.MergePatchType, []byte(`{"status":{"conditions":null,"observedGeneration":99}}`), metav1.PatchOptions{}, "status"); err != nil {
		t.Fatal(err)
	}
	ready(t, ns, "web", "")
	writes := 0
	for quiet := false; !quiet; {
		select {
		case <-w.ResultChan():
			writes++
		case <-time.After(11 * time.Second):
			quiet = true
		}
	}
	if writes != 2 {
		t.Errorf("it was written %d times, want once to spoil it and once to put it right", writes)
	}
}

// Of several replicas each knows the rules, and one writes what it says of them.
func TestRulesOfReplicas(t *testing.T) {
	defineRules(t)
	ns := namespace(t)
	newDeployment(t, ns, "web", corev1.Container{Name: "web", Image: "registry.example.com/shop/web:v1.0.0"})
	config := strings.Replace(withRules(ns), "sqlite:dockbell.db", strconv.Quote(postgres(t).URL("postgres")), 1)
	a, b := serve(t, config), serve(t, config)
	a.isReady()
	b.isReady()
	rules := resources(t).Resource(ruleResources).Namespace(ns)
	mustApplyRule(t, ns, "web", webRule)
	w, err := rules.Watch(t.Context(), metav1.ListOptions{ResourceVersion: "0"})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	ready(t, ns, "web", "")
	for n, d := range []*daemon{a, b} {
		eventually(t, "the replica knows the rule", func() error {
			if got := d.metric(`dockbell_cluster_rules{ready="true"}`); got != 1 {
				return fmt.Errorf("%v rules", got)
			}
			return nil
		})
		d.mustPost(http.StatusAccepted, "registry", version(n+1))
	}
	eventually(t, "the status tells of the last run", func() error {
		s, _ := statusOf(t, ns, "web")
		if s.LastRun.State != "succeeded" || !strings.HasSuffix(s.LastEvent.Image, ":v1.2.0") {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	// Were there two to write, the one that knows less would put back what the
	// other has written.
	last := ""
	for quiet := false; !quiet; {
		select {
		case e := <-w.ResultChan():
			s := told(t, e.Object.(*unstructured.Unstructured)).LastRun
			now := fmt.Sprintf("%10s %t", s.ID, s.State == "succeeded")
			if now < last {
				t.Errorf("it tells of run %s, and told of run %s before", now, last)
			}
			last = now
		case <-time.After(6 * time.Second): // longer than a report takes
			quiet = true
		}
	}
}

// isReady waits until the daemon takes deliveries.
func (d *daemon) isReady() {
	d.t.Helper()
	eventually(d.t, "it is ready", func() error {
		if code := d.status("/readyz"); code != http.StatusOK {
			return fmt.Errorf("/readyz: %d", code)
		}
		return nil
	})
}

// as serves in the name of a user.
func as(t *testing.T, user, config string) *daemon {
	t.Helper()
	kubeconfig, err := cluster.User(user)
	if err != nil {
		t.Fatal(err)
	}
	d := prepare(t, config)
	d.env = append(d.env, "KUBECONFIG="+kubeconfig)
	d.start()
	return d
}

// grant lets a user do in a namespace what dockbell needs for rules and
// Deployments.
func grant(t *testing.T, ns, user string) {
	t.Helper()
	role := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "dockbell", Namespace: ns}, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{"dockbell.dev"}, Resources: []string{"rules"}, Verbs: []string{"list", "watch"}},
		{APIGroups: []string{"dockbell.dev"}, Resources: []string{"rules/status"}, Verbs: []string{"patch"}},
		{APIGroups: []string{"apps"}, Resources: []string{"deployments"}, Verbs: []string{"get", "list", "watch", "patch"}},
	}}
	if _, err := cluster.Client.RbacV1().Roles(ns).Create(t.Context(), role, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	binding := &rbacv1.RoleBinding{
		ObjectMeta: role.ObjectMeta, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: role.Name},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.UserKind, Name: user}},
	}
	if _, err := cluster.Client.RbacV1().RoleBindings(ns).Create(t.Context(), binding, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}
