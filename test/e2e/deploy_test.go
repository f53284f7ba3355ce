package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/dockbell/dockbell/test/parts"
)

const header = `
server: {listen: "127.0.0.1:0", admin: "127.0.0.1:0"}
store: sqlite:dockbell.db
`

// A push to a real registry changes a Deployment, which rolls out: for one
// image and for a multi-arch one, which the registry reports three times.
func TestPushToRolledOut(t *testing.T) {
	ns := namespace(t)
	newDeployment(t, ns, "web", corev1.Container{Name: "web", Image: "old/web:v0"})
	// The registry must know where to notify before dockbell knows the
	// registry's address, so dockbell's own is chosen here.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	registry, err := parts.StartRegistry(t.Context(), bin, t.TempDir(), "http://"+address+"/hooks/registry", "Bearer hush")
	if err != nil {
		t.Fatal(err)
	}
	defer registry.Stop()
	d := serve(t, fmt.Sprintf(`
server: {listen: %q, admin: "127.0.0.1:0"}
store: sqlite:dockbell.db
sources:
  registry: {type: distribution, auth: {bearer: {env: TOKEN}}}
rules:
  - name: web
    repo: %s/shop/web
    tag: 'v\d+'
    actions:
      - kubernetes: {target: deployment/web, namespace: %s, container: web}
`, address, registry.Addr, ns), "TOKEN=hush")

	digest, err := registry.PushImage(t.Context(), "shop/web", "v1")
	if err != nil {
		t.Fatal(err)
	}
	got := rolledOut(t, ns, "web", registry.Addr+"/shop/web:v1")
	if a := got.Spec.Template.Annotations["content.dockbell.dev/web"]; a != digest {
		t.Errorf("the pod template says content %q, want %q", a, digest)
	}
	if cause := got.Annotations["kubernetes.io/change-cause"]; !strings.Contains(cause, "shop/web:v1") || !strings.Contains(cause, "rule web") {
		t.Errorf("change-cause is %q", cause)
	}
	managed := false
	for _, m := range got.ManagedFields {
		managed = managed || m.Manager == "dockbell"
	}
	if !managed {
		t.Error("dockbell is not among the field managers")
	}

	if _, err := registry.PushIndex(t.Context(), "shop/web", "v2", "amd64", "arm64"); err != nil {
		t.Fatal(err)
	}
	rolledOut(t, ns, "web", registry.Addr+"/shop/web:v2")
	// Every notification has been answered once a later one has been.
	if _, err := registry.PushImage(t.Context(), "other/app", "v1"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the last push is known", func() error {
		var page struct{ Events []struct{ Repository string } }
		if d.get("/api/v1/events", &page); len(page.Events) == 0 || page.Events[0].Repository != "other/app" {
			return fmt.Errorf("%+v", page.Events)
		}
		return nil
	})
	if runs := d.ended(); len(runs) != 2 || runs[0].State != "succeeded" || runs[1].State != "succeeded" {
		t.Errorf("runs are %+v, want one for each of the two pushes", runs)
	}
}

// Each of the four senders, with its authentication, reaches its rule, and
// each kind of action is done.
func TestFourSenders(t *testing.T) {
	ns := namespace(t)
	for _, name := range []string{"registry", "aliyun", "hub", "azure"} {
		newDeployment(t, ns, name, corev1.Container{Name: "main", Image: "old/app:v0"})
	}
	var mu sync.Mutex
	received := map[string]string{}
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		received[r.URL.Path] = string(body)
		mu.Unlock()
	}))
	defer receiver.Close()
	var rules strings.Builder
	for _, name := range []string{"registry", "aliyun", "hub", "azure"} {
		fmt.Fprintf(&rules, `
  - name: %[1]s
    sources: [%[1]s]
    repo: "**"
    actions:
      - kubernetes: {target: deployment/%[1]s, namespace: %[2]s}
      - http: {url: "%[3]s/%[1]s", json: {image: "{{.Image}}", by: "{{.Actor}}"}}
      - command: {argv: [sh, -c, 'cat > $DOCKBELL_RULE.json && echo "$DOCKBELL_TAG"']}
`, name, ns, receiver.URL)
	}
	d := serve(t, header+`
sources:
  registry: {type: distribution, auth: {hmac: {secret: {env: TOKEN}, header: X-Signature, prefix: "sha256="}}}
  aliyun: {type: aliyun, auth: {token: {env: TOKEN}, header: X-Token}}
  hub: {type: dockerhub, auth: {basic: {username: hub, password: {env: TOKEN}}}}
  azure: {type: azure-eventgrid, auth: {token: {env: TOKEN}}}
rules:`+rules.String(), "TOKEN=hush")

	push := distribution("1", "registry.example.com", "shop/api", "v1", digestOf(1), "2026-11-21T08:00:00Z")
	senders := []struct {
		source, query, image string
		body                 []byte
		headers              []string
	}{
		{"registry", "", "registry.example.com/shop/api:v1", push, []string{"X-Signature", sign(push, "hush")}},
		{"aliyun", "", "registry.cn-hangzhou.aliyuncs.com/shop/api:v2", sample(t, "aliyun", "shop/api", "v2"), []string{"X-Token", "hush"}},
		{"hub", "", "docker.io/shop/api:v3", sample(t, "dockerhub", "shop/api", "v3"), []string{"Authorization", "Basic aHViOmh1c2g="}},
		{"azure", "?token=hush", "shop.azurecr.io/api:v4", sample(t, "azure-eventgrid", "api", "v4"), nil},
	}
	for _, s := range senders {
		if r := d.mustPost(http.StatusUnauthorized, s.source, s.body); len(r.Events) > 0 {
			t.Errorf("%s: an event of an unauthenticated delivery: %+v", s.source, r)
		}
		r := d.mustPost(http.StatusAccepted, s.source+s.query, s.body, s.headers...)
		if len(r.Events) != 1 || len(r.Events[0].Runs) != 3 {
			t.Errorf("%s: %+v, want one event with three runs", s.source, r)
		}
	}
	for _, r := range d.ended() {
		if r.State != "succeeded" {
			t.Errorf("run %s %s of %s is %s: %s", r.ID, r.Kind, r.Rule, r.State, r.Reason)
		}
		if r.Kind == "command" {
			_, tag, _ := strings.Cut(r.Image[strings.LastIndex(r.Image, "/"):], ":")
			if log := d.show(r.ID).Tries[0].Log; log != tag+"\n" {
				t.Errorf("command of %s printed %q, want its tag %s", r.Rule, log, tag)
			}
		}
	}
	for _, s := range senders {
		rolledOut(t, ns, s.source, s.image)
		var got struct{ Image string }
		if err := json.Unmarshal([]byte(received["/"+s.source]), &got); err != nil || got.Image != s.image {
			t.Errorf("%s: the receiver got %s", s.source, received["/"+s.source])
		}
		if stdin, err := os.ReadFile(d.dir + "/" + s.source + ".json"); err != nil || !strings.Contains(string(stdin), `"source":"`+s.source+`"`) {
			t.Errorf("%s: the command's input is %s, %v", s.source, stdin, err)
		}
	}
}

// Many versions at once end at the newest; one that arrives late changes
// nothing, and says why.
func TestNewestWins(t *testing.T) {
	ns := namespace(t)
	newDeployment(t, ns, "web", corev1.Container{Name: "web", Image: "registry.example.com/shop/web:v1.0.0"})
	d := serve(t, oneRule(ns))
	const last = 40
	for i := 1; i <= last; i++ {
		d.mustPost(http.StatusAccepted, "registry", version(i))
	}
	got := rolledOut(t, ns, "web", fmt.Sprintf("registry.example.com/shop/web:v1.%d.0", last))
	runs := d.ended()
	states := map[string]int{}
	for _, r := range runs {
		states[r.State]++
	}
	if states["succeeded"]+states["superseded"] != last || states["succeeded"] != int(got.Generation)-1 {
		t.Errorf("runs by state are %v and the Deployment changed %d times", states, got.Generation-1)
	}

	late := d.mustPost(http.StatusAccepted, "registry", distribution("late", "registry.example.com", "shop/web", "v1.7.1", digestOf(9999), "2026-11-21T10:00:00Z"))
	if r := d.show(late.Events[0].Runs[0]); r.State != "skipped" || !strings.Contains(r.Reason, "lower version") {
		t.Errorf("the late one is %s: %s", r.State, r.Reason)
	}
	if again := d.mustPost(http.StatusOK, "registry", version(last)); !strings.Contains(again.Events[0].Ignored, "already stands") {
		t.Errorf("a redelivery is %+v", again)
	}
	if after := getDeployment(t, ns, "web"); after.Generation != got.Generation {
		t.Errorf("the Deployment changed: %+v", after.Spec)
	}
}

// Somebody deployed a newer version by hand: the cluster itself holds against
// a step back, also for a dockbell without history.
func TestNewerInCluster(t *testing.T) {
	ns := namespace(t)
	newDeployment(t, ns, "web", corev1.Container{Name: "web", Image: "registry.example.com/shop/web:v2.0.0"})
	d := serve(t, oneRule(ns))
	d.mustPost(http.StatusAccepted, "registry", version(3))
	if r := d.ended()[0]; r.State != "skipped" || !strings.Contains(r.Reason, "v1.3.0 is a lower version than v2.0.0") {
		t.Errorf("the run is %s: %s", r.State, r.Reason)
	}
	if d := getDeployment(t, ns, "web"); d.Generation != 1 {
		t.Error("the Deployment changed")
	}
}

// A tag that moves makes new pods once for each content; pin: digest writes
// the digest; a StatefulSet and a DaemonSet are changed likewise.
func TestMovedTagAndPin(t *testing.T) {
	ns := namespace(t)
	newDeployment(t, ns, "web", corev1.Container{Name: "web", Image: "registry.example.com/shop/web:main"})
	newDeployment(t, ns, "pinned", corev1.Container{Name: "log", Image: "log:1"}, corev1.Container{Name: "web", Image: "registry.example.com/shop/web:main"})
	d := serve(t, header+fmt.Sprintf(`
sources: {registry: {type: distribution, auth: none}}
rules:
  - name: main
    repo: registry.example.com/shop/web
    tag: main
    actions:
      - kubernetes: {target: deployment/web, namespace: %[1]s}
      - kubernetes: {target: deployment/pinned, namespace: %[1]s, container: web, pin: digest}
  - name: not-there
    repo: registry.example.com/shop/web
    actions:
      - kubernetes: {target: deployment/pinned, namespace: %[1]s}
      - kubernetes: {target: statefulset/none, namespace: %[1]s}
`, ns))
	at := func(i int) string { return time.Date(2026, 11, 21, 8, i, 0, 0, time.UTC).Format(time.RFC3339) }
	moved := func(i int) []byte {
		return distribution(fmt.Sprint("moved-", i), "registry.example.com", "shop/web", "main", digestOf(i), at(i))
	}
	for i := 1; i <= 3; i++ {
		d.mustPost(http.StatusAccepted, "registry", moved(i))
		d.ended()
		// A redelivery tries again what has failed, and nothing else.
		d.mustPost(http.StatusAccepted, "registry", moved(i))
		d.ended()
		if n := len(d.runs("&rule=main")); n != 2*i {
			t.Errorf("after move %d the rule has %d runs, want %d", i, n, 2*i)
		}
		got := rolledOut(t, ns, "web", "registry.example.com/shop/web:main")
		if got.Generation != int64(1+i) || got.Spec.Template.Annotations["content.dockbell.dev/web"] != digestOf(i) {
			t.Errorf("after move %d: generation %d, content %s", i, got.Generation, got.Spec.Template.Annotations)
		}
		if image := getDeployment(t, ns, "pinned").Spec.Template.Spec.Containers[1].Image; image != "registry.example.com/shop/web:main@"+digestOf(i) {
			t.Errorf("after move %d the pinned one runs %s", i, image)
		}
	}
	for _, r := range d.runs("&rule=not-there&state=failed") {
		if want := map[string]string{"deployment": "it has 2 containers, log, web", "statefulset": "there is none"}[r.Target[:strings.IndexByte(r.Target, ' ')]]; !strings.Contains(r.Reason, want) {
			t.Errorf("%s failed with %q, want %q", r.Target, r.Reason, want)
		}
	}
	if n := len(d.runs("&rule=not-there&state=failed")); n != 12 {
		t.Errorf("%d runs failed, want 12", n)
	}
}

// Others change the same Deployment all the time: nothing of theirs is lost.
func TestConcurrentEditors(t *testing.T) {
	ns := namespace(t)
	newDeployment(t, ns, "web", corev1.Container{Name: "web", Image: "registry.example.com/shop/web:v1.0.0"})
	d := serve(t, oneRule(ns))
	const edits = 25
	apps := cluster.Client.AppsV1().Deployments(ns)
	var editors sync.WaitGroup
	for _, edit := range []func(i int, c *corev1.Container, replicas *int32){
		func(i int, _ *corev1.Container, replicas *int32) { *replicas = int32(i) },
		func(i int, c *corev1.Container, _ *int32) {
			c.Env = append(c.Env, corev1.EnvVar{Name: fmt.Sprintf("EDIT_%d", i), Value: "kept"})
		},
	} {
		editors.Go(func() {
			for i := 1; i <= edits; {
				dep, err := apps.Get(t.Context(), "web", metav1.GetOptions{})
				if err != nil {
					t.Error(err)
					return
				}
				edit(i, &dep.Spec.Template.Spec.Containers[0], dep.Spec.Replicas)
				if _, err := apps.Update(t.Context(), dep, metav1.UpdateOptions{}); err == nil {
					i++
				}
			}
		})
	}
	for i := 1; i <= edits; i++ {
		d.mustPost(http.StatusAccepted, "registry", version(i))
		d.ended()
	}
	editors.Wait()
	got := rolledOut(t, ns, "web", fmt.Sprintf("registry.example.com/shop/web:v1.%d.0", edits))
	if *got.Spec.Replicas != edits {
		t.Errorf("replicas are %d, want %d", *got.Spec.Replicas, edits)
	}
	if env := got.Spec.Template.Spec.Containers[0].Env; len(env) != edits {
		t.Errorf("%d of %d variables survived", len(env), edits)
	}
}

// The API server is away while events come: each is deployed when it is back.
func TestAPIServerOutage(t *testing.T) {
	ns := namespace(t)
	const workloads = 10
	var rules strings.Builder
	for i := range workloads {
		name := fmt.Sprintf("app-%d", i)
		newDeployment(t, ns, name, corev1.Container{Name: "main", Image: "registry.example.com/shop/" + name + ":v1.0.0"})
		fmt.Fprintf(&rules, "\n  - {name: %[1]s, repo: registry.example.com/shop/%[1]s, actions: [{kubernetes: {target: deployment/%[1]s, namespace: %[2]s}}]}", name, ns)
	}
	d := serve(t, header+"sources: {registry: {type: distribution, auth: none}}\nrules:"+rules.String())
	send := func(i, v int) {
		d.mustPost(http.StatusAccepted, "registry", distribution(fmt.Sprintf("%d-%d", i, v), "registry.example.com", fmt.Sprintf("shop/app-%d", i), fmt.Sprintf("v1.%d.0", v), digestOf(100*i+v), "2026-11-21T08:00:00Z"))
	}
	for i := range workloads / 2 {
		send(i, 1) // half of them are watched when the server goes
	}
	d.ended()
	cluster.StopAPIServer()
	for i := range workloads {
		send(i, 2)
	}
	eventually(t, "the runs have failed once", func() error {
		if waiting := d.runs("&state=waiting"); len(waiting) != workloads || waiting[0].Attempt == 0 {
			return fmt.Errorf("%d wait", len(waiting))
		}
		return nil
	})
	if r := d.runs("&state=waiting")[0]; !strings.Contains(r.Reason, "cannot reach the API server") {
		t.Errorf("a waiting run says %q", r.Reason)
	}
	if err := cluster.StartAPIServer(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i := range workloads {
		rolledOut(t, ns, fmt.Sprintf("app-%d", i), fmt.Sprintf("registry.example.com/shop/app-%d:v1.2.0", i))
	}
}

// A Role with the four verbs is enough; without it the run says which rule of
// a Role is missing.
func TestRights(t *testing.T) {
	ns := namespace(t)
	newDeployment(t, ns, "web", corev1.Container{Name: "web", Image: "registry.example.com/shop/web:v1.0.0"})
	guest, err := cluster.GuestKubeconfig()
	if err != nil {
		t.Fatal(err)
	}
	d := serve(t, oneRule(ns)+fmt.Sprintf("clusters: {default: {kubeconfig: %q}}\n", guest))
	d.mustPost(http.StatusAccepted, "registry", version(1))
	if r := d.ended()[0]; r.State != "failed" || !strings.Contains(r.Reason, "a Role in namespace "+ns+" must allow get, list, watch and patch on deployments.apps") {
		t.Errorf("without rights the run is %s: %s", r.State, r.Reason)
	}
	role := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "dockbell"}, Rules: []rbacv1.PolicyRule{{APIGroups: []string{"apps"}, Resources: []string{"deployments"}, Verbs: []string{"get", "list", "watch", "patch"}}}}
	binding := &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "dockbell"}, Subjects: []rbacv1.Subject{{Kind: "User", Name: parts.Guest}}, RoleRef: rbacv1.RoleRef{Kind: "Role", Name: "dockbell"}}
	if _, err := cluster.Client.RbacV1().Roles(ns).Create(t.Context(), role, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := cluster.Client.RbacV1().RoleBindings(ns).Create(t.Context(), binding, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for i := 2; ; i++ { // RBAC takes a moment to know
		d.mustPost(http.StatusAccepted, "registry", version(i))
		if r := d.ended()[0]; r.State == "succeeded" {
			break
		} else if i > 100 {
			t.Fatalf("with the Role the run is %s: %s", r.State, r.Reason)
		}
	}
}

// Without a cluster the daemon starts, and the run waits and says why.
func TestNoCluster(t *testing.T) {
	d := serve(t, oneRule("nowhere")+"clusters: {default: {kubeconfig: /does/not/exist}}\n")
	d.mustPost(http.StatusAccepted, "registry", version(1))
	eventually(t, "the run has failed once", func() error {
		if r := d.runs("")[0]; r.State != "waiting" || !strings.Contains(r.Reason, "/does/not/exist") {
			return fmt.Errorf("%s: %s", r.State, r.Reason)
		}
		return nil
	})
}

// oneRule deploys registry.example.com/shop/web to deployment/web.
func oneRule(ns string) string {
	return header + fmt.Sprintf(`
sources: {registry: {type: distribution, auth: none}}
rules:
  - name: web
    repo: registry.example.com/shop/web
    actions:
      - kubernetes: {target: deployment/web, namespace: %s, container: web}
`, ns)
}

// version is the push of v1.N.0, N minutes after eight.
func version(n int) []byte {
	at := time.Date(2026, 11, 21, 8, n, 0, 0, time.UTC).Format(time.RFC3339)
	return distribution(fmt.Sprint("version-", n), "registry.example.com", "shop/web", fmt.Sprintf("v1.%d.0", n), digestOf(n), at)
}
