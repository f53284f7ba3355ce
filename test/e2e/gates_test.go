package e2e

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// A rollback by hand stays: the digest that was rolled back is not deployed
// again, whoever tells of it once more. The next push is.
func TestRollbackByHandStays(t *testing.T) {
	ns := namespace(t)
	newDeployment(t, ns, "web", corev1.Container{Name: "web", Image: "registry.example.com/shop/web:v1.1.0"})
	d := serve(t, oneRule(ns))
	push := version(2)
	d.mustPost(http.StatusAccepted, "registry", push)
	image := func(n int) string { return fmt.Sprintf("registry.example.com/shop/web:v1.%d.0", n) }
	rolledOut(t, ns, "web", image(2))
	d.ended()

	back := fmt.Appendf(nil, `{"spec":{"template":{"spec":{"containers":[{"name":"web","image":%q}]}}}}`, image(1))
	if _, err := cluster.Client.AppsV1().Deployments(ns).Patch(t.Context(), "web", types.StrategicMergePatchType, back, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	rolledOut(t, ns, "web", image(1))
	d.mustPost(http.StatusOK, "registry", push) // the same event
	another := distribution("another hook", "registry.example.com", "shop/web", "v1.2.0", digestOf(2), time.Now().UTC().Format(time.RFC3339))
	d.mustPost(http.StatusOK, "registry", another)
	d.kill()
	d.start()
	d.mustPost(http.StatusOK, "registry", push)
	if runs := d.ended(); len(runs) != 1 {
		t.Errorf("runs %+v", runs)
	}
	if got := getDeployment(t, ns, "web").Spec.Template.Spec.Containers[0].Image; got != image(1) {
		t.Errorf("the rollback was undone: %s", got)
	}
	d.mustPost(http.StatusAccepted, "registry", version(3))
	rolledOut(t, ns, "web", image(3))
}
