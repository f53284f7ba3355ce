package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// namespace makes one for a test, which needs a word for each further one.
func namespace(t *testing.T, word ...string) string {
	t.Helper()
	name := strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(strings.Join(append([]string{t.Name()}, word...), "-")))
	_, err := cluster.Client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return name
}

// template is a pod with a container for each image, named as given.
func template(app string, containers ...corev1.Container) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": app}}, Spec: corev1.PodSpec{Containers: containers}}
}

func newDeployment(t *testing.T, ns, name string, containers ...corev1.Container) {
	t.Helper()
	replicas := int32(2)
	d := &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: ns},
		Spec:       appsv1.DeploymentSpec{Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}}, Template: template(name, containers...)},
	}
	if _, err := cluster.Client.AppsV1().Deployments(ns).Create(t.Context(), d, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func getDeployment(t *testing.T, ns, name string) *appsv1.Deployment {
	t.Helper()
	d, err := cluster.Client.AppsV1().Deployments(ns).Get(context.Background(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// rolledOut waits until a Deployment runs an image in all its pods.
func rolledOut(t *testing.T, ns, name, image string) *appsv1.Deployment {
	t.Helper()
	var d *appsv1.Deployment
	eventually(t, ns+"/"+name+" runs "+image, func() error {
		d = getDeployment(t, ns, name)
		if got := d.Spec.Template.Spec.Containers[0].Image; got != image {
			return fmt.Errorf("it runs %s", got)
		}
		s := d.Status
		if s.ObservedGeneration < d.Generation || s.UpdatedReplicas != *d.Spec.Replicas || s.AvailableReplicas != *d.Spec.Replicas || s.Replicas != *d.Spec.Replicas {
			return fmt.Errorf("the rollout is at %+v", s)
		}
		return nil
	})
	return d
}

// distribution is a notification of a registry about one push.
func distribution(id, registry, repository, tag, digest, at string) []byte {
	return fmt.Appendf(nil, `{"events":[{"id":%q,"timestamp":%q,"action":"push","target":{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":%q,"repository":%q,"tag":%q},"request":{"host":%q},"actor":{"name":"ci"}}]}`,
		id, at, digest, repository, tag, registry)
}

// digestOf makes a digest that is told from others by a number.
func digestOf(n int) string { return fmt.Sprintf("sha256:%064x", n) }
