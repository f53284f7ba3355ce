package k8s

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
)

// KeelWorkload is what keel looks at in a workload: what is written on it, and
// the images in its pods.
type KeelWorkload struct {
	Kind        string // as in a target: deployment
	Namespace   string
	Name        string
	Labels      map[string]string
	Annotations map[string]string
	Images      []KeelImage
	PullSecrets []string // of its pods

	// Misplaced: keel's keys are on the pod template alone, where keel does
	// not look.
	Misplaced bool
}

// KeelImage is a place in a pod that holds an image.
type KeelImage struct {
	Name      string // of the container or volume
	Place     KeelPlace
	Reference string
}

// KeelPlace is where in a pod an image stands.
type KeelPlace int

// The places that keel can look after; all but the first must be asked for.
const (
	KeelContainer KeelPlace = iota
	KeelInitContainer
	KeelVolume
)

func (w *KeelWorkload) String() string { return w.Kind + " " + w.Namespace + "/" + w.Name }

const (
	keelPrefix = "keel.sh/"
	// keelOldPrefix is that of the first releases. Of its keys keel still
	// reads the policy.
	keelOldPrefix = "keel.observer/"
)

// keelSource says where keel looks for a key, and what wins.
type keelSource int

const (
	annotationThenLabel keelSource = iota
	labelThenAnnotation
	annotationOnly
	besidePolicy // annotation or label, as the policy is
	keelsNote    // keel writes it
)

// keelKey is a row in the table of keys.
type keelKey struct {
	from    keelSource
	anyCase bool
	differs string // what is told of it, where dockbell has no counterpart beside the image
}

// keelKeys are all keys that keel knows, without their prefix, as its own code
// reads them: which of label and annotation wins is not the same for all.
var keelKeys = map[string]keelKey{
	"policy":            {from: annotationThenLabel},
	"matchTag":          {from: besidePolicy},
	"match-tag":         {from: besidePolicy},
	"matchPreRelease":   {from: besidePolicy},
	"trigger":           {from: annotationThenLabel},
	"pollSchedule":      {from: annotationOnly},
	"imagePullSecret":   {from: labelThenAnnotation, anyCase: true},
	"monitorContainers": {from: annotationThenLabel, anyCase: true},
	"initContainers":    {from: annotationOnly},
	"imageVolumes":      {from: labelThenAnnotation, anyCase: true},
	"approvals":         {from: labelThenAnnotation},
	"approvalDeadline":  {from: labelThenAnnotation},
	"notify":            {from: annotationOnly, differs: "whom to tell is said once for all rules, or for some, below `notify`"},
	"releaseNotes":      {from: annotationOnly, differs: "a link to release notes belongs in the text of a notification, below `notify`"},
	"trackedImages":     {from: keelsNote},
	"rollbackHold":      {from: keelsNote, differs: "keel does not deploy again what was rolled back here; say the same by `dockbell hold --digest`"},
	"digest":            {from: keelsNote},
	"digests":           {from: keelsNote},
	"update-time":       {from: keelsNote},
}

// KeelKeys are all keys that keel knows, as they are written, sorted.
func KeelKeys() []string {
	keys := slices.Sorted(maps.Keys(keelKeys))
	for i, key := range keys {
		keys[i] = keelPrefix + key
	}
	return keys
}

// value finds a key as keel does; ok is false where keel sees none.
func (w *KeelWorkload) value(name string) (value string, ok bool) {
	key := keelKeys[name]
	places := []map[string]string{w.Annotations, w.Labels}
	switch key.from {
	case labelThenAnnotation:
		slices.Reverse(places)
	case annotationOnly, keelsNote:
		places = places[:1]
	case besidePolicy:
		if _, ok := keelPolicyIn(w.Annotations); ok {
			places = places[:1]
		} else {
			places = places[1:]
		}
	}
	for _, place := range places {
		if value, ok = place[keelPrefix+name]; ok {
			return value, true
		}
		for _, given := range slices.Sorted(maps.Keys(place)) {
			if key.anyCase && strings.EqualFold(given, keelPrefix+name) {
				return place[given], true
			}
		}
	}
	return "", false
}

func (w *KeelWorkload) is(name string) bool {
	value, _ := w.value(name)
	return value == "true"
}

// policy is how keel decides about new images of the workload; "" when it
// leaves it alone.
func (w *KeelWorkload) policy() string {
	policy, ok := keelPolicyIn(w.Annotations)
	if !ok {
		policy, _ = keelPolicyIn(w.Labels)
	}
	return policy
}

func keelPolicyIn(place map[string]string) (policy string, ok bool) {
	if policy, ok = place[keelPrefix+"policy"]; !ok {
		policy, ok = place[keelOldPrefix+"policy"]
	}
	return policy, ok
}

// unread tells of the keys that have no effect in keel, and of those that no
// rule can hold.
func (w *KeelWorkload) unread() (notes []string) {
	for _, place := range []struct {
		name string
		keys map[string]string
	}{{"annotation", w.Annotations}, {"label", w.Labels}} {
		for _, given := range slices.Sorted(maps.Keys(place.keys)) {
			if old, ok := strings.CutPrefix(given, keelOldPrefix); ok && old != "policy" {
				notes = append(notes, given+": of this prefix keel reads only the policy")
			}
			name, ok := strings.CutPrefix(given, keelPrefix)
			if !ok {
				continue
			}
			key, known := keelKeyOf(name)
			_, annotated := keelPolicyIn(w.Annotations)
			switch isLabel := place.name == "label"; {
			case !known:
				notes = append(notes, given+": keel does not know this key")
			case key.from == annotationOnly && isLabel:
				notes = append(notes, given+": keel reads it as an annotation only, and this is a label")
			case key.from == besidePolicy && annotated == isLabel:
				notes = append(notes, fmt.Sprintf("%s: keel reads it only where the policy is, and that is no %s", given, place.name))
			case key.differs != "":
				notes = append(notes, given+": "+key.differs)
			}
		}
	}
	return notes
}

func keelKeyOf(name string) (key keelKey, known bool) {
	for row, key := range keelKeys {
		if row == name || key.anyCase && strings.EqualFold(row, name) {
			return key, true
		}
	}
	return keelKey{}, false
}

// images are those that keel looks after.
func (w *KeelWorkload) images() (images []KeelImage, notes []string) {
	only := regexp.MustCompile("")
	if written, ok := w.value("monitorContainers"); ok {
		if re, err := regexp.Compile(written); err == nil {
			only = re
		} else {
			notes = append(notes, fmt.Sprintf("keel.sh/monitorContainers %q is no regular expression, so keel looks after all containers", written))
		}
	}
	tracked := map[string]string{}
	if note, ok := w.value("trackedImages"); ok {
		_ = json.Unmarshal([]byte(note), &tracked) // keel ignores what it cannot read, too
	}
	for _, image := range w.Images {
		asked := image.Place == KeelContainer ||
			image.Place == KeelInitContainer && w.is("initContainers") ||
			image.Place == KeelVolume && w.is("imageVolumes")
		if !asked || !only.MatchString(image.Name) {
			continue
		}
		if was := tracked[image.Name]; was != "" && strings.Contains(image.Reference, "@") {
			image.Reference = was
			notes = append(notes, fmt.Sprintf("keel has rolled %s back and goes on from %s, and so does this", image.Name, was))
		}
		images = append(images, image)
	}
	return images, notes
}

// approvals are how many people must say yes, and within how many hours.
func (w *KeelWorkload) approvals() (count, hours int, notes []string, err error) {
	written, ok := w.value("approvals")
	if !ok {
		return 0, 0, nil, nil
	}
	if count, err = strconv.Atoi(written); err != nil || count < 0 {
		return 0, 0, nil, fmt.Errorf("keel.sh/approvals %q is not a number, and keel updates nothing then", written)
	}
	const keelDeadline = 24
	hours = keelDeadline
	if written, ok := w.value("approvalDeadline"); ok {
		given, err := strconv.Atoi(written)
		if err != nil || given < 0 {
			notes = append(notes, fmt.Sprintf("keel.sh/approvalDeadline %q is not a number of hours, so it is the %d that keel takes", written, keelDeadline))
			given = 0
		}
		hours = cmp.Or(given, keelDeadline)
	}
	return count, hours, notes, nil
}

// schedule is when keel asks the registry for this workload, in the form of a
// poller; "" when it does not ask.
func (w *KeelWorkload) schedule(usual string) (schedule string, notes []string) {
	if trigger, _ := w.value("trigger"); trigger != "poll" {
		return "", nil
	}
	written, ok := w.value("pollSchedule")
	if !ok {
		return usual, nil
	}
	schedule, err := KeelSchedule(written)
	if err != nil {
		return usual, []string{fmt.Sprintf("keel.sh/pollSchedule %q: %v, so it is %s", written, err, usual)}
	}
	return schedule, nil
}

// keelCron reads schedules as keel does: the first field is the second, and
// the day of the week may be missing.
var keelCron = cron.NewParser(cron.Second | cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.DowOptional | cron.Descriptor)

// KeelSchedule writes a schedule of keel as a poller takes it, which has no
// seconds.
func KeelSchedule(s string) (string, error) {
	if parsed, err := keelCron.Parse(s); err != nil {
		return "", errors.New("keel cannot read it either")
	} else if parsed.Next(time.Now()).IsZero() {
		return "", errors.New("it never comes")
	}
	if every, ok := strings.CutPrefix(s, "@every "); ok {
		if d, err := time.ParseDuration(every); err == nil && d < time.Second {
			return "@every 1s", nil
		}
	}
	if strings.HasPrefix(s, "@") {
		return s, nil
	}
	fields := strings.Fields(s)
	if len(fields) == 5 {
		fields = append(fields, "*")
	}
	if _, err := strconv.Atoi(fields[0]); err == nil {
		return strings.Join(fields[1:], " "), nil
	}
	if seconds, ok := strings.CutPrefix(fields[0], "*/"); ok && strings.Join(fields[1:], "") == "*****" {
		return "@every " + seconds + "s", nil
	}
	return "", errors.New("it begins with seconds, as all of keel's do, and a poller has none")
}
