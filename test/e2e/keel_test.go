package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// keelKeys puts labels and annotations of keel on a Deployment.
func keelKeys(t *testing.T, ns, name, labels, annotations string) {
	t.Helper()
	patch := fmt.Appendf(nil, `{"metadata": {"labels": {%s}, "annotations": {%s}}}`, labels, annotations)
	if _, err := cluster.Client.AppsV1().Deployments(ns).Patch(t.Context(), name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
}

// The way of docs/from-keel.md: workloads of keel in a real cluster become a
// configuration, which is good as it is and does what keel did.
func TestImportKeel(t *testing.T) {
	ns := namespace(t)
	const shop = "registry.example.com/shop/"
	for name, image := range map[string]string{"minor": "web:1.2.3", "same": "web:main", "asks": "asks:1.0.0", "never": "web:1.2.3", "without": "web:1.2.3"} {
		newDeployment(t, ns, name, corev1.Container{Name: "web", Image: shop + image})
	}
	newDeployment(t, ns, "several", corev1.Container{Name: "app", Image: shop + "app:1.0.0"}, corev1.Container{Name: "worker", Image: shop + "app:1.0.0"}, corev1.Container{Name: "proxy", Image: "envoyproxy/envoy:v1.30.0"})
	keelKeys(t, ns, "minor", `"keel.sh/policy": "minor"`, "")
	keelKeys(t, ns, "same", "", `"keel.sh/policy": "force", "keel.sh/matchTag": "true"`)
	keelKeys(t, ns, "asks", `"keel.sh/approvals": "1"`, `"keel.sh/policy": "all"`)
	keelKeys(t, ns, "never", "", `"keel.sh/policy": "never"`)
	keelKeys(t, ns, "several", "", `"keel.sh/policy": "patch", "keel.sh/monitorContainers": "^(app|worker)$", "keel.sh/notify": "chat"`)
	job := &batchv1.CronJob{
		ObjectMeta: metav1.ObjectMeta{Name: "report", Namespace: ns, Annotations: map[string]string{"keel.sh/policy": "major"}},
		Spec:       batchv1.CronJobSpec{Schedule: "0 3 * * *", JobTemplate: batchv1.JobTemplateSpec{Spec: batchv1.JobSpec{Template: template("report", corev1.Container{Name: "report", Image: shop + "report:1.0.0"})}}},
	}
	job.Spec.JobTemplate.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyNever
	if _, err := cluster.Client.BatchV1().CronJobs(ns).Create(t.Context(), job, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}

	d := prepare(t, "", "HOOK_REGISTRY_EXAMPLE_COM=hush", "DOCKBELL_TOKEN=token")
	says, config := importKeel(t, d, ns)
	if !strings.Contains(says, "rule "+ns+".several, of deployment "+ns+"/several: keel.sh/notify: ") {
		t.Errorf("it says:\n%s", says)
	}
	if out, err := d.command("check", "imported.yaml").CombinedOutput(); err != nil || !strings.Contains(string(out), "1 sources, 5 rules") {
		t.Errorf("%v: %s\n%s", err, out, config)
	}
	useConfig(t, d, config)
	d.start()
	push := func(repository, tag string, n int) reply {
		return d.mustPost(http.StatusAccepted, "registry.example.com", distribution(fmt.Sprint("push-", n), "registry.example.com", repository, tag, digestOf(n), fmt.Sprintf("2026-11-21T10:00:%02dZ", n)), "Authorization", "Bearer hush")
	}

	push("shop/web", "1.3.0", 1)
	rolledOut(t, ns, "minor", shop+"web:1.3.0")
	push("shop/web", "main", 2)
	rolledOut(t, ns, "same", shop+"web:main")
	tooFar(t, d, push("shop/web", "2.0.0", 3))
	push("shop/app", "1.0.1", 4)
	rolledOut(t, ns, "several", shop+"app:1.0.1")
	push("shop/report", "2.0.0", 5)
	d.ended()
	asked := push("shop/asks", "1.1.0", 6).Events[0].Runs[0]
	if r := d.show(asked); r.State != "waiting" || !strings.Contains(r.Reason, "waits for 1 approval") {
		t.Errorf("the run that needs approval is %s: %s", r.State, r.Reason)
	}
	approve := d.command("runs", "approve", asked, "--server", d.admin, "--by", "alice")
	if out, err := approve.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	rolledOut(t, ns, "asks", shop+"asks:1.1.0")
	several := getDeployment(t, ns, "several").Spec.Template.Spec.Containers
	if several[1].Image != shop+"app:1.0.1" || several[2].Image != "envoyproxy/envoy:v1.30.0" {
		t.Errorf("the other containers run %s and %s", several[1].Image, several[2].Image)
	}
	for _, name := range []string{"never", "without"} {
		if got := getDeployment(t, ns, name).Spec.Template.Spec.Containers[0].Image; got != shop+"web:1.2.3" {
			t.Errorf("%s runs %s", name, got)
		}
	}
	changed, err := cluster.Client.BatchV1().CronJobs(ns).Get(t.Context(), "report", metav1.GetOptions{})
	if err != nil || changed.Spec.JobTemplate.Spec.Template.Spec.Containers[0].Image != shop+"report:2.0.0" {
		t.Errorf("the CronJob runs %+v, %v", changed.Spec.JobTemplate.Spec.Template.Spec.Containers, err)
	}
}

// Workloads that keel polls for are polled for, with their pull secret: what is
// new in a real registry is deployed, what is there already is not.
func TestImportKeelPolls(t *testing.T) {
	ns := namespace(t)
	registry := quietRegistry(t)
	for _, tag := range []string{"1.0.0", "1.1.0"} {
		if _, err := registry.PushImage(t.Context(), "shop/web", tag); err != nil {
			t.Fatal(err)
		}
	}
	g := gateTo(t, registry)
	g.lock("ci:hush")
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "regcred", Namespace: ns}, Type: corev1.SecretTypeDockerConfigJson,
		StringData: map[string]string{corev1.DockerConfigJsonKey: fmt.Sprintf(`{"auths": {%q: {"username": "ci", "password": "hush"}}}`, g.addr)},
	}
	if _, err := cluster.Client.CoreV1().Secrets(ns).Create(t.Context(), secret, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	newDeployment(t, ns, "web", corev1.Container{Name: "web", Image: g.addr + "/shop/web:1.0.0"})
	keelKeys(t, ns, "web", "", `"keel.sh/policy": "minor", "keel.sh/trigger": "poll", "keel.sh/pollSchedule": "@every 1s", "keel.sh/imagePullSecret": "regcred"`)

	d := prepare(t, "")
	says, config := importKeel(t, d, ns)
	if !strings.Contains(says, "What a registry has when it is first asked starts nothing") {
		t.Errorf("it says:\n%s", says)
	}
	useConfig(t, d, strings.Replace(config, "    pullSecret:", "    insecure: true\n    pullSecret:", 1)) // the registry of this test has no TLS
	d.start()
	eventually(t, "a whole pass", func() error {
		if _, passes := g.counted(); passes < 2 {
			return fmt.Errorf("%d passes have begun", passes)
		}
		return nil
	})
	for _, tag := range []string{"2.0.0", "1.2.0"} {
		if _, err := registry.PushImage(t.Context(), "shop/web", tag); err != nil {
			t.Fatal(err)
		}
	}
	rolledOut(t, ns, "web", g.addr+"/shop/web:1.2.0")
	for _, r := range d.ended() {
		if !strings.HasSuffix(r.Image, ":1.2.0") && r.State != "skipped" {
			t.Errorf("the run for %s is %s", r.Image, r.State)
		}
	}
}

// tooFar fails unless a push of another major version was left out.
func tooFar(t *testing.T, d *daemon, r reply) {
	t.Helper()
	d.ended()
	if run := d.show(r.Events[0].Runs[0]); run.State != "skipped" || !strings.Contains(run.Reason, "is of another major version than") {
		t.Errorf("another major version is %s: %s", run.State, run.Reason)
	}
}

// importKeel imports a namespace of the cluster into a file and gives it, with
// what was said about it.
func importKeel(t *testing.T, d *daemon, ns string) (says, config string) {
	t.Helper()
	out, err := d.command("import", "keel", "--namespace", ns, "--output", "imported.yaml").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	text, err := os.ReadFile(filepath.Join(d.dir, "imported.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	return string(out), string(text)
}

// useConfig has a daemon that is not started serve a configuration on ports
// of its own.
func useConfig(t *testing.T, d *daemon, config string) {
	t.Helper()
	const ports = "server:\n  listen: 127.0.0.1:0\n  admin: 127.0.0.1:0\n"
	if _, rest, ok := strings.Cut(config, "server:\n"); ok {
		config = ports + rest
	} else {
		config = ports + config
	}
	if err := os.WriteFile(filepath.Join(d.dir, "dockbell.yaml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
}

// A dockbell that follows keel does what the annotations say at each moment,
// also of workloads that it has never seen, and takes no push before it knows.
func TestFollowKeel(t *testing.T) {
	ns := namespace(t)
	const shop = "registry.example.com/shop/"
	newDeployment(t, ns, "web", corev1.Container{Name: "web", Image: shop + "web:1.2.3"})
	keelKeys(t, ns, "web", "", `"keel.sh/policy": "minor"`)
	d := serve(t, header+fmt.Sprintf("sources: {registry: {type: distribution, auth: none}}\nfollowKeel: {namespaces: [%s]}\n", ns))
	n := 0
	push := func(repository, tag string) reply {
		n++
		r, err := d.post("registry", distribution(fmt.Sprint("push-", n), "registry.example.com", repository, tag, digestOf(n), fmt.Sprintf("2026-11-21T10:00:%02dZ", n)))
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	// matched waits until a push makes a run, and knows what its absence means.
	matched := func(repository, tag string, before int) {
		t.Helper()
		eventually(t, repository+":"+tag+" makes a run", func() error {
			if r := push(repository, tag); r.Status != http.StatusAccepted {
				if r.Status != before {
					t.Errorf("%s:%s was answered %d, want %d before it makes a run", repository, tag, r.Status, before)
				}
				return fmt.Errorf("status %d: %+v", r.Status, r.Ignored)
			}
			return nil
		})
	}
	matched("shop/web", "1.3.0", http.StatusServiceUnavailable)
	rolledOut(t, ns, "web", shop+"web:1.3.0")
	tooFar(t, d, push("shop/web", "2.0.0"))

	keelKeys(t, ns, "web", "", `"keel.sh/policy": "all"`)
	eventually(t, "2.0.0 is not too far any more", func() error {
		r := push("shop/web", "2.0.0")
		d.ended()
		if run := d.show(r.Events[0].Runs[0]); run.State != "succeeded" {
			return fmt.Errorf("%s: %s", run.State, run.Reason)
		}
		return nil
	})
	rolledOut(t, ns, "web", shop+"web:2.0.0")

	newDeployment(t, ns, "new", corev1.Container{Name: "new", Image: shop + "new:main"})
	keelKeys(t, ns, "new", `"keel.sh/policy": "force", "keel.sh/match-tag": "true"`, "")
	matched("shop/new", "main", http.StatusOK)
	d.ended()
	if content := getDeployment(t, ns, "new").Spec.Template.Annotations["content.dockbell.dev/new"]; content != digestOf(n) {
		t.Errorf("the new one has content %q, want %s", content, digestOf(n))
	}

	keelKeys(t, ns, "new", `"keel.sh/policy": null`, "")
	eventually(t, "it is left alone", func() error {
		if r := push("shop/new", "main"); r.Status != http.StatusOK {
			return fmt.Errorf("status %d", r.Status)
		}
		return nil
	})
}
