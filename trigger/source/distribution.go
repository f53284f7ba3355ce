package source

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json/v1"

	"github.com/dockbell/dockbell/trigger"
)

// distributionEvent is an event of the CNCF Distribution registry ("Work with
// notifications", sections "Envelope" and "Events"). GitLab's registry sends
// the same. Versions 1 and 2 of the media type do not differ in the body.
type distributionEvent struct {
	ID        freeText        `json:"id"`
	Timestamp json.RawMessage `json:"timestamp"`
	Action    string          `json:"action"`
	Target    struct {
		MediaType      string `json:"mediaType"`
		ArtifactType   string `json:"artifactType"`
		Digest         string `json:"digest"`
		Repository     string `json:"repository"`
		FromRepository string `json:"fromRepository"`
		URL            string `json:"url"`
		Tag            string `json:"tag"`

		// References are sent when the registry is configured to
		// (events.includereferences). They alone tell a chart or an
		// attestation from an image.
		References []struct {
			MediaType string `json:"mediaType"`
		} `json:"references"`
	} `json:"target"`
	Request struct {
		Host string `json:"host"`
	} `json:"request"`
	Actor struct {
		Name freeText `json:"name"`
	} `json:"actor"`
}

func parseDistribution(_ http.Header, body []byte) ([]trigger.Event, error) {
	const want = `expected the envelope of a distribution registry, {"events": […]}: %w`
	elements, err := readEnvelope(body)
	if err != nil {
		return nil, fmt.Errorf(want, err)
	}
	if elements == nil {
		if err := noEvents(body); err != nil {
			return nil, fmt.Errorf(want, err)
		}
		return nil, nil
	}
	events, err := batch(elements, distributionEvent.event)
	if err != nil {
		return nil, fmt.Errorf(want, err)
	}
	return events, nil
}

// distributionEnvelope is what all events come in.
type distributionEnvelope[E any] struct {
	Events []E `json:"events"`
}

// readEnvelope reads all events at once. Only where that fails it reads each
// by itself, which goes over the body twice as often.
func readEnvelope(body []byte) ([]each[distributionEvent], error) {
	var whole distributionEnvelope[*distributionEvent]
	if readJSON(body, &whole) == nil {
		return singly(whole.Events), nil
	}
	var parts distributionEnvelope[each[distributionEvent]]
	err := readJSON(body, &parts)
	return parts.Events, err
}

// noEvents tells an envelope without events, where the registry leaves the
// list out, from what another sender sends.
func noEvents(body []byte) error {
	var keys map[string]json.RawMessage
	if err := readJSON(body, &keys); err != nil {
		return err
	}
	if keys == nil {
		return errors.New("it is null")
	}
	if _, ok := keys["events"]; ok || len(keys) == 0 {
		return nil
	}
	return fmt.Errorf("no events, but %s", printable(strings.Join(slices.Sorted(maps.Keys(keys)), ", ")))
}

func (d distributionEvent) event() (trigger.Event, error) {
	if d.Action == "" {
		return trigger.Event{}, errors.New("no action")
	}
	t := d.Target
	e := trigger.Event{
		ID:         string(d.ID),
		MediaType:  t.MediaType,
		Actor:      string(d.Actor.Name),
		OccurredAt: moment(d.Timestamp, time.UTC),
	}
	// The action counts, not the presence of a tag: the pull that a deploy
	// causes carries the same target as the push that caused the deploy.
	switch d.Action {
	case "push":
		e.Action = trigger.Push
		e.Ignored = d.ignored()
	case "delete":
		e.Action = trigger.Delete
		e.Ignored = d.ignored()
	case "pull":
		e.Ignored = "pull"
	case "mount":
		e.Ignored = "blob"
	default:
		e.Ignored = "other-event"
	}
	return named(e, d.host(), t.Repository, t.Tag, t.Digest), nil
}

// ignored tells manifests of images from the rest. Most events of a push are
// its blobs; whether it is one shows in the URL when not in the type.
func (d distributionEvent) ignored() string {
	t := d.Target
	if t.FromRepository != "" {
		return "blob"
	}
	if i := strings.LastIndexByte(t.URL, '/'); i > 0 && strings.HasSuffix(t.URL[:i], "/blobs") {
		return "blob"
	}
	m := manifest{tag: t.Tag, mediaType: t.MediaType, artifactType: t.ArtifactType}
	for _, r := range t.References {
		m.parts = append(m.parts, r.MediaType)
	}
	return m.ignored()
}

// host is the registry as the client named it. Events that the registry makes
// by itself have no request, those for a deleted name no URL either.
func (d distributionEvent) host() string {
	if name := host(d.Request.Host); name != "" {
		return name
	}
	u, err := url.Parse(d.Target.URL)
	if err != nil {
		return ""
	}
	return host(u.Host)
}

// eventsMediaType is followed by the version and +json.
const eventsMediaType = "application/vnd.docker.distribution.events."

// recogniseDistribution knows the envelope. An older Harbor has one, too, but
// names the type of the events beside it.
func recogniseDistribution(l look) bool {
	if l.list || l.has("event_type") {
		return false
	}
	if strings.HasPrefix(bare(l.header.Get("Content-Type")), eventsMediaType) {
		return true
	}
	var events []map[string]json.RawMessage
	if !l.has("events") || json.Unmarshal(l.keys["events"], &events) != nil {
		return false
	}
	return len(events) == 0 || events[0]["action"] != nil
}

func sampleDistribution(img trigger.Image, at time.Time) (http.Header, []byte) {
	return distributionSample(img, at, map[string]string{"name": "crane"}, "v2")
}

// distributionSample is a push by an actor, under a version of the media type.
func distributionSample(img trigger.Image, at time.Time, actor map[string]string, version string) (http.Header, []byte) {
	registry := cmp.Or(img.Registry, "registry.example.com")
	digest := cmp.Or(img.Digest, inventDigest())
	target := map[string]any{
		"mediaType":  "application/vnd.oci.image.index.v1+json",
		"digest":     digest,
		"size":       856,
		"length":     856,
		"repository": img.Repository,
		"url":        "https://" + registry + "/v2/" + img.Repository + "/manifests/" + digest,
	}
	if img.Tag != "" {
		target["tag"] = img.Tag
	}
	body, _ := json.Marshal(map[string]any{"events": []any{map[string]any{
		"id":        inventUUID(),
		"timestamp": at.UTC().Format(time.RFC3339Nano),
		"action":    "push",
		"target":    target,
		"request": map[string]string{
			"id":        inventUUID(),
			"addr":      "192.0.2.7:41000",
			"host":      registry,
			"method":    "PUT",
			"useragent": "buildkit/v0.22",
		},
		"actor":  actor,
		"source": map[string]string{"addr": "registry-0:5000", "instanceID": inventUUID()},
	}}})
	return http.Header{
		"Content-Type": {eventsMediaType + version + "+json"},
		"User-Agent":   {"Go-http-client/1.1"},
	}, body
}
