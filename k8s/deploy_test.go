package k8s

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"gopkg.in/yaml.v3"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/dockbell/dockbell/trigger"
)

func build(t *testing.T, clusters map[string]ClusterSpec, spec string) (trigger.Action, error) {
	t.Helper()
	return deployIn(New(t.Context(), clusters, nil, slog.New(slog.DiscardHandler)), spec)
}

func deployIn(c *Clusters, spec string) (trigger.Action, error) {
	return c.Deploy(func(v any) error { return yaml.Unmarshal([]byte(spec), v) })
}

func TestDeployFaults(t *testing.T) {
	for _, test := range []struct{ spec, want string }{
		{"{}", "target: must be KIND/NAME"},
		{"{target: pod/web, namespace: prod}", `target: must be KIND/NAME with a kind of cronjob, daemonset, deployment, rollout.argoproj.io, service.serving.knative.dev, statefulset, or with any KIND.GROUP and a ` + "`path`" + `, or uses-image; not "pod/web"`},
		{"{target: deployment/, namespace: prod}", `target: "" is not the name of a deployment`},
		{"{target: deployment/Web, namespace: prod}", `target: "Web" is not the name of a deployment`},
		{"{target: deployment/web}", `namespace: "" is not the name of a namespace`},
		{"{target: deployment/web, namespace: prod, container: a/b}", `container: "a/b" is not the name of a container`},
		{"{target: deployment/web, namespace: prod, pin: sha}", `pin: must be tag or digest, not "sha"`},
		{"{target: deployment/web, namespace: prod, wait: 0s}", "wait: must be longer than nothing, as in 5m"},
		{"{target: deployment/web, namespace: prod, wait: -5m}", "wait: must be longer than nothing, as in 5m"},
		{"{target: deployment/web, namespace: prod, value: tag}", "value: is for other kinds: the images of a deployment are found by `container`"},
		{"{target: tool.example.com/web, namespace: prod, container: a}", "container: is for pods: the image of a tool.example.com is found by `path`"},
		{"{target: tool.example.com/web, namespace: prod, path: spec.tag, value: name}", `value: must be image, tag, digest or repository, not "name"`},
		{"{target: deployment/web, namespace: prod, namespaces: [a]}", "namespaces: is for `target: uses-image`, or for a kind with a `selector`"},
		{"{target: deployment/web, namespace: prod, kinds: [deployment]}", "kinds: is for `target: uses-image`"},
		{"{target: uses-image}", `namespaces: are missing: name those in which it may change something, or ["*"] for all`},
		{"{target: uses-image, namespaces: [prod, '*']}", `namespaces: "*" is all of them: name no others`},
		{"{target: uses-image, namespace: prod, namespaces: [staging]}", "namespaces: take `namespace` for one and `namespaces` for several"},
		{"{target: uses-image, namespaces: [Prod]}", `namespaces: "Prod" is not the name of a namespace`},
		{"{target: uses-image, namespace: prod, kinds: [pod]}", `kinds: "pod" is no kind whose pods are known; those are cronjob, `},
		{"{target: uses-image, namespace: prod, path: spec.image}", "path: is for other kinds"},
		{"{target: uses-image, namespace: prod, rollback: true}", "rollback: needs `wait`"},
		{"{target: deployment, selector: 'app in (', namespace: prod}", `selector: "app in (" is no label selector`},
		{"{target: deployment/web, selector: app=web, namespace: prod}", `target: "deployment/web" names one workload; with a selector it is a kind alone`},
		{"{target: deployment, kinds: [deployment], selector: app=web, namespace: prod}", "kinds: are for `target: uses-image`"},
		{"{target: deployment/web, namespace: prod, rollback: true}", "rollback: needs `wait`, which says how long the new pods may take to come up"},
		{"{target: deployment/web, namespace: prod, cluster: moon}", "cluster: there is no cluster \"moon\"; `clusters` has staging, default"},
	} {
		_, err := build(t, map[string]ClusterSpec{"staging": {}}, test.spec)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %s", test.spec, err, test.want)
		}
	}
}

func TestTarget(t *testing.T) {
	for spec, want := range map[string]string{
		"{target: deployment/web, namespace: prod}":                                   "deployment prod/web",
		"{target: daemonset/web, namespace: prod, container: main}":                   "daemonset prod/web container main",
		"{target: statefulset/web, namespace: prod, container: main, cluster: other}": "statefulset prod/web container main in other",
		"{target: deployment.apps/web, namespace: prod, dryRun: server}":              "deployment prod/web as a rehearsal",
		"{target: tool.example.com/web, namespace: prod, path: 'spec.tags[0]'}":       "tool.example.com prod/web field spec.tags[0]",
	} {
		a, err := build(t, map[string]ClusterSpec{"other": {}}, spec)
		if err != nil {
			t.Fatal(err)
		}
		if a.Target() != want {
			t.Errorf("%s: %s, want %s", spec, a.Target(), want)
		}
	}
}

// apiServer answers as given and counts. What a real one does is in the
// end-to-end tests; here are the answers that it gives rarely.
func apiServer(t *testing.T, answer func(w http.ResponseWriter, r *http.Request)) trigger.Action {
	t.Helper()
	return deployAt(t, "{target: deployment/web, namespace: prod}", answer)
}

func deployAt(t *testing.T, spec string, answer func(w http.ResponseWriter, r *http.Request)) trigger.Action {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(answer))
	t.Cleanup(srv.Close)
	a, err := deployIn(clustersAt(t, srv.URL), spec)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// clustersAt has the API server at a URL.
func clustersAt(t *testing.T, url string) *Clusters {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kubeconfig")
	config := fmt.Sprintf("{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: c}}], clusters: [{name: c, cluster: {server: %q}}]}", url)
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	return New(t.Context(), map[string]ClusterSpec{DefaultCluster: {Kubeconfig: path}}, nil, slog.New(slog.DiscardHandler))
}

// resourceAt is a kind as the API server at a URL has it.
func resourceAt(t *testing.T, url, name string) *resource {
	t.Helper()
	c, err := clustersAt(t, url).connect(DefaultCluster)
	if err != nil {
		t.Fatal(err)
	}
	k, _ := kindOf(name)
	r, err := c.resource(t.Context(), k)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func reply(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

func failure(code int, reason metav1.StatusReason, message string, retryAfter int32) metav1.Status {
	return metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: "Failure", Code: int32(code), Reason: reason, Message: message,
		Details: &metav1.StatusDetails{RetryAfterSeconds: retryAfter},
	}
}

func web(image string) *appsv1.Deployment {
	return &appsv1.Deployment{
		TypeMeta: metav1.TypeMeta{Kind: "Deployment", APIVersion: "apps/v1"}, ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "prod"},
		Spec: appsv1.DeploymentSpec{Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "a", Image: image}}}}},
	}
}

// The reference page has every key and every kind.
func TestReference(t *testing.T) {
	page, err := os.ReadFile("../docs/actions/kubernetes.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range reflect.VisibleFields(reflect.TypeFor[deploySpec]()) {
		if key := "`" + f.Tag.Get("yaml") + "`"; !strings.Contains(string(page), key) {
			t.Errorf("it does not have %s", key)
		}
	}
	for name := range kinds {
		if !strings.Contains(string(page), "`"+name+"/`") {
			t.Errorf("it does not have %s/", name)
		}
	}
}

// Whatever the server answers, the run says what it means and whether it is
// tried again.
func TestAnswers(t *testing.T) {
	for _, test := range []struct {
		name   string
		code   int
		reason metav1.StatusReason
		again  bool
		after  time.Duration
		says   string
	}{
		{"not found", 404, metav1.StatusReasonNotFound, false, 0, "there is none"},
		{"a policy forbids it", 403, metav1.StatusReasonForbidden, false, 0, "cannot patch"},
		{"forbidden", 403, metav1.StatusReasonForbidden, false, 0, "a Role in namespace prod must allow get, list, watch and patch on deployments.apps: {apiGroups: [apps], resources: [deployments], verbs: [get, list, watch, patch]}"},
		{"unauthorized", 401, metav1.StatusReasonUnauthorized, true, 0, "does not know these credentials"},
		{"overloaded", 429, metav1.StatusReasonTooManyRequests, true, 7 * time.Second, "cannot patch"},
		{"broken", 500, metav1.StatusReasonInternalError, true, 7 * time.Second, "cannot patch"},
		{"webhook denies", 400, metav1.StatusReasonBadRequest, false, 0, "cannot patch"},
		{"invalid", 422, metav1.StatusReasonInvalid, false, 0, "cannot patch"},
	} {
		t.Run(test.name, func(t *testing.T) {
			a := apiServer(t, func(w http.ResponseWriter, r *http.Request) {
				switch {
				case r.Method == http.MethodPatch:
					why := "because"
					if test.name == "forbidden" {
						why = `User "guest" cannot patch resource "deployments"`
					}
					reply(w, test.code, failure(test.code, test.reason, why, int32(test.after.Seconds())))
				case strings.HasSuffix(r.URL.Path, "/deployments/web"):
					reply(w, http.StatusOK, web("registry.example.com/shop/web:v1.0.0"))
				default:
					reply(w, http.StatusForbidden, failure(403, metav1.StatusReasonForbidden, "no list", 0)) // no watch
				}
			})
			err := a.Do(t.Context(), run("v1.1.0", digest1), io.Discard)
			if err == nil || !strings.Contains(err.Error(), test.says) {
				t.Fatalf("got %v, want %q in it", err, test.says)
			}
			after, again := trigger.Retryable(err)
			if again != test.again || again && after != test.after {
				t.Errorf("tried again: %v after %s, want %v after %s", again, after, test.again, test.after)
			}
		})
	}
}

// Somebody is quicker every time: the run is put back to wait, and has not
// written anything.
func TestAlwaysLate(t *testing.T) {
	reads := 0
	a := apiServer(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method == http.MethodPatch:
			reply(w, http.StatusUnprocessableEntity, failure(422, metav1.StatusReasonInvalid, "the test failed", 0))
		case strings.HasSuffix(r.URL.Path, "/deployments/web"):
			reads++
			reply(w, http.StatusOK, web(fmt.Sprintf("registry.example.com/shop/web:v1.0.%d", reads)))
		default:
			reply(w, http.StatusForbidden, failure(403, metav1.StatusReasonForbidden, "no list", 0))
		}
	})
	err := a.Do(t.Context(), run("v1.1.0", digest1), io.Discard)
	if _, again := trigger.Retryable(err); !again || !strings.Contains(err.Error(), "changed by others all the time") {
		t.Errorf("got %v", err)
	}
	if reads != rereads {
		t.Errorf("read %d times, want %d", reads, rereads)
	}
}

func TestCancelled(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	a := apiServer(t, func(w http.ResponseWriter, r *http.Request) {
		cancel(errors.New("timed out after 1s"))
		<-r.Context().Done()
	})
	err := a.Do(ctx, run("v1.1.0", digest1), io.Discard)
	if _, again := trigger.Retryable(err); !again || !strings.Contains(err.Error(), "timed out after 1s") {
		t.Errorf("got %v, want the cause and another try", err)
	}
}

func TestNothingToDeploy(t *testing.T) {
	a := apiServer(t, func(http.ResponseWriter, *http.Request) { t.Error("the API server was asked") })
	if err := a.Do(t.Context(), run("", ""), io.Discard); err == nil || !strings.Contains(err.Error(), "neither tag nor digest") {
		t.Errorf("got %v", err)
	}
}
