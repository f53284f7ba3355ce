package k8s

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/dockbell/dockbell/trigger"
)

// Annotations that a deploy leaves behind, one for each workload.
const (
	changeCause     = "kubernetes.io/change-cause" // shown by kubectl rollout history
	eventAnnotation = "dockbell.dev/event"
	runAnnotation   = "dockbell.dev/run"
)

// Annotations that a deploy leaves behind for each slot; see [slot.note].
const (
	// pushedNote holds the tag deployed and when it was pushed, TAG@TIME: the
	// order guard's memory, beside the thing it guards.
	pushedNote = "pushed"
	// contentNote is on the pod template and holds what was deployed under the
	// tag, so that a moved tag makes new pods, once. What has no pod template
	// has it beside the others.
	contentNote = "content"
	// imageNote holds what dockbell wrote, which the API server may have
	// changed on admission.
	imageNote = "image"
	// rolloutNote is of the first slot of a rollout and holds the [rollout]
	// that was waited for last.
	rolloutNote = "rollout"
)

// note is the key of an annotation about the slot. A key may have 63 letters
// after its slash, which is as many as a container may have in its name.
func (s slot) note(what string) string {
	switch {
	case s.role == volume:
		return what + ".volume.dockbell.dev/" + s.name
	case s.name == "":
		return what + ".dockbell.dev/container" // Knative lets the only one go without a name
	case len(validation.IsValidLabelValue(s.name)) > 0:
		return what + ".dockbell.dev/" + s.short()
	}
	return what + ".dockbell.dev/" + s.name
}

// isNote reports whether a key is one that note gives.
func isNote(key, what string) bool {
	return strings.HasPrefix(key, what+".dockbell.dev/") || strings.HasPrefix(key, what+".volume.dockbell.dev/")
}

// op is an operation of RFC 6902.
type op struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value"`
}

// workloadMeta is where the annotations of a workload are.
const workloadMeta = "/metadata"

// templateMeta is where those of its pods are, "" where it has no pod template.
func (k kind) templateMeta() string {
	if k.at == "" {
		return ""
	}
	return k.at + "/metadata"
}

// content is what was deployed into a slot.
func (w *workload) content(k kind, s slot) string {
	if k.at == "" {
		return w.Annotations[s.note(contentNote)]
	}
	return w.template[s.note(contentNote)]
}

// contentAt is the pointer to that.
func (k kind) contentAt(s slot) string {
	if k.at == "" {
		return annotation(workloadMeta, s.note(contentNote))
	}
	return annotation(k.templateMeta(), s.note(contentNote))
}

func annotation(meta, key string) string { return meta + "/annotations/" + escape(key) }

// annotate sets the annotations of a workload and of its pod template, and
// removes those that are to be "". Where there are none yet, the patch must
// make the map, and fails if somebody has made it since.
func (w *workload) annotate(k kind, template, workload map[string]string) []op {
	if k.at == "" {
		maps.Copy(workload, template)
		return annotations(workloadMeta, w.Annotations, workload)
	}
	if at := k.templateMeta(); w.bare {
		return append([]op{{"test", at, nil}, {"add", at, map[string]any{"annotations": template}}}, annotations(workloadMeta, w.Annotations, workload)...)
	}
	return append(annotations(k.templateMeta(), w.template, template), annotations(workloadMeta, w.Annotations, workload)...)
}

func annotations(at string, have, set map[string]string) []op {
	if len(have) == 0 {
		all := at + "/annotations"
		maps.DeleteFunc(set, func(_, value string) bool { return value == "" })
		return []op{{"test", all, nil}, {"add", all, set}}
	}
	var ops []op
	for _, key := range slices.Sorted(maps.Keys(set)) {
		_, there := have[key]
		switch {
		case set[key] != "":
			ops = append(ops, op{"add", annotation(at, key), set[key]})
		case there:
			ops = append(ops, op{"remove", annotation(at, key), nil})
		}
	}
	return ops
}

// escape makes a token of a JSON pointer, RFC 6901.
func escape(key string) string {
	return strings.NewReplacer("~", "~0", "/", "~1").Replace(key)
}

// cause is what kubectl rollout history shows.
func cause(turns []turn, run trigger.Run) string {
	texts := make([]string, len(turns))
	for i, t := range turns {
		texts[i] = t.Slot + " to " + t.To.Image
	}
	return fmt.Sprintf("dockbell: %s (rule %s, event %d)", strings.Join(texts, ", "), run.Rule, run.EventID)
}
