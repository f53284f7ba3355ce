package k8s

import (
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// deploymentAt is generation 2 of a Deployment of three pods, as it stands.
func deploymentAt(status appsv1.DeploymentStatus, change ...func(*appsv1.Deployment)) *appsv1.Deployment {
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Generation: 2}, Spec: appsv1.DeploymentSpec{Replicas: new(int32(3)), ProgressDeadlineSeconds: new(int32(600))}, Status: status}
	for _, f := range change {
		f(d)
	}
	return d
}

func statefulSetAt(status appsv1.StatefulSetStatus, change ...func(*appsv1.StatefulSetSpec)) *appsv1.StatefulSet {
	s := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Generation: 2}, Spec: appsv1.StatefulSetSpec{Replicas: new(int32(3))}, Status: status}
	for _, f := range change {
		f(&s.Spec)
	}
	return s
}

func daemonSetAt(status appsv1.DaemonSetStatus) *appsv1.DaemonSet {
	return &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Generation: 2}, Status: status}
}

func TestProgress(t *testing.T) {
	deadline := func(ago time.Duration) []appsv1.DeploymentCondition {
		return []appsv1.DeploymentCondition{
			{Type: appsv1.DeploymentAvailable, Status: corev1.ConditionFalse},
			{Type: appsv1.DeploymentProgressing, Status: corev1.ConditionFalse, Reason: "ProgressDeadlineExceeded", LastUpdateTime: metav1.NewTime(noon.Add(-ago))},
		}
	}
	partition := func(n int32) func(*appsv1.StatefulSetSpec) {
		return func(s *appsv1.StatefulSetSpec) {
			s.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateStatefulSetStrategy{Partition: &n}
		}
	}
	const done, goesOn, failed = "done", "goes on", "failed"
	for _, test := range []struct {
		name   string
		kind   string
		object runtime.Object
		is     string
		says   string
	}{
		{"not seen yet", "deployment", deploymentAt(appsv1.DeploymentStatus{ObservedGeneration: 1, Replicas: 3, UpdatedReplicas: 3, AvailableReplicas: 3}), goesOn, "its controller has not seen the change"},
		{"not seen yet, and the one before had failed", "deployment", deploymentAt(appsv1.DeploymentStatus{ObservedGeneration: 1, Conditions: deadline(0)}), goesOn, "its controller has not seen the change"},
		{"new pods come", "deployment", deploymentAt(appsv1.DeploymentStatus{ObservedGeneration: 2, Replicas: 4, UpdatedReplicas: 1, AvailableReplicas: 3}), goesOn, "1 of 3 pods updated, 3 available, 3 from before left"},
		{"old pods go", "deployment", deploymentAt(appsv1.DeploymentStatus{ObservedGeneration: 2, Replicas: 4, UpdatedReplicas: 3, AvailableReplicas: 4}), goesOn, "3 of 3 pods updated, 4 available, 1 from before left"},
		{"new pods are not available", "deployment", deploymentAt(appsv1.DeploymentStatus{ObservedGeneration: 2, Replicas: 3, UpdatedReplicas: 3, AvailableReplicas: 2}), goesOn, "3 of 3 pods updated, 2 available, 0 from before left"},
		{"all there", "deployment", deploymentAt(appsv1.DeploymentStatus{ObservedGeneration: 2, Replicas: 3, UpdatedReplicas: 3, AvailableReplicas: 3}), done, "3 of 3 pods updated, 3 available, 0 from before left"},
		{"all there in the end", "deployment", deploymentAt(appsv1.DeploymentStatus{ObservedGeneration: 2, Replicas: 3, UpdatedReplicas: 3, AvailableReplicas: 3, Conditions: deadline(0)}), done, "3 of 3 pods updated"},
		{"no progress", "deployment", deploymentAt(appsv1.DeploymentStatus{ObservedGeneration: 2, Replicas: 4, UpdatedReplicas: 1, AvailableReplicas: 3, Conditions: deadline(-10 * time.Minute)}), failed, "it made no progress for as long as progressDeadlineSeconds allows, 600 s"},
		{"no progress, by a clock that is behind", "deployment", deploymentAt(appsv1.DeploymentStatus{ObservedGeneration: 2, Conditions: deadline(30 * time.Second)}), failed, "600 s"},
		{"the one before made no progress", "deployment", deploymentAt(appsv1.DeploymentStatus{ObservedGeneration: 2, Conditions: deadline(10 * time.Minute)}), goesOn, "0 of 3 pods updated"},
		{"pods cannot be made", "deployment", deploymentAt(appsv1.DeploymentStatus{ObservedGeneration: 2, Replicas: 3, Conditions: []appsv1.DeploymentCondition{
			{Type: appsv1.DeploymentReplicaFailure, Status: corev1.ConditionTrue, Reason: "FailedCreate", Message: "exceeded quota"},
		}}), goesOn, "3 from before left; exceeded quota"},
		{"paused", "deployment", deploymentAt(appsv1.DeploymentStatus{}, func(d *appsv1.Deployment) { d.Spec.Paused = true }), done, "it is paused"},
		{"scaled to nothing", "deployment", deploymentAt(appsv1.DeploymentStatus{}, func(d *appsv1.Deployment) { d.Spec.Replicas = new(int32(0)) }), done, "it is scaled to 0"},
		{"one by default", "deployment", deploymentAt(appsv1.DeploymentStatus{ObservedGeneration: 2}, func(d *appsv1.Deployment) { d.Spec.Replicas = nil }), goesOn, "0 of 1 pods updated"},

		{"not seen yet", "statefulset", statefulSetAt(appsv1.StatefulSetStatus{ObservedGeneration: 1, UpdatedReplicas: 3, AvailableReplicas: 3}), goesOn, "its controller has not seen the change"},
		{"one by one", "statefulset", statefulSetAt(appsv1.StatefulSetStatus{ObservedGeneration: 2, UpdatedReplicas: 1, AvailableReplicas: 3}), goesOn, "1 of 3 pods updated, 3 of 3 available"},
		{"the last is not available", "statefulset", statefulSetAt(appsv1.StatefulSetStatus{ObservedGeneration: 2, UpdatedReplicas: 3, AvailableReplicas: 2}), goesOn, "3 of 3 pods updated, 2 of 3 available"},
		{"all there", "statefulset", statefulSetAt(appsv1.StatefulSetStatus{ObservedGeneration: 2, UpdatedReplicas: 3, AvailableReplicas: 3}), done, "3 of 3 pods updated, 3 of 3 available"},
		{"those above the partition", "statefulset", statefulSetAt(appsv1.StatefulSetStatus{ObservedGeneration: 2, UpdatedReplicas: 1, AvailableReplicas: 3}, partition(2)), done, "1 of 1 pods updated, 3 of 3 available"},
		{"not all above the partition", "statefulset", statefulSetAt(appsv1.StatefulSetStatus{ObservedGeneration: 2, UpdatedReplicas: 1, AvailableReplicas: 3}, partition(1)), goesOn, "1 of 2 pods updated"},
		{"a partition above all", "statefulset", statefulSetAt(appsv1.StatefulSetStatus{ObservedGeneration: 2}, partition(3)), done, "its partition keeps all pods as they are"},
		{"scaled to nothing", "statefulset", statefulSetAt(appsv1.StatefulSetStatus{}, func(s *appsv1.StatefulSetSpec) { s.Replicas = new(int32(0)) }), done, "it is scaled to 0"},
		{"by hand", "statefulset", statefulSetAt(appsv1.StatefulSetStatus{}, func(s *appsv1.StatefulSetSpec) { s.UpdateStrategy.Type = appsv1.OnDeleteStatefulSetStrategyType }), done, "its update strategy is OnDelete"},

		{"not seen yet", "daemonset", daemonSetAt(appsv1.DaemonSetStatus{ObservedGeneration: 1, DesiredNumberScheduled: 3, UpdatedNumberScheduled: 3, NumberAvailable: 3}), goesOn, "its controller has not seen the change"},
		{"node by node", "daemonset", daemonSetAt(appsv1.DaemonSetStatus{ObservedGeneration: 2, DesiredNumberScheduled: 3, UpdatedNumberScheduled: 2, NumberAvailable: 3}), goesOn, "2 of 3 pods updated, 3 available"},
		{"the last is not available", "daemonset", daemonSetAt(appsv1.DaemonSetStatus{ObservedGeneration: 2, DesiredNumberScheduled: 3, UpdatedNumberScheduled: 3, NumberAvailable: 2}), goesOn, "3 of 3 pods updated, 2 available"},
		{"all there", "daemonset", daemonSetAt(appsv1.DaemonSetStatus{ObservedGeneration: 2, DesiredNumberScheduled: 3, UpdatedNumberScheduled: 3, NumberAvailable: 3}), done, "3 of 3 pods updated, 3 available"},
		{"no node for it", "daemonset", daemonSetAt(appsv1.DaemonSetStatus{ObservedGeneration: 2}), done, "0 of 0 pods updated"},
		{"by hand", "daemonset", &appsv1.DaemonSet{Spec: appsv1.DaemonSetSpec{UpdateStrategy: appsv1.DaemonSetUpdateStrategy{Type: appsv1.OnDeleteDaemonSetStrategyType}}}, done, "its update strategy is OnDelete"},
	} {
		t.Run(test.kind+": "+test.name, func(t *testing.T) {
			p := kinds[test.kind].progress(test.object, noon)
			is, says := goesOn, p.how
			switch {
			case p.done:
				is = done
			case p.failed != "":
				is, says = failed, p.failed
			}
			if is != test.is || !strings.Contains(says, test.says) || p.done && p.failed != "" {
				t.Errorf("%s (%s), want %s (%s)", is, says, test.is, test.says)
			}
		})
	}
}
