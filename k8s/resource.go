package k8s

import (
	"context"
	"fmt"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/dockbell/dockbell/trigger"
)

// fieldManager is the name under which dockbell writes.
const fieldManager = "dockbell"

// resource is a kind of object as an API server has it.
type resource struct {
	*cluster
	kind   kind
	gvk    schema.GroupVersionKind
	plural string
	api    rest.Interface

	watched map[string]cache.SharedIndexInformer // by namespace
}

// resource gives a kind as the API server has it. What is custom is asked for
// until it is there, and remembered then.
func (c *cluster) resource(ctx context.Context, k kind) (*resource, error) {
	c.mu.Lock()
	known, ok := c.resources[k.name]
	c.mu.Unlock()
	if ok {
		return known, nil
	}
	r := &resource{cluster: c, kind: k, gvk: k.gvk, plural: k.plural, watched: map[string]cache.SharedIndexInformer{}}
	if k.custom {
		if err := r.discover(ctx); err != nil {
			return nil, err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if known, ok := c.resources[k.name]; ok {
		return known, nil // somebody was quicker
	}
	var err error
	if r.api, err = c.client(r.gvk.GroupVersion(), k.custom); err != nil {
		return nil, fmt.Errorf("cluster %s: %w", c.name, err)
	}
	c.resources[k.name] = r
	return r, nil
}

// forget makes the next question for a kind ask the API server, which has it in
// another version now, or not at all.
func (c *cluster) forget(k kind) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.resources, k.name)
}

// discover asks in which version the API server has a custom resource, and
// what its plural is. Only its own group is asked for: one that does not answer
// is no reason not to find another.
func (r *resource) discover(ctx context.Context) error {
	singular, group, _ := strings.Cut(r.kind.name, ".")
	var versions metav1.APIGroup
	err := r.core.Get().AbsPath("/apis/" + group).Do(ctx).Into(&versions)
	if apierrors.IsNotFound(err) {
		return trigger.Retry(fmt.Errorf("cluster %s has no %s: its CustomResourceDefinition is not installed", r.name, r.kind.name))
	}
	if err != nil {
		return trigger.Retry(fmt.Errorf("cluster %s: cannot find out about %s: %w", r.name, group, err))
	}
	preferred := slices.IndexFunc(versions.Versions, func(v metav1.GroupVersionForDiscovery) bool { return v == versions.PreferredVersion })
	if preferred > 0 {
		versions.Versions[0], versions.Versions[preferred] = versions.Versions[preferred], versions.Versions[0]
	}
	for _, v := range versions.Versions {
		var list metav1.APIResourceList
		if err := r.core.Get().AbsPath("/apis/" + v.GroupVersion).Do(ctx).Into(&list); err != nil {
			return trigger.Retry(fmt.Errorf("cluster %s: cannot find out about %s: %w", r.name, v.GroupVersion, err))
		}
		for _, one := range list.APIResources {
			if strings.Contains(one.Name, "/") || strings.ToLower(one.Kind) != singular {
				continue // a sub-resource, or another
			}
			if !one.Namespaced {
				return fmt.Errorf("a %s is in no namespace; only what is in one can be changed", r.kind.name)
			}
			r.plural, r.gvk = one.Name, schema.GroupVersionKind{Group: group, Version: v.Version, Kind: one.Kind}
			return nil
		}
	}
	return trigger.Retry(fmt.Errorf("cluster %s has no %s, though it knows %s: its CustomResourceDefinition is not installed", r.name, r.kind.name, group))
}

// read asks the API server.
func (r *resource) read(ctx context.Context, namespace, name string) (runtime.Object, error) {
	object := r.kind.object()
	err := r.api.Get().Namespace(namespace).Resource(r.plural).Name(name).Do(ctx).Into(object)
	return object, err
}

// patch writes, in the name of dockbell, and gives what came of it.
func (r *resource) patch(ctx context.Context, namespace, name string, ops []byte, rehearsal bool) (runtime.Object, error) {
	options := metav1.PatchOptions{FieldManager: fieldManager}
	if rehearsal {
		options.DryRun = []string{metav1.DryRunAll}
	}
	object := r.kind.object()
	err := r.api.Patch(types.JSONPatchType).Namespace(namespace).Resource(r.plural).Name(name).
		VersionedParams(&options, metav1.ParameterCodec).
		Body(ops).Do(ctx).Into(object)
	return object, err
}

// remembered gives what the watch last saw, and nil where it has not seen the
// workload or is not there yet. The first question starts the watch. Those
// without a pod template are not watched: they are seldom changed and may be of
// any size.
func (r *resource) remembered(namespace, name string) *workload {
	if r.kind.template == nil {
		return nil
	}
	informer := r.watch(namespace)
	if !informer.HasSynced() {
		return nil
	}
	object, ok, err := informer.GetStore().GetByKey(namespace + "/" + name)
	if err != nil || !ok {
		return nil
	}
	return object.(*workload)
}

// resync is how often an informer hands out all objects again: never, since
// nobody listens.
const resync = 0

// watch gives the informer of a namespace, which holds each object as a
// [workload].
func (r *resource) watch(namespace string) cache.SharedIndexInformer {
	r.mu.Lock()
	defer r.mu.Unlock()
	if informer, ok := r.watched[namespace]; ok {
		return informer
	}
	list := cache.NewListWatchFromClient(r.api, r.plural, namespace, fields.Everything())
	informer := cache.NewSharedIndexInformer(list, r.kind.object(), resync, indexes())
	// Both can only be refused for an informer that has started.
	_ = informer.SetTransform(r.kind.slim)
	_ = informer.SetWatchErrorHandlerWithContext(func(ctx context.Context, _ *cache.Reflector, err error) {
		r.log.Debug("cannot watch; deploys ask the API server instead", "resource", r.plural, "namespace", namespace, "error", err)
	})
	go informer.RunWithContext(r.ctx)
	r.watched[namespace] = informer
	return informer
}

// changes gives until each later state of a workload, as long as the watch
// lasts and until says no. It reports whether until said yes, or the workload
// is gone.
func (r *resource) changes(ctx context.Context, of *metav1.ObjectMeta, until func(runtime.Object) bool) bool {
	one := cache.NewListWatchFromClient(r.api, r.plural, of.Namespace, fields.OneTermEqualSelector(metav1.ObjectNameField, of.Name))
	w, err := one.WatchWithContext(ctx, metav1.ListOptions{ResourceVersion: of.ResourceVersion})
	if err != nil {
		r.log.Debug("cannot watch a rollout; the API server is asked again instead", "resource", r.plural, "namespace", of.Namespace, "name", of.Name, "error", err)
		return false
	}
	defer w.Stop()
	for e := range w.ResultChan() {
		switch e.Type {
		case watch.Added, watch.Modified:
			if until(e.Object) {
				return true
			}
		case watch.Deleted:
			return true
		}
	}
	return false
}
