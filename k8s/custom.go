package k8s

import (
	"fmt"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

// What follows reads custom resources, which have no Go types. What is not as
// it should be there reads as if it were not there at all.

func object() runtime.Object { return &unstructured.Unstructured{} }

func tree(o runtime.Object) map[string]any { return o.(*unstructured.Unstructured).Object }

// templateOf is the pod template at spec.template.
func templateOf(o runtime.Object) *corev1.PodTemplateSpec {
	var t corev1.PodTemplateSpec
	if at, ok, _ := unstructured.NestedFieldNoCopy(tree(o), "spec", "template"); ok {
		decode(at, &t)
	}
	return &t
}

func selectorOf(o runtime.Object) *metav1.LabelSelector {
	at, ok, _ := unstructured.NestedFieldNoCopy(tree(o), "spec", "selector")
	var s metav1.LabelSelector
	if !ok || !decode(at, &s) {
		return nil
	}
	return &s
}

// knativeSelector: Knative labels the pods of a Service with its name.
func knativeSelector(o runtime.Object) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{"serving.knative.dev/service": o.(*unstructured.Unstructured).GetName()}}
}

func decode(from, into any) bool {
	m, ok := from.(map[string]any)
	return ok && runtime.DefaultUnstructuredConverter.FromUnstructured(m, into) == nil
}

func flag(o runtime.Object, path ...string) bool {
	b, _, _ := unstructured.NestedBool(tree(o), path...)
	return b
}

func text(o runtime.Object, path ...string) string {
	s, _, _ := unstructured.NestedString(tree(o), path...)
	return s
}

// argoProgress reads the status of an Argo Rollout. Its observedGeneration is
// written as text.
func argoProgress(o runtime.Object, _ time.Time) progress {
	generation := o.(*unstructured.Unstructured).GetGeneration()
	seen, err := strconv.ParseInt(text(o, "status", "observedGeneration"), 10, 64)
	phase := text(o, "status", "phase")
	switch {
	case flag(o, "spec", "paused"):
		return progress{done: true, how: paused}
	case err != nil || seen < generation:
		return notSeen
	}
	p := progress{done: phase == "Healthy", how: "its phase is " + sentence(phase, text(o, "status", "message"))}
	if phase == "Degraded" {
		p.failed = "its controller calls it Degraded"
	}
	return p
}

func conditions(o runtime.Object) map[string]metav1.Condition {
	list, _, _ := unstructured.NestedSlice(tree(o), "status", "conditions")
	all := map[string]metav1.Condition{}
	for _, one := range list {
		var c metav1.Condition
		if decode(one, &c) {
			all[c.Type] = c
		}
	}
	return all
}

// canWait reports whether the status of a custom resource tells how far it is:
// it has a condition Ready, and says of which generation that is.
func canWait(o runtime.Object) bool {
	ready, ok := conditions(o)["Ready"]
	_, seen, _ := unstructured.NestedInt64(tree(o), "status", "observedGeneration")
	return ok && (seen || ready.ObservedGeneration > 0)
}

// readyProgress follows the conventions of kstatus: the condition Ready of the
// generation that was written ends the wait, Stalled says that it will not come
// by itself. A Ready that is False may become True yet, but for Knative, which
// says Unknown while it works.
func readyProgress(o runtime.Object, _ time.Time) progress {
	u := o.(*unstructured.Unstructured)
	all := conditions(o)
	ready := all["Ready"]
	seen, ok, _ := unstructured.NestedInt64(u.Object, "status", "observedGeneration")
	if ready.ObservedGeneration > 0 {
		seen, ok = ready.ObservedGeneration, true
	}
	if !ok || seen < u.GetGeneration() {
		return notSeen
	}
	p := progress{
		done: ready.Status == metav1.ConditionTrue && all["Reconciling"].Status != metav1.ConditionTrue,
		how:  fmt.Sprintf("its condition Ready is %s", sentence(string(ready.Status), sentence(ready.Reason, ready.Message))),
	}
	switch stalled := all["Stalled"]; {
	case p.done:
	case stalled.Status == metav1.ConditionTrue:
		p.failed = "it is stalled, " + sentence(stalled.Reason, stalled.Message)
	case u.GroupVersionKind().Group == "serving.knative.dev" && ready.Status == metav1.ConditionFalse:
		p.failed = "its controller calls it not ready"
	}
	return p
}
