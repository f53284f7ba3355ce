package k8s

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/dockbell/dockbell/trigger"
	"github.com/dockbell/dockbell/trigger/fieldpath"
)

const (
	pinTag    = "tag"
	pinDigest = "digest"

	dryRunServer = "server"

	// rereads is how often a workload that others change at the same time is
	// read again before the run is put back to wait.
	rereads = 5
)

// deploySpec sets images of one workload, or of all that a [finder] finds.
type deploySpec struct {
	Target    string `yaml:"target"` // KIND/NAME; uses-image; KIND with a selector
	Namespace string `yaml:"namespace"`
	Container string `yaml:"container"` // a name or a pattern; may be left out where there is one
	Cluster   string `yaml:"cluster"`
	Pin       string `yaml:"pin"` // tag or digest

	// What is looked for, and where, when the target does not name it.
	Selector   string   `yaml:"selector"`
	Kinds      []string `yaml:"kinds"`
	Namespaces []string `yaml:"namespaces"`

	// Path is the field of a custom resource that is set, and Value what it
	// holds.
	Path  string `yaml:"path"`
	Value string `yaml:"value"`

	// Wait is how long the rollout may take; left out: it is not waited for.
	// Rollback undoes one that does not come up.
	Wait     *time.Duration `yaml:"wait"`
	Rollback bool           `yaml:"rollback"`

	DryRun string `yaml:"dryRun"` // server: a rehearsal
}

type deploy struct {
	spec     deploySpec
	kind     kind
	name     string
	path     fieldpath.Path // nil for the containers of a workload
	clusters *Clusters
}

// Deploy builds changes of a workload's image to that of the event.
func (c *Clusters) Deploy(decode func(any) error) (trigger.Action, error) {
	spec := deploySpec{Cluster: DefaultCluster, Pin: pinTag}
	if err := decode(&spec); err != nil {
		return nil, err
	}
	if spec.finds() {
		return c.finder(spec)
	}
	return c.deploy(spec)
}

// deploy builds the action of a specification that has its defaults.
func (c *Clusters) deploy(spec deploySpec) (*deploy, error) {
	d := &deploy{spec: spec, clusters: c}
	return d, d.check()
}

func (d *deploy) check() error {
	var errs []error
	fault := func(field, format string, args ...any) { errs = append(errs, trigger.Field(field, format, args...)) }
	kindName, name, _ := strings.Cut(d.spec.Target, "/")
	var ok bool
	if d.kind, ok = kindOf(kindName); !ok {
		fault("target", "must be KIND/NAME with a kind of %s, or with any KIND.GROUP and a `path`, or %s; not %q", kindNames(), usesImage, d.spec.Target)
	} else if msgs := validation.IsDNS1123Subdomain(name); len(msgs) > 0 {
		fault("target", "%q is not the name of a %s: %s", name, kindName, msgs[0])
	}
	d.name = name
	if msgs := validation.IsDNS1123Label(d.spec.Namespace); len(msgs) > 0 {
		fault("namespace", "%q is not the name of a namespace: %s", d.spec.Namespace, msgs[0])
	}
	const several = "is for `target: uses-image`, or for a kind with a `selector`"
	if len(d.spec.Namespaces) > 0 {
		fault("namespaces", several)
	}
	if len(d.spec.Kinds) > 0 {
		fault("kinds", several)
	}
	if d.spec.Pin != pinTag && d.spec.Pin != pinDigest {
		fault("pin", "must be tag or digest, not %q", d.spec.Pin)
	}
	if ok {
		d.checkPlace(fault)
		if d.spec.Wait != nil && d.kind.progress == nil {
			fault("wait", "a %s has no rollout: its next job runs the new image", d.kind.name)
		}
	}
	if d.spec.Wait != nil && *d.spec.Wait <= 0 {
		fault("wait", "must be longer than nothing, as in 5m")
	}
	if d.spec.Rollback && d.spec.Wait == nil {
		fault("rollback", "needs `wait`, which says how long the new pods may take to come up")
	}
	if d.spec.DryRun != "" && d.spec.DryRun != dryRunServer {
		fault("dryRun", "can be server: the API server checks the change and makes none; not %q", d.spec.DryRun)
	}
	if err := d.clusters.check(d.spec.Cluster); err != nil {
		fault("cluster", "%w", err)
	}
	return errors.Join(errs...)
}

// checkPlace checks what says where the image is: containers of pods, or the
// field of a custom resource.
func (d *deploy) checkPlace(fault func(field, format string, args ...any)) {
	s := &d.spec
	if d.kind.template != nil {
		const elsewhere = "is for other kinds: the images of a %s are found by `container`"
		if s.Path != "" {
			fault("path", elsewhere, d.kind.name)
		}
		if s.Value != "" {
			fault("value", elsewhere, d.kind.name)
		}
		if _, err := path.Match(s.Container, ""); isGlob(s.Container) && err != nil {
			fault("container", "%q is no pattern: %w", s.Container, err)
		} else if msgs := validation.IsDNS1123Label(s.Container); s.Container != "" && !isGlob(s.Container) && len(msgs) > 0 {
			fault("container", "%q is not the name of a container: %s", s.Container, msgs[0])
		}
		return
	}
	if s.Container != "" {
		fault("container", "is for pods: the image of a %s is found by `path`", d.kind.name)
	}
	var err error
	if s.Path == "" {
		fault("path", "must say where a %s has its image, as in spec.values.image.tag", d.kind.name)
	} else if d.path, err = parsePath(s.Path); err != nil {
		fault("path", "%q %w", s.Path, err)
	}
	switch s.Value {
	case "", holdsImage:
	case holdsTag, holdsDigest, holdsRepository:
		if s.Pin == pinDigest {
			fault("pin", "is for whole references: with `value: %s` take `value: digest` for a digest", s.Value)
		}
	default:
		fault("value", "must be image, tag, digest or repository, not %q", s.Value)
	}
}

func (d *deploy) workload() string { return d.kind.name + " " + d.spec.Namespace + "/" + d.name }

// Target names the workload and the place in it.
func (d *deploy) Target() string { return d.workload() + d.circumstances() }

// circumstances are what else there is to say about where a change is made.
func (d *deploy) circumstances() (t string) {
	if d.spec.Container != "" {
		t += " container " + d.spec.Container
	}
	if d.path != nil {
		t += " field " + d.path.String()
	}
	if d.spec.Cluster != DefaultCluster {
		t += " in " + d.spec.Cluster
	}
	if d.rehearses() {
		t += " as a rehearsal" // and so in a lane of its own: nothing real is taken for done
	}
	return t
}

func (d *deploy) rehearses() bool { return d.spec.DryRun != "" || d.clusters.DryRun }

// Do changes the image, and waits for what comes of it if it is to.
func (d *deploy) Do(ctx context.Context, run trigger.Run, log io.Writer) error {
	if run.Event.Tag == "" && run.Event.Digest == "" {
		return errors.New("the event has neither tag nor digest to deploy")
	}
	c, err := d.clusters.connect(d.spec.Cluster)
	if err != nil {
		return trigger.Retry(err)
	}
	res, err := c.resource(ctx, d.kind)
	if err != nil {
		return err
	}
	r, err := d.apply(ctx, res, run, log)
	if err != nil || r == nil {
		return err
	}
	return d.follow(ctx, res, r, log)
}

// apply changes the image, and nothing when that would be a step back or is
// done already. It gives the rollout to wait for, which an earlier try may have
// begun. What the watch remembers is good enough to write from, since the patch
// tests it; a decision not to write is only taken on a fresh look.
func (d *deploy) apply(ctx context.Context, res *resource, run trigger.Run, log io.Writer) (*rollout, error) {
	w := res.remembered(d.spec.Namespace, d.name)
	fresh := w == nil
	if d.spec.Wait != nil && run.Attempt > 1 {
		fresh = true // there may be a rollout since
	}
	var refused []byte // the patch that the server did not take
	var refusal error
	for range rereads {
		if fresh {
			var err error
			if w, err = d.look(ctx, res); err != nil {
				return nil, err
			}
		}
		if r := begun(w, run); r != nil {
			fmt.Fprintf(log, "%s: an earlier try began the rollout of %s\n", d.Target(), r.to())
			return r, nil
		}
		if run.Begun != "" && fresh {
			return nil, d.lost(strings.TrimPrefix(run.Begun, theRolloutOf), "what is noted of it is gone from the workload")
		}
		ch, err := d.plan(w, run)
		if err != nil && !fresh {
			fresh = true
			continue
		}
		if err != nil {
			return nil, d.about(err)
		}
		patch, err := ch.patch()
		if err != nil {
			return nil, err
		}
		if bytes.Equal(patch, refused) {
			return nil, refusal // nothing has changed since: it is not about being late
		}
		answer, err := res.patch(ctx, d.spec.Namespace, d.name, patch, d.rehearses())
		if err == nil {
			return d.done(res, ch, w, answer, run, log), nil
		}
		if !apierrors.IsInvalid(err) && !apierrors.IsConflict(err) {
			return nil, d.explain(ctx, res, "patch", err)
		}
		refused, refusal, fresh = patch, d.explain(ctx, res, "patch", err), true
	}
	return nil, trigger.Retry(fmt.Errorf("%s is changed by others all the time; last: %w", d.workload(), refusal))
}

// look reads the workload.
func (d *deploy) look(ctx context.Context, res *resource) (*workload, error) {
	object, err := res.read(ctx, d.spec.Namespace, d.name)
	if err != nil {
		return nil, d.explain(ctx, res, "get", err)
	}
	w, err := d.view(object)
	if err == nil && d.path != nil && d.spec.Wait != nil && !canWait(object) {
		err = errors.New("its status does not tell how far it is, by a condition Ready with an observedGeneration: leave out `wait`; nothing is changed")
	}
	return w, d.about(err)
}

// view looks at an object where the image is.
func (d *deploy) view(object runtime.Object) (*workload, error) {
	w, err := d.kind.view(object)
	if err != nil || d.path == nil {
		return w, err
	}
	s, err := findField(tree(object), d.path)
	if err != nil {
		return nil, err
	}
	w.own(&s, writers(object.(metav1.Object)), d.kind)
	w.slots = []slot{s}
	return w, nil
}

// about says of an error which workload it is about. Why there is nothing to do
// is told beside that.
func (d *deploy) about(err error) error {
	var skip *trigger.SkipError
	if err == nil || errors.As(err, &skip) {
		return err
	}
	return fmt.Errorf("%s: %w", d.workload(), err)
}

// done tells what a patch has changed, and what the API server made of it.
func (d *deploy) done(res *resource, ch *change, before *workload, answer runtime.Object, run trigger.Run, log io.Writer) *rollout {
	if d.rehearses() {
		fmt.Fprintf(log, "%s: %s; nothing is changed, the API server would take it\n", d.Target(), ch)
	} else {
		fmt.Fprintf(log, "%s: %s\n", d.Target(), ch)
	}
	after, err := d.view(answer)
	if err != nil {
		return ch.rollout // it has been changed further: whoever waits will see
	}
	for _, t := range ch.turns {
		if s, _ := after.slot(t.Slot); s.image != t.To.Image {
			fmt.Fprintf(log, "%s: the API server made %s of it; it rewrites images on admission\n", s, s.image)
		}
		if s, _ := before.slot(t.Slot); len(s.appliers) > 0 {
			fmt.Fprintf(log, "%s: %s applies it too (server-side), and may set it back\n", s, strings.Join(s.appliers, ", "))
		}
	}
	if after.idle != "" {
		fmt.Fprintln(log, after.idle)
	}
	if d.rehearses() {
		return nil
	}
	res.tell(after, imageUpdated, fmt.Sprintf("%s (rule %s, event %d, run %d)", ch, run.Rule, run.EventID, run.ID))
	return ch.rollout
}
