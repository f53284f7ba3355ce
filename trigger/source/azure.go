package source

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/go-json-experiment/json/v1"

	"github.com/dockbell/dockbell/trigger"
)

// gridEvent is an event of Azure Container Registry as Event Grid delivers it,
// in the Event Grid schema or as a CloudEvent 1.0 (Azure Event Grid, "Azure
// Container Registry as an Event Grid source"; the two differ only in the
// names of the outer fields).
type gridEvent struct {
	ID        string          `json:"id"`
	EventType string          `json:"eventType"`
	EventTime json.RawMessage `json:"eventTime"`
	Topic     string          `json:"topic"`

	Type   string          `json:"type"`
	Time   json.RawMessage `json:"time"`
	Source string          `json:"source"`

	Data each[gridData] `json:"data"`
}

type gridData struct {
	Timestamp json.RawMessage `json:"timestamp"`
	Action    string          `json:"action"`
	Target    struct {
		MediaType    string `json:"mediaType"`
		ArtifactType string `json:"artifactType"`
		Digest       string `json:"digest"`
		Repository   string `json:"repository"`
		Tag          string `json:"tag"`
	} `json:"target"`
	Request struct {
		Host string `json:"host"`
	} `json:"request"`
	Actor struct {
		Name string `json:"name"`
	} `json:"actor"`

	ValidationCode string `json:"validationCode"`
}

// readGrid reads one event or a batch of them: which of the two is set with
// the subscription, not with the schema.
func readGrid(body []byte) ([]each[gridEvent], error) {
	if bytes.HasPrefix(bytes.TrimSpace(body), []byte("[")) {
		var events []each[gridEvent]
		err := readJSON(body, &events)
		return events, err
	}
	one := make([]each[gridEvent], 1)
	return one, readJSON(body, &one[0])
}

func parseEventGrid(_ http.Header, body []byte) ([]trigger.Event, error) {
	const want = "expected events of Event Grid with eventType, or CloudEvents with type: %w"
	elements, err := readGrid(body)
	if err != nil {
		return nil, fmt.Errorf(want, err)
	}
	events, err := batch(elements, gridEvent.event)
	if err != nil {
		return nil, fmt.Errorf(want, err)
	}
	return events, nil
}

// kind is the type of the event by its last word: the documentation shows it
// with and without the namespace, and so do deliveries.
func (g gridEvent) kind() string {
	t := g.EventType
	if t == "" {
		t = g.Type
	}
	t = strings.TrimPrefix(t, "Microsoft.ContainerRegistry.")
	return strings.TrimPrefix(t, "Microsoft.EventGrid.")
}

func (g gridEvent) event() (trigger.Event, error) {
	data := g.Data.value
	e := trigger.Event{
		ID:        g.ID,
		MediaType: data.Target.MediaType,
		Actor:     data.Actor.Name,
	}
	// The registry's own time first: the outer one is when Event Grid saw the
	// event, and one of Microsoft's samples has it garbled.
	for _, raw := range []json.RawMessage{data.Timestamp, g.EventTime, g.Time} {
		if e.OccurredAt = moment(raw, time.UTC); !e.OccurredAt.IsZero() {
			break
		}
	}
	switch g.kind() {
	case "":
		return e, errors.New("no type of event")
	case "ImagePushed":
		e.Action = trigger.Push
	case "ImageDeleted":
		e.Action = trigger.Delete
	case "ChartPushed":
		e.Action, e.Ignored = trigger.Push, "artifact"
	case "ChartDeleted":
		e.Action, e.Ignored = trigger.Delete, "artifact"
	case "SubscriptionValidationEvent":
		e.Ignored = "handshake"
		return e, nil
	case "SubscriptionDeletedEvent":
		e.Ignored = "control"
		return e, nil
	default:
		e.Ignored = "other-event"
		return e, nil
	}
	if g.Data.err != nil {
		return e, fmt.Errorf("data: %w", g.Data.err)
	}
	t := data.Target
	switch {
	case e.Ignored != "":
	case data.Action == "quarantine":
		e.Ignored = "quarantine" // not pullable until it is released, which is a push of its own
	default:
		e.Ignored = manifest{tag: t.Tag, mediaType: t.MediaType, artifactType: t.ArtifactType}.ignored()
	}
	return named(e, host(data.Request.Host, g.loginServer()), t.Repository, t.Tag, t.Digest), nil
}

var registryResource = regexp.MustCompile(`(?i)/registries/([a-z0-9]{5,50})(?:/|$)`)

// loginServer is the host of the registry that is the event's topic. It is a
// fallback, for events without a request (charts, connected registries): in a
// national cloud, or with a domain name label, the host is another one and
// must be configured.
func (g gridEvent) loginServer() string {
	for _, resource := range []string{g.Topic, g.Source} {
		if m := registryResource.FindStringSubmatch(resource); m != nil {
			return m[1] + ".azurecr.io"
		}
	}
	return ""
}

// recogniseEventGrid knows the Event Grid schema, whatever the event, and the
// CloudEvents of Azure's own services, whose types begin alike. Those of others
// that Event Grid only routes are left to who knows them.
func recogniseEventGrid(l look) bool {
	if !l.has("specversion") {
		return l.has("eventType", "data") || l.header.Get("aeg-event-type") != ""
	}
	t, source := l.text("type"), strings.ToLower(l.text("source"))
	return strings.HasPrefix(t, "Microsoft.") || strings.Contains(source, "/microsoft.containerregistry/")
}

func sampleEventGrid(img trigger.Image, at time.Time) (http.Header, []byte) {
	login := cmp.Or(img.Registry, "dockyard.azurecr.io")
	name, _, _ := strings.Cut(login, ".")
	subject := img.Repository
	target := map[string]any{
		"mediaType":  "application/vnd.oci.image.manifest.v1+json",
		"size":       1487,
		"digest":     cmp.Or(img.Digest, inventDigest()),
		"length":     1487,
		"repository": img.Repository,
	}
	if img.Tag != "" {
		subject += ":" + img.Tag
		target["tag"] = img.Tag
	}
	body, _ := json.Marshal([]any{map[string]any{
		"id":        inventUUID(),
		"topic":     "/subscriptions/" + inventUUID() + "/resourceGroups/harbour/providers/Microsoft.ContainerRegistry/registries/" + name,
		"subject":   subject,
		"eventType": "Microsoft.ContainerRegistry.ImagePushed",
		"data": map[string]any{
			"id":        inventUUID(),
			"timestamp": at.UTC(),
			"action":    "push",
			"location":  "westeurope",
			"target":    target,
			"request":   map[string]any{"id": inventUUID(), "host": login, "method": "PUT", "useragent": "docker/29.1.3"},
		},
		"dataVersion":     "1.0",
		"metadataVersion": "1",
		"eventTime":       at.UTC(),
	}})
	h := http.Header{"Content-Type": {"application/json; charset=utf-8"}}
	h.Set("aeg-event-type", "Notification")
	h.Set("aeg-subscription-name", "DOCKBELL")
	h.Set("aeg-delivery-count", "0")
	h.Set("aeg-data-version", "1.0")
	h.Set("aeg-metadata-version", "1")
	return h, body
}

// eventGridHandshake answers the validation of a new subscription (Azure
// Event Grid, "Endpoint validation with Event Grid event schema"): Event Grid
// takes 200 and nothing else. The validationUrl beside the code is for people;
// fetching it would be a request to an address that the body chooses.
func eventGridHandshake(h http.Header, body []byte) *Reply {
	if !strings.EqualFold(h.Get("aeg-event-type"), "SubscriptionValidation") && !bytes.Contains(body, []byte("SubscriptionValidationEvent")) {
		return nil
	}
	// It comes alone. Beside other events it is not answered, or they would
	// be lost.
	events, err := readGrid(body)
	if err != nil || len(events) != 1 {
		return nil
	}
	g := events[0].value
	code := g.Data.value.ValidationCode
	if g.kind() != "SubscriptionValidationEvent" || code == "" {
		return nil
	}
	answer, err := json.Marshal(map[string]string{"validationResponse": code})
	if err != nil {
		return nil
	}
	return &Reply{Status: http.StatusOK, Header: http.Header{"Content-Type": {"application/json"}}, Body: answer}
}
