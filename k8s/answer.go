package k8s

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/dockbell/dockbell/trigger"
)

// explain says what an answer of the API server means and whether the deploy
// may be tried again: always when it is the server's trouble, since a patch
// that took effect after all makes the next try a step to where it is.
func (d *deploy) explain(ctx context.Context, res *resource, verb string, err error) error {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return trigger.Retry(fmt.Errorf("cannot reach the API server of cluster %s: %w", res.name, err))
	}
	where := fmt.Sprintf("%s in cluster %s", d.workload(), res.name)
	switch s := status.Status(); {
	case apierrors.IsNotFound(err) && apierrors.IsUnexpectedServerError(err) && d.kind.custom:
		res.forget(d.kind)
		return trigger.Retry(fmt.Errorf("%s: the API server does not know this kind any more: its CustomResourceDefinition has changed, or is gone", where))
	case apierrors.IsNotFound(err):
		return fmt.Errorf("%s: %s", where, res.absent(ctx, d.spec.Namespace))
	case apierrors.IsForbidden(err) && strings.Contains(s.Message, "cannot "+verb+" resource"):
		return fmt.Errorf("%s: %s; a Role in namespace %s must allow get, list, watch and patch on %s.%s: %s",
			where, s.Message, d.spec.Namespace, res.plural, d.kind.group(), roleRule(d.kind.group(), res.plural, "get", "list", "watch", "patch"))
	case apierrors.IsUnauthorized(err):
		return trigger.Retry(fmt.Errorf("%s: the API server does not know these credentials: %w", where, err))
	case s.Code >= http.StatusInternalServerError, s.Code == http.StatusTooManyRequests, apierrors.IsTimeout(err), apierrors.IsConflict(err):
		after := 0
		if s.Details != nil {
			after = int(s.Details.RetryAfterSeconds)
		}
		return &trigger.RetryError{Err: fmt.Errorf("%s: cannot %s: %w", where, verb, err), After: time.Duration(after) * time.Second}
	}
	return fmt.Errorf("%s: cannot %s: %w", where, verb, err)
}

// absent says what it is that is not there. To know about namespaces is a
// right that dockbell can do without.
func (c *cluster) absent(ctx context.Context, namespace string) string {
	var ns corev1.Namespace
	err := c.core.Get().Resource("namespaces").Name(namespace).Do(ctx).Into(&ns)
	switch {
	case err == nil:
		return "there is none"
	case apierrors.IsNotFound(err):
		return "there is no namespace " + namespace
	}
	return "there is none, or its namespace is another"
}

// roleRule is the rule of a Role that grants verbs, as it is to be written.
func roleRule(group, plural string, verbs ...string) string {
	if group == "" {
		group = `""`
	}
	return fmt.Sprintf("{apiGroups: [%s], resources: [%s], verbs: [%s]}", group, plural, strings.Join(verbs, ", "))
}
