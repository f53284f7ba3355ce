package k8s

import (
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// kind is a row in the table of workloads.
type kind struct {
	resource string
	object   func() runtime.Object
	parts    func(o any) (*metav1.ObjectMeta, *corev1.PodTemplateSpec)
	// drop clears what is not needed of a remembered workload.
	drop func(o any)
	// progress is how far the rollout is that began at a time.
	progress func(o any, began time.Time) progress
	selector func(o any) *metav1.LabelSelector // of its pods
	// sticks: it waits for a broken pod, and does not replace it by one of
	// what was before.
	sticks bool
}

var kinds = map[string]kind{
	"deployment": {
		resource: "deployments",
		object:   func() runtime.Object { return &appsv1.Deployment{} },
		parts: func(o any) (*metav1.ObjectMeta, *corev1.PodTemplateSpec) {
			d := o.(*appsv1.Deployment)
			return &d.ObjectMeta, &d.Spec.Template
		},
		drop:     func(o any) { o.(*appsv1.Deployment).Status = appsv1.DeploymentStatus{} },
		progress: deploymentProgress,
		selector: func(o any) *metav1.LabelSelector { return o.(*appsv1.Deployment).Spec.Selector },
	},
	"statefulset": {
		resource: "statefulsets",
		object:   func() runtime.Object { return &appsv1.StatefulSet{} },
		parts: func(o any) (*metav1.ObjectMeta, *corev1.PodTemplateSpec) {
			s := o.(*appsv1.StatefulSet)
			return &s.ObjectMeta, &s.Spec.Template
		},
		drop:     func(o any) { o.(*appsv1.StatefulSet).Status = appsv1.StatefulSetStatus{} },
		progress: statefulSetProgress,
		selector: func(o any) *metav1.LabelSelector { return o.(*appsv1.StatefulSet).Spec.Selector },
		sticks:   true,
	},
	"daemonset": {
		resource: "daemonsets",
		object:   func() runtime.Object { return &appsv1.DaemonSet{} },
		parts: func(o any) (*metav1.ObjectMeta, *corev1.PodTemplateSpec) {
			d := o.(*appsv1.DaemonSet)
			return &d.ObjectMeta, &d.Spec.Template
		},
		drop:     func(o any) { o.(*appsv1.DaemonSet).Status = appsv1.DaemonSetStatus{} },
		progress: daemonSetProgress,
		selector: func(o any) *metav1.LabelSelector { return o.(*appsv1.DaemonSet).Spec.Selector },
	},
}

// slim leaves of a workload what a deploy looks at.
func (k kind) slim(o any) any {
	if _, ok := o.(runtime.Object); !ok {
		return o // a tombstone
	}
	meta, template := k.parts(o)
	meta.ManagedFields = nil
	k.drop(o)
	kept := corev1.PodSpec{}
	for _, c := range template.Spec.Containers {
		kept.Containers = append(kept.Containers, corev1.Container{Name: c.Name, Image: c.Image})
	}
	template.Spec = kept
	return o
}

// container finds the container that is meant: by name, or the only one.
func container(template *corev1.PodTemplateSpec, name string) (int, error) {
	containers := template.Spec.Containers
	names := make([]string, len(containers))
	for i, c := range containers {
		names[i] = c.Name
	}
	if name == "" {
		if len(containers) == 1 {
			return 0, nil
		}
		return 0, fmt.Errorf("it has %d containers, %s: name one with `container`", len(containers), strings.Join(names, ", "))
	}
	i := slices.Index(names, name)
	if i < 0 {
		return 0, fmt.Errorf("it has no container %q; it has %s", name, strings.Join(names, ", "))
	}
	return i, nil
}
