package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/dockbell/dockbell/test/parts"
)

// soak is how much of something a test does: little in CI, all of it in
// `make soak`.
func soak(little, all int) int {
	if os.Getenv("DOCKBELL_SOAK") != "" {
		return all
	}
	return little
}

// stores are those that faults are tried on. start gives the store's line of
// the configuration.
var stores = []struct {
	name  string
	start func(t *testing.T) string
}{
	{"sqlite", func(*testing.T) string { return "sqlite:dockbell.db" }},
	{"postgres", func(t *testing.T) string { return postgres(t).URL("postgres") }},
}

// postgres is a server of the test's own.
func postgres(t *testing.T) *parts.Postgres {
	t.Helper()
	p, err := parts.StartPostgres(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	return p
}

// receiver is what calls go to. It counts those of each run and watches the
// order in each lane, whatever dockbell says about itself.
type receiver struct {
	*httptest.Server
	takes time.Duration // for how long a call is in the middle

	refusing atomic.Bool // calls are answered 503, and not counted

	mu      sync.Mutex
	calls   map[string]int             // by Idempotency-Key
	middle  map[string]context.Context // of a lane's last call; it ends with the call, or with who called
	last    map[string]int             // version of a lane's last call
	refused map[string]bool            // lanes
	faults  []string
}

func newReceiver(t *testing.T, takes time.Duration) *receiver {
	c := &receiver{takes: takes, calls: map[string]int{}, middle: map[string]context.Context{}, last: map[string]int{}, refused: map[string]bool{}}
	c.Server = httptest.NewServer(c)
	t.Cleanup(c.Close)
	return c
}

func (c *receiver) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var call struct{ Lane, Image string }
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // it was cut off before it came
	}
	if err := json.Unmarshal(body, &call); err != nil {
		c.fault("a call with the body %q: %v", body, err)
		return
	}
	_, version := parse(call.Image)
	if !c.enter(r, call.Lane, version) {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	select {
	case <-time.After(c.takes): // as a CI server takes
	case <-r.Context().Done():
	}
}

// enter takes a call down; ok is false when it is refused.
func (c *receiver) enter(r *http.Request, lane string, version int) (ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.refusing.Load() {
		c.refused[lane] = true
		return false
	}
	c.calls[r.Header.Get("Idempotency-Key")]++
	if before := c.middle[lane]; before != nil && before.Err() == nil {
		c.faults = append(c.faults, fmt.Sprintf("lane %s: version %d is called while %d is in the middle", lane, version, c.last[lane]))
	}
	if version < c.last[lane] {
		c.faults = append(c.faults, fmt.Sprintf("lane %s: version %d comes after %d", lane, version, c.last[lane]))
	}
	c.middle[lane], c.last[lane] = r.Context(), version
	return true
}

func (c *receiver) fault(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults = append(c.faults, fmt.Sprintf(format, args...))
}

// count is how many calls have come. The caller holds mu.
func (c *receiver) count() (n int) {
	for _, calls := range c.calls {
		n += calls
	}
	return n
}

// called is how many calls have come.
func (c *receiver) called() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.count()
}

// refusals are the lanes that were refused a call.
func (c *receiver) refusals() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Collect(maps.Keys(c.refused))
}

// load is senders that push rising versions to repositories, as registries do:
// one push of a repository after the other, and what was not acknowledged is
// sent again. So what was acknowledged is version 1 up to the newest.
type load struct {
	t      *testing.T
	calls  *receiver
	ns     string         // where each repository has a Deployment; "" for none
	newest []atomic.Int64 // by repository
	hooks  atomic.Pointer[[]string]

	acknowledged, refused atomic.Int64

	stop    context.Context
	halt    context.CancelFunc
	senders sync.WaitGroup
	watcher sync.WaitGroup
}

// newLoad is a load on some repositories, with their Deployments when there is
// a namespace.
func newLoad(t *testing.T, repositories int, calls *receiver, ns string) *load {
	l := &load{t: t, calls: calls, ns: ns, newest: make([]atomic.Int64, repositories)}
	l.stop, l.halt = context.WithCancel(t.Context())
	t.Cleanup(l.end)
	if ns == "" {
		return l
	}
	for i := range repositories {
		newDeployment(t, ns, app(i), corev1.Container{Name: "main", Image: imageOf(i, 0)})
	}
	l.watch()
	return l
}

func app(i int) string { return fmt.Sprintf("app-%d", i) }

func imageOf(i, version int) string {
	return fmt.Sprintf("registry.example.com/shop/%s:v1.%d.0", app(i), version)
}

// parse is the reverse of imageOf.
func parse(image string) (i, version int) {
	if _, err := fmt.Sscanf(image, "registry.example.com/shop/app-%d:v1.%d.0", &i, &version); err != nil {
		panic(fmt.Sprintf("%q is no image of the load: %v", image, err))
	}
	return i, version
}

// config is a configuration in which each push to the repositories makes a
// call, and a call that only the newest makes, and changes a Deployment.
// Gates are further keys of the rules.
func (l *load) config(store, gates string) string {
	var b strings.Builder
	fmt.Fprintf(&b, `
server: {listen: "127.0.0.1:0", admin: "127.0.0.1:0"}
store: %q
sources: {registry: {type: distribution, auth: none}}
rules:
  - name: calls
    repo: registry.example.com/shop/*
    %[2]s
    actions:
      - http: {url: %[3]q, lane: "each {{.Repository}}", mode: queue, attempts: 20, json: {lane: "each {{.Repository}}", image: "{{.Image}}"}}
      - http: {url: %[3]q, lane: "newest {{.Repository}}", mode: latest, attempts: 20, json: {lane: "newest {{.Repository}}", image: "{{.Image}}"}}
`, store, gates, l.calls.URL)
	if l.ns == "" {
		return b.String()
	}
	for i := range l.newest {
		fmt.Fprintf(&b, `
  - name: %[1]s
    repo: registry.example.com/shop/%[1]s
    %[2]s
    actions: [{kubernetes: {target: deployment/%[1]s, namespace: %[3]s}}]
`, app(i), gates, l.ns)
	}
	return b.String()
}

// actions are the runs that a push makes, by kind and place in their rule.
func (l *load) actions() []string {
	if l.ns == "" {
		return []string{"http0", "http1"}
	}
	return []string{"http0", "http1", "kubernetes0"}
}

// watch sees to it that no Deployment goes backwards.
func (l *load) watch() {
	w, err := cluster.Client.AppsV1().Deployments(l.ns).Watch(l.t.Context(), metav1.ListOptions{})
	if err != nil {
		l.t.Fatal(err)
	}
	last := map[string]int{}
	l.watcher.Go(func() {
		for e := range w.ResultChan() {
			d, ok := e.Object.(*appsv1.Deployment)
			if !ok {
				l.calls.fault("the watch of the Deployments ended: %v", e.Object)
				return
			}
			_, version := parse(d.Spec.Template.Spec.Containers[0].Image)
			if version < last[d.Name] {
				l.calls.fault("deployment %s: version %d comes after %d", d.Name, version, last[d.Name])
			}
			last[d.Name] = version
		}
	})
	l.t.Cleanup(func() { w.Stop(); l.watcher.Wait() })
}

// to is where pushes go from now on: to these in turn.
func (l *load) to(all ...*daemon) {
	var hooks []string
	for _, d := range all {
		hooks = append(hooks, d.hooks)
	}
	l.hooks.Store(&hooks)
}

// start begins to push, most times to each repository. Between two pushes a
// sender takes a pause.
func (l *load) start(senders, most int, pause time.Duration) {
	for s := range senders {
		l.senders.Go(func() {
			for v := 1; v <= most; v++ {
				for i := s; i < len(l.newest); i += senders {
					select {
					case <-l.stop.Done():
						return
					case <-time.After(pause):
					}
					l.push(i, v)
				}
			}
		})
	}
}

// forever is more pushes than a load ever makes.
const forever = 1 << 30

// push sends one push until it is acknowledged.
func (l *load) push(i, version int) {
	body := distribution(fmt.Sprintf("%s-%d", app(i), version), "registry.example.com", "shop/"+app(i), fmt.Sprintf("v1.%d.0", version),
		digestOf(version), time.Now().UTC().Format(time.RFC3339Nano))
	var last string
	for try, end := 0, time.Now().Add(patience); time.Now().Before(end); try++ {
		hooks := *l.hooks.Load()
		sender := &daemon{hooks: hooks[(i+version+try)%len(hooks)]}
		r, err := sender.post("registry", body)
		switch {
		case err != nil: // it was killed, say
		case r.Status/100 == 2:
			l.acknowledged.Add(1)
			l.newest[i].Store(int64(version))
			return
		case r.Status == http.StatusServiceUnavailable && r.RetryAfter != "":
			l.refused.Add(1)
		default:
			l.calls.fault("a push was answered %d with Retry-After %q: %s", r.Status, r.RetryAfter, r.Error)
		}
		last = fmt.Sprintf("%d %s %v", r.Status, r.Error, err)
		time.Sleep(20 * time.Millisecond) // as a registry backs off
	}
	l.calls.fault("%s was not acknowledged within %s: %s", imageOf(i, version), patience, last)
}

// flows waits until so many more pushes are acknowledged.
func (l *load) flows(more int64) {
	l.t.Helper()
	before := l.acknowledged.Load()
	eventually(l.t, "pushes are acknowledged", func() error {
		if n := l.acknowledged.Load() - before; n < more {
			return fmt.Errorf("%d of %d", n, more)
		}
		return nil
	})
}

// end lets no more pushes begin, and returns when those that have begun are
// acknowledged.
func (l *load) end() {
	l.halt()
	l.senders.Wait()
}

// checkOff waits until no run is live and holds what dockbell says against
// what was acknowledged and what the receiver and the cluster saw: nothing is
// lost, nothing done twice, nothing out of order, each lane at its newest. It
// gives how many runs ended as unknown, as a call does that was cut off.
func (l *load) checkOff(d *daemon) (unknown int) {
	l.t.Helper()
	runs, events := d.ended(), l.events(d)
	l.calls.mu.Lock()
	defer l.calls.mu.Unlock()
	faults := l.calls.faults
	fault := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }

	made := map[string]int{} // runs by action and image
	seen := 0
	for _, r := range runs {
		made[fmt.Sprintf("%s%d%s", r.Kind, r.Index, r.Image)]++
		calls := l.calls.calls["dockbell-"+r.ID]
		seen += calls
		if r.State == "unknown" {
			unknown++
		}
		if why := l.wrong(r, calls); why != "" {
			fault("run %s, %s %d of %s, is %s (%s): %s", r.ID, r.Kind, r.Index, r.Image, r.State, r.Reason, why)
		}
	}
	if all := l.calls.count(); all != seen {
		fault("%d calls came, %d of them of runs that are there", all, seen)
	}
	for i := range l.newest {
		newest := int(l.newest[i].Load())
		for v := 1; v <= newest; v++ {
			image := imageOf(i, v)
			if !events[image] {
				fault("%s was acknowledged and there is no event", image)
			}
			for _, action := range l.actions() {
				if n := made[action+image]; n != 1 {
					fault("%s made %d runs of %s", image, n, action)
				}
			}
		}
		if l.ns == "" || newest == 0 {
			continue
		}
		if got := getDeployment(l.t, l.ns, app(i)).Spec.Template.Spec.Containers[0].Image; got != imageOf(i, newest) {
			fault("deployment %s runs %s and version %d is the newest", app(i), got, newest)
		}
	}
	for _, f := range faults[:min(len(faults), 10)] {
		l.t.Error(f)
	}
	if more := len(faults) - 10; more > 0 {
		l.t.Errorf("and %d more", more)
	}
	l.t.Logf("%d pushes acknowledged, %d answered 503; %d runs, %d calls, %d runs ended as unknown", l.acknowledged.Load(), l.refused.Load(), len(runs), seen, unknown)
	return unknown
}

// wrong is what is wrong with how a run ended, given how often it called; ""
// when nothing is.
func (l *load) wrong(r aRun, calls int) string {
	i, version := parse(r.Image)
	switch {
	case calls > 1:
		return fmt.Sprintf("it called %d times", calls)
	case r.State == "succeeded" && r.Kind == "http" && calls == 0:
		return "it did not call"
	case r.State == "superseded" && calls > 0:
		return "it called"
	case r.State == "superseded" && r.Mode == "latest" && version < int(l.newest[i].Load()):
	case r.State == "skipped" && r.Kind == "kubernetes": // it was cut off after its patch, and found its image there
	case r.State == "unknown" && r.Kind == "http":
	case r.State != "succeeded":
		return "it should not have ended so"
	}
	return ""
}

// events gives the images that there are events of.
func (l *load) events(d *daemon) map[string]bool {
	l.t.Helper()
	images := map[string]bool{}
	for before := ""; ; {
		var page struct {
			Events []struct{ Registry, Repository, Tag string }
			Next   string
		}
		d.get("/api/v1/events?limit=1000"+before, &page)
		for _, e := range page.Events {
			images[e.Registry+"/"+e.Repository+":"+e.Tag] = true
		}
		if page.Next == "" {
			return images
		}
		before = "&before=" + page.Next
	}
}
