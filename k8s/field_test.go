package k8s

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

func TestPathFaults(t *testing.T) {
	for path, want := range map[string]string{
		"spec..image": `cannot be read at character 6, ".image": a name is missing`,
		"[0].image":   "must begin with a name, as in spec.image",
	} {
		if _, err := parsePath(path); err == nil || err.Error() != want {
			t.Errorf("%q: %v, want %s", path, err, want)
		}
	}
}

// tool is a custom resource with images in many places.
func tool(t *testing.T) map[string]any {
	t.Helper()
	var object map[string]any
	err := json.Unmarshal([]byte(`{"spec": {
		"image": "tool:1", "replicas": 3, "a.b/c~d": {"tag": "v1"},
		"parts": [{"name": "web", "tag": "v1"}, {"name": "log", "tag": "v2"}, {"name": "log"}, "bare:1"],
		"lists": [["x", "y"]]}}`), &object)
	if err != nil {
		t.Fatal(err)
	}
	return object
}

func TestFindField(t *testing.T) {
	for _, test := range []struct {
		path, image, pointer string
		guards               []op
		managed              []string
		err                  string
	}{
		{path: "spec.image", image: "tool:1", pointer: "/spec/image", managed: []string{"f:spec", "f:image"}},
		{path: `spec.a\.b/c~d.tag`, image: "v1", pointer: "/spec/a.b~1c~0d/tag", managed: []string{"f:spec", "f:a.b/c~d", "f:tag"}},
		{
			path: "spec.parts[name=web].tag", image: "v1", pointer: "/spec/parts/0/tag", managed: []string{"f:spec", "f:parts", `k:{"name":"web"}`, "f:tag"},
			guards: []op{{"test", "/spec/parts/0/name", "web"}},
		},
		{
			path: "spec.parts[1].tag", image: "v2", pointer: "/spec/parts/1/tag", managed: []string{"f:spec", "f:parts", `k:{"name":"log"}`, "f:tag"},
			guards: []op{{"test", "/spec/parts/1/name", "log"}},
		},
		{path: "spec.parts[3]", image: "bare:1", pointer: "/spec/parts/3", managed: []string{"f:spec", "f:parts", "i:3"}},
		{path: "spec.lists[0][1]", image: "y", pointer: "/spec/lists/0/1", managed: []string{"f:spec", "f:lists", "i:0", "i:1"}},
		{path: "spec.tag", err: "there is no spec.tag: only a field that is there is changed"},
		{path: "spec.image.tag", err: "there is no spec.image.tag: what it should be in is no mapping"},
		{path: "spec.image[0]", err: "there is no spec.image[0]: what it should be in is no list"},
		{path: "spec.parts[4]", err: "there is no spec.parts[4]: the list has 4 elements"},
		{path: "spec.parts[name=db].tag", err: "there is no spec.parts[name=db]: no element of the list is that"},
		{path: "spec.parts[name=log].tag", err: "there is no spec.parts[name=log]: there are several"},
		{path: "spec.replicas", err: "spec.replicas is no text; if it is a number, put it in quotes"},
	} {
		p, err := parsePath(test.path)
		if err != nil {
			t.Fatal(err)
		}
		s, err := findField(tool(t), p)
		if test.err != "" {
			if err == nil || err.Error() != test.err {
				t.Errorf("%s: %v, want %s", test.path, err, test.err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", test.path, err)
			continue
		}
		want := place{test.pointer, test.guards, test.managed}
		if diff := cmp.Diff(want, *s.at, cmp.AllowUnexported(place{})); s.image != test.image || s.String() != "field "+test.path || diff != "" {
			t.Errorf("%s is %s, %s\n%s", s, s.image, s.at.pointer, diff)
		}
	}
}

// Where a path leads is where its pointer leads.
func FuzzFindField(f *testing.F) {
	for _, path := range []string{"spec.image", `spec.a\.b/c~d.tag`, "spec.parts[name=web].tag", "spec.lists[0][1]", "spec.parts[3]", "a[b=c=d]", `\\.\[`, "ä.ö[1]"} {
		f.Add(path)
	}
	f.Fuzz(func(t *testing.T, path string) {
		p, err := parsePath(path)
		if err != nil {
			return
		}
		s, err := findField(tool(t), p)
		if err != nil {
			return
		}
		if got := follow(t, tool(t), s.at.pointer); got != s.image {
			t.Fatalf("%q finds %s, and %s leads to %s", path, s.image, s.at.pointer, got)
		}
		for _, g := range s.at.guards {
			if got := follow(t, tool(t), g.Path); got != g.Value {
				t.Fatalf("%q would test %s for %s, which is %s", path, g.Path, g.Value, got)
			}
		}
	})
}

// follow goes where a pointer of RFC 6901 leads.
func follow(t *testing.T, object any, pointer string) any {
	t.Helper()
	for token := range strings.SplitSeq(pointer[1:], "/") {
		token = strings.NewReplacer("~1", "/", "~0", "~").Replace(token)
		switch at := object.(type) {
		case map[string]any:
			object = at[token]
		case []any:
			var i int
			if err := json.Unmarshal([]byte(token), &i); err != nil {
				t.Fatal(err)
			}
			object = at[i]
		}
	}
	return object
}

// fieldDeploy is a deploy of a custom resource with one field.
func fieldDeploy(t *testing.T, value, pin, holds string, annotations map[string]string) (*deploy, *workload) {
	t.Helper()
	a, err := build(t, nil, "{target: tool.example.com/web, namespace: prod, path: spec.image, value: "+value+", pin: "+pin+"}")
	if err != nil {
		t.Fatal(err)
	}
	d := a.(*deploy)
	u := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{"image": holds}}}
	u.SetAnnotations(annotations)
	w, err := d.view(u)
	if err != nil {
		t.Fatal(err)
	}
	return d, w
}

// What is written depends on what the field holds, and so does what the order
// guard compares with.
func TestPlanField(t *testing.T) {
	const name = "registry.example.com/shop/web"
	const holds = "field spec.image holds "
	earlier := map[string]string{"pushed.dockbell.dev/spec.image": "v1.0.0@2026-11-20T12:00:00Z", "content.dockbell.dev/spec.image": digest2}
	later := map[string]string{"pushed.dockbell.dev/spec.image": "v1.2.0@2026-11-22T12:00:00Z", "content.dockbell.dev/spec.image": digest2}
	for _, test := range []struct {
		name, value, pin, holds string
		notes                   map[string]string
		tag, digest             string
		to, why                 string // why it is left alone, or fails
	}{
		{name: "a whole reference", value: "image", pin: "tag", holds: name + ":v1.0.0", tag: "v1.1.0", digest: digest1, to: name + ":v1.1.0"},
		{name: "pinned", value: "image", pin: "digest", holds: name + ":v1.0.0", tag: "v1.1.0", digest: digest1, to: name + ":v1.1.0@" + digest1},
		{name: "the same", value: "image", pin: "tag", holds: name + ":v1.1.0", tag: "v1.1.0", digest: digest1, why: holds + name + ":v1.1.0 already; that the tag has moved would only show in a digest"},
		{name: "lower", value: "image", pin: "tag", holds: name + ":v2.0.0", tag: "v1.1.0", digest: digest1, why: "v1.1.0 is a lower version than v2.0.0"},
		{name: "a tag", value: "tag", pin: "tag", holds: "v1.0.0", tag: "v1.1.0", digest: digest1, to: "v1.1.0"},
		{name: "a lower tag", value: "tag", pin: "tag", holds: "v2.0.0", tag: "v1.1.0", digest: digest1, why: holds + "v2.0.0, and v1.1.0 is a lower version than v2.0.0"},
		{name: "the same tag", value: "tag", pin: "tag", holds: "main", tag: "main", digest: digest1, why: holds + "main already; that the tag has moved"},
		{name: "no tag", value: "tag", pin: "tag", holds: "v1.0.0", digest: digest1, why: "field spec.image holds a tag, and the event has none"},
		{name: "a digest", value: "digest", pin: "tag", holds: digest2, tag: "v1.1.0", digest: digest1, to: digest1},
		{name: "a digest that is newer", value: "digest", pin: "tag", holds: digest2, notes: earlier, tag: "v1.1.0", digest: digest1, to: digest1},
		{name: "a digest that is older", value: "digest", pin: "tag", holds: digest2, notes: later, tag: "v1.1.0", digest: digest1, why: "v1.1.0 is a lower version than v1.2.0"},
		{name: "a digest of somebody else", value: "digest", pin: "tag", holds: "sha256:theirs", notes: later, tag: "v1.1.0", digest: digest1, to: digest1},
		{name: "the same digest", value: "digest", pin: "tag", holds: digest1, tag: "v1.1.0", digest: digest1, why: holds + digest1 + " already"},
		{name: "no digest", value: "digest", pin: "tag", holds: digest1, tag: "v1.1.0", why: "field spec.image holds a digest, and the event has none"},
		{name: "a repository", value: "repository", pin: "tag", holds: "old/web", tag: "v1.1.0", digest: digest1, to: name},
		{name: "the same repository", value: "repository", pin: "tag", holds: name, tag: "v1.1.0", digest: digest1, why: holds + name + " already"},
	} {
		t.Run(test.name, func(t *testing.T) {
			d, w := fieldDeploy(t, test.value, test.pin, test.holds, test.notes)
			ch, err := d.plan(w, run(test.tag, test.digest))
			if test.why != "" {
				if err == nil || !strings.Contains(err.Error(), test.why) {
					t.Errorf("%v, want %s", err, test.why)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := ch.turns[0]; got.From.Image != test.holds || got.To.Image != test.to {
				t.Errorf("%s -> %s, want %s", got.From.Image, got.To.Image, test.to)
			}
		})
	}
}

// The notes on a field are on the object itself, under a key that is allowed.
func TestPatchField(t *testing.T) {
	d, w := fieldDeploy(t, "tag", "tag", "v1.0.0", map[string]string{"mine": "kept"})
	ch, err := d.plan(w, run("v1.1.0", digest1))
	if err != nil {
		t.Fatal(err)
	}
	want := []op{
		{"test", "/spec/image", "v1.0.0"},
		{"replace", "/spec/image", "v1.1.0"},
		{"add", "/metadata/annotations/content.dockbell.dev~1spec.image", digest1},
		{"add", "/metadata/annotations/dockbell.dev~1event", "3"},
		{"add", "/metadata/annotations/dockbell.dev~1run", "7"},
		{"add", "/metadata/annotations/image.dockbell.dev~1spec.image", "v1.1.0"},
		{"add", "/metadata/annotations/kubernetes.io~1change-cause", "dockbell: spec.image to v1.1.0 (rule web, event 3)"},
		{"add", "/metadata/annotations/pushed.dockbell.dev~1spec.image", "v1.1.0@2026-11-21T12:00:00Z"},
	}
	if diff := cmp.Diff(want, ch.ops); diff != "" {
		t.Error(diff)
	}
	for name, want := range map[string]string{
		"spec.image":            "content.dockbell.dev/spec.image",
		"spec.parts[name=web]":  "content.dockbell.dev/field-",
		"spec.a/b":              "content.dockbell.dev/field-",
		strings.Repeat("x", 64): "content.dockbell.dev/field-",
	} {
		got := slot{role: field, name: name}.note(contentNote)
		if _, key, _ := strings.Cut(got, "/"); !strings.HasPrefix(got, want) || len(key) > 63 {
			t.Errorf("the note of %s is %s", name, got)
		}
	}
}

func TestOwners(t *testing.T) {
	fields := func(manager, operation, fields string) metav1.ManagedFieldsEntry {
		return metav1.ManagedFieldsEntry{Manager: manager, Operation: metav1.ManagedFieldsOperationType(operation), FieldsV1: metav1.NewFieldsV1(fields)}
	}
	const web = `{"f:spec":{"f:template":{"f:spec":{"f:containers":{"k:{\"name\":\"web\"}":{".":{},"f:image":{},"f:name":{}}}}}}}`
	const other = `{"f:spec":{"f:template":{"f:spec":{"f:containers":{"k:{\"name\":\"log\"}":{".":{},"f:image":{}}}}}}}`
	status := fields("dockbell", "Update", web) // of the status, which nobody but a controller writes
	status.Subresource = "status"
	for _, test := range []struct {
		name     string
		fields   metav1.ManagedFieldsEntry
		ours     bool
		appliers int
	}{
		{"ours", fields("dockbell", "Update", web), true, 0},
		{"ours is another container", fields("dockbell", "Update", other), false, 0},
		{"ours is the whole list", fields("dockbell", "Update", `{"f:spec":{"f:template":{"f:spec":{"f:containers":{}}}}}`), true, 0},
		{"somebody applies it", fields("gitops", "Apply", web), false, 1},
		{"somebody applies another", fields("gitops", "Apply", other), false, 0},
		{"somebody has edited it", fields("kubectl-edit", "Update", web), false, 0},
		{"broken", fields("dockbell", "Update", `{"f:spec":`), false, 0},
	} {
		w := &workload{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{"image.dockbell.dev/web": "ours"}}}
		s := slot{role: container, name: "web", image: "theirs"}
		w.own(&s, writers(&metav1.ObjectMeta{ManagedFields: []metav1.ManagedFieldsEntry{test.fields, status}}), kinds["deployment"])
		if (s.ours == "ours") != test.ours || len(s.appliers) != test.appliers {
			t.Errorf("%s: %s, %v", test.name, s.ours, s.appliers)
		}
	}
}
