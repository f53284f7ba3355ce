package k8s

import (
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// progress is how far a rollout has come. It goes on unless it is done or has
// failed.
type progress struct {
	done   bool
	failed string // why it does not come to its end by itself
	how    string // for people: numbers, or why there is nothing to wait for
}

// staleAfter is how much older than the deploy a condition must be to be about
// an earlier rollout. It allows for clocks that differ.
const staleAfter = time.Minute

func deploymentProgress(o runtime.Object, began time.Time) progress {
	d := o.(*appsv1.Deployment)
	s, want := &d.Status, replicas(d.Spec.Replicas)
	switch {
	case d.Spec.Paused:
		return progress{done: true, how: paused}
	case want == 0:
		return progress{done: true, how: "it is scaled to 0"}
	case s.ObservedGeneration < d.Generation:
		return notSeen
	}
	p := progress{
		done: s.UpdatedReplicas >= want && s.Replicas <= s.UpdatedReplicas && s.AvailableReplicas >= s.UpdatedReplicas,
		how:  fmt.Sprintf("%d of %d pods updated, %d available, %d from before left", s.UpdatedReplicas, want, s.AvailableReplicas, s.Replicas-s.UpdatedReplicas),
	}
	for _, c := range s.Conditions {
		switch {
		case c.Type == appsv1.DeploymentReplicaFailure && c.Status == corev1.ConditionTrue:
			p.how += "; " + clip(c.Message)
		case c.Type != appsv1.DeploymentProgressing || c.Reason != "ProgressDeadlineExceeded":
		case !p.done && !c.LastUpdateTime.Time.Before(began.Add(-staleAfter)):
			p.failed = "it made no progress for as long as progressDeadlineSeconds allows"
			if d.Spec.ProgressDeadlineSeconds != nil {
				p.failed += fmt.Sprintf(", %d s", *d.Spec.ProgressDeadlineSeconds)
			}
		}
	}
	return p
}

func statefulSetProgress(o runtime.Object, _ time.Time) progress {
	set := o.(*appsv1.StatefulSet)
	s, want := &set.Status, replicas(set.Spec.Replicas)
	update := want // how many pods are to be updated
	if r := set.Spec.UpdateStrategy.RollingUpdate; r != nil && r.Partition != nil {
		update -= *r.Partition
	}
	switch {
	case set.Spec.UpdateStrategy.Type == appsv1.OnDeleteStatefulSetStrategyType:
		return onDelete
	case want == 0:
		return progress{done: true, how: "it is scaled to 0"}
	case update <= 0:
		return progress{done: true, how: "its partition keeps all pods as they are"}
	case s.ObservedGeneration < set.Generation:
		return notSeen
	}
	return progress{
		done: s.UpdatedReplicas >= update && s.AvailableReplicas >= want,
		how:  fmt.Sprintf("%d of %d pods updated, %d of %d available", s.UpdatedReplicas, update, s.AvailableReplicas, want),
	}
}

func daemonSetProgress(o runtime.Object, _ time.Time) progress {
	d := o.(*appsv1.DaemonSet)
	s := &d.Status
	want := s.DesiredNumberScheduled
	switch {
	case d.Spec.UpdateStrategy.Type == appsv1.OnDeleteDaemonSetStrategyType:
		return onDelete
	case s.ObservedGeneration < d.Generation:
		return notSeen
	}
	return progress{
		done: s.UpdatedNumberScheduled >= want && s.NumberAvailable >= want,
		how:  fmt.Sprintf("%d of %d pods updated, %d available", s.UpdatedNumberScheduled, want, s.NumberAvailable),
	}
}

var (
	notSeen  = progress{how: "its controller has not seen the change"}
	onDelete = progress{done: true, how: "its update strategy is OnDelete, so pods are replaced when somebody deletes them"}
)

// replicas is how many pods are wanted where the API server has not filled in
// the default.
func replicas(n *int32) int32 {
	if n == nil {
		return 1
	}
	return *n
}
