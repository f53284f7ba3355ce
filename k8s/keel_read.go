package k8s

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/yaml"
)

// keelTargets are the kinds of workloads that keel looks after.
var keelTargets = []string{"cronjob", "daemonset", "deployment", "statefulset"}

// keelWorkload is what keel looks at in an object.
func keelWorkload(k kind, object runtime.Object) KeelWorkload {
	own, _ := meta.Accessor(object) // each of these kinds has metadata
	template := k.template(object)
	pod := template.Spec
	w := KeelWorkload{Kind: k.name, Namespace: own.GetNamespace(), Name: own.GetName(), Labels: own.GetLabels(), Annotations: own.GetAnnotations()}
	for _, c := range pod.Containers {
		w.Images = append(w.Images, KeelImage{c.Name, KeelContainer, c.Image})
	}
	for _, c := range pod.InitContainers {
		w.Images = append(w.Images, KeelImage{c.Name, KeelInitContainer, c.Image})
	}
	for _, v := range pod.Volumes {
		if v.Image != nil && v.Image.Reference != "" {
			w.Images = append(w.Images, KeelImage{v.Name, KeelVolume, v.Image.Reference})
		}
	}
	for _, s := range pod.ImagePullSecrets {
		w.PullSecrets = append(w.PullSecrets, s.Name)
	}
	_, annotated := keelPolicyIn(template.Annotations)
	_, labelled := keelPolicyIn(template.Labels)
	w.Misplaced = (annotated || labelled) && w.policy() == ""
	return w
}

// ReadKeel reads the workloads of manifests, documents of YAML or JSON, and the
// lists in them. Those that name no namespace are in the one given. What else
// is there is passed over; helm reports whether there are values of a chart
// that speak to keel.
func ReadKeel(r io.Reader, namespace string) (workloads []KeelWorkload, helm bool, err error) {
	docs := yaml.NewYAMLOrJSONDecoder(r, 4096)
	for number := 1; ; number++ {
		var doc runtime.RawExtension
		err := docs.Decode(&doc)
		if errors.Is(err, io.EOF) {
			return workloads, helm, nil
		}
		if err == nil {
			err = readKeelDocument(doc.Raw, namespace, &workloads, &helm)
		}
		if err != nil {
			return nil, false, fmt.Errorf("document %d: %w; a template of a chart must be rendered first, as by `helm template`", number, err)
		}
	}
}

func readKeelDocument(raw []byte, namespace string, workloads *[]KeelWorkload, helm *bool) error {
	raw = bytes.TrimSpace(raw)
	if len(raw) == 0 || bytes.Equal(raw, []byte("null")) {
		return nil
	}
	var head struct {
		APIVersion string            `json:"apiVersion"`
		Kind       string            `json:"kind"`
		Items      []json.RawMessage `json:"items"`
		Keel       json.RawMessage   `json:"keel"`
	}
	if err := json.Unmarshal(raw, &head); err != nil {
		return err
	}
	if head.Kind == "" && head.Keel != nil {
		*helm = true
	}
	for _, item := range head.Items {
		if err := readKeelDocument(item, namespace, workloads, helm); err != nil {
			return err
		}
	}
	k, ok := kindOf(strings.ToLower(head.Kind))
	group, _, _ := strings.Cut(head.APIVersion, "/")
	if !ok || !slices.Contains(keelTargets, k.name) || group != k.gvk.Group && group != oldGroup {
		return nil
	}
	object := k.object()
	if err := json.Unmarshal(raw, object); err != nil {
		return fmt.Errorf("%s: %w", head.Kind, err)
	}
	w := keelWorkload(k, object)
	w.Namespace = cmp.Or(w.Namespace, namespace)
	*workloads = append(*workloads, w)
	return nil
}

// oldGroup had workloads before they had groups of their own.
const oldGroup = "extensions"

// keelPage is how many workloads are asked for at once.
const keelPage = 500

// Keel reads the workloads of a cluster, of one namespace or, if that is "",
// of all.
func (c *Clusters) Keel(ctx context.Context, clusterName, namespace string) (workloads []KeelWorkload, err error) {
	cl, err := c.connect(clusterName)
	if err != nil {
		return nil, err
	}
	for _, target := range keelTargets {
		k, _ := kindOf(target)
		r, err := cl.resource(ctx, k)
		if err != nil {
			return nil, err
		}
		options := metav1.ListOptions{Limit: keelPage}
		for more := true; more; more = options.Continue != "" {
			page, err := r.api.Get().Namespace(namespace).Resource(r.plural).VersionedParams(&options, metav1.ParameterCodec).Do(ctx).Get()
			if err != nil {
				return nil, keelTrouble(k, namespace, err)
			}
			_ = meta.EachListItem(page, func(object runtime.Object) error {
				workloads = append(workloads, keelWorkload(k, object))
				return nil
			})
			list, err := meta.ListAccessor(page)
			if err != nil {
				return nil, err
			}
			options.Continue = list.GetContinue()
		}
	}
	return workloads, nil
}

// keelTrouble says what to do about an answer.
func keelTrouble(k kind, namespace string, err error) error {
	if !apierrors.IsForbidden(err) {
		return fmt.Errorf("cannot list %s: %w", k.plural, err)
	}
	who := "a Role in namespace " + namespace
	if namespace == "" {
		who = "name a namespace, or a ClusterRole"
	}
	return fmt.Errorf("cannot list %s: %w; %s must allow list and watch on %s.%s", k.plural, err, who, k.plural, k.gvk.Group)
}
