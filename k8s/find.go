package k8s

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/tools/cache"

	"github.com/dockbell/dockbell/trigger"
)

const (
	// usesImage is the target that stands for all workloads that run the
	// repository of the event.
	usesImage = "uses-image"

	// allNamespaces is how they are written.
	allNamespaces = "*"

	// mostFound bounds what one push may change: beyond it the rule is taken
	// for a slip.
	mostFound = 2000
)

// usual are the kinds that are looked through where an action names none.
var usual = []string{"cronjob", "daemonset", "deployment", "statefulset"}

// finder finds the workloads that are to run an image, by the repository that
// they run or by their labels. Each gets a run of its own.
type finder struct {
	spec       deploySpec
	kinds      []kind
	namespaces []string // "" is all
	selector   labels.Selector
	clusters   *Clusters
}

// finds reports whether the specification is of workloads that must be found.
func (s *deploySpec) finds() bool { return s.Target == usesImage || s.Selector != "" }

func (c *Clusters) finder(spec deploySpec) (*finder, error) {
	f := &finder{spec: spec, clusters: c}
	var errs []error
	fault := func(field, format string, args ...any) { errs = append(errs, trigger.Field(field, format, args...)) }
	f.checkKinds(fault)
	f.checkNamespaces(fault)
	var err error
	if f.selector, err = labels.Parse(spec.Selector); err != nil {
		fault("selector", "%q is no label selector: %w", spec.Selector, err)
	}
	// What is left is the same for each that will be found.
	one := f.deploySpec("deployment/found", "found")
	if _, err := c.deploy(one); err != nil {
		errs = append(errs, err)
	}
	return f, errors.Join(errs...)
}

func (f *finder) checkKinds(fault func(field, format string, args ...any)) {
	names := f.spec.Kinds
	field := "kinds"
	if f.spec.Target == usesImage {
		if len(names) == 0 {
			names = usual
		}
	} else {
		if len(names) > 0 {
			fault("kinds", "are for `target: %s`; with a selector the target is the kind", usesImage)
		}
		names, field = []string{f.spec.Target}, "target"
	}
	for _, name := range names {
		k, ok := kindOf(name)
		switch {
		case strings.Contains(name, "/"):
			fault(field, "%q names one workload; with a selector it is a kind alone, one of %s", name, kindNames())
		case !ok || k.template == nil:
			fault(field, "%q is no kind whose pods are known; those are %s", name, kindNames())
		default:
			f.kinds = append(f.kinds, k)
		}
	}
}

func (f *finder) checkNamespaces(fault func(field, format string, args ...any)) {
	s := &f.spec
	switch {
	case s.Namespace != "" && len(s.Namespaces) > 0:
		fault("namespaces", "take `namespace` for one and `namespaces` for several")
	case s.Namespace != "":
		f.namespaces = []string{s.Namespace}
	case len(s.Namespaces) == 0:
		fault("namespaces", `are missing: name those in which it may change something, or ["*"] for all`)
	default:
		f.namespaces = slices.Clone(s.Namespaces)
	}
	for i, name := range f.namespaces {
		switch msgs := validation.IsDNS1123Label(name); {
		case name == allNamespaces && len(f.namespaces) > 1:
			fault("namespaces", "%q is all of them: name no others", allNamespaces)
		case name == allNamespaces:
			f.namespaces[i] = metav1.NamespaceAll
		case len(msgs) > 0:
			fault("namespaces", "%q is not the name of a namespace: %s", name, msgs[0])
		}
	}
}

// deploySpec is what is done to one that was found.
func (f *finder) deploySpec(target, namespace string) deploySpec {
	s := f.spec
	if f.spec.Target == usesImage {
		s.Container = cmp.Or(s.Container, "*")
	}
	s.Target, s.Namespace, s.Namespaces, s.Kinds, s.Selector = target, namespace, nil, nil, ""
	return s
}

// Target says what is looked for, and where.
func (f *finder) Target() string {
	what, where := "all that run it", "all namespaces"
	if f.spec.Target == usesImage && len(f.spec.Kinds) > 0 {
		what = strings.Join(f.spec.Kinds, ", ") + " that run it"
	}
	if f.spec.Target != usesImage {
		what = f.spec.Target
	}
	if f.spec.Selector != "" {
		what += " with " + f.spec.Selector
	}
	if f.namespaces[0] != metav1.NamespaceAll {
		where = strings.Join(f.namespaces, ", ")
	}
	// The rest as each of them would say it.
	d := deploy{spec: f.spec, clusters: f.clusters}
	return what + " in " + where + d.circumstances()
}

// Do is never called: there is nothing to do but to find.
func (f *finder) Do(context.Context, trigger.Run, io.Writer) error {
	return errors.New("this action only finds what is to be changed")
}

// Find looks through what the watches remember, and asks the API server where
// there is no watch yet.
func (f *finder) Find(ctx context.Context, run trigger.Run, log io.Writer) ([]trigger.Found, error) {
	c, err := f.clusters.connect(f.spec.Cluster)
	if err != nil {
		return nil, trigger.Retry(err)
	}
	var all []trigger.Found
	for _, k := range f.kinds {
		res, err := c.resource(ctx, k)
		if err != nil {
			return nil, err
		}
		for _, namespace := range f.namespaces {
			workloads, err := f.look(ctx, res, namespace, run.Event.Image)
			if err != nil {
				return nil, err
			}
			for _, w := range workloads {
				one, err := f.found(k, w, run)
				if err != nil {
					return nil, err
				}
				fmt.Fprintln(log, one.Target)
				all = append(all, one)
			}
		}
	}
	switch {
	case len(all) == 0:
		return nil, trigger.Skip("there are none: %s, for %s", f.Target(), run.Event.Name())
	case len(all) > mostFound:
		return nil, fmt.Errorf("%d workloads match, and at most %d are changed by one push: name fewer namespaces or kinds, or a selector", len(all), mostFound)
	}
	slices.SortFunc(all, func(a, b trigger.Found) int { return strings.Compare(a.Target, b.Target) })
	return all, nil
}

// found is a workload with the specification that is about it alone.
func (f *finder) found(k kind, w *workload, run trigger.Run) (trigger.Found, error) {
	spec := f.deploySpec(k.name+"/"+w.Name, w.Namespace)
	keys := map[string]any{}
	if err := json.Unmarshal(run.Spec, &keys); err != nil {
		return trigger.Found{}, fmt.Errorf("its stored specification: %w", err)
	}
	delete(keys, "namespaces")
	delete(keys, "kinds")
	delete(keys, "selector")
	keys["target"], keys["namespace"] = spec.Target, spec.Namespace
	if spec.Container != "" {
		keys["container"] = spec.Container
	}
	if k.progress == nil { // there is nothing to wait for
		delete(keys, "wait")
		delete(keys, "rollback")
		spec.Wait, spec.Rollback = nil, false
	}
	d, err := f.clusters.deploy(spec)
	if err != nil {
		return trigger.Found{}, err
	}
	text, err := json.Marshal(keys)
	return trigger.Found{Target: d.Target(), Spec: text}, err
}

// look gives the workloads of a kind in a namespace that are meant.
func (f *finder) look(ctx context.Context, res *resource, namespace string, image trigger.Image) ([]*workload, error) {
	var candidates []any
	informer := res.watch(namespace)
	switch {
	case !informer.HasSynced():
		listed, err := res.list(ctx, namespace, f.selector)
		if err != nil {
			return nil, f.explain(ctx, res, namespace, err)
		}
		candidates = listed
	case f.spec.Target == usesImage:
		var err error
		if candidates, err = informer.GetIndexer().ByIndex(byRepository, image.Repository); err != nil {
			return nil, err
		}
	default:
		candidates = informer.GetStore().List()
	}
	var meant []*workload
	for _, candidate := range candidates {
		w, ok := candidate.(*workload)
		if ok && f.selector.Matches(labels.Set(w.Labels)) && (f.spec.Target != usesImage || f.uses(w, image)) {
			meant = append(meant, w)
		}
	}
	return meant, nil
}

// uses reports whether a workload runs the repository of an image where it may
// be changed.
func (f *finder) uses(w *workload, image trigger.Image) bool {
	d := deploy{clusters: f.clusters}
	return slices.ContainsFunc(w.slots, func(s slot) bool {
		named, err := path.Match(cmp.Or(f.spec.Container, "*"), s.name)
		_, same := d.repository(s.ours, image)
		return named && err == nil && same
	})
}

// explain says what an answer to a list means.
func (f *finder) explain(ctx context.Context, res *resource, namespace string, err error) error {
	if namespace == metav1.NamespaceAll && apierrors.IsForbidden(err) {
		return fmt.Errorf("all namespaces of cluster %s: %w; a ClusterRole must allow get, list, watch and patch on %s.%s: %s",
			res.name, err, res.plural, res.kind.group(), roleRule(res.kind.group(), res.plural, "get", "list", "watch", "patch"))
	}
	d := deploy{spec: deploySpec{Namespace: namespace}, kind: res.kind, name: allNamespaces, clusters: f.clusters}
	return d.explain(ctx, res, "list", err)
}

// page is how many objects are asked for at once.
const page = 500

// list asks the API server for all objects of a namespace.
func (r *resource) list(ctx context.Context, namespace string, selector labels.Selector) (all []any, err error) {
	lister := cache.NewListWatchFromClient(r.api, r.plural, namespace, fields.Everything())
	options := metav1.ListOptions{LabelSelector: selector.String(), Limit: page}
	for {
		list, err := lister.ListWithContext(ctx, options)
		if err != nil {
			return nil, err
		}
		err = meta.EachListItem(list, func(o runtime.Object) error {
			w, err := r.kind.view(o)
			all = append(all, w)
			return err
		})
		if err != nil {
			return nil, err
		}
		m, err := meta.ListAccessor(list)
		if err != nil || m.GetContinue() == "" {
			return all, err
		}
		options.Continue = m.GetContinue()
	}
}

// byRepository is the index of what a watch remembers by the repositories that
// it runs, without their registries: those have aliases.
const byRepository = "repository"

func indexes() cache.Indexers {
	return cache.Indexers{byRepository: func(o any) (all []string, err error) {
		w, ok := o.(*workload)
		if !ok {
			return nil, nil
		}
		for _, s := range w.slots {
			if image, err := trigger.ParseImage(s.ours); err == nil && !slices.Contains(all, image.Repository) {
				all = append(all, image.Repository)
			}
		}
		return all, nil
	}}
}
