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

func parseACR(_ http.Header, body []byte) ([]trigger.Event, error) {
	e, err := acrEvent(body)
	if err != nil {
		return nil, fmt.Errorf(`expected a webhook of Azure Container Registry, {"action": …, "target": {…}}: %w`, err)
	}
	return []trigger.Event{e}, nil
}

// acrEvent reads the body of a webhook of Azure Container Registry (Microsoft
// Learn, "Azure Container Registry webhook reference"): a single event of a
// distribution registry without the envelope, and with actions of its own.
func acrEvent(body []byte) (trigger.Event, error) {
	var d distributionEvent
	if err := readJSON(body, &d); err != nil {
		return trigger.Event{}, err
	}
	d.Action = strings.ToLower(d.Action)
	e, err := d.event()
	if err != nil {
		return trigger.Event{}, err
	}
	switch d.Action {
	case trigger.Push, trigger.Delete:
		if d.Target.Repository == "" {
			return trigger.Event{}, errors.New("no target.repository")
		}
	case "quarantine":
		e.Ignored = "quarantine" // not pullable until it is released, which is a push of its own
	case "chart_push":
		e.Action, e.Ignored = trigger.Push, "artifact"
	case "chart_delete":
		e.Action, e.Ignored = trigger.Delete, "artifact"
	case "ping":
		e.Ignored = "ping"
	}
	return e, nil
}

// recogniseACR knows the event without an envelope. Only Azure sends it, save
// as the data of an event whose envelope is in the headers.
func recogniseACR(l look) bool {
	if l.list || isCloudEvent(l) {
		return false
	}
	if strings.HasPrefix(l.header.Get("User-Agent"), "AzureContainerRegistry") {
		return true
	}
	if !l.has("action", "target") {
		return l.has("id", "timestamp", "action") && strings.EqualFold(l.text("action"), "ping")
	}
	return l.has("id", "timestamp") || l.has("request") || l.inner("target").has("repository")
}

func sampleACR(img trigger.Image, at time.Time) (http.Header, []byte) {
	target := map[string]any{
		"mediaType":  "application/vnd.oci.image.index.v1+json",
		"size":       856,
		"digest":     cmp.Or(img.Digest, inventDigest()),
		"length":     856,
		"repository": img.Repository,
	}
	if img.Tag != "" {
		target["tag"] = img.Tag
	}
	body, _ := json.Marshal(map[string]any{
		"id":        inventUUID(),
		"timestamp": at.UTC().Format(time.RFC3339Nano),
		"action":    "push",
		"target":    target,
		"request": map[string]string{
			"id":        inventUUID(),
			"host":      cmp.Or(img.Registry, "dockyard.azurecr.io"),
			"method":    "PUT",
			"useragent": "buildkit/v0.22",
		},
	})
	return http.Header{"Content-Type": {"application/json"}, "User-Agent": {"AzureContainerRegistry/1.0"}}, body
}
