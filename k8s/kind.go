package k8s

import (
	"maps"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"
)

// kind is a row in the table of workloads.
type kind struct {
	name   string // as targets write it
	gvk    schema.GroupVersionKind
	plural string
	custom bool // found out of the API server: gvk and plural are not known before

	object func() runtime.Object
	// template is that of its pods, and at the pointer to it. Where there is
	// none, an action names the field that it means by a path.
	template func(o runtime.Object) *corev1.PodTemplateSpec
	at       string
	selector func(o runtime.Object) *metav1.LabelSelector // of its pods; nil where it is not known

	// progress is how far the rollout is that began at a time; nil where
	// there is none.
	progress func(o runtime.Object, began time.Time) progress
	// idle is why a change does nothing for now, "" when it does. Nil is never.
	idle func(o runtime.Object) string
	// sticks: it waits for a broken pod, and does not replace it by one of
	// what was before.
	sticks bool
}

// podTemplate is where most kinds have the template of their pods.
const podTemplate = "/spec/template"

var kinds = map[string]kind{
	"deployment": {
		gvk: appsv1.SchemeGroupVersion.WithKind("Deployment"), plural: "deployments",
		object:   func() runtime.Object { return &appsv1.Deployment{} },
		template: func(o runtime.Object) *corev1.PodTemplateSpec { return &o.(*appsv1.Deployment).Spec.Template }, at: podTemplate,
		selector: func(o runtime.Object) *metav1.LabelSelector { return o.(*appsv1.Deployment).Spec.Selector },
		progress: deploymentProgress,
		idle:     func(o runtime.Object) string { return isPaused(o.(*appsv1.Deployment).Spec.Paused) },
	},
	"statefulset": {
		gvk: appsv1.SchemeGroupVersion.WithKind("StatefulSet"), plural: "statefulsets",
		object:   func() runtime.Object { return &appsv1.StatefulSet{} },
		template: func(o runtime.Object) *corev1.PodTemplateSpec { return &o.(*appsv1.StatefulSet).Spec.Template }, at: podTemplate,
		selector: func(o runtime.Object) *metav1.LabelSelector { return o.(*appsv1.StatefulSet).Spec.Selector },
		progress: statefulSetProgress,
		sticks:   true,
	},
	"daemonset": {
		gvk: appsv1.SchemeGroupVersion.WithKind("DaemonSet"), plural: "daemonsets",
		object:   func() runtime.Object { return &appsv1.DaemonSet{} },
		template: func(o runtime.Object) *corev1.PodTemplateSpec { return &o.(*appsv1.DaemonSet).Spec.Template }, at: podTemplate,
		selector: func(o runtime.Object) *metav1.LabelSelector { return o.(*appsv1.DaemonSet).Spec.Selector },
		progress: daemonSetProgress,
	},
	"cronjob": {
		gvk: batchv1.SchemeGroupVersion.WithKind("CronJob"), plural: "cronjobs",
		object: func() runtime.Object { return &batchv1.CronJob{} },
		template: func(o runtime.Object) *corev1.PodTemplateSpec {
			return &o.(*batchv1.CronJob).Spec.JobTemplate.Spec.Template
		},
		at: "/spec/jobTemplate/spec/template",
		idle: func(o runtime.Object) string {
			if s := o.(*batchv1.CronJob).Spec.Suspend; s == nil || !*s {
				return ""
			}
			return "it is suspended, so no job runs it before somebody resumes it"
		},
	},
	"rollout.argoproj.io": {
		custom: true, object: object, template: templateOf, at: podTemplate,
		selector: selectorOf,
		progress: argoProgress,
		idle:     func(o runtime.Object) string { return isPaused(flag(o, "spec", "paused")) },
	},
	"service.serving.knative.dev": {
		custom: true, object: object, template: templateOf, at: podTemplate,
		selector: knativeSelector,
		progress: readyProgress,
	},
}

const paused = "it is paused, so nothing rolls out before somebody resumes it"

func isPaused(is bool) string {
	if is {
		return paused
	}
	return ""
}

// kindOf finds the kind that a target names: a row of the table, also with its
// group as in deployment.apps, or any KIND.GROUP.
func kindOf(name string) (k kind, ok bool) {
	short, group, grouped := strings.Cut(name, ".")
	if k, ok = kinds[name]; ok {
		k.name = name
		return k, true
	}
	if k, ok = kinds[short]; ok && k.gvk.Group == group {
		k.name = short
		return k, true
	}
	if !grouped || len(validation.IsDNS1123Label(short)) > 0 || len(validation.IsDNS1123Subdomain(group)) > 0 {
		return kind{}, false
	}
	return kind{name: name, custom: true, object: object, progress: readyProgress}, true
}

func kindNames() string { return strings.Join(slices.Sorted(maps.Keys(kinds)), ", ") }

// group is that of the API, "" for the core.
func (k kind) group() string {
	if !k.custom {
		return k.gvk.Group
	}
	_, group, _ := strings.Cut(k.name, ".")
	return group
}
