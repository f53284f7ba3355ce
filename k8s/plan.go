package k8s

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/dockbell/dockbell/trigger"
)

// change is what a deploy does to a workload.
type change struct {
	turns   []turn
	left    []string // why other slots stay as they are
	ops     []op
	rollout *rollout // to wait for; nil where nobody waits
}

// turn is what becomes of one slot.
type turn struct {
	Slot string  `json:"slot"` // its id
	From release `json:"from"`
	To   release `json:"to"`
}

// release is what a slot is to run, and what is noted about it.
type release struct {
	Image   string `json:"image"`
	Ours    string `json:"ours"`             // as in [slot]
	Content string `json:"content,omitzero"` // as at contentNote
	Pushed  string `json:"pushed,omitzero"`  // as at pushedNote
}

// restart reports that the reference stays, and what it names has new content.
func (t turn) restart() bool { return t.From.Ours == t.To.Image }

// plan decides what to change in a workload as it was seen. A [trigger.Skip]
// error says why there is nothing to change. Of several slots those that would
// go backwards, or are there already, are left as they are.
func (d *deploy) plan(w *workload, run trigger.Run) (*change, error) {
	slots, err := d.pick(w, run.Event.Image)
	if err != nil {
		return nil, err
	}
	ch := &change{}
	for _, s := range slots {
		t, why, err := d.turn(w, s, run)
		switch {
		case err != nil:
			return nil, err
		case why != "":
			ch.left = append(ch.left, why)
		default:
			ch.turns = append(ch.turns, t)
		}
	}
	if len(ch.turns) == 0 {
		return nil, trigger.Skip("%s", strings.Join(ch.left, "; "))
	}
	d.compose(ch, w, run)
	return ch, nil
}

// turn decides about one slot: what becomes of it, or why nothing does.
func (d *deploy) turn(w *workload, s slot, run trigger.Run) (t turn, why string, err error) {
	image := run.Event.Image
	at := run.Event.Time().UTC()
	to, err := d.write(s, image)
	if err != nil {
		return turn{}, "", err
	}
	if from, known := d.standing(w, s, image); run.Ordered && known {
		if why := trigger.Backwards(from, trigger.Release{Tag: image.Tag, At: run.Event.Time()}, run.Order); why != "" {
			return turn{}, fmt.Sprintf("%s, and %s", s.runs(), why), nil
		}
	}
	content := image.Digest
	if content == "" {
		content = "pushed " + at.Format(time.RFC3339Nano)
	}
	t = turn{
		Slot: s.id(),
		From: release{s.image, s.ours, w.content(d.kind, s), w.Annotations[s.note(pushedNote)]},
		To:   release{to, to, content, image.Tag + "@" + at.Format(time.RFC3339Nano)},
	}
	if !t.restart() {
		return t, "", nil
	}
	current, _ := trigger.ParseImage(s.ours)
	moved := t.From.Content != content && current.Digest == "" && d.spec.Value != holdsDigest && d.spec.Value != holdsRepository
	switch {
	case moved && s.role == field:
		return turn{}, s.runs() + " already; that the tag has moved would only show in a digest: `pin: digest` or `value: digest`", nil
	case moved:
		return t, "", nil
	}
	return turn{}, s.runs() + " already", nil
}

// standing is what the order guard compares with, as far as it is known: the
// tag that the slot has, and when that was pushed if it is dockbell's.
func (d *deploy) standing(w *workload, s slot, image trigger.Image) (from trigger.Release, known bool) {
	tag, at, _ := strings.Cut(w.Annotations[s.note(pushedNote)], "@")
	switch d.spec.Value {
	case holdsTag:
		from.Tag, known = s.ours, true
	case holdsDigest:
		known = w.content(d.kind, s) == s.ours
		from.Tag = tag
	case holdsRepository:
		return from, false
	default:
		var current trigger.Image
		current, known = d.repository(s.ours, image)
		from.Tag = current.Tag
	}
	if tag == from.Tag {
		from.At, _ = time.Parse(time.RFC3339Nano, at) // zero is not compared
	}
	return from, known
}

// write is what the slot is to hold.
func (d *deploy) write(s slot, image trigger.Image) (string, error) {
	part := ""
	switch d.spec.Value {
	case holdsTag:
		part = image.Tag
	case holdsDigest:
		part = image.Digest
	case holdsRepository:
		if _, same := d.repository(s.ours, image); same {
			return s.ours, nil
		}
		return image.Name(), nil
	default:
		_, known := d.repository(s.ours, image)
		return reference(s.ours, known, image, d.spec.Pin), nil
	}
	if part == "" {
		return "", fmt.Errorf("%s holds a %s, and the event has none", s, d.spec.Value)
	}
	return part, nil
}

// compose makes the patch: tests of what it is based on, the images, and what
// is noted about them.
func (d *deploy) compose(ch *change, w *workload, run trigger.Run) {
	contents := map[string]string{}
	notes := map[string]string{
		changeCause:     cause(ch.turns, run),
		eventAnnotation: strconv.FormatInt(run.EventID, 10),
		runAnnotation:   strconv.FormatInt(run.ID, 10),
	}
	var tests, sets []op
	for i, t := range ch.turns {
		s, _ := w.slot(t.Slot)
		at := s.place(d.kind)
		tests = append(append(tests, at.guards...), op{"test", at.pointer, null(s.image)})
		if d.spec.Wait != nil && t.From.Content != "" {
			tests = append(tests, op{"test", d.kind.contentAt(s), t.From.Content}) // it is what may be put back
		}
		if s.image != t.To.Image {
			sets = append(sets, op{"replace", at.pointer, t.To.Image})
		}
		contents[s.note(contentNote)] = t.To.Content
		notes[s.note(pushedNote)], notes[s.note(imageNote)] = t.To.Pushed, t.To.Image
		if d.spec.Wait != nil && i == 0 {
			ch.rollout = &rollout{Run: run.ID, FirstTry: run.FirstAt, Began: run.StartedAt, Turns: ch.turns, key: s.note(rolloutNote)}
			notes[ch.rollout.key] = ch.rollout.note()
		}
	}
	ch.ops = append(append(tests, sets...), w.annotate(d.kind, contents, notes)...)
}

// reference is what a slot is to hold. Where that is this repository already,
// the name stays as it is written there: nodes may know the registry under
// another name than its senders do.
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

func (c *change) patch() ([]byte, error) { return json.Marshal(c.ops) }

func (c *change) String() string {
	texts := make([]string, len(c.turns), len(c.turns)+len(c.left))
	for i, t := range c.turns {
		texts[i] = t.String()
		if len(c.turns) > 1 {
			texts[i] = t.Slot + ": " + texts[i]
		}
	}
	return strings.Join(append(texts, c.left...), "; ")
}

func (t turn) String() string {
	if t.restart() {
		return t.To.Image + " has new content: pods are replaced"
	}
	return t.From.Image + " -> " + t.To.Image
}
