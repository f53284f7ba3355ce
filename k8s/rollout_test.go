package k8s

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/dockbell/dockbell/trigger"
)

const shop = "registry.example.com/shop/web:"

// upgrade is the rollout of a run from v1.0.0 to v1.1.0, begun long ago unless
// changed.
func upgrade(change ...func(*rollout)) *rollout {
	r := &rollout{
		Run: 7, FirstTry: time.Unix(100, 0), Began: time.Unix(100, 0), key: "rollout.dockbell.dev/a",
		Turns: []turn{{
			Slot: "a",
			From: release{Image: shop + "v1.0.0", Ours: shop + "v1.0.0", Pushed: "v1.0.0@2026-11-20T12:00:00Z"},
			To:   release{Image: shop + "v1.1.0", Ours: shop + "v1.1.0", Content: digest1, Pushed: "v1.1.0@2026-11-21T12:00:00Z"},
		}},
	}
	for _, f := range change {
		f(r)
	}
	return r
}

// movedTag makes of it one to new content of the same tag.
func movedTag(r *rollout) {
	r.Turns[0].From = r.Turns[0].To
	r.Turns[0].From.Content = digest2
}

// with is a Deployment as the rollout left it, with so many of its pods up.
func (r *rollout) with(up int32) *appsv1.Deployment {
	to := r.Turns[0].To
	d := web(to.Image)
	d.Annotations = map[string]string{r.key: r.note(), "pushed.dockbell.dev/a": to.Pushed}
	d.Spec.Template.Annotations = map[string]string{"content.dockbell.dev/a": to.Content}
	d.Spec.Replicas, d.Spec.Selector = new(int32(2)), &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}
	d.Status = appsv1.DeploymentStatus{Replicas: 2, UpdatedReplicas: 2, AvailableReplicas: up}
	return d
}

// api is an API server with one Deployment.
type api struct {
	mu      sync.Mutex
	object  *appsv1.Deployment
	reads   int
	patches [][]byte
	read    int                         // the status of reads from the second one on; 0 is 200
	patch   func(a *api) int            // the status of a patch; nil is 200
	watch   func(a *api) (lasting bool) // what happens while it is watched; nil forbids it
}

func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	no := func(code int) {
		reason := map[int]metav1.StatusReason{403: metav1.StatusReasonForbidden, 404: metav1.StatusReasonNotFound, 422: metav1.StatusReasonInvalid, 500: metav1.StatusReasonInternalError}[code]
		reply(w, code, failure(code, reason, "because", 0))
	}
	switch {
	case r.Method == http.MethodPatch:
		body, _ := io.ReadAll(r.Body)
		a.patches = append(a.patches, body)
		if a.patch != nil {
			if code := a.patch(a); code != http.StatusOK {
				no(code)
				return
			}
		}
		reply(w, http.StatusOK, a.object)
	case strings.HasSuffix(r.URL.Path, "/deployments/web"):
		if a.reads++; a.reads > 1 && a.read != 0 {
			no(a.read)
			return
		}
		reply(w, http.StatusOK, a.object)
	case strings.HasSuffix(r.URL.Path, "/pods"):
		list := corev1.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}}
		for _, content := range []string{digest1, digest2} {
			list.Items = append(list.Items, corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "of-" + content[7:9], Annotations: map[string]string{"content.dockbell.dev/a": content}}})
		}
		reply(w, http.StatusOK, list)
	case r.URL.Query().Get("fieldSelector") == "metadata.name=web" && a.watch != nil:
		lasting := a.watch(a)
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{"type": "MODIFIED", "object": a.object})
		if w.(http.Flusher).Flush(); lasting {
			a.mu.Unlock()
			<-r.Context().Done()
			a.mu.Lock()
		}
	default:
		no(http.StatusForbidden)
	}
}

// goOn does a run a second time, with what it has begun in the first.
func (a *api) goOn(t *testing.T, keys string) (log string, err error) {
	t.Helper()
	action := deployAt(t, "{target: deployment/web, namespace: prod, "+keys+"}", a.ServeHTTP)
	again := run("v1.1.0", digest1)
	again.Attempt, again.FirstAt, again.StartedAt = 2, time.Unix(100, 0), time.Now()
	var out bytes.Buffer
	err = action.Do(t.Context(), again, &out)
	return out.String(), err
}

func TestRolloutEnds(t *testing.T) {
	const why = "deployment prod/web: " + shop + "v1.1.0 does not come up: it is not rolled out after 1m0s, which is for how long `wait` lets it be; 2 of 2 pods updated, 1 available, 0 from before left; pod of-11: it is not ready"
	theirs := func(a *api) {
		a.object = upgrade().with(1)
		a.object.Spec.Template.Spec.Containers[0].Image = shop + "hotfix"
	}
	const somebody = "somebody else has changed container a, which runs " + shop + "hotfix now"
	for _, test := range []struct {
		name    string
		api     *api
		keys    string
		err     string // "" is success
		end     error  // of which type it is
		undone  bool
		patches int
	}{
		{name: "it came up", api: &api{object: upgrade().with(2)}},
		{name: "it did not", api: &api{object: upgrade().with(1)}, end: &trigger.HoldError{}, err: why},
		{name: "it did not and is undone", api: &api{object: upgrade().with(1)}, keys: ", rollback: true", end: &trigger.HoldError{}, undone: true, err: why + "; " + shop + "v1.0.0 is put back", patches: 1},
		{name: "it was undone before", api: &api{object: upgrade(func(r *rollout) { r.Undone = "it did not come up" }).with(2)}, keys: ", rollback: true", end: &trigger.HoldError{}, undone: true, err: "it did not come up"},
		{
			name: "a moved tag", keys: ", rollback: true", end: &trigger.HoldError{}, undone: true, patches: 1,
			api: &api{object: upgrade(movedTag).with(1)},
			err: why + "; the pods from before are put back; only `pin: digest` makes sure what new ones of a moved tag run",
		},
		{
			name: "somebody has changed it", keys: ", rollback: true", end: &trigger.HoldError{}, api: func() *api { a := &api{}; theirs(a); return a }(),
			err: "deployment prod/web: the rollout of " + shop + "v1.1.0 is not waited for any more: " + somebody,
		},
		{
			name: "somebody has added a container", keys: ", rollback: true, container: a", end: &trigger.HoldError{}, api: func() *api {
				a := &api{object: upgrade().with(1)}
				a.object.Spec.Template.Spec.Containers = append([]corev1.Container{{Name: "first", Image: "log:1"}}, a.object.Spec.Template.Spec.Containers...)
				return a
			}(),
			undone: true, err: why + "; " + shop + "v1.0.0 is put back", patches: 1,
		},
		{
			name: "somebody changes it at the last moment", keys: ", rollback: true", end: &trigger.HoldError{}, patches: 1,
			api: &api{object: upgrade().with(1), patch: func(a *api) int { theirs(a); return 422 }}, err: why + "; nothing is put back: " + somebody,
		},
		{
			name: "it cannot be undone", keys: ", rollback: true", end: &trigger.HoldError{}, patches: rereads,
			api: &api{object: upgrade().with(1), patch: func(*api) int { return 422 }}, err: why + "; it cannot be put back: deployment prod/web in cluster default: cannot patch: because",
		},
		{
			name: "it may not be undone", keys: ", rollback: true", end: &trigger.HoldError{}, patches: 1,
			api: &api{object: upgrade().with(1), patch: func(*api) int { return 403 }}, err: why + "; it cannot be put back: deployment prod/web in cluster default: cannot patch: because",
		},
		{
			name: "the server has trouble when it is to be undone", keys: ", rollback: true", end: &trigger.RetryError{}, patches: 1,
			api: &api{object: upgrade().with(1), patch: func(*api) int { return 500 }}, err: "deployment prod/web in cluster default: cannot patch: because",
		},
		{name: "the server has trouble", api: &api{object: upgrade().with(1), read: 500}, end: &trigger.RetryError{}, err: "deployment prod/web in cluster default: cannot get: because"},
		{name: "it is gone", api: &api{object: upgrade().with(1), read: 404}, end: errors.New(""), err: "deployment prod/web in cluster default: there is none"},
	} {
		t.Run(test.name, func(t *testing.T) {
			log, err := test.api.goOn(t, "wait: 1m"+test.keys)
			if want := "an earlier try began the rollout of " + shop + "v1.1.0\n"; !strings.Contains(log, want) {
				t.Errorf("log is %q, want %q in it", log, want)
			}
			if len(test.api.patches) != test.patches {
				t.Errorf("%d patches, want %d", len(test.api.patches), test.patches)
			}
			if test.err == "" {
				if err != nil || !strings.Contains(log, "rollout over after ") || !strings.Contains(log, ": 2 of 2 pods updated, 2 available") {
					t.Errorf("%v, log %q", err, log)
				}
				return
			}
			if err == nil || !strings.HasPrefix(err.Error(), test.err) {
				t.Fatalf("%v\nwant %s", err, test.err)
			}
			var hold *trigger.HoldError
			_, again := trigger.Retryable(err)
			_, wantHold := test.end.(*trigger.HoldError)
			_, wantAgain := test.end.(*trigger.RetryError)
			if errors.As(err, &hold) != wantHold || again != wantAgain || wantHold && hold.Undone != test.undone {
				t.Errorf("%#v, want %T, undone %v", err, test.end, test.undone)
			}
		})
	}
}

// What the watch tells ends the wait: nobody asks in between.
func TestRolloutIsWatched(t *testing.T) {
	up := func(a *api) bool {
		a.object = upgrade(func(r *rollout) { r.Began = time.Now() }).with(2)
		return true
	}
	a := &api{object: upgrade(func(r *rollout) { r.Began = time.Now() }).with(1), watch: up}
	if log, err := a.goOn(t, "wait: 1h"); err != nil || !strings.Contains(log, "rollout over after ") {
		t.Errorf("%v, log %q", err, log)
	}
	if a.reads != 3 {
		t.Errorf("read %d times, want to begin with, before the watch and after it", a.reads)
	}
}

// A change that ends the wait is told from those that do not, and from a watch
// that ends or is forbidden.
func TestChanges(t *testing.T) {
	event := func(kind, image string) string {
		text, err := json.Marshal(map[string]any{"type": kind, "object": web(image)})
		if err != nil {
			t.Fatal(err)
		}
		return string(text) + "\n"
	}
	for name, test := range map[string]struct {
		events string // "" forbids the watch
		want   bool
	}{
		"what is waited for":   {event("MODIFIED", "b") + event("MODIFIED", "c"), true},
		"it was made anew":     {event("ADDED", "c"), true},
		"it is gone":           {event("DELETED", "b"), true},
		"the watch ends":       {event("MODIFIED", "b"), false},
		"the watch has failed": {`{"type": "ERROR", "object": {"kind": "Status", "apiVersion": "v1", "code": 410, "reason": "Expired"}}`, false},
		"forbidden":            {"", false},
	} {
		t.Run(name, func(t *testing.T) {
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if q := r.URL.Query(); q.Get("fieldSelector") != "metadata.name=web" || q.Get("resourceVersion") != "5" || q.Get("watch") == "" {
					t.Errorf("asked for %s", r.URL)
				}
				if test.events == "" {
					reply(w, http.StatusForbidden, failure(403, metav1.StatusReasonForbidden, "no watch", 0))
					return
				}
				w.Header().Set("Content-Type", "application/json")
				_, _ = io.WriteString(w, test.events)
			}))
			defer srv.Close()
			of := &metav1.ObjectMeta{Namespace: "prod", Name: "web", ResourceVersion: "5"}
			got := resourceAt(t, srv.URL, "deployment").changes(t.Context(), of, func(o runtime.Object) bool {
				return o.(*appsv1.Deployment).Spec.Template.Spec.Containers[0].Image == "c"
			})
			if got != test.want {
				t.Errorf("%v, want %v", got, test.want)
			}
		})
	}
}

// Without an API server dockbell waits, and leaves the decision to another try.
func TestRolloutWithoutServer(t *testing.T) {
	a := &api{object: upgrade(func(r *rollout) { r.Began = time.Now() }).with(1), read: 500}
	_, err := a.goOn(t, "wait: 100ms, rollback: true")
	if _, again := trigger.Retryable(err); !again || len(a.patches) > 0 {
		t.Errorf("%v after %d reads, %d patches", err, a.reads, len(a.patches))
	}
}

// A watch that does not last is not begun again at once.
func TestRolloutWatchEnds(t *testing.T) {
	watches := 0
	a := &api{object: upgrade(func(r *rollout) { r.Began = time.Now() }).with(1), watch: func(*api) bool { watches++; return false }}
	if _, err := a.goOn(t, "wait: 500ms"); err == nil || watches > 1 || a.reads > 3 {
		t.Errorf("%v after %d watches, %d reads", err, watches, a.reads)
	}
}

// A rollout belongs to a run from its first try on, as long as it is not tried
// anew by a person.
func TestBegun(t *testing.T) {
	var object *appsv1.Deployment
	of := func(change func(*trigger.Run)) *rollout {
		r := run("v1.1.0", digest1)
		r.FirstAt = time.Unix(100, 0).UTC()
		change(&r)
		w, err := kinds["deployment"].view(object)
		if err != nil {
			t.Fatal(err)
		}
		return begun(w, r)
	}
	object = upgrade().with(1)
	if r := of(func(*trigger.Run) {}); r == nil || r.key != "rollout.dockbell.dev/a" || r.from() != shop+"v1.0.0" {
		t.Errorf("its own: %+v", r)
	}
	for name, change := range map[string]func(*trigger.Run){
		"another run":         func(r *trigger.Run) { r.ID = 8 },
		"the same run, anew":  func(r *trigger.Run) { r.FirstAt = time.Unix(200, 0) },
		"a note of something": func(*trigger.Run) { object.Annotations["rollout.dockbell.dev/a"] = "mine" },
		"no note":             func(*trigger.Run) { delete(object.Annotations, "rollout.dockbell.dev/a") },
	} {
		object = upgrade().with(1)
		if r := of(change); r != nil {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

// A run that waited, and finds nothing of what it has begun, deploys nothing:
// it may be outside of its window now.
func TestBegunIsGone(t *testing.T) {
	a := &api{object: web(shop + "v1.0.0")}
	action := deployAt(t, "{target: deployment/web, namespace: prod, wait: 1m}", a.ServeHTTP)
	again := run("v1.1.0", digest1)
	again.Attempt, again.Begun = 2, "the rollout of "+shop+"v1.1.0"
	err := action.Do(t.Context(), again, io.Discard)
	var hold *trigger.HoldError
	want := "deployment prod/web: the rollout of " + shop + "v1.1.0 is not waited for any more: what is noted of it is gone from the workload"
	if !errors.As(err, &hold) || err.Error() != want || len(a.patches) > 0 {
		t.Errorf("%v after %d patches, want %s", err, len(a.patches), want)
	}
}

// A deploy that waits notes what it began; undoing tests that and puts back
// what was there, also where that was nothing.
func TestUndoing(t *testing.T) {
	type ops = []any
	op := func(op, path string, value any) any { return map[string]any{"op": op, "path": path, "value": value} }
	const containers = "/spec/template/spec/containers/0"
	for _, test := range []struct {
		name   string
		change func(*rollout)
		image  []any
		notes  func(r *rollout) (content, pushed any)
	}{
		{
			"a new tag, of a workload never deployed before", func(r *rollout) { r.Turns[0].From.Pushed = "" },
			ops{op("replace", containers+"/image", shop+"v1.0.0")},
			func(r *rollout) (content, pushed any) {
				return op("remove", "/spec/template/metadata/annotations/content.dockbell.dev~1a", nil), op("remove", "/metadata/annotations/pushed.dockbell.dev~1a", nil)
			},
		},
		{
			"a moved tag", movedTag, nil,
			func(r *rollout) (content, pushed any) {
				return op("add", "/spec/template/metadata/annotations/content.dockbell.dev~1a", digest2),
					op("add", "/metadata/annotations/pushed.dockbell.dev~1a", "v1.1.0@2026-11-21T12:00:00Z")
			},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := upgrade(test.change)
			k, _ := kindOf("deployment")
			d := &deploy{kind: k}
			w, err := d.view(r.with(1))
			if err != nil {
				t.Fatal(err)
			}
			text, err := json.Marshal(d.undoing(w, r, "it crashes"))
			if err != nil {
				t.Fatal(err)
			}
			after := *r
			after.Undone = "it crashes"
			content, pushed := test.notes(r)
			want := ops{
				op("test", containers+"/name", "a"),
				op("test", containers+"/image", shop+"v1.1.0"),
				op("test", "/spec/template/metadata/annotations/content.dockbell.dev~1a", digest1),
				op("test", "/metadata/annotations/rollout.dockbell.dev~1a", r.note()),
			}
			want = append(append(want, test.image...),
				content,
				op("add", "/metadata/annotations/image.dockbell.dev~1a", r.Turns[0].From.Ours),
				op("add", "/metadata/annotations/kubernetes.io~1change-cause", fmt.Sprintf("dockbell: back to %s, %s did not come up (run 7)", r.from(), r.to())),
				pushed,
				op("add", "/metadata/annotations/rollout.dockbell.dev~1a", after.note()))
			var got ops
			if err := json.Unmarshal(text, &got); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// What a deploy notes is what the next try reads.
func TestRolloutNoted(t *testing.T) {
	wait := time.Minute
	r := run("v1.1.0", digest1)
	r.FirstAt, r.StartedAt = noon.Add(time.Nanosecond), noon.Add(time.Minute)
	template := pod(map[string]string{"content.dockbell.dev/a": digest2}, shop+"v1.0.0")
	ch, err := planned(t, deploySpec{Wait: &wait}, map[string]string{"pushed.dockbell.dev/a": "v1.0.0@2026-11-20T12:00:00Z"}, template, nil, r)
	if err != nil {
		t.Fatal(err)
	}
	want := upgrade(func(u *rollout) { u.FirstTry, u.Began = r.FirstAt, r.StartedAt; u.Turns[0].From.Content = digest2 })
	if o := ch.ops[2]; o != (op{"test", "/spec/template/metadata/annotations/content.dockbell.dev~1a", digest2}) {
		t.Errorf("what may be put back is not tested: %v", o)
	}
	for _, o := range ch.ops {
		if o.Path == "/metadata/annotations/rollout.dockbell.dev~1a" {
			got := rolloutOf(&metav1.ObjectMeta{Annotations: map[string]string{want.key: o.Value.(string)}}, want.key)
			if diff := cmp.Diff(want, got, cmp.AllowUnexported(rollout{})); diff != "" {
				t.Error(diff)
			}
			return
		}
	}
	t.Errorf("nothing is noted: %v", ch.ops)
}
