package k8s

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/dockbell/dockbell/trigger"
)

const (
	// askTime bounds each question and write while a run waits for a rollout:
	// the time limit of a try does not count then.
	askTime = 10 * time.Second

	// lookAgain is how long to wait at the least before a workload that cannot
	// be watched, or not any more, is read again.
	lookAgain = 2 * time.Second
)

// release is what a container is to run, and what is noted about it.
type release struct {
	Image   string `json:"image"`
	Content string `json:"content,omitzero"` // as at contentPrefix
	Pushed  string `json:"pushed,omitzero"`  // as at pushedPrefix
}

// rollout is what a deploy that waits has begun. It is kept in an annotation
// of the workload, written with the change itself: whoever goes on waiting
// after a restart knows what for, since when, and how to undo it.
type rollout struct {
	Run      int64     `json:"run,string"`
	FirstTry time.Time `json:"firstTry"` // of the run; another one when a person has it tried anew
	Began    time.Time `json:"began"`
	From     release   `json:"from"`
	To       release   `json:"to"`
	Undone   string    `json:"undone,omitzero"` // the outcome, once From was put back

	container string
}

// rolloutOf reads what is noted for a container, nil where there is nothing.
func rolloutOf(meta *metav1.ObjectMeta, container string) *rollout {
	r := &rollout{container: container}
	if json.Unmarshal([]byte(meta.Annotations[rolloutPrefix+container]), r) != nil {
		return nil
	}
	return r
}

func (r *rollout) note() string {
	text, _ := json.Marshal(r) // of strings and times of the store: cannot fail
	return string(text)
}

func (r *rollout) of(run int64, firstTry time.Time) bool {
	return r != nil && r.Run == run && r.FirstTry.Equal(firstTry)
}

// begun gives the rollout that an earlier try of the run has begun, nil where
// there was none.
func (d *deploy) begun(object runtime.Object, run trigger.Run) *rollout {
	meta, template := d.kind.parts(object)
	index, err := container(template, d.spec.Container)
	if err != nil {
		return nil // that is for plan to say
	}
	if r := rolloutOf(meta, template.Spec.Containers[index].Name); r.of(run.ID, run.FirstAt) {
		return r
	}
	return nil
}

// sight is a workload as it was seen while its rollout was waited for.
type sight struct {
	progress
	object runtime.Object
	index  int    // of the container
	theirs string // what somebody else has made of what the rollout set; "" while it stands
}

func (d *deploy) judge(object runtime.Object, r *rollout) *sight {
	meta, template := d.kind.parts(object)
	s := &sight{progress: d.kind.progress(object, r.Began), object: object}
	var err error
	if s.index, err = container(template, r.container); err != nil {
		s.theirs = "somebody else has changed it: " + err.Error()
		return s
	}
	image := template.Spec.Containers[s.index].Image
	if image != r.To.Image || template.Annotations[contentPrefix+r.container] != r.To.Content || !rolloutOf(meta, r.container).of(r.Run, r.FirstTry) {
		s.theirs = fmt.Sprintf("somebody else has changed container %s, which runs %s now", r.container, image)
	}
	return s
}

// look reads the workload and judges how far its rollout is.
func (d *deploy) look(ctx context.Context, c *cluster, r *rollout) (*sight, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	object, err := c.read(ctx, d.kind, d.spec.Namespace, d.name)
	if err != nil {
		return nil, d.explain(ctx, "get", err)
	}
	return d.judge(object, r), nil
}

// follow waits for the end of a rollout. A watch says when to look; whether it
// has come up is only decided on a fresh look.
func (d *deploy) follow(ctx context.Context, c *cluster, r *rollout, log io.Writer) error {
	if r.Undone != "" {
		return &trigger.HoldError{Err: errors.New(r.Undone), Undone: true}
	}
	ctx = trigger.OnlyWaits(ctx, "the rollout of "+r.To.Image)
	wait := *d.spec.Wait
	waiting, cancel := context.WithTimeout(ctx, min(wait, wait-time.Since(r.Began)))
	defer cancel()
	for {
		over := waiting.Err() != nil
		s, err := d.look(ctx, c, r)
		_, again := trigger.Retryable(err)
		switch {
		case err != nil && (over || !again):
			return err
		case err != nil:
			pause(waiting)
		case s.theirs != "":
			return &trigger.HoldError{Err: fmt.Errorf("%s: the rollout of %s is not waited for any more: %s", d.workload(), r.To.Image, s.theirs)}
		case s.done:
			fmt.Fprintf(log, "rollout over after %s: %s\n", time.Since(r.Began).Round(time.Millisecond), s.how)
			return nil
		case s.failed != "":
			return d.fail(ctx, c, s, r, s.failed)
		case over:
			return d.fail(ctx, c, s, r, fmt.Sprintf("it is not rolled out after %s, which is for how long `wait` lets it be", wait))
		default:
			d.watch(waiting, c, s, r)
		}
	}
}

// watch returns when the rollout may have ended. Where it cannot be watched
// that is after a pause.
func (d *deploy) watch(ctx context.Context, c *cluster, s *sight, r *rollout) {
	meta, _ := d.kind.parts(s.object)
	ended := c.changes(ctx, d.kind, meta, func(o runtime.Object) bool {
		s := d.judge(o, r)
		return s.theirs != "" || s.done || s.failed != ""
	})
	if !ended {
		pause(ctx)
	}
}

// pause keeps those who wait from asking all the time, and all at the same time.
func pause(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(lookAgain + rand.N(lookAgain)):
	}
}

// fail ends a run whose rollout does not come up: why, with what is wrong with
// the pods, and undone if the rule wants that.
func (d *deploy) fail(ctx context.Context, c *cluster, s *sight, r *rollout, why string) error {
	text := fmt.Sprintf("%s: %s does not come up: %s; %s", d.workload(), r.To.Image, why, s.how)
	asking, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	pods, names := c.broken(asking, d.spec.Namespace, d.kind.selector(s.object), func(p *corev1.Pod) bool {
		return p.Annotations[contentPrefix+r.container] == r.To.Content
	})
	if pods != "" {
		text += "; " + pods
	}
	if !d.spec.Rollback {
		return &trigger.HoldError{Err: errors.New(text)}
	}
	undone := text + "; " + r.back()
	if d.kind.sticks && len(names) > 0 {
		undone += fmt.Sprintf("; it waits for its broken pods and does not replace them: kubectl delete pod -n %s %s", d.spec.Namespace, strings.Join(names, " "))
	}
	return d.undo(ctx, c, s, r, text, undone)
}

// back says what undoing the rollout does.
func (r *rollout) back() string {
	if r.From.Image == r.To.Image {
		return "the pods from before are put back; only `pin: digest` makes sure what new ones of a moved tag run"
	}
	return r.From.Image + " is put back"
}

// undo puts back what ran before, unless somebody else has changed it since,
// and gives the outcome of the run: text, or undone.
func (d *deploy) undo(ctx context.Context, c *cluster, s *sight, r *rollout, text, undone string) error {
	var last error
	for range rereads {
		if s.theirs != "" {
			return &trigger.HoldError{Err: fmt.Errorf("%s; nothing is put back: %s", text, s.theirs)}
		}
		meta, template := d.kind.parts(s.object)
		patch, err := json.Marshal(undoing(meta, template, s.index, r, undone))
		if err != nil {
			return err
		}
		writing, cancel := context.WithTimeout(ctx, askTime)
		err = c.patch(writing, d.kind, d.spec.Namespace, d.name, patch)
		if err == nil {
			cancel()
			return &trigger.HoldError{Err: errors.New(undone), Undone: true}
		}
		last = d.explain(writing, "patch", err)
		cancel()
		if !apierrors.IsInvalid(err) && !apierrors.IsConflict(err) {
			break
		}
		if s, err = d.look(ctx, c, r); err != nil {
			last = err
			break
		}
	}
	if _, again := trigger.Retryable(last); again {
		return last // the next try finds the rollout as it is
	}
	return &trigger.HoldError{Err: fmt.Errorf("%s; it cannot be put back: %w", text, last)}
}
