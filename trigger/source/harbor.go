package source

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/go-json-experiment/json/v1"

	"github.com/dockbell/dockbell/trigger"
)

// harborDelivery is an event of Harbor (Harbor documentation, "Configure
// Webhook Notifications", in the payload formats Default and CloudEvents).
// The registries of Tencent and Huawei send the same.
type harborDelivery struct {
	Type     string             `json:"type"`
	Operator freeText           `json:"operator"`
	OccurAt  json.RawMessage    `json:"occur_at"`
	Event    *each[harborEvent] `json:"event_data"`

	// A CloudEvent has these in place of the two above.
	ID   freeText           `json:"id"`
	Time json.RawMessage    `json:"time"`
	Data *each[harborEvent] `json:"data"`

	// Before 1.9 there were only these.
	EventType string              `json:"event_type"`
	Events    []each[harborImage] `json:"events"`
}

type harborEvent struct {
	Resources  []each[harborResource] `json:"resources"`
	Repository struct {
		Name      string `json:"name"`
		Namespace string `json:"namespace"`
		FullName  string `json:"repo_full_name"`
	} `json:"repository"`
}

type harborResource struct {
	Digest string `json:"digest"`
	Tag    string `json:"tag"` // the digest of what was pushed without a tag
	URL    string `json:"resource_url"`
}

type harborImage struct {
	FullName    string          `json:"full_name"`
	Tag         string          `json:"tag"`
	TriggerTime json.RawMessage `json:"trigger_time"`
}

func parseHarbor(_ http.Header, body []byte) ([]trigger.Event, error) {
	return parseHarborForm("an event of Harbor", body)
}

// parseHarborForm parses a body of Harbor's form; what names it in the error.
func parseHarborForm(what string, body []byte) ([]trigger.Event, error) {
	var d harborDelivery
	err := readJSON(body, &d)
	var events []trigger.Event
	if err == nil {
		events, err = d.events()
	}
	if err != nil {
		return nil, fmt.Errorf(`expected %s, {"type": …, "event_data": {…}}, or its CloudEvent: %w`, what, err)
	}
	return events, nil
}

func (d harborDelivery) events() ([]trigger.Event, error) {
	if d.Type == "" && d.EventType != "" {
		return d.oldEvents()
	}
	if d.Type == "" {
		return nil, errors.New("no type")
	}
	e := trigger.Event{ID: string(d.ID), Actor: string(d.Operator)}
	e.Action, e.Ignored = harborVerdict(d.Type)
	if e.OccurredAt = moment(d.OccurAt, time.UTC); e.OccurredAt.IsZero() {
		e.OccurredAt = moment(d.Time, time.UTC)
	}
	events, err := d.images(e)
	if err != nil && e.Ignored == "" {
		return nil, err
	}
	if len(events) == 0 {
		e.Ignored = cmp.Or(e.Ignored, "no resources")
		events = []trigger.Event{e}
	}
	return events, nil
}

// images are the event once for each of its resources.
func (d harborDelivery) images(e trigger.Event) ([]trigger.Event, error) {
	data := cmp.Or(d.Event, d.Data)
	switch {
	case data == nil:
		return nil, errors.New("no event_data")
	case data.err != nil:
		return nil, fmt.Errorf("event_data: %w", data.err)
	}
	return batch(data.value.Resources, func(r harborResource) (trigger.Event, error) {
		return data.value.image(e, r), nil
	})
}

func (h harborEvent) image(e trigger.Event, r harborResource) trigger.Event {
	registry, repository, tag := takeApart(r.URL, h.repository())
	if r.Tag != "" {
		tag = r.Tag
	}
	if strings.Contains(tag, ":") {
		r.Digest, tag = cmp.Or(r.Digest, tag), ""
	}
	if _, digest, ok := strings.Cut(r.URL, "@"); ok {
		r.Digest = cmp.Or(r.Digest, digest)
	}
	// Neither the media type nor the kind of artifact is told.
	e.Ignored = cmp.Or(e.Ignored, manifest{tag: tag}.ignored())
	return named(e, host(registry), cmp.Or(h.repository(), repository, h.Repository.Name), tag, r.Digest)
}

// repository is the name with its project; "" when it is not told.
func (h harborEvent) repository() string {
	r := h.Repository
	if r.FullName != "" || r.Namespace == "" || r.Name == "" {
		return r.FullName
	}
	return r.Namespace + "/" + r.Name
}

// oldEvents are those of a Harbor before 1.9, which tells neither host nor
// digest: image_id is the digest of the config.
func (d harborDelivery) oldEvents() ([]trigger.Event, error) {
	action, ignored := harborVerdict(d.EventType)
	return batch(d.Events, func(i harborImage) (trigger.Event, error) {
		e := trigger.Event{Action: action, Ignored: cmp.Or(ignored, manifest{tag: i.Tag}.ignored())}
		e.OccurredAt = moment(i.TriggerTime, time.UTC)
		return named(e, "", i.FullName, i.Tag, ""), nil
	})
}

// harborMarks separate the words in the name of a type.
var harborMarks = strings.NewReplacer("_", "", ".", "")

// harborVerdict is the action of a type of event, and why it starts nothing.
// A type has up to three names: PUSH_ARTIFACT, harbor.artifact.pushed as a
// CloudEvent, pushImage before 2.0 and in Tencent's registry.
func harborVerdict(kind string) (action, ignored string) {
	kind = strings.TrimPrefix(strings.ToLower(kind), "harbor.")
	kind = harborMarks.Replace(kind)
	switch kind {
	case "pushartifact", "artifactpushed", "pushimage":
		return trigger.Push, ""
	case "deleteartifact", "artifactdeleted", "deleteimage":
		return trigger.Delete, ""
	case "pullartifact", "artifactpulled", "pullimage":
		return "", "pull"
	case "createtag", "tagcreated":
		return "", "retag"
	case "uploadchart":
		return trigger.Push, "artifact"
	case "deletechart":
		return trigger.Delete, "artifact"
	case "testendpoint":
		return "", "ping"
	}
	for _, k := range []struct{ word, reason string }{
		{"scan", "scan"},
		{"quota", "quota"},
		{"replication", "replication"},
		{"retention", "retention"},
		{"chart", "artifact"},
	} {
		if strings.Contains(kind, k.word) {
			return "", k.reason
		}
	}
	return "", "other-event"
}

// recogniseHarbor knows Harbor's form when it is not from a cloud's registry.
func recogniseHarbor(l look) bool {
	return hasHarborForm(l) && !recogniseTCR(l) && !recogniseSWR(l)
}

func hasHarborForm(l look) bool {
	switch {
	case l.list:
		return false
	case l.has("specversion"):
		return strings.HasPrefix(strings.ToLower(l.text("type")), "harbor.")
	case l.has("event_type", "events"):
		return true
	}
	return l.has("type", "event_data") || l.has("type", "occur_at")
}

// harborHost is the registry that a body of Harbor's form tells: nothing else
// in it tells the registries apart that send it.
func harborHost(l look) string {
	var data each[harborEvent]
	for _, key := range []string{"event_data", "data"} {
		if json.Unmarshal(l.keys[key], &data) != nil || data.err != nil {
			continue
		}
		for _, r := range data.value.Resources {
			registry, _, _ := takeApart(r.value.URL, data.value.repository())
			if h := host(registry); h != "" {
				return h
			}
		}
	}
	return ""
}

func sampleHarbor(img trigger.Image, at time.Time) (http.Header, []byte) {
	return sampleHarborForm("PUSH_ARTIFACT", img, at)
}

func sampleHarborForm(kind string, img trigger.Image, at time.Time) (http.Header, []byte) {
	digest := cmp.Or(img.Digest, inventDigest())
	address := cmp.Or(img.Registry, "harbor.example.com") + "/" + img.Repository
	if img.Tag == "" {
		address += "@" + digest
	} else {
		address += ":" + img.Tag
	}
	project, name, ok := strings.Cut(img.Repository, "/")
	if !ok {
		project, name = "", img.Repository
	}
	body, _ := json.Marshal(map[string]any{
		"type":     kind,
		"occur_at": at.Unix(),
		"operator": "robot$pilot",
		"event_data": map[string]any{
			"resources": []map[string]string{{
				"digest":       digest,
				"tag":          cmp.Or(img.Tag, digest),
				"resource_url": address,
			}},
			"repository": map[string]any{
				"date_created":   at.Add(-90 * 24 * time.Hour).Unix(),
				"name":           name,
				"namespace":      project,
				"repo_full_name": img.Repository,
				"repo_type":      "private",
			},
		},
	})
	return http.Header{"Content-Type": {"application/json"}, "User-Agent": {"Go-http-client/1.1"}}, body
}
