package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/restmapper"
)

const chart = "../../charts/dockbell"

// manifests are objects as the chart makes them.
type manifests []*unstructured.Unstructured

// templated is what the chart makes of values, for a release in a namespace.
func templated(t *testing.T, ns string, args ...string) manifests {
	t.Helper()
	out, err := bin.Helm(t.Context(), t.TempDir(), append([]string{"template", "dockbell", chart, "--namespace", ns, "--include-crds"}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	return objects(t, out)
}

// objects reads YAML of any number of them.
func objects(t *testing.T, text string) (all manifests) {
	t.Helper()
	for d := yaml.NewYAMLOrJSONDecoder(strings.NewReader(text), 1<<16); ; {
		o := &unstructured.Unstructured{}
		if err := d.Decode(&o.Object); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		if len(o.Object) > 0 {
			all = append(all, o)
		}
	}
}

// of gives the objects of a kind.
func (m manifests) of(kind string) manifests {
	return slices.DeleteFunc(slices.Clone(m), func(o *unstructured.Unstructured) bool { return o.GetKind() != kind })
}

// deployment is the one of the chart.
func (m manifests) deployment(t *testing.T) *appsv1.Deployment {
	t.Helper()
	var d appsv1.Deployment
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(m.of("Deployment")[0].Object, &d); err != nil {
		t.Fatal(err)
	}
	return &d
}

// config is the configuration that the chart writes.
func (m manifests) config(t *testing.T) string {
	t.Helper()
	for _, kind := range []string{"ConfigMap", "Secret"} {
		for _, o := range m.of(kind) {
			for _, field := range []string{"data", "stringData"} {
				if text, ok, _ := unstructured.NestedString(o.Object, field, "dockbell.yaml"); ok {
					return text
				}
			}
		}
	}
	t.Fatal("it writes none")
	return ""
}

// apply writes objects, or has the API server only look at them.
func (m manifests) apply(t *testing.T, dryRun ...string) {
	t.Helper()
	client, err := dynamic.NewForConfig(cluster.Config)
	if err != nil {
		t.Fatal(err)
	}
	groups, err := restmapper.GetAPIGroupResources(cluster.Client.Discovery())
	if err != nil {
		t.Fatal(err)
	}
	mapper := restmapper.NewDiscoveryRESTMapper(groups)
	for _, o := range m {
		kind := o.GroupVersionKind()
		where, err := mapper.RESTMapping(kind.GroupKind(), kind.Version)
		if err != nil {
			t.Errorf("%s %s: %v", o.GetKind(), o.GetName(), err)
			continue
		}
		text, err := o.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		var into dynamic.ResourceInterface = client.Resource(where.Resource)
		if o.GetNamespace() != "" {
			into = client.Resource(where.Resource).Namespace(o.GetNamespace())
		}
		_, err = into.Patch(t.Context(), o.GetName(), types.ApplyPatchType, text, metav1.PatchOptions{
			FieldManager: "test", FieldValidation: metav1.FieldValidationStrict, DryRun: dryRun,
		})
		if err != nil {
			t.Errorf("%s %s: %v", o.GetKind(), o.GetName(), err)
		}
	}
}

// ensureNamespace makes one with a name that values or rules refer to.
func ensureNamespace(t *testing.T, name string, labels map[string]string) {
	t.Helper()
	_, err := cluster.Client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
}

// installCRDs gives the cluster what the chart may use beside Kubernetes.
func installCRDs(t *testing.T) {
	t.Helper()
	text, err := os.ReadFile("testdata/chart-crds.yaml")
	if err != nil {
		t.Fatal(err)
	}
	objects(t, string(text)).apply(t)
	served(t, "gateway.networking.k8s.io/v1")
	served(t, "monitoring.coreos.com/v1")
}

// served waits until the API server knows what a CustomResourceDefinition
// defines.
func served(t *testing.T, groupVersion string) {
	t.Helper()
	eventually(t, groupVersion+" is served", func() error {
		_, err := cluster.Client.Discovery().ServerResourcesForGroupVersion(groupVersion)
		return err
	})
}

// Whatever the values are, the API server takes each object, a namespace for
// restricted pods takes the pods, and dockbell takes flags and configuration.
func TestChartVariants(t *testing.T) {
	installCRDs(t)
	ensureNamespace(t, "shop", nil)
	ensureNamespace(t, "blog", nil)
	files, err := filepath.Glob(chart + "/ci/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no variants: %v", err)
	}
	for _, values := range append(files, "../../manifests/values.yaml") {
		t.Run(strings.TrimSuffix(filepath.Base(values), ".yaml"), func(t *testing.T) {
			ns := "chart-" + strings.TrimSuffix(filepath.Base(values), ".yaml")
			ensureNamespace(t, ns, map[string]string{"pod-security.kubernetes.io/enforce": "restricted"})
			made := templated(t, ns, "--values", values)
			made.apply(t, metav1.DryRunAll)

			d := made.deployment(t)
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{GenerateName: "dockbell-", Labels: d.Spec.Template.Labels}, Spec: d.Spec.Template.Spec}
			if pod.Spec.PriorityClassName != "" { // the class is not there
				pod.Spec.PriorityClassName = ""
			}
			if _, err := cluster.Client.CoreV1().Pods(ns).Create(t.Context(), pod, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}); err != nil {
				t.Error(err)
			}
			args := append(slices.Clone(d.Spec.Template.Spec.Containers[0].Args), "--help")
			if out, err := exec.CommandContext(t.Context(), program, args...).CombinedOutput(); err != nil {
				t.Errorf("dockbell %q: %v\n%s", args, err, out)
			}
			if filepath.Base(values) == "existing.yaml" {
				return // it has its own
			}
			file := filepath.Join(t.TempDir(), "dockbell.yaml")
			if err := os.WriteFile(file, []byte(made.config(t)), 0o600); err != nil {
				t.Fatal(err)
			}
			if out, err := exec.CommandContext(t.Context(), program, "check", "--ignore-missing-secrets", file).CombinedOutput(); err != nil {
				t.Errorf("%s\n%s", out, made.config(t))
			}
		})
	}
}

// A release comes up, gets another configuration without new pods, and leaves
// the store behind when it goes.
func TestChartInstalls(t *testing.T) {
	ns := namespace(t)
	home := t.TempDir()
	helm := func(args ...string) string {
		t.Helper()
		out, err := bin.Helm(t.Context(), home, append(args, "--kubeconfig", cluster.Kubeconfig, "--namespace", ns)...)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	ensureNamespace(t, "shop", nil)
	ensureNamespace(t, "blog", nil)
	postgres := []string{"--values", chart + "/ci/postgres.yaml"}
	notes := helm(append([]string{"install", "bell", chart, "--wait", "--timeout", patience.String()}, postgres...)...)
	if want := "https://dockbell.example.com/hooks/SOURCE"; !strings.Contains(notes, want) {
		t.Errorf("it says\n%s\nwithout %s", notes, want)
	}
	before := getDeployment(t, ns, "bell-dockbell")
	if before.Status.AvailableReplicas != 3 {
		t.Errorf("%d replicas are available", before.Status.AvailableReplicas)
	}
	helm(append([]string{"upgrade", "bell", chart, "--set", "config.server.maxBody=1024"}, postgres...)...)
	if after := getDeployment(t, ns, "bell-dockbell"); after.Generation != before.Generation {
		t.Error("another configuration made new pods")
	}
	if c, err := cluster.Client.CoreV1().ConfigMaps(ns).Get(t.Context(), "bell-dockbell", metav1.GetOptions{}); err != nil || !strings.Contains(c.Data["dockbell.yaml"], "maxBody: 1024") {
		t.Errorf("the configuration is %+v, %v", c.Data, err)
	}
	helm("uninstall", "bell", "--wait")

	helm("install", "one", chart, "--values", chart+"/ci/sqlite.yaml")
	helm("uninstall", "one")
	if _, err := cluster.Client.CoreV1().PersistentVolumeClaims(ns).Get(context.Background(), "one-dockbell", metav1.GetOptions{}); err != nil {
		t.Errorf("the store: %v", err)
	}
	if _, err := cluster.Client.AppsV1().Deployments(ns).Get(context.Background(), "one-dockbell", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Error("the Deployment is still there", fmt.Sprint(err))
	}
}
