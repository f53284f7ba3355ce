package e2e

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// One push goes to every workload that runs its repository, of each kind, by
// any name of its registry, in containers of each sort, in the namespaces that
// the rule names. Each has a run of its own.
func TestUsesImage(t *testing.T) {
	t.Parallel()
	mine, other, theirs := namespace(t), namespace(t, "other"), namespace(t, "theirs")
	web := corev1.Container{Name: "web", Image: shop + "v1.0.0"}
	for _, ns := range []string{mine, theirs} {
		newDeployment(t, ns, "web", web)
	}
	newDeployment(t, mine, "alias", corev1.Container{Name: "any", Image: "registry.internal:5000/shop/web:v1.0.0"})
	newDeployment(t, mine, "unrelated", corev1.Container{Name: "web", Image: "registry.example.com/shop/other:v1.0.0"})
	newDeployment(t, mine, "newer", corev1.Container{Name: "web", Image: shop + "v3.0.0"})
	newCronJob(t, other, "nightly", web)
	sidecar := template("agent", corev1.Container{Name: "agent", Image: "registry.example.com/shop/agent:v1.0.0"})
	sidecar.Spec.InitContainers = []corev1.Container{{Name: "migrate", Image: shop + "v1.0.0"}}
	set := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Name: "agent"}, Spec: appsv1.DaemonSetSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "agent"}}, Template: sidecar}}
	if _, err := cluster.Client.AppsV1().DaemonSets(other).Create(t.Context(), set, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}

	d := serve(t, header+fmt.Sprintf(`
sources: {registry: {type: distribution, auth: none}}
registries: [{host: registry.example.com, aliases: ["registry.internal:5000"]}]
rules:
  - name: all
    repo: registry.example.com/shop/**
    actions: [kubernetes: {target: uses-image, namespaces: [%s, %s], wait: 2m}]
`, mine, other))
	push := func(tag string, n int) []string {
		d.mustPost(http.StatusAccepted, "registry", pushTag(tag, n))
		var got []string
		for _, r := range allEnded(d) {
			if strings.HasPrefix(r.Image, shop+tag) {
				got = append(got, r.State+" "+strings.NewReplacer(other, "other", mine, "mine").Replace(r.Target))
			}
		}
		slices.Sort(got)
		return got
	}
	for n := 1; n <= 2; n++ { // read, then remembered
		want := []string{
			"skipped deployment mine/newer container *",
			"succeeded all that run it in mine, other",
			"succeeded cronjob other/nightly container *",
			"succeeded daemonset other/agent container *",
			"succeeded deployment mine/alias container *",
			"succeeded deployment mine/web container *",
		}
		if got := push(fmt.Sprintf("v1.%d.0", n), n); !slices.Equal(got, want) {
			t.Errorf("push %d: got\n%s\nwant\n%s", n, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
	if got := getDeployment(t, mine, "alias").Spec.Template.Spec.Containers[0].Image; got != "registry.internal:5000/shop/web:v1.2.0" {
		t.Errorf("the one with an alias runs %s", got)
	}
	if got := getDeployment(t, theirs, "web").Spec.Template.Spec.Containers[0].Image; got != shop+"v1.0.0" {
		t.Errorf("the one in another namespace runs %s", got)
	}
	agent, err := cluster.Client.AppsV1().DaemonSets(other).Get(t.Context(), "agent", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if pod := agent.Spec.Template.Spec; pod.InitContainers[0].Image != shop+"v1.2.0" || pod.Containers[0].Image != "registry.example.com/shop/agent:v1.0.0" {
		t.Errorf("the daemon set runs %s and %s", pod.InitContainers[0].Image, pod.Containers[0].Image)
	}

	// The same push once more does nothing where it is done; one that nobody
	// uses says so.
	before := len(d.runs(""))
	d.mustPost(http.StatusAccepted, "registry", pushTag("v1.2.0", 2))
	if again := allEnded(d); len(again) != before+2 || again[0].State != "skipped" || again[1].State != "succeeded" {
		t.Errorf("%d new runs, of which the last is %+v", len(again)-before, again[0])
	}
	d.mustPost(http.StatusAccepted, "registry", distribution("nobody", "registry.example.com", "shop/nobody", "v1", digestOf(9), "2026-11-21T08:00:00Z"))
	r := allEnded(d)[0]
	if r.State != "skipped" || !strings.HasPrefix(r.Reason, "there are none: all that run it in ") {
		t.Errorf("%s: %s", r.State, r.Reason)
	}
}

// A selector finds by labels, whatever it runs.
func TestSelector(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	for name, image := range map[string]string{"blue": shop + "v1.0.0", "green": "registry.example.com/old/web:v9"} {
		newDeployment(t, ns, name, corev1.Container{Name: "web", Image: image})
	}
	patch := []byte(`{"metadata": {"labels": {"follows": "shop"}}}`)
	for _, name := range []string{"blue", "green"} {
		if _, err := cluster.Client.AppsV1().Deployments(ns).Patch(t.Context(), name, "application/merge-patch+json", patch, metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	newDeployment(t, ns, "black", corev1.Container{Name: "web", Image: shop + "v1.0.0"})
	d := serve(t, header+fmt.Sprintf(`
sources: {registry: {type: distribution, auth: none}}
rules:
  - {name: all, repo: registry.example.com/shop/web, actions: [kubernetes: {target: deployment, selector: "follows in (shop)", namespace: %s}]}
`, ns))
	for n := 1; n <= 2; n++ {
		tag := fmt.Sprintf("v1.%d.0", n)
		d.mustPost(http.StatusAccepted, "registry", pushTag(tag, n))
		allEnded(d)
		for name, want := range map[string]string{"blue": tag, "green": tag, "black": "v1.0.0"} {
			if got := getDeployment(t, ns, name).Spec.Template.Spec.Containers[0].Image; got != shop+want {
				t.Errorf("%s runs %s, want %s", name, got, want)
			}
		}
	}
}

// What may not be listed is named, with the rule that would allow it.
func TestFindWithoutRights(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	guest, err := cluster.GuestKubeconfig()
	if err != nil {
		t.Fatal(err)
	}
	for where, want := range map[string]string{
		"namespace: " + ns:  "a Role in namespace " + ns + " must allow get, list, watch and patch on cronjobs.batch: {apiGroups: [batch], resources: [cronjobs], verbs: [get, list, watch, patch]}",
		`namespaces: ["*"]`: "a ClusterRole must allow get, list, watch and patch on cronjobs.batch: {apiGroups: [batch], resources: [cronjobs], verbs: [get, list, watch, patch]}",
	} {
		d := serve(t, header+fmt.Sprintf(`
sources: {registry: {type: distribution, auth: none}}
clusters: {default: {kubeconfig: %q}}
rules:
  - {name: all, repo: registry.example.com/shop/web, actions: [kubernetes: {target: uses-image, %s}]}
`, guest, where))
		d.mustPost(http.StatusAccepted, "registry", pushTag("v1.1.0", 1))
		if r := d.ended()[0]; r.State != "failed" || !strings.Contains(r.Reason, want) {
			t.Errorf("%s: %s: %s", where, r.State, r.Reason)
		}
	}
}

func newCronJob(t *testing.T, ns, name string, containers ...corev1.Container) {
	t.Helper()
	pod := template(name, containers...)
	pod.Spec.RestartPolicy = corev1.RestartPolicyNever
	job := &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: batchv1.CronJobSpec{Schedule: "0 3 * * *", JobTemplate: batchv1.JobTemplateSpec{Spec: batchv1.JobSpec{Template: pod}}}}
	if _, err := cluster.Client.BatchV1().CronJobs(ns).Create(t.Context(), job, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// allEnded waits until no run is live, and gives them all, newest first. Runs
// that make others end in the same moment, so they are looked at together.
func allEnded(d *daemon) (runs []aRun) {
	d.t.Helper()
	eventually(d.t, "all runs ended", func() error {
		runs = d.runs("")
		if i := slices.IndexFunc(runs, func(r aRun) bool { return r.State == "waiting" || r.State == "running" }); i >= 0 {
			return fmt.Errorf("%s is %s: %s", runs[i].Target, runs[i].State, runs[i].Reason)
		}
		return nil
	})
	return runs
}
