package k8s

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/cache"

	"github.com/dockbell/dockbell/trigger"
)

// Rule is a rule that stands in the cluster as a resource of kind Rule.
type Rule struct {
	Namespace, Name string
	UID             string
	Generation      int64 // rises when the specification changes
	Spec            json.RawMessage

	status ruleStatus // as it stands there
}

// String is what the rule is called.
func (r Rule) String() string { return r.Namespace + "/" + r.Name }

// Same reports whether both say the same.
func (r Rule) Same(o Rule) bool { return r.UID == o.UID && r.Generation == o.Generation }

// ruleResource is where Rules are, by their CustomResourceDefinition.
var ruleResource = schema.GroupVersionResource{Group: "dockbell.dev", Version: "v1alpha1", Resource: "rules"}

const (
	// gatherRules is for how long changes of Rules are gathered, so that who
	// applies a hundred makes little more work than who applies one.
	gatherRules = 200 * time.Millisecond

	// retryRules is when a cluster that cannot be connected to is tried again.
	retryRules = 10 * time.Second

	// sayRules is how often it is said at the most that they cannot be watched
	// for a reason that was said before.
	sayRules = time.Minute
)

// Rules tells of all Rules in some namespaces of the default cluster, or in all
// when none are named: once they are known, and then whenever one has changed,
// until ctx ends. They come in the order of their names. What keeps it from
// seeing them is logged, and tried again.
func (c *Clusters) Rules(ctx context.Context, namespaces []string, tell func([]Rule)) {
	client, err := c.ruleClient()
	for said := ""; err != nil; client, err = c.ruleClient() {
		if err.Error() != said {
			said = err.Error()
			c.log.Error("the rules of the cluster cannot be read; trying again", "error", err, "every", retryRules)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(retryRules):
		}
	}
	if len(namespaces) == 0 {
		namespaces = []string{metav1.NamespaceAll}
	}
	changed := make(chan struct{}, 1)
	var watches []cache.SharedIndexInformer
	for _, namespace := range namespaces {
		watches = append(watches, watchRules(client.Namespace(namespace), changed, c.log))
	}
	ended := make(chan struct{}, len(watches))
	for _, w := range watches {
		go func() { w.RunWithContext(ctx); ended <- struct{}{} }()
	}
	defer func() {
		for range watches {
			<-ended
		}
	}()
	for gathered(ctx, changed) {
		if !slices.ContainsFunc(watches, func(w cache.SharedIndexInformer) bool { return !w.HasSynced() }) {
			tell(rulesIn(watches))
		}
	}
}

func (c *Clusters) ruleClient() (dynamic.NamespaceableResourceInterface, error) {
	cl, err := c.connect(DefaultCluster)
	if err != nil {
		return nil, err
	}
	client, err := dynamic.NewForConfigAndClient(cl.config, cl.http)
	if err != nil {
		return nil, err
	}
	return client.Resource(ruleResource), nil
}

// watchRules makes a watch, to be run, that says when something has changed.
func watchRules(client dynamic.ResourceInterface, changed chan<- struct{}, log *slog.Logger) cache.SharedIndexInformer {
	list := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return client.List(ctx, o) },
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return client.Watch(ctx, o)
		},
	}
	w := cache.NewSharedIndexInformer(list, &unstructured.Unstructured{}, 0, nil)
	notify := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	said, at := "", time.Time{}
	// All three can only be refused for a watch that has started.
	_ = w.SetTransform(func(o any) (any, error) {
		if u, ok := o.(*unstructured.Unstructured); ok {
			u.SetManagedFields(nil)
		}
		return o, nil
	})
	_ = w.SetWatchErrorHandlerWithContext(func(_ context.Context, _ *cache.Reflector, err error) {
		if err = explainRules(err); err.Error() != said || time.Since(at) > sayRules {
			said, at = err.Error(), time.Now()
			log.Error("the rules of the cluster cannot be watched; those known stay, and it is tried again", "error", err)
		}
	})
	_, _ = w.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { notify() }, UpdateFunc: func(_, _ any) { notify() }, DeleteFunc: func(any) { notify() },
	})
	return syncTold{w, notify}
}

// syncTold is a watch that also says when it has seen what was there, were it
// nothing.
type syncTold struct {
	cache.SharedIndexInformer
	notify func()
}

func (w syncTold) RunWithContext(ctx context.Context) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		if cache.WaitForCacheSync(ctx.Done(), w.HasSynced) {
			w.notify()
		}
	}()
	w.SharedIndexInformer.RunWithContext(ctx)
	<-done
}

// explainRules says what to do about an answer of the API server.
func explainRules(err error) error {
	switch {
	case apierrors.IsNotFound(err):
		return fmt.Errorf("the cluster has no resource rules.dockbell.dev: apply the file crds/rules.yaml of the chart (%w)", err)
	case apierrors.IsForbidden(err):
		return fmt.Errorf("%w; a ClusterRole, or a Role in each of rulesFrom.cluster.namespaces, must allow list and watch on rules.dockbell.dev and patch on rules.dockbell.dev/status", err)
	}
	return err
}

// gathered waits for a change and then a little for more of them. It returns
// false when ctx has ended.
func gathered(ctx context.Context, changed <-chan struct{}) bool {
	select {
	case <-ctx.Done():
		return false
	case <-changed:
	}
	select {
	case <-ctx.Done():
		return false
	case <-time.After(gatherRules):
	}
	select {
	case <-changed:
	default:
	}
	return true
}

// rulesIn gives the rules that watches have seen.
func rulesIn(watches []cache.SharedIndexInformer) []Rule {
	var all []Rule
	for _, w := range watches {
		for _, o := range w.GetStore().List() {
			all = append(all, ruleOf(o.(*unstructured.Unstructured)))
		}
	}
	slices.SortFunc(all, func(a, b Rule) int { return strings.Compare(a.String(), b.String()) })
	return all
}

func ruleOf(u *unstructured.Unstructured) Rule {
	r := Rule{Namespace: u.GetNamespace(), Name: u.GetName(), UID: string(u.GetUID()), Generation: u.GetGeneration()}
	r.Spec, _ = json.Marshal(u.Object["spec"]) // what came as JSON can be written as such
	status, _ := json.Marshal(u.Object["status"])
	if json.Unmarshal(status, &r.status) != nil {
		r.status = ruleStatus{} // of somebody else; it is written anew
	}
	return r
}

// Within makes of a builder of deploys one whose deploys stay in a namespace of
// the default cluster. All that reaches out of it is a fault.
func Within(namespace string, build trigger.Builder) trigger.Builder {
	return func(decode func(any) error) (trigger.Action, error) {
		return build(func(v any) error {
			if err := decode(v); err != nil {
				return err
			}
			spec, ok := v.(*deploySpec)
			if !ok {
				return fmt.Errorf("cannot be kept within namespace %s", namespace)
			}
			return spec.within(namespace)
		})
	}
}

func (s *deploySpec) within(namespace string) error {
	if s.Namespace != namespace {
		return trigger.Field("namespace", "must be %s or be left out, not %q: a rule of the cluster only acts in its own namespace", namespace, s.Namespace)
	}
	if len(s.Namespaces) > 0 {
		return trigger.Field("namespaces", "must be left out: a rule of the cluster only acts in its own namespace")
	}
	if s.Cluster != DefaultCluster {
		return trigger.Field("cluster", "must be left out: a rule of the cluster only acts in the cluster that it is in")
	}
	return nil
}
