package k8s

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/dockbell/dockbell/trigger"
)

const (
	jsonPatch = types.JSONPatchType

	pinTag    = "tag"
	pinDigest = "digest"

	// rereads is how often a workload that others change at the same time is
	// read again before the run is put back to wait.
	rereads = 5
)

// deploySpec sets the image of one container.
type deploySpec struct {
	Target    string `yaml:"target"` // KIND/NAME
	Namespace string `yaml:"namespace"`
	Container string `yaml:"container"` // may be left out where there is one
	Cluster   string `yaml:"cluster"`
	Pin       string `yaml:"pin"` // tag or digest

	// Wait is how long the rollout may take; left out: it is not waited for.
	// Rollback undoes one that does not come up.
	Wait     *time.Duration `yaml:"wait"`
	Rollback bool           `yaml:"rollback"`
}

type deploy struct {
	spec     deploySpec
	kind     kind
	name     string
	clusters *Clusters
}

// Deploy builds changes of a workload's image to that of the event.
func (c *Clusters) Deploy(decode func(any) error) (trigger.Action, error) {
	d := &deploy{spec: deploySpec{Cluster: DefaultCluster, Pin: pinTag}, clusters: c}
	if err := decode(&d.spec); err != nil {
		return nil, err
	}
	return d, d.check()
}

func (d *deploy) check() error {
	var errs []error
	fault := func(field, format string, args ...any) { errs = append(errs, trigger.Field(field, format, args...)) }
	kindName, name, _ := strings.Cut(d.spec.Target, "/")
	var ok bool
	if d.kind, ok = kinds[kindName]; !ok {
		fault("target", "must be KIND/NAME with a kind of %s, not %q", strings.Join(slices.Sorted(maps.Keys(kinds)), ", "), d.spec.Target)
	} else if msgs := validation.IsDNS1123Subdomain(name); len(msgs) > 0 {
		fault("target", "%q is not the name of a %s: %s", name, kindName, msgs[0])
	}
	d.name = name
	if msgs := validation.IsDNS1123Label(d.spec.Namespace); len(msgs) > 0 {
		fault("namespace", "%q is not the name of a namespace: %s", d.spec.Namespace, msgs[0])
	}
	if d.spec.Container != "" {
		if msgs := validation.IsDNS1123Label(d.spec.Container); len(msgs) > 0 {
			fault("container", "%q is not the name of a container: %s", d.spec.Container, msgs[0])
		}
	}
	if d.spec.Pin != pinTag && d.spec.Pin != pinDigest {
		fault("pin", "must be tag or digest, not %q", d.spec.Pin)
	}
	if d.spec.Wait != nil && *d.spec.Wait <= 0 {
		fault("wait", "must be longer than nothing, as in 5m")
	}
	if d.spec.Rollback && d.spec.Wait == nil {
		fault("rollback", "needs `wait`, which says how long the new pods may take to come up")
	}
	if err := d.clusters.check(d.spec.Cluster); err != nil {
		fault("cluster", "%w", err)
	}
	return errors.Join(errs...)
}

func (d *deploy) workload() string {
	kindName, _, _ := strings.Cut(d.spec.Target, "/")
	return kindName + " " + d.spec.Namespace + "/" + d.name
}

// Target names the workload and the container in it.
func (d *deploy) Target() string {
	t := d.workload()
	if d.spec.Container != "" {
		t += " container " + d.spec.Container
	}
	if d.spec.Cluster != DefaultCluster {
		t += " in " + d.spec.Cluster
	}
	return t
}

// Do changes the image, and waits for what comes of it if it is to.
func (d *deploy) Do(ctx context.Context, run trigger.Run, log io.Writer) error {
	if run.Event.Tag == "" && run.Event.Digest == "" {
		return errors.New("the event has neither tag nor digest to deploy")
	}
	c, err := d.clusters.connect(d.spec.Cluster)
	if err != nil {
		return trigger.Retry(err)
	}
	r, err := d.apply(ctx, c, run, log)
	if err != nil || r == nil {
		return err
	}
	return d.follow(ctx, c, r, log)
}

// apply changes the image, and nothing when that would be a step back or is
// done already. It gives the rollout to wait for, which an earlier try may have
// begun. What the watch remembers is good enough to write from, since the patch
// tests it; a decision not to write is only taken on a fresh look.
func (d *deploy) apply(ctx context.Context, c *cluster, run trigger.Run, log io.Writer) (*rollout, error) {
	object := c.remembered(d.kind, d.spec.Namespace, d.name)
	fresh := object == nil
	if d.spec.Wait != nil && run.Attempt > 1 {
		fresh = true // there may be a rollout since
	}
	var refused []byte // the patch that the server did not take
	var refusal error
	for range rereads {
		if fresh {
			var err error
			if object, err = c.read(ctx, d.kind, d.spec.Namespace, d.name); err != nil {
				return nil, d.explain(ctx, "get", err)
			}
		}
		if r := d.begun(object, run); r != nil {
			fmt.Fprintf(log, "%s: an earlier try began the rollout of %s\n", d.Target(), r.To.Image)
			return r, nil
		}
		ch, err := d.plan(object, run)
		if err != nil && !fresh {
			fresh = true
			continue
		}
		if err != nil {
			return nil, err
		}
		patch, err := ch.patch()
		if err != nil {
			return nil, err
		}
		if bytes.Equal(patch, refused) {
			return nil, refusal // nothing has changed since: it is not about being late
		}
		err = c.patch(ctx, d.kind, d.spec.Namespace, d.name, patch)
		if err == nil {
			fmt.Fprintf(log, "%s: %s\n", d.Target(), ch)
			return ch.rollout, nil
		}
		if !apierrors.IsInvalid(err) && !apierrors.IsConflict(err) {
			return nil, d.explain(ctx, "patch", err)
		}
		refused, refusal, fresh = patch, d.explain(ctx, "patch", err), true
	}
	return nil, trigger.Retry(fmt.Errorf("%s is changed by others all the time; last: %w", d.workload(), refusal))
}

func (d *deploy) plan(object runtime.Object, run trigger.Run) (*change, error) {
	meta, template := d.kind.parts(object)
	ch, err := plan(meta, template, &d.spec, d.clusters.aliases, run)
	var skip *trigger.SkipError
	if err != nil && !errors.As(err, &skip) {
		err = fmt.Errorf("%s: %w", d.workload(), err)
	}
	return ch, err
}

// explain says what an answer of the API server means and whether the deploy
// may be tried again: always when it is the server's trouble, since a patch
// that took effect after all makes the next try a step to where it is.
func (d *deploy) explain(ctx context.Context, verb string, err error) error {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return trigger.Retry(fmt.Errorf("cannot reach the API server of cluster %s: %w", d.spec.Cluster, err))
	}
	where := fmt.Sprintf("%s in cluster %s", d.workload(), d.spec.Cluster)
	switch s := status.Status(); {
	case apierrors.IsNotFound(err):
		return fmt.Errorf("%s: there is none, or its namespace is another", where)
	case apierrors.IsForbidden(err):
		return fmt.Errorf("%s: %s; a Role in namespace %s must allow get, list, watch and patch on %s.apps", where, s.Message, d.spec.Namespace, d.kind.resource)
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
