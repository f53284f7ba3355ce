// Package k8s changes workloads in Kubernetes clusters, and is the only
// package that knows client-go. It writes nothing that it has not seen: each
// change is a JSON patch that fails when what it is based on has changed.
package k8s

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	appsv1client "k8s.io/client-go/kubernetes/typed/apps/v1"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/dockbell/dockbell/trigger"
)

// DefaultCluster is the one meant when an action names none: what kubectl
// would talk to, or the cluster that dockbell runs in.
const DefaultCluster = "default"

// ClusterSpec is how to reach a cluster. All empty: $KUBECONFIG, then
// ~/.kube/config, then the service account of the pod.
type ClusterSpec struct {
	Kubeconfig string `yaml:"kubeconfig"`
	Context    string `yaml:"context"`
}

// Clusters are the clusters of a configuration. They are connected to when
// they are first used, so that one which is down delays nobody else.
type Clusters struct {
	specs   map[string]ClusterSpec
	aliases trigger.Aliases
	log     *slog.Logger
	ctx     context.Context // of the watches

	mu   sync.Mutex
	open map[string]*cluster
}

// New makes the clusters of a configuration; their watches end with ctx.
// Workloads may name registries by any of their aliases.
func New(ctx context.Context, specs map[string]ClusterSpec, aliases trigger.Aliases, log *slog.Logger) *Clusters {
	return &Clusters{specs: specs, aliases: aliases, log: log, ctx: ctx, open: map[string]*cluster{}}
}

// check reports a name that no cluster has.
func (c *Clusters) check(name string) error {
	if _, ok := c.specs[name]; ok || name == DefaultCluster {
		return nil
	}
	known := slices.Sorted(maps.Keys(c.specs))
	return fmt.Errorf("there is no cluster %q; `clusters` has %s", name, strings.Join(append(known, DefaultCluster), ", "))
}

func (c *Clusters) connect(name string) (*cluster, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if cl, ok := c.open[name]; ok {
		return cl, nil
	}
	spec := c.specs[name]
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = spec.Kubeconfig
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: spec.Context}).ClientConfig()
	if clientcmd.IsEmptyConfig(err) {
		return nil, fmt.Errorf("cluster %s: no cluster is configured; set KUBECONFIG, name a kubeconfig below `clusters`, or run in the cluster", name)
	}
	if err != nil {
		return nil, fmt.Errorf("cluster %s: %w", name, err)
	}
	config.UserAgent = "dockbell"
	config.QPS = -1 // the queue bounds how much is asked at once
	apps, err := appsv1client.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("cluster %s: %w", name, err)
	}
	core, err := corev1client.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("cluster %s: %w", name, err)
	}
	cl := &cluster{name: name, apps: apps.RESTClient(), core: core.RESTClient(), ctx: c.ctx, log: c.log.With("cluster", name), watched: map[string]cache.SharedIndexInformer{}}
	c.open[name] = cl
	return cl, nil
}

// cluster is one API server with what is known of it.
type cluster struct {
	name string
	apps rest.Interface
	core rest.Interface
	ctx  context.Context
	log  *slog.Logger

	mu      sync.Mutex
	watched map[string]cache.SharedIndexInformer // by resource and namespace
}

// read asks the API server.
func (c *cluster) read(ctx context.Context, k kind, namespace, name string) (runtime.Object, error) {
	object := k.object()
	err := c.apps.Get().Namespace(namespace).Resource(k.resource).Name(name).Do(ctx).Into(object)
	return object, err
}

// remembered gives what the watch last saw, and nil where it has not seen the
// workload or is not there yet. The first question starts the watch.
func (c *cluster) remembered(k kind, namespace, name string) runtime.Object {
	informer := c.watch(k, namespace)
	if !informer.HasSynced() {
		return nil
	}
	object, ok, err := informer.GetStore().GetByKey(namespace + "/" + name)
	if err != nil || !ok {
		return nil
	}
	return object.(runtime.Object)
}

// resync is how often an informer hands out all objects again: never, since
// nobody listens.
const resync = 0

func (c *cluster) watch(k kind, namespace string) cache.SharedIndexInformer {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := k.resource + "/" + namespace
	if informer, ok := c.watched[key]; ok {
		return informer
	}
	list := cache.NewListWatchFromClient(c.apps, k.resource, namespace, fields.Everything())
	informer := cache.NewSharedIndexInformer(list, k.object(), resync, nil)
	// Both can only be refused for an informer that has started.
	_ = informer.SetTransform(func(o any) (any, error) { return k.slim(o), nil })
	_ = informer.SetWatchErrorHandlerWithContext(func(ctx context.Context, _ *cache.Reflector, err error) {
		c.log.Debug("cannot watch; deploys ask the API server instead", "resource", key, "error", err)
	})
	go informer.RunWithContext(c.ctx)
	c.watched[key] = informer
	return informer
}

// changes gives until each later state of a workload, as long as the watch
// lasts and until says no. It reports whether until said yes, or the workload
// is gone.
func (c *cluster) changes(ctx context.Context, k kind, of *metav1.ObjectMeta, until func(runtime.Object) bool) bool {
	one := cache.NewListWatchFromClient(c.apps, k.resource, of.Namespace, fields.OneTermEqualSelector(metav1.ObjectNameField, of.Name))
	w, err := one.WatchWithContext(ctx, metav1.ListOptions{ResourceVersion: of.ResourceVersion})
	if err != nil {
		c.log.Debug("cannot watch a rollout; the API server is asked again instead", "resource", k.resource, "namespace", of.Namespace, "name", of.Name, "error", err)
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

// patch writes, in the name of dockbell.
func (c *cluster) patch(ctx context.Context, k kind, namespace, name string, ops []byte) error {
	return c.apps.Patch(jsonPatch).Namespace(namespace).Resource(k.resource).Name(name).
		VersionedParams(&metav1.PatchOptions{FieldManager: "dockbell"}, metav1.ParameterCodec).
		Body(ops).Do(ctx).Error()
}
