package k8s

import (
	"errors"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/dockbell/dockbell/trigger"
)

// crowd is a pod with images in containers, init containers and volumes, two
// of them of one name.
func crowd() *corev1.PodTemplateSpec {
	t := pod(nil, shop+"v1.0.0", "registry:5000/shop/web:v1.0.0", "log:1")
	t.Spec.InitContainers = []corev1.Container{{Name: "init", Image: shop + "v1.0.0"}}
	for _, v := range []struct{ name, image string }{{"a", shop + "v1.0.0"}, {"assets", shop + "v2.0.0"}, {"empty", ""}} {
		volume := corev1.Volume{Name: v.name}
		if v.image != "" {
			volume.Image = &corev1.ImageVolumeSource{Reference: v.image}
		}
		t.Spec.Volumes = append(t.Spec.Volumes, volume)
	}
	return t
}

func TestPick(t *testing.T) {
	for _, test := range []struct {
		name, container, repository string
		ids                         string // of what is changed
		left, err                   string
		skip                        bool
	}{
		{name: "by name", container: "b", ids: "b"},
		{name: "by name, another repository", container: "c", ids: "c"},
		{name: "an init container", container: "init", ids: "init"},
		{name: "a container before a volume of its name", container: "a", ids: "a"},
		{name: "a volume", container: "assets", err: "v1.1.0 is a lower version than v2.0.0", skip: true},
		{name: "all that run it, those that are newer are left", container: "*", ids: "a b init volume/a", left: "volume assets runs " + shop + "v2.0.0, and v1.1.0 is a lower version than v2.0.0"},
		{name: "a pattern", container: "[ab]", ids: "a b volume/a"},
		{name: "a pattern that meets nobody", container: "x*", err: `it has no container like "x*"; it has a, b, c, init, a, assets`},
		{name: "a pattern that meets others only", container: "c*", err: `nothing like "c*" in it runs registry.example.com/shop/web: container c runs log:1`, skip: true},
		{name: "nobody of that name", container: "empty", err: `it has no container "empty"; it has a, b, c, init, a, assets`},
		{name: "no name", err: "it has 3 containers, a, b, c: name one with `container`"},
	} {
		t.Run(test.name, func(t *testing.T) {
			ch, err := planned(t, deploySpec{Container: test.container}, nil, crowd(), trigger.Aliases{"registry:5000": "registry.example.com"}, run("v1.1.0", digest1))
			if test.err != "" {
				var skip *trigger.SkipError
				if err == nil || !strings.Contains(err.Error(), test.err) || errors.As(err, &skip) != test.skip {
					t.Errorf("%v, want %s", err, test.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var ids []string
			for _, turn := range ch.turns {
				ids = append(ids, turn.Slot)
			}
			if got := strings.Join(ids, " "); got != test.ids || strings.Join(ch.left, "; ") != test.left {
				t.Errorf("changes %s and leaves %q, want %s and %q", got, ch.left, test.ids, test.left)
			}
		})
	}
}

// A container alone is meant without a name, whatever else has an image.
func TestPickTheOnly(t *testing.T) {
	template := crowd()
	template.Spec.Containers = template.Spec.Containers[:1]
	ch, err := planned(t, deploySpec{}, nil, template, nil, run("v1.1.0", digest1))
	if err != nil || len(ch.turns) != 1 || ch.turns[0].Slot != "a" {
		t.Errorf("%+v, %v", ch, err)
	}
	template.Spec.Containers = nil
	if _, err := planned(t, deploySpec{}, nil, template, nil, run("v1.1.0", digest1)); err == nil || err.Error() != "it has no containers" {
		t.Errorf("without any: %v", err)
	}
}

// Each of several slots is tested by itself, and a volume has notes of its own.
func TestPatchSlots(t *testing.T) {
	ch, err := planned(t, deploySpec{Container: "a*"}, map[string]string{"mine": "kept"}, crowd(), nil, func() trigger.Run { r := run("v1.1.0", digest1); r.Ordered = false; return r }())
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]any{}
	for _, o := range ch.ops {
		have[o.Op+" "+o.Path] = o.Value
	}
	for path, want := range map[string]any{
		"test /spec/template/spec/containers/0/name":              "a",
		"test /spec/template/spec/containers/0/image":             shop + "v1.0.0",
		"replace /spec/template/spec/containers/0/image":          shop + "v1.1.0",
		"test /spec/template/spec/volumes/0/name":                 "a",
		"test /spec/template/spec/volumes/0/image/reference":      shop + "v1.0.0",
		"replace /spec/template/spec/volumes/0/image/reference":   shop + "v1.1.0",
		"replace /spec/template/spec/volumes/1/image/reference":   shop + "v1.1.0",
		"add /metadata/annotations/pushed.dockbell.dev~1a":        "v1.1.0@2026-11-21T12:00:00Z",
		"add /metadata/annotations/pushed.volume.dockbell.dev~1a": "v1.1.0@2026-11-21T12:00:00Z",
	} {
		if have[path] != want {
			t.Errorf("%s is %v, want %v", path, have[path], want)
		}
	}
	if want := "a: " + shop + "v1.0.0 -> " + shop + "v1.1.0; volume/a: "; !strings.HasPrefix(ch.String(), want) {
		t.Errorf("it is told as %s", ch)
	}
}

// Every kind shows its slots, at the place where they are. What nobody looks at
// is not kept.
func TestView(t *testing.T) {
	template := crowd()
	template.Annotations = map[string]string{"content.dockbell.dev/a": digest1}
	template.Spec.Containers[0].Command = []string{"serve"}
	meta := metav1.ObjectMeta{
		Name: "web", Namespace: "prod", ResourceVersion: "5", Annotations: map[string]string{lastApplied: "{}", "mine": "kept"},
		ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "gitops"}},
	}
	yes := true
	asTree := func(kind string, o any) runtime.Object {
		m, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
		if err != nil {
			t.Fatal(err)
		}
		m["kind"] = kind
		return &unstructured.Unstructured{Object: m}
	}
	deployment := &appsv1.Deployment{ObjectMeta: meta, Spec: appsv1.DeploymentSpec{Template: *template, Paused: true}}
	for name, test := range map[string]struct {
		object   runtime.Object
		pointer  string
		idle     bool
		template bool
	}{
		"deployment":                  {deployment, "/spec/template/spec/volumes/0/image/reference", true, true},
		"statefulset":                 {&appsv1.StatefulSet{ObjectMeta: meta, Spec: appsv1.StatefulSetSpec{Template: *template}}, "/spec/template/spec/volumes/0/image/reference", false, true},
		"daemonset":                   {&appsv1.DaemonSet{ObjectMeta: meta, Spec: appsv1.DaemonSetSpec{Template: *template}}, "/spec/template/spec/volumes/0/image/reference", false, true},
		"cronjob":                     {&batchv1.CronJob{ObjectMeta: meta, Spec: batchv1.CronJobSpec{Suspend: &yes, JobTemplate: batchv1.JobTemplateSpec{Spec: batchv1.JobSpec{Template: *template}}}}, "/spec/jobTemplate/spec/template/spec/volumes/0/image/reference", true, true},
		"rollout.argoproj.io":         {asTree("Rollout", deployment), "/spec/template/spec/volumes/0/image/reference", true, true},
		"service.serving.knative.dev": {asTree("Service", deployment), "/spec/template/spec/volumes/0/image/reference", false, true},
		"tool.example.com":            {asTree("Tool", deployment), "", false, false},
	} {
		k, ok := kindOf(name)
		if !ok {
			t.Fatalf("there is no %s", name)
		}
		kept, err := k.slim(test.object)
		if err != nil {
			t.Fatal(err)
		}
		w := kept.(*workload)
		if w.ManagedFields != nil || w.Annotations[lastApplied] != "" || w.Annotations["mine"] != "kept" || (w.idle != "") != test.idle {
			t.Errorf("%s keeps %+v", name, w)
		}
		s, has := w.slot("volume/a")
		if has != test.template || has && (s.place(k).pointer != test.pointer || w.content(k, w.slots[0]) != digest1 || describe(w.slots, slot.named) != "a, b, c, init, a, assets") {
			t.Errorf("%s: %s at %s, content %s", name, s, s.place(k).pointer, w.content(k, w.slots[0]))
		}
		if again, err := k.slim(w); again != any(w) || err != nil {
			t.Errorf("%s: what is slim already becomes %v, %v", name, again, err)
		}
	}
}

// A kind may be named with its group, as kubectl does.
func TestKindOf(t *testing.T) {
	for name, want := range map[string]string{
		"deployment": "deployment", "deployment.apps": "deployment", "cronjob.batch": "cronjob", "rollout.argoproj.io": "rollout.argoproj.io",
		"tool.example.com": "tool.example.com", "deployment.batch": "deployment.batch", "pod": "", "Tool.example.com": "", "tool.": "", "": "",
	} {
		if k, ok := kindOf(name); k.name != want || ok != (want != "") {
			t.Errorf("%s is %q, %v", name, k.name, ok)
		}
	}
}

// Every change that a watch tells of is made slim first.
func BenchmarkSlim(b *testing.B) {
	k, _ := kindOf("deployment")
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "prod", Labels: map[string]string{"app": "web"}}, Spec: appsv1.DeploymentSpec{Template: *crowd()}}
	for b.Loop() {
		if _, err := k.slim(d); err != nil {
			b.Fatal(err)
		}
	}
}

// The fields of an object that is applied, and that dockbell has written, are
// looked at for each of its slots.
func BenchmarkSlimManaged(b *testing.B) {
	k, _ := kindOf("deployment")
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{
		Name: "web", Namespace: "prod", Labels: map[string]string{"app": "web"},
		Annotations: map[string]string{"image.dockbell.dev/a": shop + "v1.0.0", "image.dockbell.dev/b": shop + "v1.0.0"},
	}, Spec: appsv1.DeploymentSpec{Template: *crowd()}}
	one := `{".":{},"f:image":{},"f:imagePullPolicy":{},"f:livenessProbe":{"f:httpGet":{"f:path":{},"f:port":{}},"f:periodSeconds":{}},"f:name":{},` +
		`"f:ports":{".":{},"k:{\"containerPort\":8080,\"protocol\":\"TCP\"}":{".":{},"f:containerPort":{}}},"f:resources":{"f:limits":{"f:memory":{}},"f:requests":{"f:cpu":{}}}}`
	fields := `{"f:metadata":{"f:labels":{"f:app":{}}},"f:spec":{"f:replicas":{},"f:selector":{},"f:strategy":{},"f:template":{"f:metadata":{"f:labels":{"f:app":{}}},` +
		`"f:spec":{"f:containers":{"k:{\"name\":\"a\"}":` + one + `,"k:{\"name\":\"b\"}":` + one + `,"k:{\"name\":\"c\"}":` + one + `},"f:serviceAccountName":{}}}}}`
	for manager, operation := range map[string]metav1.ManagedFieldsOperationType{"gitops": metav1.ManagedFieldsOperationApply, fieldManager: metav1.ManagedFieldsOperationUpdate} {
		d.ManagedFields = append(d.ManagedFields, metav1.ManagedFieldsEntry{Manager: manager, Operation: operation, FieldsV1: metav1.NewFieldsV1(fields)})
	}
	for b.Loop() {
		if _, err := k.slim(d); err != nil {
			b.Fatal(err)
		}
	}
}
