package e2e

import (
	"fmt"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/dockbell/dockbell/test/parts"
)

const shop = "registry.example.com/shop/web:"

// oneRollout is a rule that waits for deployment/web. What the Deployment says
// about progress ends the waits of these tests, not their limit.
func oneRollout(ns, target, keys string) string {
	return header + fmt.Sprintf(`
sources: {registry: {type: distribution, auth: none}}
rules:
  - name: web
    repo: registry.example.com/shop/web
    actions:
      - kubernetes: {target: %s, namespace: %s, container: web, %s}
`, target, ns, keys)
}

// patient makes a Deployment that says after so many seconds that it makes no
// progress.
func patient(t *testing.T, ns string, seconds int32) {
	t.Helper()
	replicas := int32(2)
	d := &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: ns},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}, ProgressDeadlineSeconds: &seconds,
			Template: template("web", corev1.Container{Name: "web", Image: shop + "v1.0.0"}),
		},
	}
	if _, err := cluster.Client.AppsV1().Deployments(ns).Create(t.Context(), d, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	rolledOut(t, ns, "web", shop+"v1.0.0")
}

// pushTag is the push of a tag, with a digest of its own.
func pushTag(tag string, digest int) []byte {
	return distribution(fmt.Sprint(tag, "/", time.Now().UnixNano()), "registry.example.com", "shop/web", tag, digestOf(digest), time.Now().UTC().Format(time.RFC3339Nano))
}

// pods gives the names of the pods that are not about to go.
func pods(t *testing.T, ns string) (names []string) {
	t.Helper()
	list, err := cluster.Client.CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range list.Items {
		if p.DeletionTimestamp == nil {
			names = append(names, p.Name)
		}
	}
	return names
}

// run calls the program against the daemon.
func (d *daemon) run(args ...string) {
	d.t.Helper()
	cmd := exec.Command(program, args...)
	cmd.Dir, cmd.Env = d.dir, append(slices.Clip(d.env), "DOCKBELL_SERVER="+d.admin)
	if out, err := cmd.CombinedOutput(); err != nil {
		d.t.Fatalf("%v: %v\n%s", args, err, out)
	}
}

// waits waits until a run is in the middle of waiting for its rollout.
func (d *daemon) waits(ns, image string) {
	d.t.Helper()
	eventually(d.t, "the rollout of "+image+" has begun", func() error {
		if got := getDeployment(d.t, ns, "web").Spec.Template.Spec.Containers[0].Image; got != image {
			return fmt.Errorf("it runs %s", got)
		}
		if running := d.runs("&state=running"); len(running) != 1 {
			return fmt.Errorf("running: %+v", running)
		}
		return nil
	})
}

// stuck is a daemon in the middle of a rollout that does not come up: its image
// cannot be had. The controller gives it up after so many seconds.
func stuck(t *testing.T, ns string, seconds int32) *daemon {
	t.Helper()
	patient(t, ns, seconds)
	d := serve(t, oneRollout(ns, "deployment/web", "wait: 2m, rollback: true"))
	d.mustPost(http.StatusAccepted, "registry", pushTag("v1.1.0-noimage", 1))
	d.waits(ns, shop+"v1.1.0-noimage")
	return d
}

// A good image comes up and the run says how long that took. A bad one does
// not: what ran before is put back, with the pods from before, and the digest
// is not tried again before a person releases it.
func TestRolloutRollback(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	patient(t, ns, 2)
	d := serve(t, strings.Replace(oneRollout(ns, "deployment/web", "wait: 2m, rollback: true"), "server: {", "server: {token: {env: TOKEN}, ", 1), "TOKEN=hush", "DOCKBELL_TOKEN=hush")
	d.mustPost(http.StatusAccepted, "registry", pushTag("v1.1.0", 1))
	r := d.ended()[0]
	if log := d.show(r.ID).Tries[0].Log; r.State != "succeeded" || !strings.Contains(log, "rollout over after ") || !strings.Contains(log, "2 of 2 pods updated, 2 available, 0 from before left") {
		t.Fatalf("the good one is %s (%s): %s", r.State, r.Reason, log)
	}
	good := rolledOut(t, ns, "web", shop+"v1.1.0")
	before := pods(t, ns)

	for i, bad := range []struct{ tag, why string }{
		{"v1.2.0-noimage", `container web: ImagePullBackOff: Back-off pulling image "` + shop + `v1.2.0-noimage"`},
		{"v1.2.0-crash", "container web: CrashLoopBackOff, last exit code 3 (Error): no database"},
	} {
		digest := 2 + i
		d.mustPost(http.StatusAccepted, "registry", pushTag(bad.tag, digest))
		r := d.ended()[0]
		if r.State != "rolled-back" {
			t.Fatalf("%s is %s: %s", bad.tag, r.State, r.Reason)
		}
		for _, part := range []string{shop + bad.tag + " does not come up: it made no progress for as long as progressDeadlineSeconds allows, 2 s", "pod web-", bad.why, shop + "v1.1.0 is put back"} {
			if !strings.Contains(r.Reason, part) {
				t.Errorf("%s: %q is not in %q", bad.tag, part, r.Reason)
			}
		}
		got := rolledOut(t, ns, "web", shop+"v1.1.0")
		if have, want := got.Spec.Template.Annotations["content.dockbell.dev/web"], good.Spec.Template.Annotations["content.dockbell.dev/web"]; have != want {
			t.Errorf("%s: the content is %s, want %s as before", bad.tag, have, want)
		}
		if a := got.Annotations["pushed.dockbell.dev/web"]; a != good.Annotations["pushed.dockbell.dev/web"] {
			t.Errorf("%s: pushed is %s, want what it was", bad.tag, a)
		}
		eventually(t, "the pods from before are left", func() error {
			if after := pods(t, ns); !slices.Equal(before, after) {
				return fmt.Errorf("%v, want %v", after, before)
			}
			return nil
		})
		again := d.mustPost(http.StatusAccepted, "registry", pushTag(bad.tag, digest))
		if r := d.show(again.Events[0].Runs[0]); r.State != "skipped" || !strings.Contains(r.Reason, "the digest is held by dockbell") {
			t.Errorf("%s again is %s: %s", bad.tag, r.State, r.Reason)
		}
	}

	d.run("release", "2", "--by", "anna")
	d.mustPost(http.StatusAccepted, "registry", pushTag("v1.2.0-crash", 3))
	if r := d.ended()[0]; r.State != "rolled-back" || r.Attempt != 1 {
		t.Errorf("after its release it is %s: %s", r.State, r.Reason)
	}
	d.run("release", "3", "--by", "anna")
	first := d.runs("&state=rolled-back")[0]
	d.run("runs", "retry", first.ID, "--by", "anna") // the same run, tried anew
	if r := d.ended()[0]; r.State != "rolled-back" || r.Attempt != 2 || getDeployment(t, ns, "web").Generation < 8 {
		t.Errorf("tried anew it is %s in try %d, generation %d", r.State, r.Attempt, getDeployment(t, ns, "web").Generation)
	}
	d.mustPost(http.StatusAccepted, "registry", pushTag("v1.3.0", 9))
	rolledOut(t, ns, "web", shop+"v1.3.0")
	if r := d.ended()[0]; r.State != "succeeded" {
		t.Errorf("the next good one is %s: %s", r.State, r.Reason)
	}
}

// Without rollback the bad image stays, and is held all the same.
func TestRolloutFails(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	patient(t, ns, 2)
	d := serve(t, oneRollout(ns, "deployment/web", "wait: 2m"))
	d.mustPost(http.StatusAccepted, "registry", pushTag("v1.1.0-noimage", 1))
	if r := d.ended()[0]; r.State != "failed" || !strings.Contains(r.Reason, "ImagePullBackOff") {
		t.Errorf("it is %s: %s", r.State, r.Reason)
	}
	d.mustPost(http.StatusAccepted, "registry", pushTag("v1.1.0-noimage", 1))
	if r := d.ended()[0]; r.State != "skipped" {
		t.Errorf("again it is %s: %s", r.State, r.Reason)
	}
	if got := getDeployment(t, ns, "web"); got.Spec.Template.Spec.Containers[0].Image != shop+"v1.1.0-noimage" || got.Generation != 2 {
		t.Errorf("generation %d runs %s", got.Generation, got.Spec.Template.Spec.Containers[0].Image)
	}
	kubectlShows(t, ns, corev1.EventTypeWarning, "RolloutFailed", "ImagePullBackOff")
}

// The limit of the rule ends the wait where the controller would go on.
func TestRolloutOver(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	newDeployment(t, ns, "web", corev1.Container{Name: "web", Image: shop + "v1.0.0"})
	d := serve(t, oneRollout(ns, "deployment/web", "wait: 2s, rollback: true"))
	d.mustPost(http.StatusAccepted, "registry", pushTag("v1.1.0-crash", 1))
	if r := d.ended()[0]; r.State != "rolled-back" || !strings.Contains(r.Reason, "it is not rolled out after 2s") {
		t.Errorf("it is %s: %s", r.State, r.Reason)
	}
	rolledOut(t, ns, "web", shop+"v1.0.0")
}

// dockbell is killed while it waits: the next one goes on waiting for what was
// begun, and undoes it.
func TestRolloutSurvivesKill(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	d := stuck(t, ns, 20)
	d.kill()
	d.start()
	r := d.ended()[0]
	if log := d.show(r.ID).Tries[1].Log; r.State != "rolled-back" || r.Attempt != 2 || !strings.Contains(log, "an earlier try began the rollout of "+shop+"v1.1.0-noimage") {
		t.Errorf("it is %s after try %d: %s", r.State, r.Attempt, log)
	}
	if got := rolledOut(t, ns, "web", shop+"v1.0.0"); got.Generation != 3 {
		t.Errorf("it was changed %d times, want 2", got.Generation-1)
	}
}

// Somebody changes the image while dockbell waits: it is theirs.
func TestRolloutOfSomebodyElse(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	d := stuck(t, ns, 600)
	eventually(t, "the image is changed", func() error {
		theirs := getDeployment(t, ns, "web")
		theirs.Spec.Template.Spec.Containers[0].Image = shop + "hotfix"
		_, err := cluster.Client.AppsV1().Deployments(ns).Update(t.Context(), theirs, metav1.UpdateOptions{})
		return err
	})
	if r := d.ended()[0]; r.State != "failed" || !strings.Contains(r.Reason, "somebody else has changed container web, which runs "+shop+"hotfix now") {
		t.Errorf("it is %s: %s", r.State, r.Reason)
	}
	rolledOut(t, ns, "web", shop+"hotfix")
	again := d.mustPost(http.StatusAccepted, "registry", pushTag("v1.1.0-noimage", 1))
	if r := d.show(again.Events[0].Runs[0]); r.State != "skipped" {
		t.Errorf("again it is %s: %s", r.State, r.Reason)
	}
}

// The API server goes away while dockbell waits, which is no reason to undo.
func TestRolloutOutage(t *testing.T) {
	ns := namespace(t)
	newDeployment(t, ns, "web", corev1.Container{Name: "web", Image: shop + "v1.0.0"})
	rolledOut(t, ns, "web", shop+"v1.0.0")
	slow := getDeployment(t, ns, "web")
	slow.Spec.MinReadySeconds = 3 // the rollout takes that long at least
	if _, err := cluster.Client.AppsV1().Deployments(ns).Update(t.Context(), slow, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	d := serve(t, oneRollout(ns, "deployment/web", "wait: 2m, rollback: true"))
	d.mustPost(http.StatusAccepted, "registry", pushTag("v1.1.0", 1))
	d.waits(ns, shop+"v1.1.0")
	cluster.StopAPIServer()
	if err := cluster.StartAPIServer(t.Context()); err != nil {
		t.Fatal(err)
	}
	rolledOut(t, ns, "web", shop+"v1.1.0")
	if r := d.ended()[0]; r.State != "succeeded" || r.Attempt != 1 {
		t.Errorf("it is %s in try %d: %s", r.State, r.Attempt, r.Reason)
	}
}

// A StatefulSet is followed too. It waits for pods that are broken, which the
// outcome says, with what to do. A DaemonSet that is OnDelete has no rollout.
func TestRolloutOfOtherKinds(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	apps := cluster.Client.AppsV1()
	replicas := int32(2)
	web := template("web", corev1.Container{Name: "web", Image: shop + "v1.0.0"})
	selector := &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}
	set := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: ns}, Spec: appsv1.StatefulSetSpec{Replicas: &replicas, Selector: selector, Template: web}}
	if _, err := apps.StatefulSets(ns).Create(t.Context(), set, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	d := serve(t, oneRollout(ns, "statefulset/web", "wait: 30s, rollback: true"))
	d.mustPost(http.StatusAccepted, "registry", pushTag("v1.1.0", 1))
	r := d.ended()[0]
	if log := d.show(r.ID).Tries[0].Log; r.State != "succeeded" || !strings.Contains(log, "2 of 2 pods updated, 2 of 2 available") {
		t.Errorf("it is %s (%s): %s", r.State, r.Reason, log)
	}
	d.stop()

	d = serve(t, oneRollout(ns, "statefulset/web", "wait: 5s, rollback: true"))
	d.mustPost(http.StatusAccepted, "registry", pushTag("v1.2.0-crash", 2))
	r = d.ended()[0]
	if r.State != "rolled-back" || !strings.Contains(r.Reason, "kubectl delete pod -n "+ns+" web-1") {
		t.Errorf("it is %s: %s", r.State, r.Reason)
	}
	if err := cluster.Client.CoreV1().Pods(ns).Delete(t.Context(), "web-1", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the StatefulSet is back", func() error {
		got, err := apps.StatefulSets(ns).Get(t.Context(), "web", metav1.GetOptions{})
		if err == nil && (got.Status.UpdatedReplicas != replicas || got.Status.AvailableReplicas != replicas || got.Spec.Template.Spec.Containers[0].Image != shop+"v1.1.0") {
			err = fmt.Errorf("%+v", got.Status)
		}
		return err
	})

	selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "each"}}
	each := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: ns}, Spec: appsv1.DaemonSetSpec{
		Selector: selector, Template: template("each", corev1.Container{Name: "web", Image: shop + "v1.0.0"}), UpdateStrategy: appsv1.DaemonSetUpdateStrategy{Type: appsv1.OnDeleteDaemonSetStrategyType},
	}}
	if _, err := apps.DaemonSets(ns).Create(t.Context(), each, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	d = serve(t, oneRollout(ns, "daemonset/web", "wait: 30s, rollback: true"))
	d.mustPost(http.StatusAccepted, "registry", pushTag("v1.2.0-crash", 2))
	r = d.ended()[0]
	if log := d.show(r.ID).Tries[0].Log; r.State != "succeeded" || !strings.Contains(log, "OnDelete") {
		t.Errorf("it is %s (%s): %s", r.State, r.Reason, log)
	}
}

// Without the right to list pods a rollout is followed and undone all the
// same, and the outcome says which right is missing.
func TestRolloutRights(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	patient(t, ns, 2)
	stranger, err := cluster.User(parts.Stranger)
	if err != nil {
		t.Fatal(err)
	}
	role := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "deployer"}, Rules: []rbacv1.PolicyRule{{APIGroups: []string{"apps"}, Resources: []string{"deployments"}, Verbs: []string{"get", "patch"}}}}
	binding := &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "deployer"}, Subjects: []rbacv1.Subject{{Kind: "User", Name: parts.Stranger}}, RoleRef: rbacv1.RoleRef{Kind: "Role", Name: "deployer"}}
	if _, err := cluster.Client.RbacV1().Roles(ns).Create(t.Context(), role, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := cluster.Client.RbacV1().RoleBindings(ns).Create(t.Context(), binding, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	d := serve(t, oneRollout(ns, "deployment/web", "wait: 2m, rollback: true")+fmt.Sprintf("clusters: {default: {kubeconfig: %q}}\n", stranger))
	for i := 1; ; i++ { // RBAC takes a moment to know
		d.mustPost(http.StatusAccepted, "registry", pushTag(fmt.Sprintf("v1.%d.0-noimage", i), i))
		r := d.ended()[0]
		if r.State == "failed" && strings.Contains(r.Reason, "must allow get, list, watch and patch") && i < 100 {
			continue
		}
		if r.State != "rolled-back" || !strings.Contains(r.Reason, "to know about its pods, a Role in namespace "+ns+" must allow list on pods") {
			t.Errorf("it is %s: %s", r.State, r.Reason)
		}
		break
	}
	rolledOut(t, ns, "web", shop+"v1.0.0")
}
