package k8s

import (
	"context"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/cache"
)

// keelPause is how long changes are gathered before they count: a deploy of
// many workloads makes one change.
const keelPause = time.Second

// FollowKeel gives the workloads that keel would look after, when all are
// known and then whenever something has changed about them, until ctx ends.
// While a cluster does not answer, what was given last stands. No namespaces
// are all of them. It calls changed from one goroutine.
func (c *Clusters) FollowKeel(ctx context.Context, clusterName string, namespaces []string, changed func([]KeelWorkload)) error {
	cl, err := c.connect(clusterName)
	if err != nil {
		return err
	}
	if len(namespaces) == 0 {
		namespaces = []string{""}
	}
	ctx, stop := context.WithCancel(ctx)
	var watches sync.WaitGroup
	defer watches.Wait()
	defer stop()
	stirred := make(chan struct{}, 1)
	stir := func() {
		select {
		case stirred <- struct{}{}:
		default: // it is known already
		}
	}
	var informers []cache.SharedIndexInformer
	var synced []cache.InformerSynced
	for _, target := range keelTargets {
		k, _ := kindOf(target)
		r, err := cl.resource(ctx, k)
		if err != nil {
			return err
		}
		for _, namespace := range namespaces {
			informer := r.keelInformer(namespace, stir)
			informers, synced = append(informers, informer), append(synced, informer.HasSynced)
			watches.Go(func() { informer.RunWithContext(ctx) })
		}
	}
	if !cache.WaitForCacheSync(ctx.Done(), synced...) {
		return nil // it is to end
	}
	return gatherKeel(ctx, stirred, func() []KeelWorkload { return keelIn(informers) }, changed)
}

// gatherKeel hands out what is there, and again when something has stirred and
// it is not the same.
func gatherKeel(ctx context.Context, stirred <-chan struct{}, workloads func() []KeelWorkload, changed func([]KeelWorkload)) error {
	var last []KeelWorkload
	for first := true; ; first = false {
		if now := workloads(); first || !reflect.DeepEqual(now, last) {
			changed(now)
			last = now
		}
		select {
		case <-ctx.Done():
			return nil
		case <-stirred:
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(keelPause):
		}
	}
}

// keelIn are the workloads with a policy that informers hold, sorted.
func keelIn(informers []cache.SharedIndexInformer) (workloads []KeelWorkload) {
	for _, informer := range informers {
		for _, object := range informer.GetStore().List() {
			if w := object.(*followed).keel; w.policy() != "" {
				workloads = append(workloads, w)
			}
		}
	}
	slices.SortFunc(workloads, func(a, b KeelWorkload) int { return strings.Compare(a.String(), b.String()) })
	return workloads
}

// followed is what a watch remembers of a workload.
type followed struct {
	metav1.ObjectMeta // names and version

	keel KeelWorkload
}

// keelInformer watches the workloads of a namespace and remembers of them what
// keel looks at: most of a cluster has nothing to do with keel.
func (r *resource) keelInformer(namespace string, stir func()) cache.SharedIndexInformer {
	list := cache.NewListWatchFromClient(r.api, r.plural, namespace, fields.Everything())
	informer := cache.NewSharedIndexInformer(list, r.kind.object(), resync, nil)
	said := ""
	// All three can only be refused for an informer that has started.
	_ = informer.SetTransform(r.kind.slimForKeel)
	_ = informer.SetWatchErrorHandlerWithContext(func(_ context.Context, _ *cache.Reflector, err error) {
		if err = keelTrouble(r.kind, namespace, err); err.Error() != said {
			said = err.Error()
			r.log.Error("the annotations of keel cannot be watched; what was known last stands, and it is tried again", "error", err)
		}
	})
	_, _ = informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { stir() },
		UpdateFunc: func(any, any) { stir() },
		DeleteFunc: func(any) { stir() },
	})
	return informer
}

// slimForKeel turns what a watch is given into what it remembers.
func (k kind) slimForKeel(o any) (any, error) {
	object, ok := o.(runtime.Object)
	if !ok {
		return o, nil // followed already, or a tombstone
	}
	own, err := meta.Accessor(object)
	if err != nil {
		return nil, err
	}
	f := &followed{ObjectMeta: metav1.ObjectMeta{Namespace: own.GetNamespace(), Name: own.GetName(), UID: own.GetUID(), ResourceVersion: own.GetResourceVersion()}}
	if w := keelWorkload(k, object); w.policy() != "" {
		w.Labels, w.Annotations = keelsOwn(w.Labels), keelsOwn(w.Annotations)
		f.keel = w
	}
	return f, nil
}

// keelsOwn are the keys that mean something to keel.
func keelsOwn(all map[string]string) map[string]string {
	own := map[string]string{}
	for key, value := range all {
		if strings.HasPrefix(strings.ToLower(key), keelPrefix) || strings.HasPrefix(key, keelOldPrefix) {
			own[key] = value
		}
	}
	return own
}
