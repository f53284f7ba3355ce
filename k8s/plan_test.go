package k8s

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/dockbell/dockbell/trigger"
)

var (
	digest1 = "sha256:" + strings.Repeat("1", 64)
	digest2 = "sha256:" + strings.Repeat("2", 64)
	noon    = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
)

func pod(annotations map[string]string, images ...string) *corev1.PodTemplateSpec {
	t := &corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Annotations: annotations}}
	for i, image := range images {
		t.Spec.Containers = append(t.Spec.Containers, corev1.Container{Name: string(rune('a' + i)), Image: image})
	}
	return t
}

// planned is what a deploy makes of a Deployment.
func planned(t *testing.T, spec deploySpec, meta map[string]string, template *corev1.PodTemplateSpec, aliases trigger.Aliases, run trigger.Run) (*change, error) {
	t.Helper()
	k, _ := kindOf("deployment")
	d := &deploy{spec: spec, kind: k, clusters: &Clusters{aliases: aliases}}
	w, err := d.view(&appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Annotations: meta}, Spec: appsv1.DeploymentSpec{Template: *template}})
	if err != nil {
		t.Fatal(err)
	}
	return d.plan(w, run)
}

func run(tag, digest string) trigger.Run {
	return trigger.Run{
		ID: 7, EventID: 3, Rule: "web", Ordered: true,
		Event: trigger.Event{Image: trigger.Image{Registry: "registry.example.com", Repository: "shop/web", Tag: tag, Digest: digest}, OccurredAt: noon},
	}
}

func TestPlan(t *testing.T) {
	const name = "registry.example.com/shop/web"
	for _, test := range []struct {
		name     string
		meta     map[string]string
		template *corev1.PodTemplateSpec
		spec     deploySpec
		run      trigger.Run
		from, to string
		restart  bool
		skip     string // the run is skipped, and why
		err      string
	}{
		{name: "new tag", template: pod(nil, name+":v1.0.0"), run: run("v1.1.0", digest1), from: name + ":v1.0.0", to: name + ":v1.1.0"},
		{name: "another repository is replaced whole", template: pod(nil, "placeholder"), run: run("v1.1.0", ""), from: "placeholder", to: name + ":v1.1.0"},
		{name: "image that is no reference", template: pod(nil, "???"), run: run("v1.1.0", ""), from: "???", to: name + ":v1.1.0"},
		{
			name: "the name stays as it is written", template: pod(nil, "nginx:1.0.0"), from: "nginx:1.0.0", to: "nginx:1.1.0",
			run: trigger.Run{Event: trigger.Event{Image: trigger.Image{Registry: "docker.io", Repository: "library/nginx", Tag: "1.1.0"}}},
		},
		{
			name: "a registry with two names", template: pod(nil, "registry:5000/shop/web:v1.0.0"), run: run("v1.1.0", ""),
			from: "registry:5000/shop/web:v1.0.0", to: "registry:5000/shop/web:v1.1.0",
		},
		{
			name: "lower version in a registry with two names", template: pod(nil, "registry:5000/shop/web:v2.0.0"), run: run("v1.1.0", ""),
			skip: "container a runs registry:5000/shop/web:v2.0.0, and v1.1.0 is a lower version than v2.0.0",
		},
		{
			name: "host with a port and no tag", template: pod(nil, "localhost:5000/app"), from: "localhost:5000/app", to: "localhost:5000/app:v2",
			run: trigger.Run{Event: trigger.Event{Image: trigger.Image{Registry: "localhost:5000", Repository: "app", Tag: "v2"}}},
		},
		{name: "pinned before, by tag now", template: pod(nil, name+":v1.0.0@"+digest1), run: run("v1.1.0", digest2), from: name + ":v1.0.0@" + digest1, to: name + ":v1.1.0"},
		{name: "pin", spec: deploySpec{Pin: pinDigest}, template: pod(nil, name+":v1.0.0"), run: run("v1.1.0", digest1), from: name + ":v1.0.0", to: name + ":v1.1.0@" + digest1},
		{name: "pin without a digest", spec: deploySpec{Pin: pinDigest}, template: pod(nil, name+":v1.0.0"), run: run("v1.1.0", ""), from: name + ":v1.0.0", to: name + ":v1.1.0"},
		{name: "untagged", template: pod(nil, name+":v1.0.0"), run: run("", digest1), from: name + ":v1.0.0", to: name + "@" + digest1},
		{name: "pinned already", spec: deploySpec{Pin: pinDigest}, template: pod(nil, name+":v1.1.0@"+digest1), run: run("v1.1.0", digest1), skip: "container a runs " + name + ":v1.1.0@" + digest1 + " already"},

		{name: "moved tag", template: pod(nil, name+":main"), run: run("main", digest1), from: name + ":main", to: name + ":main", restart: true},
		{name: "moved tag again", template: pod(map[string]string{"content.dockbell.dev/a": digest1}, name+":main"), run: run("main", digest2), from: name + ":main", to: name + ":main", restart: true},
		{name: "content that is there", template: pod(map[string]string{"content.dockbell.dev/a": digest1}, name+":main"), run: run("main", digest1), skip: "container a runs " + name + ":main already"},
		{name: "content of no digest", template: pod(map[string]string{"content.dockbell.dev/a": "pushed 2026-11-21T12:00:00Z"}, name+":main"), run: run("main", ""), skip: "container a runs " + name + ":main already"},

		{name: "lower version", template: pod(nil, name+":v2.0.0"), run: run("v1.1.0", digest1), skip: "container a runs " + name + ":v2.0.0, and v1.1.0 is a lower version than v2.0.0"},
		{
			name: "any order", template: pod(nil, name+":v2.0.0"), from: name + ":v2.0.0", to: name + ":v1.1.0",
			run: func() trigger.Run { r := run("v1.1.0", digest1); r.Ordered = false; return r }(),
		},
		{
			name: "older by time", template: pod(nil, name+":main"), meta: map[string]string{"pushed.dockbell.dev/a": "main@2026-11-21T13:00:00Z"}, run: run("main", digest1),
			skip: "container a runs " + name + ":main, and it was pushed at 2026-11-21T12:00:00Z, before main at 2026-11-21T13:00:00Z",
		},
		{
			name: "the note is of an image that somebody replaced", template: pod(nil, name+":hotfix"), meta: map[string]string{"pushed.dockbell.dev/a": "main@2026-11-21T13:00:00Z"},
			run: run("main", digest1), from: name + ":hotfix", to: name + ":main",
		},

		{name: "named container", spec: deploySpec{Container: "b"}, template: pod(nil, "log:1", name+":v1.0.0"), run: run("v1.1.0", digest1), from: name + ":v1.0.0", to: name + ":v1.1.0"},
		{name: "which container", template: pod(nil, "log:1", name+":v1.0.0"), run: run("v1.1.0", ""), err: "it has 2 containers, a, b: name one with `container`"},
		{name: "no such container", spec: deploySpec{Container: "c"}, template: pod(nil, "log:1", name+":v1.0.0"), run: run("v1.1.0", ""), err: `it has no container "c"; it has a, b`},
	} {
		t.Run(test.name, func(t *testing.T) {
			ch, err := planned(t, test.spec, test.meta, test.template, trigger.Aliases{"registry:5000": "registry.example.com"}, test.run)
			var skip *trigger.SkipError
			switch {
			case test.skip != "":
				if !errors.As(err, &skip) || skip.Reason != test.skip {
					t.Fatalf("got %v, want it skipped: %s", err, test.skip)
				}
			case test.err != "":
				if errors.As(err, &skip) || err == nil || err.Error() != test.err {
					t.Fatalf("got %v, want %s", err, test.err)
				}
			case err != nil:
				t.Fatal(err)
			case len(ch.turns) != 1 || ch.turns[0].From.Image != test.from || ch.turns[0].To.Image != test.to || ch.turns[0].restart() != test.restart:
				t.Errorf("got %+v; want %s -> %s, restart %v", ch.turns, test.from, test.to, test.restart)
			}
		})
	}
}

// The patch tests what it is based on before it changes anything.
func TestPatch(t *testing.T) {
	ch, err := planned(t, deploySpec{Container: "b"}, map[string]string{"mine": "kept"}, pod(nil, "log:1", "registry.example.com/shop/web:v1.0.0"), nil, run("v1.1.0", digest1))
	if err != nil {
		t.Fatal(err)
	}
	patch, err := ch.patch()
	if err != nil {
		t.Fatal(err)
	}
	var got any
	if err := json.Unmarshal(patch, &got); err != nil {
		t.Fatal(err)
	}
	op := func(op, path string, value any) any { return map[string]any{"op": op, "path": path, "value": value} }
	want := []any{
		op("test", "/spec/template/spec/containers/1/name", "b"),
		op("test", "/spec/template/spec/containers/1/image", "registry.example.com/shop/web:v1.0.0"),
		op("replace", "/spec/template/spec/containers/1/image", "registry.example.com/shop/web:v1.1.0"),
		op("test", "/spec/template/metadata/annotations", nil),
		op("add", "/spec/template/metadata/annotations", map[string]any{"content.dockbell.dev/b": digest1}),
		op("add", "/metadata/annotations/dockbell.dev~1event", "3"),
		op("add", "/metadata/annotations/dockbell.dev~1run", "7"),
		op("add", "/metadata/annotations/image.dockbell.dev~1b", "registry.example.com/shop/web:v1.1.0"),
		op("add", "/metadata/annotations/kubernetes.io~1change-cause", "dockbell: b to registry.example.com/shop/web:v1.1.0 (rule web, event 3)"),
		op("add", "/metadata/annotations/pushed.dockbell.dev~1b", "v1.1.0@2026-11-21T12:00:00Z"),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
