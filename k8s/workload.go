package k8s

import (
	"encoding/json"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"sync"

	"github.com/tidwall/gjson"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

// workload is what a deploy looks at of an object. A watch remembers it of
// each, so there is nothing else in it.
type workload struct {
	metav1.ObjectMeta // names, version, labels and annotations

	template map[string]string // annotations of its pod template
	bare     bool              // the pod template has no metadata
	slots    []slot
	idle     string // why a change does nothing for now
}

// lastApplied is a copy of the whole object that kubectl keeps.
const lastApplied = corev1.LastAppliedConfigAnnotation

// view looks at an object. Containers come first, as in the order of the
// annotations that a deploy leaves.
func (k kind) view(o runtime.Object) (*workload, error) {
	m, err := meta.Accessor(o)
	if err != nil {
		return nil, err
	}
	w := &workload{ObjectMeta: metav1.ObjectMeta{
		Namespace: m.GetNamespace(), Name: m.GetName(), UID: m.GetUID(), ResourceVersion: m.GetResourceVersion(), Generation: m.GetGeneration(),
		Labels: m.GetLabels(), Annotations: m.GetAnnotations(),
	}}
	if w.Annotations[lastApplied] != "" {
		w.Annotations = maps.Clone(w.Annotations)
		w.Annotations[lastApplied] = "" // that it is there counts: a patch must know whether there are any
	}
	if k.idle != nil {
		w.idle = k.idle(o)
	}
	if k.template == nil {
		return w, nil
	}
	t := k.template(o)
	w.template = t.Annotations
	if k.custom {
		_, has, _ := unstructured.NestedFieldNoCopy(tree(o), "spec", "template", "metadata")
		w.bare = !has
	}
	add := func(role role, index int, name, image string) {
		w.slots = append(w.slots, slot{role: role, name: name, index: index, image: image})
	}
	for i, c := range t.Spec.Containers {
		add(container, i, c.Name, c.Image)
	}
	for i, c := range t.Spec.InitContainers {
		add(initContainer, i, c.Name, c.Image)
	}
	for i, v := range t.Spec.Volumes {
		if v.Image != nil {
			add(volume, i, v.Name, v.Image.Reference)
		}
	}
	writers := writers(m)
	for i := range w.slots {
		w.own(&w.slots[i], writers, k)
	}
	return w, nil
}

// slim turns what a watch is given into what it remembers.
func (k kind) slim(o any) (any, error) {
	object, ok := o.(runtime.Object)
	if !ok {
		return o, nil // a workload already, or a tombstone
	}
	return k.view(object)
}

// slot gives the place with an id.
func (w *workload) slot(id string) (slot, bool) {
	for _, s := range w.slots {
		if s.id() == id {
			return s, true
		}
	}
	return slot{}, false
}

// role is what kind of place a slot is.
type role string

const (
	container     role = "container"
	initContainer role = "init container"
	volume        role = "volume"
	field         role = "field" // of a custom resource
)

// lists are where a pod has them.
var lists = map[role]string{container: "containers", initContainer: "initContainers", volume: "volumes"}

// slot is a place in a workload that holds an image, or a part of its name.
type slot struct {
	role  role
	name  string // of the container or volume; the path of a field
	index int    // in its list
	at    *place // of a field
	image string

	// ours is what dockbell wrote where the API server has made image of it:
	// webhooks and policies for admission may rewrite images. Else it is image.
	ours string
	// appliers are those who set it too, by server-side apply.
	appliers []string
}

// id tells a slot from the others of its workload. Containers and init
// containers share their names, volumes have names of their own.
func (s slot) id() string {
	if s.role == volume {
		return "volume/" + s.name
	}
	return s.name
}

func (s slot) String() string { return strings.TrimSpace(string(s.role) + " " + s.name) }

// place is where a slot is in the object.
type place struct {
	pointer string   // RFC 6901
	guards  []op     // tests that the lists on the way are in the same order
	managed []string // the way to it in managed fields
}

func (s slot) place(k kind) place {
	if s.at != nil {
		return *s.at
	}
	list := lists[s.role]
	pointer := k.at + "/spec/" + list + "/" + strconv.Itoa(s.index)
	p := place{pointer: pointer + "/image", guards: []op{{"test", pointer + "/name", null(s.name)}}}
	for step := range strings.SplitSeq(strings.TrimPrefix(k.at, "/")+"/spec/"+list, "/") {
		p.managed = append(p.managed, "f:"+step)
	}
	p.managed = append(p.managed, managedKey("name", s.name), "f:image")
	if s.role == volume {
		p.pointer += "/reference"
		p.managed = append(p.managed, "f:reference")
	}
	return p
}

// null is what a test compares with where there is no text.
func null(s string) any {
	if s == "" {
		return nil
	}
	return s
}

// managedKey is an element of a list in managed fields.
func managedKey(key, value string) string {
	text, _ := json.Marshal(map[string]string{key: value}) // cannot fail
	return "k:" + string(text)
}

// writer is one who set fields of an object.
type writer struct {
	manager string
	fields  func() gjson.Result // read when they are first asked for
}

// writers are those of an object whose writes count: dockbell itself, and who
// will write again, since server-side apply keeps things as they are declared.
func writers(m metav1.Object) (all []writer) {
	for _, f := range m.GetManagedFields() {
		if f.Subresource == "" && f.FieldsV1 != nil && (f.Manager == fieldManager || f.Operation == metav1.ManagedFieldsOperationApply) {
			all = append(all, writer{f.Manager, sync.OnceValue(func() gjson.Result { return parseFields(f.FieldsV1.GetRawBytes()) })})
		}
	}
	return all
}

// parseFields reads what is JSON as a whole, and nothing else.
func parseFields(text []byte) (r gjson.Result) {
	if gjson.ValidBytes(text) {
		r = gjson.ParseBytes(text)
	}
	return r
}

// own finds out who set a slot: what dockbell wrote stands for it as long as
// nobody else has written it since. Changes on admission are no writes.
func (w *workload) own(s *slot, writers []writer, k kind) {
	s.ours = s.image
	if len(writers) == 0 {
		return
	}
	wrote := w.Annotations[s.note(imageNote)]
	way := s.place(k).managed
	for _, by := range writers {
		switch ours := by.manager == fieldManager; {
		case ours && (wrote == "" || wrote == s.image): // it would change nothing
		case !owns(by.fields(), way):
		case ours:
			s.ours = wrote
		default:
			s.appliers = append(s.appliers, by.manager)
		}
	}
}

// owns reports whether a set of fields has the one to which the steps lead, or
// a whole that it is a part of.
func owns(fields gjson.Result, steps []string) bool {
	for _, step := range steps {
		if !fields.IsObject() {
			return false
		}
		found, whole := false, true
		fields.ForEach(func(key, below gjson.Result) bool {
			whole = false
			if found = key.Str == step; found {
				fields = below
			}
			return !found
		})
		if !found {
			return whole
		}
	}
	return true
}

// describe lists slots for people.
func describe(slots []slot, with func(slot) string) string {
	texts := make([]string, len(slots))
	for i, s := range slots {
		texts[i] = with(s)
	}
	return strings.Join(texts, ", ")
}

func (s slot) named() string { return s.name }

func (s slot) runs() string { return fmt.Sprintf("%s %s %s", s, s.verb(), s.ours) }

func (s slot) verb() string {
	if s.role == field {
		return "holds"
	}
	return "runs"
}
