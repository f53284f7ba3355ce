package k8s

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// podsRead bounds how many pods are looked at to say why a rollout failed,
	// podsNamed how many of them are told of, and mostText the text that a
	// node wrote about each.
	podsRead  = 500
	podsNamed = 3
	mostText  = 300
)

// broken tells which of the pods of a rollout are not ready, by name and with
// the reason, as text and one by one. What it cannot find out it says instead:
// it must not keep the outcome from being written.
func (c *cluster) broken(ctx context.Context, namespace string, selector *metav1.LabelSelector, ours func(*corev1.Pod) bool) (text string, names []string) {
	var pods corev1.PodList
	err := c.core.Get().Namespace(namespace).Resource("pods").
		VersionedParams(&metav1.ListOptions{LabelSelector: metav1.FormatLabelSelector(selector), Limit: podsRead}, metav1.ParameterCodec).
		Do(ctx).Into(&pods)
	switch {
	case apierrors.IsForbidden(err):
		return fmt.Sprintf("to know about its pods, a Role in namespace %s must allow list on pods: %s", namespace, roleRule("", "pods", "list")), nil
	case err != nil:
		return "its pods cannot be listed: " + clip(err.Error()), nil
	}
	var texts []string
	for i := range pods.Items {
		p := &pods.Items[i]
		if !ours(p) {
			continue
		}
		if what := trouble(p); what != "" {
			names = append(names, p.Name)
			texts = append(texts, "pod "+p.Name+": "+what)
		}
	}
	if more := len(texts) - podsNamed; more > 0 {
		texts = append(texts[:podsNamed], fmt.Sprintf("%d more like these", more))
		names = names[:podsNamed]
	}
	return strings.Join(texts, "; "), names
}

// trouble is why a pod is not ready, "" when it is or is about to go.
func trouble(p *corev1.Pod) string {
	if p.DeletionTimestamp != nil {
		return ""
	}
	if p.Status.Phase == corev1.PodFailed {
		return sentence(p.Status.Reason, p.Status.Message)
	}
	ready := false
	for _, c := range p.Status.Conditions {
		switch {
		case c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse:
			return sentence(c.Reason, c.Message)
		case c.Type == corev1.PodReady:
			ready = c.Status == corev1.ConditionTrue
		}
	}
	if ready {
		return ""
	}
	for _, list := range [][]corev1.ContainerStatus{p.Status.InitContainerStatuses, p.Status.ContainerStatuses} {
		for i := range list {
			if what := containerTrouble(&list[i]); what != "" {
				return "container " + list[i].Name + ": " + what
			}
		}
	}
	for _, s := range p.Status.ContainerStatuses {
		switch {
		case s.State.Waiting != nil:
			return "container " + s.Name + ": " + s.State.Waiting.Reason
		case s.State.Running != nil && !s.Ready:
			return "container " + s.Name + " runs and is not ready"
		}
	}
	return "it is not ready"
}

// containerTrouble is why a container does not run, "" when it does, has done
// its work or is about to begin.
func containerTrouble(s *corev1.ContainerStatus) string {
	last := s.LastTerminationState.Terminated
	switch waiting, ended := s.State.Waiting, s.State.Terminated; {
	case ended != nil && ended.ExitCode != 0:
		return exited(ended)
	case waiting == nil || waiting.Reason == "ContainerCreating" || waiting.Reason == "PodInitializing":
		return ""
	case waiting.Reason == "CrashLoopBackOff" && last != nil:
		return waiting.Reason + ", last " + exited(last)
	default:
		return sentence(waiting.Reason, waiting.Message)
	}
}

func exited(t *corev1.ContainerStateTerminated) string {
	return sentence(fmt.Sprintf("exit code %d (%s)", t.ExitCode, t.Reason), t.Message)
}

func sentence(reason, message string) string {
	if message == "" {
		return reason
	}
	return reason + ": " + clip(message)
}

// clip makes one line of a text, and bounds it.
func clip(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	return cut(s, mostText)
}

// cut bounds a text.
func cut(s string, most int) string {
	const more = "…"
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most-len(more)], "") + more
}
