package source

import (
	"cmp"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/go-json-experiment/json/v1"

	"github.com/dockbell/dockbell/trigger"
)

// cdEvent is an event of CDEvents (CDEvents specification, "Continuous
// Integration Events", section "Artifact Published", and "CloudEvents
// Binding"): the data of a CloudEvent, which repeats the attributes.
type cdEvent struct {
	Context struct {
		ID        freeText        `json:"id"`
		Type      string          `json:"type"`
		Timestamp json.RawMessage `json:"timestamp"`
	} `json:"context"`
	Subject struct {
		ID      string `json:"id"`
		Content each[struct {
			User freeText `json:"user"`
		}] `json:"content"`
	} `json:"subject"`
}

const (
	cdPrefix = "dev.cdevents."
	cdCustom = "dev.cdeventsx." // events of somebody's own, none of them known here
)

// cdVerdicts are the events about artifacts, by the start of their type: the
// version follows.
var cdVerdicts = map[string]struct{ action, ignored string }{
	"artifact.published":  {trigger.Push, ""},
	"artifact.deleted":    {trigger.Delete, ""},
	"artifact.packaged":   {"", "not-available-yet"},
	"artifact.signed":     {"", "signature"},
	"artifact.downloaded": {"", "pull"},
}

func parseCDEvents(h http.Header, body []byte) ([]trigger.Event, error) {
	return parseCloudEventsWith(`an event of CDEvents, {"context": {"type": "dev.cdevents.…"}, "subject": {…}}`, h, body, cdEventOf)
}

func cdEventOf(c cloudEvent) (trigger.Event, error) {
	var d cdEvent
	err := readJSON(c.Data, &d)
	kind := cmp.Or(d.Context.Type, c.Type)
	if kind == "" {
		return trigger.Event{}, cmp.Or(err, errors.New("no context.type"))
	}
	e := trigger.Event{
		ID:         string(cmp.Or(d.Context.ID, c.ID)),
		Actor:      string(d.Subject.Content.value.User),
		OccurredAt: moment(d.Context.Timestamp, time.UTC),
	}
	if e.OccurredAt.IsZero() {
		e.OccurredAt = moment(c.Time, time.UTC)
	}
	verdict, ok := cdVerdict(kind)
	if !ok {
		e.Ignored = "other-event"
		return e, nil
	}
	if e.Action, e.Ignored = verdict.action, verdict.ignored; e.Action == "" {
		return e, nil
	}
	switch {
	case err != nil:
		return e, err
	case d.Subject.ID == "":
		return e, errors.New("no subject.id")
	}
	p, err := parsePackageURL(d.Subject.ID)
	if err != nil { // as before version 0.3, when an id could be of any form
		e.Ignored = "subject.id: " + err.Error()
		return e, nil
	}
	if p.kind != "oci" && p.kind != "docker" {
		e.Ignored = "artifact"
		return e, nil
	}
	registry, repository, tag, digest := p.image()
	e.Ignored = manifest{tag: tag}.ignored()
	return named(e, registry, repository, tag, digest), nil
}

func cdVerdict(kind string) (v struct{ action, ignored string }, ok bool) {
	words := strings.SplitN(strings.TrimPrefix(strings.ToLower(kind), cdPrefix), ".", 3)
	if len(words) < 2 {
		return v, false
	}
	v, ok = cdVerdicts[words[0]+"."+words[1]]
	return v, ok
}

// packageURL is a package URL taken apart (package-url/purl-spec, "Package URL
// specification"): pkg:TYPE/NAME@VERSION?QUALIFIERS#SUBPATH.
type packageURL struct {
	kind, name, version string
	qualifiers          url.Values
}

func parsePackageURL(s string) (packageURL, error) {
	var p packageURL
	scheme, rest, ok := strings.Cut(s, ":")
	if !ok || !strings.EqualFold(scheme, "pkg") {
		return p, errors.New("not a package URL")
	}
	rest, _, _ = strings.Cut(rest, "#")
	rest, query, _ := strings.Cut(rest, "?")
	kind, rest, ok := strings.Cut(strings.Trim(rest, "/"), "/")
	if !ok {
		return p, errors.New("a package URL without a name")
	}
	if i := strings.LastIndexByte(rest, '@'); i > 0 {
		rest, p.version = rest[:i], rest[i+1:]
	}
	var errs [3]error
	p.name, errs[0] = url.PathUnescape(strings.Trim(rest, "/"))
	p.version, errs[1] = url.PathUnescape(p.version)
	p.qualifiers, errs[2] = url.ParseQuery(query)
	p.kind = strings.ToLower(kind)
	if errors.Join(errs[:]...) != nil {
		return p, errors.New("a package URL that is escaped wrongly")
	}
	return p, nil
}

// image is the image that a package URL of type oci or docker names (purl-spec,
// "Package URL Type definitions"). For oci repository_url has the whole
// repository, for docker the registry; some senders mix the two up.
func (p packageURL) image() (registry, repository, tag, digest string) {
	tag = p.qualifiers.Get("tag")
	if strings.Contains(p.version, ":") {
		digest = p.version
	} else {
		tag = cmp.Or(tag, p.version)
	}
	address := strings.TrimSuffix(p.qualifiers.Get("repository_url"), "/")
	if address == "" {
		if p.kind == "docker" {
			registry = trigger.DockerHub
		}
		return registry, p.name, tag, digest
	}
	if !strings.HasSuffix(strings.ToLower(address), "/"+strings.ToLower(p.name)) {
		address += "/" + p.name
	}
	registry, repository, _ = takeApart(address, p.name)
	return host(registry), repository, tag, digest
}

// recogniseCDEvents knows CDEvents with and without an envelope.
func recogniseCDEvents(l look) bool {
	kind := ceType(l)
	if kind == "" {
		kind = l.inner("context").text("type")
	}
	kind = strings.ToLower(kind)
	return strings.HasPrefix(kind, cdPrefix) || strings.HasPrefix(kind, cdCustom)
}

func sampleCDEvents(img trigger.Image, at time.Time) (http.Header, []byte) {
	registry := cmp.Or(img.Registry, "registry.example.com")
	name := img.Repository[strings.LastIndexByte(img.Repository, '/')+1:]
	qualifiers := url.Values{"repository_url": {registry + "/" + img.Repository}}
	if img.Tag != "" {
		qualifiers.Set("tag", img.Tag)
	}
	const kind, sender = cdPrefix + "artifact.published.0.2.0", "https://ci.example.com/dockyard"
	id, when := inventUUID(), at.UTC().Format(time.RFC3339Nano)
	body, _ := json.Marshal(map[string]any{
		"context": map[string]any{"version": "0.4.1", "id": id, "source": sender, "type": kind, "timestamp": when},
		"subject": map[string]any{
			"id":      "pkg:oci/" + name + "@" + url.QueryEscape(cmp.Or(img.Digest, inventDigest())) + "?" + qualifiers.Encode(),
			"source":  sender,
			"type":    "artifact",
			"content": map[string]any{"user": "pilot"},
		},
	})
	h := http.Header{"Content-Type": {"application/json"}}
	h.Set("Ce-Specversion", "1.0")
	h.Set("Ce-Type", kind)
	h.Set("Ce-Source", sender)
	h.Set("Ce-Id", id)
	h.Set("Ce-Time", when)
	return h, body
}
