package source

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json/v1"

	"github.com/dockbell/dockbell/trigger"
)

// cloudsmithDelivery is an event of Cloudsmith (Cloudsmith documentation,
// "Webhooks", section "Webhook Payload Formats"; the fields of the package are
// those of its API). The format of the body is set with the webhook: an
// object, a list of one, or an object in a form; and its Content-Type apart
// from that.
type cloudsmithDelivery struct {
	Meta struct {
		Event   string          `json:"event_id"`   // the type of the event
		Trigger freeText        `json:"trigger_id"` // the id of the event
		At      json.RawMessage `json:"event_at"`
	} `json:"meta"`
	Data    each[cloudsmithPackage] `json:"data"`
	Context each[struct {
		OldTags json.RawMessage `json:"old_tags"`
		NewTags json.RawMessage `json:"new_tags"`
	}] `json:"context"`

	tag string // the one of the tags that this event is for
}

type cloudsmithPackage struct {
	Format     string          `json:"format"`
	Namespace  string          `json:"namespace"`
	Repository string          `json:"repository"`
	Name       string          `json:"name"`
	Version    string          `json:"version"` // of an image, the digest without its algorithm
	Tags       json.RawMessage `json:"tags"`
	Uploader   freeText        `json:"uploader"`
}

// cloudsmithHost is the registry, where no domain of one's own is set up.
const cloudsmithHost = "docker.cloudsmith.io"

// cloudsmithIgnored are the events that start nothing. An image that was
// uploaded can be pulled no sooner than it is synchronised.
var cloudsmithIgnored = map[string]string{
	"ping":                     "ping",
	"package.created":          "not-available-yet",
	"package.syncing":          "not-available-yet",
	"package.failed":           "failed-push",
	"package.security_scanned": "scan",
	"package.downloaded":       "pull",
	"package.quarantined":      "quarantine",
	"package.released":         "quarantine",
}

func parseCloudsmith(h http.Header, body []byte) ([]trigger.Event, error) {
	const want = `expected an event of Cloudsmith, {"meta": {"event_id": …}, "data": {…}}: %w`
	body = cloudsmithJSON(h, body)
	elements := make([]each[cloudsmithDelivery], 1)
	var err error
	if bytes.HasPrefix(bytes.TrimSpace(body), []byte("[")) {
		err = readJSON(body, &elements)
	} else {
		err = readJSON(body, &elements[0])
	}
	if err != nil {
		return nil, fmt.Errorf(want, err)
	}
	var perTag []each[cloudsmithDelivery]
	for _, element := range elements {
		for _, tag := range element.value.tags() {
			element.value.tag = tag
			perTag = append(perTag, element)
		}
	}
	events, err := batch(perTag, cloudsmithDelivery.event)
	if err != nil {
		return nil, fmt.Errorf(want, err)
	}
	return events, nil
}

// cloudsmithJSON is the JSON of a body, which may be a form whatever its
// Content-Type says.
func cloudsmithJSON(h http.Header, body []byte) []byte {
	if bytes.HasPrefix(bytes.TrimSpace(body), []byte("payload=")) {
		h = http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}
	}
	return payload(h, body)
}

const cloudsmithRetag = "package.tags_updated"

// tags are those that an event is about, [""] for none: a change of tags is
// about those that were added.
func (d cloudsmithDelivery) tags() []string {
	tags := cloudsmithTags(d.Data.value.Tags)
	if strings.EqualFold(d.Meta.Event, cloudsmithRetag) {
		old := cloudsmithTags(d.Context.value.OldTags)
		tags = slices.DeleteFunc(cloudsmithTags(d.Context.value.NewTags), func(tag string) bool {
			return slices.Contains(old, tag)
		})
	}
	if len(tags) == 0 {
		return []string{""}
	}
	return tags
}

// cloudsmithTags reads {"version": […]}: tags of other kinds are Cloudsmith's
// own labels.
func cloudsmithTags(raw json.RawMessage) []string {
	var told struct {
		Version json.RawMessage `json:"version"`
	}
	_ = json.Unmarshal(raw, &told) // what is no object has no tags
	var one string
	if json.Unmarshal(told.Version, &one) == nil && one != "" {
		return []string{one}
	}
	var tags []string
	_ = json.Unmarshal(told.Version, &tags)
	return tags
}

func (d cloudsmithDelivery) event() (trigger.Event, error) {
	e := trigger.Event{ID: string(d.Meta.Trigger), OccurredAt: moment(d.Meta.At, time.UTC)}
	kind := strings.ToLower(d.Meta.Event)
	switch kind {
	case "":
		return e, errors.New("no meta.event_id")
	case "package.synced":
		e.Action = trigger.Push
	case "package.deleted":
		e.Action = trigger.Delete
	case cloudsmithRetag:
		if d.tag == "" {
			e.Ignored = "retag" // or only took some away
			return e, nil
		}
		e.Action = trigger.Push
	default:
		e.Ignored = cmp.Or(cloudsmithIgnored[kind], "other-event")
		return e, nil
	}
	if d.Data.err != nil {
		return e, fmt.Errorf("data: %w", d.Data.err)
	}
	p := d.Data.value
	e.Actor = string(p.Uploader)
	switch {
	case p.Format == "":
		return e, errors.New("no data.format")
	case !strings.EqualFold(p.Format, "docker"):
		e.Ignored = "artifact"
		return e, nil
	}
	if p.Name == "" {
		return e, errors.New("no data.name")
	}
	e.Ignored = manifest{tag: d.tag}.ignored()
	return named(e, cloudsmithHost, p.image(), d.tag, p.digest()), nil
}

// image is the path of the image below the owner and the repository.
func (p cloudsmithPackage) image() string {
	path := slices.DeleteFunc([]string{p.Namespace, p.Repository, p.Name}, func(s string) bool { return s == "" })
	return strings.Join(path, "/")
}

var bareSHA256 = regexp.MustCompile(`^[0-9a-f]{64}$`)

func (p cloudsmithPackage) digest() string {
	if bareSHA256.MatchString(p.Version) {
		return "sha256:" + p.Version
	}
	return p.Version
}

func recogniseCloudsmith(l look) bool {
	return l.header.Get("X-Cloudsmith-Signature") != "" || l.has("meta", "data") && l.inner("meta").has("event_id")
}

func sampleCloudsmith(img trigger.Image, at time.Time) (http.Header, []byte) {
	owner, name, _ := strings.Cut(img.Repository, "/")
	repository, rest, ok := strings.Cut(name, "/")
	if name = rest; !ok {
		name, repository = repository, ""
	}
	digest := strings.TrimPrefix(cmp.Or(img.Digest, inventDigest()), "sha256:")
	tags := map[string][]string{}
	if img.Tag != "" {
		tags["version"] = []string{img.Tag}
	}
	when := at.UTC().Format(time.RFC3339Nano)
	body, _ := json.Marshal(map[string]any{
		"data": map[string]any{
			"checksum_sha256":   digest,
			"format":            "docker",
			"is_sync_completed": true,
			"is_sync_failed":    false,
			"name":              name,
			"namespace":         owner,
			"repository":        repository,
			"stage_str":         "Fully Synchronised",
			"status_str":        "Completed",
			"tags":              tags,
			"type_display":      "image",
			"uploaded_at":       when,
			"uploader":          "pilot",
			"version":           digest,
		},
		"meta": map[string]any{
			"attempt_at": when,
			"event_at":   when,
			"event_id":   "package.synced",
			"trigger_id": inventUUID(),
			"webhook_id": 7,
		},
	})
	return http.Header{"Content-Type": {"application/json"}}, body
}
