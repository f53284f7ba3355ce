package k8s

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/dockbell/dockbell/trigger"
)

// Annotations that a deploy leaves behind. Those with a container's name
// after the slash are one for each container.
const (
	changeCause     = "kubernetes.io/change-cause" // shown by kubectl rollout history
	eventAnnotation = "dockbell.dev/event"
	runAnnotation   = "dockbell.dev/run"
	// pushedPrefix holds the tag deployed and when it was pushed, TAG@TIME:
	// the order guard's memory, beside the thing it guards.
	pushedPrefix = "pushed.dockbell.dev/"
	// contentPrefix is on the pod template and holds what was deployed under
	// the tag, so that a moved tag makes new pods, once.
	contentPrefix = "content.dockbell.dev/"
	// rolloutPrefix holds the [rollout] that was waited for last.
	rolloutPrefix = "rollout.dockbell.dev/"
)

// change is what a deploy does to a workload.
type change struct {
	ops      []op
	from, to string   // image references
	restart  bool     // the tag stays, its content has moved
	rollout  *rollout // to wait for; nil where nobody waits
}

// op is an operation of RFC 6902.
type op struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value"`
}

// plan decides what to change in a workload as it was seen. A [trigger.Skip]
// error says why there is nothing to change.
func plan(meta *metav1.ObjectMeta, template *corev1.PodTemplateSpec, spec *deploySpec, aliases trigger.Aliases, run trigger.Run) (*change, error) {
	index, err := container(template, spec.Container)
	if err != nil {
		return nil, err
	}
	c := template.Spec.Containers[index]
	image := run.Event.Image
	current, err := trigger.ParseImage(c.Image)
	known := err == nil && current.Repository == image.Repository && (image.Registry == "" || aliases.Canonical(current.Registry) == image.Registry)
	if run.Ordered && known {
		from := trigger.Release{Tag: current.Tag}
		if tag, at, ok := strings.Cut(meta.Annotations[pushedPrefix+c.Name], "@"); ok && tag == current.Tag {
			from.At, _ = time.Parse(time.RFC3339Nano, at) // zero is not compared
		}
		if why := trigger.Backwards(from, trigger.Release{Tag: image.Tag, At: run.Event.Time()}, run.Order); why != "" {
			return nil, trigger.Skip("container %s runs %s, and %s", c.Name, c.Image, why)
		}
	}
	ch := &change{from: c.Image, to: reference(c.Image, known, image, spec.Pin)}
	content := image.Digest
	if content == "" {
		content = "pushed " + run.Event.Time().UTC().Format(time.RFC3339Nano)
	}
	ch.restart = ch.from == ch.to
	if ch.restart && (template.Annotations[contentPrefix+c.Name] == content || current.Digest != "") {
		return nil, trigger.Skip("container %s runs %s already", c.Name, c.Image)
	}

	pushed := image.Tag + "@" + run.Event.Time().UTC().Format(time.RFC3339Nano)
	notes := map[string]string{
		changeCause:           fmt.Sprintf("dockbell: %s to %s (rule %s, event %d)", c.Name, ch.to, run.Rule, run.EventID),
		eventAnnotation:       strconv.FormatInt(run.EventID, 10),
		runAnnotation:         strconv.FormatInt(run.ID, 10),
		pushedPrefix + c.Name: pushed,
	}
	if spec.Wait != nil {
		ch.rollout = &rollout{
			Run: run.ID, FirstTry: run.FirstAt, Began: run.StartedAt, container: c.Name,
			From: release{c.Image, template.Annotations[contentPrefix+c.Name], meta.Annotations[pushedPrefix+c.Name]},
			To:   release{ch.to, content, pushed},
		}
		notes[rolloutPrefix+c.Name] = ch.rollout.note()
	}

	path := containerPath(index)
	ch.ops = []op{{"test", path + "/name", c.Name}, {"test", path + "/image", c.Image}}
	if ch.rollout != nil && ch.rollout.From.Content != "" {
		ch.ops = append(ch.ops, op{"test", annotation(templateMeta, contentPrefix+c.Name), ch.rollout.From.Content}) // it is what may be put back
	}
	if !ch.restart {
		ch.ops = append(ch.ops, op{"replace", path + "/image", ch.to})
	}
	ch.ops = append(ch.ops, annotate(templateMeta, template.Annotations, map[string]string{contentPrefix + c.Name: content})...)
	ch.ops = append(ch.ops, annotate(workloadMeta, meta.Annotations, notes)...)
	return ch, nil
}

// undoing is the patch that takes a rollout back. It fails when something that
// the rollout set has changed. The pod template becomes what it was, so that
// pods from before that are left are kept.
func undoing(meta *metav1.ObjectMeta, template *corev1.PodTemplateSpec, index int, r *rollout, undone string) []op {
	content, pushed, note := contentPrefix+r.container, pushedPrefix+r.container, rolloutPrefix+r.container
	path := containerPath(index)
	ops := []op{
		{"test", path + "/name", r.container},
		{"test", path + "/image", r.To.Image},
		{"test", annotation(templateMeta, content), r.To.Content},
		{"test", annotation(workloadMeta, note), meta.Annotations[note]},
	}
	if r.From.Image != r.To.Image {
		ops = append(ops, op{"replace", path + "/image", r.From.Image})
	}
	ops = append(ops, restore(templateMeta, template.Annotations, content, r.From.Content)...)
	ops = append(ops, restore(workloadMeta, meta.Annotations, pushed, r.From.Pushed)...)
	after := *r
	after.Undone = undone
	return append(ops, annotate(workloadMeta, meta.Annotations, map[string]string{
		changeCause: fmt.Sprintf("dockbell: %s back to %s, %s did not come up (run %d)", r.container, r.From.Image, r.To.Image, r.Run),
		note:        after.note(),
	})...)
}

// Where the annotations are.
const (
	workloadMeta = "/metadata"
	templateMeta = "/spec/template/metadata"
)

func containerPath(index int) string { return "/spec/template/spec/containers/" + strconv.Itoa(index) }

func annotation(meta, key string) string { return meta + "/annotations/" + escape(key) }

// reference is what the container is to run. Where it already runs this
// repository, the name stays as it is written there: nodes may know the
// registry under another name than its senders do.
func reference(current string, known bool, image trigger.Image, pin string) string {
	name := image.Name()
	if known {
		name, _, _ = strings.Cut(current, "@")
		if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
			name = name[:i]
		}
	}
	if image.Tag == "" || pin == pinDigest && image.Digest != "" {
		if image.Tag == "" {
			return name + "@" + image.Digest
		}
		return name + ":" + image.Tag + "@" + image.Digest
	}
	return name + ":" + image.Tag
}

// annotate adds annotations. Where there are none yet, the patch must make
// the map, and fails if somebody has made it since.
func annotate(at string, have, add map[string]string) []op {
	if len(have) == 0 {
		all := at + "/annotations"
		return []op{{"test", all, nil}, {"add", all, add}}
	}
	var ops []op
	for _, key := range slices.Sorted(maps.Keys(add)) {
		ops = append(ops, op{"add", annotation(at, key), add[key]})
	}
	return ops
}

// restore makes an annotation what it was; "" is none.
func restore(at string, have map[string]string, key, before string) []op {
	if before != "" {
		return annotate(at, have, map[string]string{key: before})
	}
	if _, ok := have[key]; ok {
		return []op{{"remove", annotation(at, key), nil}}
	}
	return nil
}

// escape makes a token of a JSON pointer, RFC 6901.
func escape(key string) string {
	return strings.NewReplacer("~", "~0", "/", "~1").Replace(key)
}

func (c *change) patch() ([]byte, error) { return json.Marshal(c.ops) }

func (c *change) String() string {
	if c.restart {
		return c.to + " has new content: pods are replaced"
	}
	return c.from + " -> " + c.to
}
