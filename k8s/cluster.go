// Package k8s changes workloads in Kubernetes clusters, and is the only
// package that knows client-go. It writes nothing that it has not seen: each
// change is a JSON patch that fails when what it is based on has changed.
package k8s

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

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
	// DryRun makes a rehearsal of every deploy: the API servers check them, and
	// nothing changes. It is to be set before the first use.
	DryRun bool

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
	config, err := c.specs[name].load()
	if clientcmd.IsEmptyConfig(err) {
		return nil, fmt.Errorf("cluster %s: no cluster is configured; set KUBECONFIG, name a kubeconfig below `clusters`, or run in the cluster", name)
	}
	if err != nil {
		return nil, fmt.Errorf("cluster %s: %w", name, err)
	}
	cl := &cluster{
		name: name, config: config, ctx: c.ctx, log: c.log.With("cluster", name),
		clients: map[schema.GroupVersion]rest.Interface{}, resources: map[string]*resource{},
	}
	if cl.http, err = rest.HTTPClientFor(config); err == nil {
		cl.core, err = cl.client(schema.GroupVersion{Version: "v1"}, false)
	}
	if err != nil {
		return nil, fmt.Errorf("cluster %s: %w", name, err)
	}
	cl.events = startRecorder(cl)
	c.open[name] = cl
	return cl, nil
}

func (s ClusterSpec) load() (*rest.Config, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = s.Kubeconfig
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: s.Context}).ClientConfig()
	if err != nil {
		return nil, err
	}
	config.UserAgent = fieldManager
	config.QPS = -1 // the queue bounds how much is asked at once
	config.Dial = newDialer().dial
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { return discreet{next} })
	return config, nil
}

// cluster is one API server with what is known of it.
type cluster struct {
	name   string
	config *rest.Config
	http   *http.Client
	core   rest.Interface
	events *recorder
	ctx    context.Context
	log    *slog.Logger

	mu        sync.Mutex
	clients   map[schema.GroupVersion]rest.Interface
	resources map[string]*resource // by name of their kind
}

// client speaks to the API server about one group and version. What is custom
// has no Go types.
func (c *cluster) client(gv schema.GroupVersion, custom bool) (rest.Interface, error) {
	if known, ok := c.clients[gv]; ok {
		return known, nil
	}
	config := rest.CopyConfig(c.config)
	if custom {
		config = dynamic.ConfigFor(config)
	} else {
		codecs, err := newCodecs()
		if err != nil {
			return nil, err
		}
		config.NegotiatedSerializer = codecs.WithoutConversion()
		config.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json" // the first is read much faster
	}
	config.GroupVersion, config.APIPath = &gv, "/apis"
	if gv.Group == "" {
		config.APIPath = "/api"
	}
	made, err := rest.RESTClientForConfigAndClient(config, c.http)
	if err != nil {
		return nil, err
	}
	c.clients[gv] = made
	return made, nil
}

// newCodecs reads and writes what is used here. The scheme of client-go has all
// groups there are, for some megabytes of memory.
func newCodecs() (serializer.CodecFactory, error) {
	s := runtime.NewScheme()
	metav1.AddToGroupVersion(s, schema.GroupVersion{Version: "v1"})
	err := errors.Join(corev1.AddToScheme(s), appsv1.AddToScheme(s), batchv1.AddToScheme(s), eventsv1.AddToScheme(s))
	return serializer.NewCodecFactory(s), err
}
