package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// crowded is a Deployment that runs shop/web in many places: in a container of
// the same name as a volume, in an init container, and under another name of
// the registry. Beside it is somebody else's image.
func crowded(t *testing.T, ns string) {
	t.Helper()
	pod := template("web",
		corev1.Container{Name: "web", Image: shop + "v1.0.0"},
		corev1.Container{Name: "worker", Image: "registry.internal:5000/shop/web:v1.0.0"},
		corev1.Container{Name: "log", Image: "registry.example.com/shop/log:v9.0.0"})
	pod.Spec.InitContainers = []corev1.Container{{Name: "migrate", Image: shop + "v1.0.0"}}
	pod.Spec.Volumes = []corev1.Volume{{Name: "web", VolumeSource: corev1.VolumeSource{Image: &corev1.ImageVolumeSource{Reference: shop + "v1.0.0"}}}}
	replicas, deadline := int32(2), int32(2)
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: ns}, Spec: appsv1.DeploymentSpec{
		Replicas: &replicas, ProgressDeadlineSeconds: &deadline, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}, Template: pod,
	}}
	if _, err := cluster.Client.AppsV1().Deployments(ns).Create(t.Context(), d, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	rolledOut(t, ns, "web", shop+"v1.0.0")
}

// images are those of a Deployment, in the order of crowded.
func images(t *testing.T, ns string) string {
	t.Helper()
	pod := getDeployment(t, ns, "web").Spec.Template.Spec
	var all []string
	for _, c := range append(pod.Containers, pod.InitContainers...) {
		all = append(all, c.Image)
	}
	return strings.Join(append(all, pod.Volumes[0].Image.Reference), " ")
}

// A pattern changes all that run the repository, in one patch, and puts all of
// them back. A name is one container.
func TestSlots(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	crowded(t, ns)
	d := serve(t, header+fmt.Sprintf(`
sources: {registry: {type: distribution, auth: none}}
registries: [{host: registry.example.com, aliases: ["registry.internal:5000"]}]
rules:
  - name: all
    repo: registry.example.com/shop/web
    exclude: {tag: 'one-.*'}
    actions: [kubernetes: {target: deployment/web, namespace: %[1]s, container: "*", wait: 2m, rollback: true}]
  - name: one
    repo: registry.example.com/shop/web
    tag: one-.*
    actions: [kubernetes: {target: deployment/web, namespace: %[1]s, container: web}]
  - name: none
    repo: registry.example.com/shop/other
    actions: [kubernetes: {target: deployment/web, namespace: %[1]s, container: "w*"}]
`, ns))
	all := func(tag string) string {
		return shop + tag + " registry.internal:5000/shop/web:" + tag + " registry.example.com/shop/log:v9.0.0 " + shop + tag + " " + shop + tag
	}
	d.mustPost(http.StatusAccepted, "registry", pushTag("v1.1.0", 1))
	r := d.ended()[0]
	if got := images(t, ns); r.State != "succeeded" || got != all("v1.1.0") {
		t.Errorf("it is %s (%s) and runs %s", r.State, r.Reason, got)
	}
	if generation := getDeployment(t, ns, "web").Generation; generation != 2 {
		t.Errorf("it was changed %d times, want once", generation-1)
	}
	d.mustPost(http.StatusAccepted, "registry", pushTag("v1.2.0-noimage", 2))
	r = d.ended()[0]
	if got := images(t, ns); r.State != "rolled-back" || got != all("v1.1.0") {
		t.Errorf("the bad one is %s (%s) and then it runs %s", r.State, r.Reason, got)
	}
	d.mustPost(http.StatusAccepted, "registry", pushTag("one-1", 3))
	d.ended()
	if got := images(t, ns); got != strings.Replace(all("v1.1.0"), shop+"v1.1.0", shop+"one-1", 1) {
		t.Errorf("by name it runs %s", got)
	}
	d.mustPost(http.StatusAccepted, "registry", distribution("other", "registry.example.com", "shop/other", "v1", digestOf(4), "2026-11-21T08:00:00Z"))
	if r := d.ended()[0]; r.State != "skipped" || !strings.Contains(r.Reason, `nothing like "w*" in it runs registry.example.com/shop/other: container web runs `) {
		t.Errorf("another repository is %s: %s", r.State, r.Reason)
	}
}

// A CronJob is changed where its pods are; that it is suspended stays so.
func TestCronJob(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	suspend := true
	pod := template("web", corev1.Container{Name: "web", Image: shop + "v1.0.0"})
	pod.Spec.RestartPolicy = corev1.RestartPolicyNever
	jobs := cluster.Client.BatchV1().CronJobs(ns)
	job := &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: batchv1.CronJobSpec{Schedule: "0 3 * * *", Suspend: &suspend, JobTemplate: batchv1.JobTemplateSpec{Spec: batchv1.JobSpec{Template: pod}}}}
	if _, err := jobs.Create(t.Context(), job, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	d := serve(t, oneRollout(ns, "cronjob/web", ""))
	for i := 1; i <= 2; i++ { // read, then remembered
		d.mustPost(http.StatusAccepted, "registry", pushTag(fmt.Sprintf("v1.%d.0", i), i))
		r := d.ended()[0]
		got, err := jobs.Get(t.Context(), "web", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if image := got.Spec.JobTemplate.Spec.Template.Spec.Containers[0].Image; r.State != "succeeded" || image != fmt.Sprintf("%sv1.%d.0", shop, i) || !*got.Spec.Suspend {
			t.Errorf("it is %s (%s), runs %s, suspended %v", r.State, r.Reason, image, *got.Spec.Suspend)
		}
		if log := d.show(r.ID).Tries[0].Log; !strings.Contains(log, "it is suspended, so no job runs it before somebody resumes it") {
			t.Errorf("the log does not say that it is suspended: %s", log)
		}
	}
}

// What a watch remembers of each workload is small: the memory of dockbell
// hardly grows with the cluster.
func TestManyWorkloads(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	newDeployment(t, ns, "web", corev1.Container{Name: "web", Image: shop + "v1.0.0"})
	d := serve(t, oneRule(ns))
	d.mustPost(http.StatusAccepted, "registry", version(1))
	d.ended()
	before := d.memory()

	many := soak(300, 5000)
	var makers sync.WaitGroup
	const atOnce = 16
	for first := range atOnce {
		makers.Go(func() {
			for i := first; i < many; i += atOnce {
				if _, err := cluster.Client.AppsV1().Deployments(ns).Create(t.Context(), ordinary(i), metav1.CreateOptions{}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	makers.Wait()
	d.mustPost(http.StatusAccepted, "registry", version(2))
	d.ended()
	d.stop()
	d.start() // with all of them there from the beginning
	d.mustPost(http.StatusAccepted, "registry", version(3))
	rolledOut(t, ns, "web", shop+"v1.3.0")
	d.mustPost(http.StatusAccepted, "registry", version(4))
	rolledOut(t, ns, "web", shop+"v1.4.0")
	after := d.memory()
	t.Logf("%d MB with 1 workload, %d MB with %d", before, after, many)
	if after >= 120 {
		t.Errorf("%d MB with %d workloads, want less than 120", after, many)
	}
}

// ordinary is a Deployment without pods, as large as those of real clusters.
func ordinary(i int) *appsv1.Deployment {
	name := fmt.Sprintf("ordinary-%d", i)
	app := corev1.Container{Name: "app", Image: fmt.Sprintf("registry.example.com/shop/%s:v1.0.0", name)}
	for j := range 30 {
		app.Env = append(app.Env, corev1.EnvVar{Name: fmt.Sprintf("SETTING_%d", j), Value: strings.Repeat("x", 40)})
	}
	none := int32(0)
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": name, "team": "shop"}, Annotations: map[string]string{corev1.LastAppliedConfigAnnotation: strings.Repeat("x", 4000)}},
		Spec:       appsv1.DeploymentSpec{Replicas: &none, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}}, Template: template(name, app)},
	}
}
