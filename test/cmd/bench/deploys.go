package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"

	"github.com/dockbell/dockbell/test/parts"
)

const (
	single       = 300 // deploys one after the other
	burst        = 200 // deploys at once
	burstRounds  = 5
	burstWorkers = 64 // as many PATCHes at once as dockbell makes runs
	few          = 10
	shared       = 500  // Deployments that run one repository
	many         = 5000 // Deployments in the cluster
	ns           = "bench"
)

// deploys compares event-to-change with bare PATCHes, both until a watch of
// the API server shows the change. Deployments have no replicas: what the
// controllers do afterwards is not measured.
func (b *bench) deploys(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx) // ends the watch before the server that it asks
	defer cancel()
	bin, err := parts.Build(ctx, os.Stderr, parts.ForCluster...)
	if err != nil {
		return err
	}
	dir := filepath.Join(b.dir, "cluster")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	if b.cluster, err = parts.StartCluster(ctx, bin, dir); err != nil {
		return err
	}
	defer b.cluster.Stop()
	defer cancel()
	if _, err := b.cluster.Client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}, metav1.CreateOptions{}); err != nil {
		return err
	}
	var rules strings.Builder
	for i := range burst {
		fmt.Fprintf(&rules, "  - {name: %[1]s, repo: registry.example.com/shop/%[1]s, actions: [{kubernetes: {target: deployment/%[1]s, namespace: %[2]s}}]}\n", name(i), ns)
	}
	fmt.Fprintf(&rules, "  - {name: shared, repo: registry.example.com/shop/shared, actions: [{kubernetes: {target: uses-image, namespace: %s}}]}\n", ns)
	w, err := b.watch(ctx)
	if err != nil {
		return err
	}
	if err := b.createDeployments(ctx, 0, few, name); err != nil {
		return err
	}
	d, err := b.serve(ctx, "deploys", `
server: {listen: "127.0.0.1:0", admin: "127.0.0.1:0"}
sources: {registry: {type: distribution, auth: none}}
rules:
`+rules.String())
	if err != nil {
		return err
	}
	defer d.stop()
	m := &deployBench{bench: b, daemon: d, seen: w}
	for range 20 { // connections, watches, caches
		if _, err := m.timed(ctx, m.patch, 0); err != nil {
			return err
		}
		if _, err := m.timed(ctx, m.event, 0); err != nil {
			return err
		}
	}
	if err := m.oneByOne(ctx, few); err != nil {
		return err
	}
	if err := b.createDeployments(ctx, few, burst, name); err != nil {
		return err
	}
	if err := m.burst(ctx); err != nil {
		return err
	}
	if err := b.createDeployments(ctx, burst, burst+shared, func(int) string { return "shared" }); err != nil {
		return err
	}
	if err := m.usesImage(ctx); err != nil {
		return err
	}
	if err := b.createDeployments(ctx, burst+shared, many, name); err != nil {
		return err
	}
	if err := m.oneByOne(ctx, many); err != nil {
		return err
	}
	now, most, err := d.memory()
	if err != nil {
		return err
	}
	b.figure(fmt.Sprintf("memory with %d Deployments watched", many), fmt.Sprintf("%d MB, at most %d MB", now>>20, most>>20), "below 120 MB")
	return nil
}

// deployBench changes Deployments, each time to a version never seen.
type deployBench struct {
	*bench
	daemon  *daemon
	seen    *watcher
	version int
}

// timing is how long it took until a change was seen: since it was sent, and
// since the answer to that came.
type timing struct{ sent, answered time.Duration }

// timed is how long a change of some Deployments takes, all at once, until
// the watch shows the last of them.
func (m *deployBench) timed(ctx context.Context, change func(ctx context.Context, i int, tag string) error, which ...int) (timing, error) {
	m.version++
	tag := fmt.Sprintf("v1.%d.0", m.version)
	done := m.seen.expect(len(which), tag)
	began := time.Now()
	var wg sync.WaitGroup
	slots := make(chan struct{}, burstWorkers)
	failed := make(chan error, len(which))
	for _, i := range which {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			if err := change(ctx, i, tag); err != nil {
				failed <- err
			}
		})
	}
	wg.Wait()
	answered := time.Now()
	select {
	case err := <-failed:
		return timing{}, err
	case at := <-done:
		return timing{at.Sub(began), max(0, at.Sub(answered))}, nil
	case <-time.After(30 * time.Second):
		return timing{}, fmt.Errorf("%s was not seen on %d Deployments", tag, len(which))
	}
}

func (m *deployBench) event(ctx context.Context, i int, tag string) error {
	return post(ctx, m.daemon.hooks, notification(name(i)+tag, "shop/"+name(i), tag, m.version))
}

func (m *deployBench) patch(ctx context.Context, i int, tag string) error {
	return m.patchTo(ctx, i, name(i), tag)
}

func (m *deployBench) patchTo(ctx context.Context, i int, repository, tag string) error {
	patch := fmt.Sprintf(`[{"op":"replace","path":"/spec/template/spec/containers/0/image","value":"registry.example.com/shop/%s:%s"}]`, repository, tag)
	_, err := m.cluster.Client.AppsV1().Deployments(ns).Patch(ctx, name(i), types.JSONPatchType, []byte(patch), metav1.PatchOptions{})
	return err
}

func (m *deployBench) oneByOne(ctx context.Context, workloads int) error {
	var sent, acknowledged, patches []time.Duration
	for range single {
		e, err := m.timed(ctx, m.event, 0)
		if err != nil {
			return err
		}
		p, err := m.timed(ctx, m.patch, 0)
		if err != nil {
			return err
		}
		sent, acknowledged, patches = append(sent, e.sent), append(acknowledged, e.answered), append(patches, p.sent)
	}
	for _, q := range []struct {
		name   string
		p      float64
		target string
	}{{"p50", 0.5, "at most 1.3 x"}, {"p99", 0.99, "at most 2 x"}} {
		s, a, p := percentile(sent, q.p), percentile(acknowledged, q.p), percentile(patches, q.p)
		m.row(fmt.Sprintf("push acknowledged to Deployment changed, %d in the cluster, %s, beside a bare PATCH", workloads, q.name), ms(a), ms(p), float64(a)/float64(p), q.target)
		m.row(fmt.Sprintf("push sent to Deployment changed, %d in the cluster, %s, beside a bare PATCH", workloads, q.name), ms(s), ms(p), float64(s)/float64(p), "")
	}
	return nil
}

func (m *deployBench) burst(ctx context.Context) error {
	all := make([]int, burst)
	for i := range all {
		all[i] = i
	}
	var events, patches []time.Duration
	for range burstRounds {
		e, err := m.timed(ctx, m.event, all...)
		if err != nil {
			return err
		}
		p, err := m.timed(ctx, m.patch, all...)
		if err != nil {
			return err
		}
		events, patches = append(events, e.sent), append(patches, p.sent)
	}
	e, p := percentile(events, 0.5), percentile(patches, 0.5)
	m.row(fmt.Sprintf("burst of %d pushes for %d Deployments, beside bare PATCHes", burst, burst),
		fmt.Sprintf("%.0f/s", burst/e.Seconds()), fmt.Sprintf("%.0f/s", burst/p.Seconds()), float64(p)/float64(e), "at least 0.8 x")
	return nil
}

// usesImage compares one push for all Deployments that run its repository with
// as many bare PATCHes.
func (m *deployBench) usesImage(ctx context.Context) error {
	all := make([]int, shared)
	for i := range all {
		all[i] = burst + i
	}
	push := func(ctx context.Context, i int, tag string) error {
		if i != burst {
			return nil // one push is for all
		}
		return post(ctx, m.daemon.hooks, notification("shared"+tag, "shop/shared", tag, m.version))
	}
	patch := func(ctx context.Context, i int, tag string) error { return m.patchTo(ctx, i, "shared", tag) }
	var pushes, patches []time.Duration
	for range burstRounds {
		e, err := m.timed(ctx, push, all...)
		if err != nil {
			return err
		}
		p, err := m.timed(ctx, patch, all...)
		if err != nil {
			return err
		}
		pushes, patches = append(pushes, e.sent), append(patches, p.sent)
	}
	e, p := percentile(pushes, 0.5), percentile(patches, 0.5)
	m.row(fmt.Sprintf("one push for %d Deployments that use its image, beside bare PATCHes", shared),
		fmt.Sprintf("%.0f/s", shared/e.Seconds()), fmt.Sprintf("%.0f/s", shared/p.Seconds()), float64(p)/float64(e), "at least 0.8 x")
	return nil
}

func name(i int) string { return fmt.Sprintf("app-%d", i) }

// createDeployments makes those of some numbers, each of a repository.
func (b *bench) createDeployments(ctx context.Context, from, to int, repository func(i int) string) error {
	return senders(burstWorkers, to-from, func(i int) error { return b.createDeployment(ctx, name(from+i), repository(from+i)) })
}

func (b *bench) createDeployment(ctx context.Context, name, repository string) error {
	labels := map[string]string{"app": name}
	none := int32(0)
	_, err := b.cluster.Client.AppsV1().Deployments(ns).Create(ctx, &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.DeploymentSpec{Replicas: &none, Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: labels},
			Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "registry.example.com/shop/" + repository + ":v1.0.0"}}},
		}},
	}, metav1.CreateOptions{})
	return err
}

// watcher tells when Deployments have got a tag.
type watcher struct {
	mu   sync.Mutex
	tag  string
	want int
	have map[string]bool
	done chan time.Time
}

func (b *bench) watch(ctx context.Context) (*watcher, error) {
	list, err := b.cluster.Client.AppsV1().Deployments(ns).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	// The API server ends watches that cannot follow a burst; this one goes on
	// where it ended.
	events, err := watchtools.NewRetryWatcherWithContext(ctx, list.ResourceVersion, &cache.ListWatch{WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
		return b.cluster.Client.AppsV1().Deployments(ns).Watch(ctx, o)
	}})
	if err != nil {
		return nil, err
	}
	w := &watcher{}
	go func() {
		for e := range events.ResultChan() {
			if d, ok := e.Object.(*appsv1.Deployment); ok && e.Type == watch.Modified {
				w.see(d.Name, d.Spec.Template.Spec.Containers[0].Image)
			}
		}
	}()
	return w, nil
}

func (w *watcher) expect(n int, tag string) <-chan time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tag, w.want, w.have, w.done = ":"+tag, n, map[string]bool{}, make(chan time.Time, 1)
	return w.done
}

func (w *watcher) see(name, image string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.want == 0 || !strings.HasSuffix(image, w.tag) {
		return
	}
	if w.have[name] = true; len(w.have) == w.want {
		w.done <- time.Now()
		w.want = 0
	}
}
