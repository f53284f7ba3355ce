package k8s

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/dockbell/dockbell/trigger"
)

// fail ends a run whose rollout does not come up: why, with what is wrong with
// the pods, and undone if the rule wants that.
func (d *deploy) fail(ctx context.Context, res *resource, s *sight, r *rollout, why string) error {
	text := fmt.Sprintf("%s: %s does not come up: %s; %s", d.workload(), r.to(), why, s.how)
	pods, names := d.broken(ctx, res, s, r)
	if pods != "" {
		text += "; " + pods
	}
	if !d.spec.Rollback {
		res.tell(s.workload, rolloutFailed, fmt.Sprintf("%s (run %d)", text, r.Run))
		return &trigger.HoldError{Err: errors.New(text)}
	}
	undone := text + "; " + r.back()
	if d.kind.sticks && len(names) > 0 {
		undone += fmt.Sprintf("; it waits for its broken pods and does not replace them: kubectl delete pod -n %s %s", d.spec.Namespace, strings.Join(names, " "))
	}
	return d.undo(ctx, res, s, r, text, undone)
}

// broken tells which pods of the rollout are not ready, where it is known which
// are its pods.
func (d *deploy) broken(ctx context.Context, res *resource, s *sight, r *rollout) (text string, names []string) {
	var selector *metav1.LabelSelector
	if d.kind.selector != nil {
		selector = d.kind.selector(s.object)
	}
	if selector == nil {
		return "", nil
	}
	first, _ := s.slot(r.Turns[0].Slot)
	content := first.note(contentNote)
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	return res.broken(ctx, d.spec.Namespace, selector, func(p *corev1.Pod) bool {
		return p.Annotations[content] == r.Turns[0].To.Content
	})
}

// back says what undoing the rollout does.
func (r *rollout) back() string {
	if r.from() == r.to() {
		return "the pods from before are put back; only `pin: digest` makes sure what new ones of a moved tag run"
	}
	return r.from() + " is put back"
}

// undo puts back what ran before, unless somebody else has changed it since,
// and gives the outcome of the run: text, or undone.
func (d *deploy) undo(ctx context.Context, res *resource, s *sight, r *rollout, text, undone string) error {
	var last error
	for range rereads {
		if s.theirs != "" {
			return &trigger.HoldError{Err: fmt.Errorf("%s; nothing is put back: %s", text, s.theirs)}
		}
		patch, err := json.Marshal(d.undoing(s.workload, r, undone))
		if err != nil {
			return err
		}
		writing, cancel := context.WithTimeout(ctx, askTime)
		_, err = res.patch(writing, d.spec.Namespace, d.name, patch, false)
		if err == nil {
			cancel()
			res.tell(s.workload, imageRolledBack, fmt.Sprintf("%s (run %d)", undone, r.Run))
			return &trigger.HoldError{Err: errors.New(undone), Undone: true}
		}
		last = d.explain(writing, res, "patch", err)
		cancel()
		if !apierrors.IsInvalid(err) && !apierrors.IsConflict(err) {
			break
		}
		if s, err = d.see(ctx, res, r); err != nil {
			last = err
			break
		}
	}
	if _, again := trigger.Retryable(last); again {
		return last // the next try finds the rollout as it is
	}
	return &trigger.HoldError{Err: fmt.Errorf("%s; it cannot be put back: %w", text, last)}
}

// undoing is the patch that takes a rollout back, all of it. It fails when
// something that the rollout set has changed. The pod template becomes what it
// was, so that pods from before that are left are kept.
func (d *deploy) undoing(w *workload, r *rollout, undone string) []op {
	var tests, sets []op
	after := *r
	after.Undone = undone
	contents := map[string]string{}
	notes := map[string]string{
		changeCause: fmt.Sprintf("dockbell: back to %s, %s did not come up (run %d)", r.from(), r.to(), r.Run),
		r.key:       after.note(),
	}
	for _, t := range r.Turns {
		s, _ := w.slot(t.Slot) // it was judged to be there
		at := s.place(d.kind)
		tests = append(append(tests, at.guards...), op{"test", at.pointer, s.image}, op{"test", d.kind.contentAt(s), t.To.Content})
		if t.From.Image != s.image {
			sets = append(sets, op{"replace", at.pointer, t.From.Image})
		}
		contents[s.note(contentNote)] = t.From.Content
		notes[s.note(pushedNote)], notes[s.note(imageNote)] = t.From.Pushed, t.From.Ours
	}
	tests = append(tests, op{"test", annotation(workloadMeta, r.key), w.Annotations[r.key]})
	return append(append(tests, sets...), w.annotate(d.kind, contents, notes)...)
}
