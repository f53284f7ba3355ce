package e2e

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// counter is a receiver that counts the calls of each run.
type counter struct {
	mu    sync.Mutex
	calls map[string]int
}

func (c *counter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls[r.Header.Get("Idempotency-Key")]++
}

// dockbell is killed five times while many senders push: no acknowledged push
// is lost, nothing that may not be repeated is done twice, no lane is stuck.
func TestKilledUnderLoad(t *testing.T) {
	ns := namespace(t)
	const workloads, senders, kills = 8, 16, 5
	count := &counter{calls: map[string]int{}}
	receiver := httptest.NewServer(count)
	defer receiver.Close()
	rules := ""
	for i := range workloads {
		name := fmt.Sprintf("app-%d", i)
		newDeployment(t, ns, name, corev1.Container{Name: "main", Image: "registry.example.com/shop/" + name + ":v1.0.0"})
		rules += fmt.Sprintf(`
  - name: %[1]s
    repo: registry.example.com/shop/%[1]s
    actions:
      - kubernetes: {target: deployment/%[1]s, namespace: %[2]s}
      - http: {url: "%[3]s/%[1]s", mode: parallel}
`, name, ns, receiver.URL)
	}
	d := serve(t, header+"sources: {registry: {type: distribution, auth: none}}\nrules:"+rules)

	// Each sender has a workload of its own, or shares it with one more, and
	// pushes rising versions. What was not acknowledged is sent again, as a
	// registry does.
	var acknowledged sync.Map // event id of the sender -> true
	var newest [workloads]atomic.Int64
	var versions [workloads]atomic.Int64
	var total atomic.Int64
	stop := make(chan struct{})
	var hooks atomic.Pointer[string]
	hooks.Store(&d.hooks)
	var load sync.WaitGroup
	for s := range senders {
		load.Go(func() {
			app := s % workloads
			for {
				select {
				case <-stop:
					return
				default:
				}
				v := versions[app].Add(1)
				id := fmt.Sprintf("app-%d-%d", app, v)
				body := distribution(id, "registry.example.com", fmt.Sprintf("shop/app-%d", app), fmt.Sprintf("v1.%d.0", v), digestOf(int(v)), time.Now().UTC().Format(time.RFC3339Nano))
				for {
					sender := &daemon{hooks: *hooks.Load()}
					r, err := sender.post("registry", body)
					if err == nil && r.Status/100 == 2 {
						break
					}
					time.Sleep(20 * time.Millisecond) // as a registry backs off
				}
				acknowledged.Store(id, true)
				total.Add(1)
				for have := newest[app].Load(); v > have && !newest[app].CompareAndSwap(have, v); have = newest[app].Load() {
				}
			}
		})
	}
	for range kills {
		before := total.Load()
		eventually(t, "load after the start", func() error {
			if n := total.Load() - before; n < 100 {
				return fmt.Errorf("%d acknowledged", n)
			}
			return nil
		})
		time.Sleep(time.Duration(rand.IntN(100)) * time.Millisecond) // at a random moment
		d.kill()
		d.start()
		address := d.hooks
		hooks.Store(&address)
	}
	close(stop)
	load.Wait()
	t.Logf("%d pushes acknowledged over %d kills", total.Load(), kills)

	runs := d.ended() // no lane is stuck
	known := map[string]bool{}
	for before := ""; ; {
		var page struct {
			Events []struct{ Repository, Tag string }
			Next   string
		}
		d.get("/api/v1/events?limit=1000"+before, &page)
		for _, e := range page.Events {
			var v int
			if _, err := fmt.Sscanf(e.Tag, "v1.%d.0", &v); err != nil {
				t.Fatal(err)
			}
			known[fmt.Sprintf("%s-%d", e.Repository[len("shop/"):], v)] = true
		}
		if page.Next == "" {
			break
		}
		before = "&before=" + page.Next
	}
	lost := 0
	acknowledged.Range(func(id, _ any) bool {
		if !known[id.(string)] {
			lost++
		}
		return true
	})
	if lost > 0 {
		t.Errorf("%d of %d acknowledged pushes are lost", lost, total.Load())
	}
	deployed := map[string]int{}
	unknown := 0
	for _, r := range runs {
		calls := count.calls["dockbell-"+r.ID]
		switch r.Kind + " " + r.State {
		case "http succeeded":
			if calls != 1 {
				t.Errorf("run %s succeeded and called %d times", r.ID, calls)
			}
		case "http unknown":
			if unknown++; calls > 1 {
				t.Errorf("run %s is unknown and called %d times", r.ID, calls)
			}
		case "kubernetes succeeded":
			deployed[r.Rule]++
		case "kubernetes skipped", "kubernetes superseded":
		default:
			t.Errorf("run %s of %s is %s: %s", r.ID, r.Target, r.State, r.Reason)
		}
	}
	t.Logf("%d calls were cut off and are unknown", unknown)
	for i := range workloads {
		name := fmt.Sprintf("app-%d", i)
		got := rolledOut(t, ns, name, fmt.Sprintf("registry.example.com/shop/%s:v1.%d.0", name, newest[i].Load()))
		// A run cut off after its patch finds the image there and is skipped,
		// so a Deployment may have changed more often than runs succeeded,
		// but by no more than the kills.
		if changes := int(got.Generation) - 1; changes < deployed[name] || changes > deployed[name]+kills {
			t.Errorf("%s changed %d times for %d runs", name, changes, deployed[name])
		}
	}
}

// SIGTERM under load: what is in the middle is finished, the rest is there at
// the next start.
func TestStoppedUnderLoad(t *testing.T) {
	count := &counter{calls: map[string]int{}}
	slow := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(30 * time.Millisecond) // as a CI server takes
		count.ServeHTTP(w, r)
	}))
	defer slow.Close()
	d := serve(t, header+fmt.Sprintf(`
sources: {registry: {type: distribution, auth: none}}
rules:
  - name: call
    repo: "**"
    actions:
      - http: {url: %q}
`, slow.URL))
	const pushes = 60
	for i := range pushes {
		d.mustPost(http.StatusAccepted, "registry", version(i))
	}
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := d.cmd.Wait(); err != nil {
		t.Errorf("it ended with %v, want status 0", err)
	}
	d.start()
	runs := d.ended()
	if len(runs) != pushes {
		t.Errorf("%d runs, want %d", len(runs), pushes)
	}
	for _, r := range runs {
		if r.State != "succeeded" || count.calls["dockbell-"+r.ID] != 1 {
			t.Errorf("run %s is %s after %d calls: %s", r.ID, r.State, count.calls["dockbell-"+r.ID], r.Reason)
		}
	}
}
