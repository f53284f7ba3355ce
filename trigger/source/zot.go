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

// zotImage is the data of an event of zot (zot documentation, "Event Support
// for zot"): type, id and time are in the headers of CloudEvents in binary
// mode. The host of the registry is told only where the operator has made it
// the source of the events.
type zotImage struct {
	Name      string          `json:"name"`
	Reference string          `json:"reference"` // the tag, or the digest of what was pushed without one
	Digest    string          `json:"digest"`
	MediaType freeText        `json:"mediaType"`
	Manifest  json.RawMessage `json:"manifest"` // as a string
	Actor     each[struct {
		Name freeText `json:"name"`
	}] `json:"actor"`
}

// zotManifest is what tells an image from a chart or a signature.
type zotManifest struct {
	ArtifactType string          `json:"artifactType"`
	Config       *zotDescriptor  `json:"config"`
	Layers       []zotDescriptor `json:"layers"`
}

type zotDescriptor struct {
	MediaType string `json:"mediaType"`
}

const (
	zotPrefix = "zotregistry."
	zotSource = "zotregistry.dev"
)

// zotKind is the type without its prefix, which the operator may choose: its
// last two words.
func zotKind(ceType string) string {
	words := strings.Split(strings.ToLower(ceType), ".")
	return strings.Join(words[max(0, len(words)-2):], ".")
}

func parseZot(h http.Header, body []byte) ([]trigger.Event, error) {
	return parseCloudEventsWith("an event of zot, with Ce-Type: zotregistry.… in the header", h, body, zotEvent)
}

func zotEvent(c cloudEvent) (trigger.Event, error) {
	e := trigger.Event{ID: string(c.ID), OccurredAt: moment(c.Time, time.UTC)}
	switch zotKind(c.Type) {
	case "":
		return e, errors.New("no Ce-Type")
	case "image.updated":
		e.Action = trigger.Push
	case "image.deleted":
		e.Action = trigger.Delete
	case "image.lint_failed":
		e.Ignored = "lint"
		return e, nil
	default:
		e.Ignored = "other-event"
		return e, nil
	}
	var z zotImage
	if err := readJSON(c.Data, &z); err != nil {
		return e, err
	}
	if z.Name == "" {
		return e, errors.New("no name")
	}
	e.MediaType = string(z.MediaType)
	e.Actor = string(z.Actor.value.Name)
	e.Ignored = z.manifest().ignored()
	registry := ""
	if strings.Contains(string(c.Source), "://") {
		registry = host(hostOf(string(c.Source)))
	}
	return named(e, registry, z.Name, z.Reference, z.Digest), nil
}

// manifest is what the event tells of it. A delete tells only the media type.
func (z zotImage) manifest() manifest {
	m := manifest{tag: z.Reference, mediaType: string(z.MediaType)}
	text := []byte(z.Manifest)
	var s string
	if json.Unmarshal(text, &s) == nil {
		text = []byte(s)
	}
	var told zotManifest
	if json.Unmarshal(text, &told) != nil {
		return m
	}
	m.artifactType = told.ArtifactType
	if told.Config != nil {
		m.parts = append(m.parts, told.Config.MediaType)
		for _, l := range told.Layers {
			m.parts = append(m.parts, l.MediaType)
		}
	}
	return m
}

// recogniseZot knows zot by its own names and, where the operator has chosen
// others, by the data.
func recogniseZot(l look) bool {
	if strings.HasPrefix(strings.ToLower(ceType(l)), zotPrefix) || ceSource(l) == zotSource {
		return true
	}
	data := l
	if l.has("specversion") {
		data = l.inner("data")
	}
	switch zotKind(ceType(l)) {
	case "image.updated", "image.deleted", "image.lint_failed":
		return data.has("name", "reference", "digest", "mediaType")
	case "repository.created":
		return data.has("name", "request")
	}
	return false
}

func sampleZot(img trigger.Image, at time.Time) (http.Header, []byte) {
	digest := cmp.Or(img.Digest, inventDigest())
	const mediaType = "application/vnd.oci.image.manifest.v1+json"
	manifest := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":1487},"layers":[]}`, mediaType, inventDigest())
	body, _ := json.Marshal(map[string]any{
		"actor":     map[string]string{"name": "pilot"},
		"digest":    digest,
		"manifest":  manifest,
		"mediaType": mediaType,
		"name":      img.Repository,
		"reference": cmp.Or(img.Tag, digest),
		"request":   map[string]string{"addr": "192.0.2.17:41822", "method": "PUT", "useragent": "docker/29.1.3"},
	})
	h := http.Header{"Content-Type": {"application/json"}, "User-Agent": {"Go-http-client/1.1"}}
	h.Set("Ce-Specversion", "1.0")
	h.Set("Ce-Type", zotPrefix+"image.updated")
	h.Set("Ce-Source", zotSource)
	if img.Registry != "" {
		h.Set("Ce-Source", "https://"+img.Registry)
	}
	h.Set("Ce-Id", inventUUID())
	h.Set("Ce-Time", at.UTC().Format(time.RFC3339Nano))
	return h, body
}
