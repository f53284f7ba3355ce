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

// nexusDelivery is a webhook of Sonatype Nexus Repository 3 (Sonatype help,
// "Webhooks", section "Example Payloads"). One push is told as a component and
// as its assets; only components count, so that both may be subscribed to.
// There is neither digest nor host: each repository has its own.
type nexusDelivery struct {
	Timestamp json.RawMessage       `json:"timestamp"`
	Initiator freeText              `json:"initiator"`
	Action    freeText              `json:"action"`
	Component *each[nexusComponent] `json:"component"`
	Asset     *each[nexusAsset]     `json:"asset"`
	Audit     json.RawMessage       `json:"audit"`
}

type nexusComponent struct {
	Format  string `json:"format"`
	Group   string `json:"group"`
	Name    string `json:"name"`
	Version string `json:"version"` // the tag, or the digest of what was pushed without one
}

type nexusAsset struct {
	Format string `json:"format"`
	Name   string `json:"name"` // a path
}

const (
	nexusKind      = "X-Nexus-Webhook-Id"
	nexusDelivered = "X-Nexus-Webhook-Delivery"

	nexusComponents = "rm:repository:component"
	nexusAssets     = "rm:repository:asset"
)

func parseNexus(h http.Header, body []byte) ([]trigger.Event, error) {
	e, err := nexusEvent(h.Get(nexusKind), body)
	if err != nil {
		return nil, fmt.Errorf(`expected an event of Nexus Repository, {"action": …, "component": {…}}: %w`, err)
	}
	e.ID = h.Get(nexusDelivered)
	return []trigger.Event{e}, nil
}

func nexusEvent(kind string, body []byte) (trigger.Event, error) {
	var d nexusDelivery
	if err := readJSON(body, &d); err != nil {
		return trigger.Event{}, err
	}
	e := trigger.Event{Actor: d.actor(), OccurredAt: nexusTime(d.Timestamp)}
	switch {
	case kind != "" && !strings.EqualFold(kind, nexusComponents) && !strings.EqualFold(kind, nexusAssets), d.Audit != nil:
		e.Ignored = "other-event" // of the whole server: audits, repositories
		return e, nil
	case d.Component != nil:
		return d.component(e)
	case d.Asset != nil:
		e.Ignored = d.Asset.value.ignored()
		return e, nil
	}
	return e, errors.New("neither component nor asset")
}

func (d nexusDelivery) component(e trigger.Event) (trigger.Event, error) {
	switch strings.ToUpper(string(d.Action)) {
	case "":
		return e, errors.New("no action")
	case "CREATED", "UPDATED": // a tag that is pushed again is an update
		e.Action = trigger.Push
	case "DELETED", "PURGED":
		e.Action = trigger.Delete
	default:
		e.Ignored = "other-event"
		return e, nil
	}
	if d.Component.err != nil {
		return e, fmt.Errorf("component: %w", d.Component.err)
	}
	c := d.Component.value
	switch {
	case c.Format == "":
		return e, errors.New("no component.format")
	case !strings.EqualFold(c.Format, "docker"):
		e.Ignored = "artifact"
		return e, nil
	}
	repository := c.Name
	if c.Group != "" {
		repository = strings.Trim(c.Group, "/") + "/" + c.Name
	}
	e.Ignored = manifest{tag: c.Version}.ignored()
	return named(e, "", repository, c.Version, ""), nil
}

func (a nexusAsset) ignored() string {
	switch {
	case !strings.EqualFold(a.Format, "docker"):
		return "artifact"
	case strings.Contains(a.Name, "/blobs/"):
		return "blob"
	}
	return "duplicate" // of the component
}

// actor is the user without the address behind it.
func (d nexusDelivery) actor() string {
	user, _, _ := strings.Cut(string(d.Initiator), "/")
	return user
}

// nexusTime reads a time whose zone has no colon.
func nexusTime(raw json.RawMessage) time.Time {
	var s string
	if json.Unmarshal(raw, &s) == nil {
		if t, err := time.Parse("2006-01-02T15:04:05.999Z0700", s); err == nil {
			return plausible(t)
		}
	}
	return moment(raw, time.UTC)
}

func recogniseNexus(l look) bool {
	if l.header.Get(nexusKind) != "" {
		return true
	}
	return !l.list && l.has("nodeId", "initiator")
}

func sampleNexus(img trigger.Image, at time.Time) (http.Header, []byte) {
	body, _ := json.Marshal(map[string]any{
		"timestamp":      at.UTC().Format("2006-01-02T15:04:05.000-0700"),
		"nodeId":         strings.ToUpper(inventUUID()),
		"initiator":      "pilot/192.0.2.17",
		"repositoryName": "dockyard",
		"action":         "CREATED",
		"component": map[string]any{
			"id":          strings.ReplaceAll(inventUUID(), "-", ""),
			"componentId": "ZG9ja3lhcmQ6MQ",
			"format":      "docker",
			"name":        img.Repository,
			"group":       nil,
			"version":     cmp.Or(img.Tag, img.Digest),
		},
	})
	h := http.Header{"Content-Type": {"application/json; charset=UTF-8"}}
	h.Set(nexusKind, nexusComponents)
	h.Set(nexusDelivered, inventUUID())
	return h, body
}
