package parts

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	typedapps "k8s.io/client-go/kubernetes/typed/apps/v1"
	"k8s.io/client-go/tools/clientcmd"
)

func build(t *testing.T) Bin {
	t.Helper()
	bin, err := Build(t.Context(), os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	return bin
}

func eventually(t *testing.T, what string, ok func() (bool, error)) {
	t.Helper()
	var err error
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		var done bool
		if done, err = ok(); done {
			return
		}
	}
	t.Fatalf("%s: not within 30 s; last error: %v", what, err)
}

func deployment(name, image string) *appsv1.Deployment {
	labels := map[string]string{"app": name}
	replicas := int32(3)
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: image}}},
			},
		},
	}
}

func TestCluster(t *testing.T) {
	ctx := t.Context()
	c, err := StartCluster(ctx, build(t), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Stop()
	apps := c.Client.AppsV1().Deployments("default")

	t.Run("rollout", func(t *testing.T) {
		if _, err := apps.Create(ctx, deployment("good", "shop/web:v1"), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		eventually(t, "three replicas available", func() (bool, error) {
			d, err := apps.Get(ctx, "good", metav1.GetOptions{})
			return err == nil && d.Status.AvailableReplicas == 3, err
		})
	})
	t.Run("image that cannot be pulled", func(t *testing.T) {
		if _, err := apps.Create(ctx, deployment("bad", "shop/web:v1-noimage"), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		eventually(t, "pods wait for their image", func() (bool, error) {
			pods, err := c.Client.CoreV1().Pods("default").List(ctx, metav1.ListOptions{LabelSelector: "app=bad"})
			if err != nil {
				return false, err
			}
			waiting := 0
			for _, p := range pods.Items {
				if s := p.Status.ContainerStatuses; len(s) == 1 && s[0].State.Waiting != nil && s[0].State.Waiting.Reason == "ImagePullBackOff" {
					waiting++
				}
			}
			return waiting == 3, fmt.Errorf("%d wait", waiting)
		})
		// A failing pod stays as it is: kwok does not write it again and again.
		pods := c.Client.CoreV1().Pods("default")
		list, err := pods.List(ctx, metav1.ListOptions{LabelSelector: "app=bad"})
		if err != nil {
			t.Fatal(err)
		}
		w, err := pods.Watch(ctx, metav1.ListOptions{LabelSelector: "app=bad", ResourceVersion: list.ResourceVersion, TimeoutSeconds: new(int64(2))})
		if err != nil {
			t.Fatal(err)
		}
		changes := 0
		for range w.ResultChan() {
			changes++
		}
		if changes > 0 {
			t.Errorf("%d changes of pods that wait", changes)
		}
		// The next good image replaces them.
		patch := []byte(`{"spec":{"template":{"spec":{"containers":[{"name":"main","image":"shop/web:v2"}]}}}}`)
		if _, err := apps.Patch(ctx, "bad", types.StrategicMergePatchType, patch, metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
		eventually(t, "only good pods are left", func() (bool, error) {
			list, err := pods.List(ctx, metav1.ListOptions{LabelSelector: "app=bad"})
			if err != nil {
				return false, err
			}
			good := 0
			for _, p := range list.Items {
				if p.Spec.Containers[0].Image == "shop/web:v2" && p.Status.Phase == corev1.PodRunning {
					good++
				}
			}
			return good == 3 && len(list.Items) == 3, fmt.Errorf("%d of %d are good", good, len(list.Items))
		})
	})
	t.Run("rights", func(t *testing.T) {
		guest, stranger := deploymentsAs(t, c, Guest), deploymentsAs(t, c, Stranger)
		if _, err := guest.Get(ctx, "good", metav1.GetOptions{}); !apierrors.IsForbidden(err) {
			t.Fatalf("without a role: %v, want forbidden", err)
		}
		role := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "reader"}, Rules: []rbacv1.PolicyRule{{APIGroups: []string{"apps"}, Resources: []string{"deployments"}, Verbs: []string{"get"}}}}
		if _, err := c.Client.RbacV1().Roles("default").Create(ctx, role, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		binding := &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "reader"}, Subjects: []rbacv1.Subject{{Kind: "User", Name: Guest}}, RoleRef: rbacv1.RoleRef{Kind: "Role", Name: "reader"}}
		if _, err := c.Client.RbacV1().RoleBindings("default").Create(ctx, binding, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the role counts", func() (bool, error) {
			_, err := guest.Get(ctx, "good", metav1.GetOptions{})
			return err == nil, err
		})
		if _, err := stranger.Get(ctx, "good", metav1.GetOptions{}); !apierrors.IsForbidden(err) {
			t.Fatalf("another user: %v, want forbidden", err)
		}
	})
	t.Run("outage", func(t *testing.T) {
		c.StopAPIServer()
		if _, err := apps.Get(ctx, "good", metav1.GetOptions{}); err == nil {
			t.Fatal("a stopped API server answered")
		}
		if err := c.StartAPIServer(ctx); err != nil {
			t.Fatal(err)
		}
		if _, err := apps.Get(ctx, "good", metav1.GetOptions{}); err != nil {
			t.Fatalf("after the outage: %v", err)
		}
		if _, err := apps.Patch(ctx, "good", types.MergePatchType, []byte(`{"spec":{"replicas":5}}`), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
		eventually(t, "five replicas available: the controllers have come back", func() (bool, error) {
			d, err := apps.Get(ctx, "good", metav1.GetOptions{})
			return err == nil && d.Status.AvailableReplicas == 5, err
		})
	})
}

func deploymentsAs(t *testing.T, c *Cluster, user string) typedapps.DeploymentInterface {
	t.Helper()
	path, err := c.User(user)
	if err != nil {
		t.Fatal(err)
	}
	config, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil {
		t.Fatal(err)
	}
	return kubernetes.NewForConfigOrDie(config).AppsV1().Deployments("default")
}

func TestRegistryNotifies(t *testing.T) {
	type notification struct {
		authorization string
		extra         string
		tags          []string
	}
	got := make(chan notification, 100)
	var refused atomic.Int32
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if refused.Add(1) <= 2 { // the registry repeats what was refused
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		var envelope struct {
			Events []struct {
				Action string
				Target struct{ Tag, Digest string }
			}
		}
		if err := json.Unmarshal(body, &envelope); err != nil {
			t.Errorf("notification: %v", err)
		}
		n := notification{authorization: r.Header.Get("Authorization"), extra: r.Header.Get("X-Extra")}
		for _, e := range envelope.Events {
			if e.Action == "push" && e.Target.Tag != "" {
				n.tags = append(n.tags, e.Target.Tag+"@"+e.Target.Digest)
			}
		}
		got <- n
	}))
	defer receiver.Close()
	reg, err := StartRegistryNotifying(t.Context(), build(t), t.TempDir(), Notify{
		URL: receiver.URL, Headers: http.Header{"Authorization": {"Bearer token"}, "X-Extra": {`a "quoted": value`}},
		Timeout: 500 * time.Millisecond, Threshold: 1, Backoff: 100 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer reg.Stop()

	await := func(tag, digest string) {
		t.Helper()
		timeout, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		for {
			select {
			case n := <-got:
				if n.authorization != "Bearer token" {
					t.Errorf("Authorization is %q", n.authorization)
				}
				if n.extra != `a "quoted": value` {
					t.Errorf("X-Extra is %q", n.extra)
				}
				if len(n.tags) == 1 && n.tags[0] == tag+"@"+digest {
					return
				}
			case <-timeout.Done():
				t.Fatalf("no notification of %s", tag)
			}
		}
	}
	digest, err := reg.PushImage(t.Context(), "shop/web", "v1")
	if err != nil {
		t.Fatal(err)
	}
	await("v1", digest)
	if digest, err = reg.PushIndex(t.Context(), "shop/web", "v2", "amd64", "arm64"); err != nil {
		t.Fatal(err)
	}
	await("v2", digest)
	ref, err := name.NewDigest(reg.Addr+"/shop/web@"+digest, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Delete(ref, remote.WithContext(t.Context())); err != nil {
		t.Fatalf("delete: %v", err)
	}
}
