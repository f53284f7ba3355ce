package k8s

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

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

	// theRolloutOf is what a run that waits has begun, before the image.
	theRolloutOf = "the rollout of "
)

// rollout is what a deploy that waits has begun. It is kept in an annotation
// of the workload, written with the change itself: whoever goes on waiting
// after a restart knows what for, since when, and how to undo it.
type rollout struct {
	Run      int64     `json:"run,string"`
	FirstTry time.Time `json:"firstTry"` // of the run; another one when a person has it tried anew
	Began    time.Time `json:"began"`
	Turns    []turn    `json:"turns"`
	Undone   string    `json:"undone,omitzero"` // the outcome, once what was before was put back

	key string // of the annotation
}

// rolloutOf reads the annotation with a key, nil where it holds none.
func rolloutOf(meta *metav1.ObjectMeta, key string) *rollout {
	r := &rollout{key: key}
	if json.Unmarshal([]byte(meta.Annotations[key]), r) != nil || len(r.Turns) == 0 {
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

// to names what is rolled out.
func (r *rollout) to() string { return r.images(func(t turn) string { return t.To.Image }) }

// from names what was there before.
func (r *rollout) from() string { return r.images(func(t turn) string { return t.From.Image }) }

// images names an image of each turn, each image once.
func (r *rollout) images(of func(turn) string) string {
	var all []string
	for _, t := range r.Turns {
		if image := of(t); !slices.Contains(all, image) {
			all = append(all, image)
		}
	}
	return strings.Join(all, " and ")
}

// begun gives the rollout that an earlier try of the run has begun, nil where
// there was none.
func begun(w *workload, run trigger.Run) *rollout {
	for key := range w.Annotations {
		if !isNote(key, rolloutNote) {
			continue
		}
		if r := rolloutOf(&w.ObjectMeta, key); r.of(run.ID, run.FirstAt) {
			return r
		}
	}
	return nil
}

// sight is a workload as it was seen while its rollout was waited for.
type sight struct {
	*workload
	progress
	object runtime.Object
	theirs string // what somebody else has made of what the rollout set; "" while it stands
}

func (d *deploy) judge(object runtime.Object, r *rollout) *sight {
	s := &sight{object: object}
	var err error
	if s.workload, err = d.view(object); err != nil {
		s.theirs = "somebody else has changed it: " + err.Error()
		return s
	}
	s.progress = d.kind.progress(object, r.Began)
	noted := rolloutOf(&s.ObjectMeta, r.key).of(r.Run, r.FirstTry)
	for _, t := range r.Turns {
		at, ok := s.slot(t.Slot)
		switch {
		case !ok:
			s.theirs = fmt.Sprintf("somebody else has changed it: it has no %s any more", t.Slot)
		case at.ours != t.To.Image || s.content(d.kind, at) != t.To.Content || !noted:
			s.theirs = fmt.Sprintf("somebody else has changed %s, which %s %s now", at, at.verb(), at.image)
		}
	}
	return s
}

// see reads the workload and judges how far its rollout is.
func (d *deploy) see(ctx context.Context, res *resource, r *rollout) (*sight, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	object, err := res.read(ctx, d.spec.Namespace, d.name)
	if err != nil {
		return nil, d.explain(ctx, res, "get", err)
	}
	return d.judge(object, r), nil
}

// follow waits for the end of a rollout. A watch says when to look; whether it
// has come up is only decided on a fresh look.
func (d *deploy) follow(ctx context.Context, res *resource, r *rollout, log io.Writer) error {
	if r.Undone != "" {
		return &trigger.HoldError{Err: errors.New(r.Undone), Undone: true}
	}
	ctx = trigger.OnlyWaits(ctx, theRolloutOf+r.to())
	wait := *d.spec.Wait
	waiting, cancel := context.WithTimeout(ctx, min(wait, wait-time.Since(r.Began)))
	defer cancel()
	for {
		over := waiting.Err() != nil
		s, err := d.see(ctx, res, r)
		_, again := trigger.Retryable(err)
		switch {
		case err != nil && (over || !again):
			return err
		case err != nil:
			pause(waiting)
		case s.theirs != "":
			return d.lost(r.to(), s.theirs)
		case s.done:
			fmt.Fprintf(log, "rollout over after %s: %s\n", time.Since(r.Began).Round(time.Millisecond), s.how)
			return nil
		case s.failed != "":
			return d.fail(ctx, res, s, r, s.failed)
		case over:
			return d.fail(ctx, res, s, r, fmt.Sprintf("it is not rolled out after %s, which is for how long `wait` lets it be", wait))
		default:
			d.watch(waiting, res, s, r)
		}
	}
}

// lost ends a run whose rollout somebody else has changed.
func (d *deploy) lost(to, why string) error {
	return &trigger.HoldError{Err: fmt.Errorf("%s: the rollout of %s is not waited for any more: %s", d.workload(), to, why)}
}

// watch returns when the rollout may have ended. Where it cannot be watched
// that is after a pause.
func (d *deploy) watch(ctx context.Context, res *resource, s *sight, r *rollout) {
	ended := res.changes(ctx, &s.ObjectMeta, func(o runtime.Object) bool {
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
