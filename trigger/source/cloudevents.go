package source

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"
	"unicode"

	"github.com/go-json-experiment/json/v1"

	"github.com/dockbell/dockbell/trigger"
)

// cloudEvent is an event in any of the modes of CloudEvents 1.0 ("HTTP
// Protocol Binding", sections "Binary Content Mode", "Structured Content Mode"
// and "Batched Content Mode"; "JSON Event Format").
type cloudEvent struct {
	Type    string          `json:"type"`
	ID      freeText        `json:"id"`
	Source  freeText        `json:"source"`
	Subject freeText        `json:"subject"`
	Time    json.RawMessage `json:"time"`
	Data    json.RawMessage `json:"data"`
}

// UnmarshalJSON reads an event in structured mode. What has no specversion is
// none: then all of it is data, and the type is missing.
func (c *cloudEvent) UnmarshalJSON(b []byte) error {
	type attributes cloudEvent // without this method
	var e struct {
		SpecVersion json.RawMessage `json:"specversion"`
		attributes
		Base64 []byte `json:"data_base64"`
	}
	if err := json.Unmarshal(b, &e); err != nil && e.SpecVersion != nil {
		return err
	}
	if e.SpecVersion == nil {
		*c = cloudEvent{Data: bytes.Clone(b)}
		return nil
	}
	*c = cloudEvent(e.attributes)
	if c.Data == nil {
		c.Data = e.Base64
	}
	return nil
}

// readCloudEvents reads a request in any mode. The mode shows in the body and
// in the headers Ce-…, not in the Content-Type: some senders cannot set that.
func readCloudEvents(h http.Header, body []byte) ([]each[cloudEvent], error) {
	if h.Get("Ce-Type") != "" && !strings.HasPrefix(bare(h.Get("Content-Type")), "application/cloudevents") {
		published, _ := json.Marshal(h.Get("Ce-Time"))
		return []each[cloudEvent]{{value: cloudEvent{
			Type:    ceHeader(h, "Ce-Type"),
			ID:      freeText(ceHeader(h, "Ce-Id")),
			Source:  freeText(ceHeader(h, "Ce-Source")),
			Subject: freeText(ceHeader(h, "Ce-Subject")),
			Time:    published,
			Data:    body,
		}}}, nil
	}
	if bytes.HasPrefix(bytes.TrimSpace(body), []byte("[")) {
		var events []each[cloudEvent]
		err := readJSON(body, &events)
		return events, err
	}
	one := make([]each[cloudEvent], 1)
	return one, readJSON(body, &one[0])
}

// ceHeader is an attribute in a header, where what is not ASCII is escaped.
func ceHeader(h http.Header, name string) string {
	s, err := url.PathUnescape(h.Get(name))
	if err != nil {
		return h.Get(name)
	}
	return s
}

// parseCloudEventsWith parses each event of a request.
func parseCloudEventsWith(want string, h http.Header, body []byte, parse func(cloudEvent) (trigger.Event, error)) ([]trigger.Event, error) {
	elements, err := readCloudEvents(h, body)
	if err != nil {
		return nil, fmt.Errorf("expected %s: %w", want, err)
	}
	events, err := batch(elements, parse)
	if err != nil {
		return nil, fmt.Errorf("expected %s: %w", want, err)
	}
	return events, nil
}

// The events of pushes that no vendor owns: there is no standard for them, but
// they all say in the type that an image was pushed, and in the data which.
func parseCloudEvents(h http.Header, body []byte) ([]trigger.Event, error) {
	return parseCloudEventsWith("CloudEvents, in binary, structured or batched mode", h, body, cloudEvent.event)
}

func (c cloudEvent) event() (trigger.Event, error) {
	if c.Type == "" {
		return trigger.Event{}, errors.New("no specversion and type")
	}
	e := trigger.Event{ID: string(c.ID), OccurredAt: moment(c.Time, time.UTC)}
	e.Action, e.Ignored = ceVerdict(c.Type)
	if e.Action == "" {
		return e, nil
	}
	data := ceData{}
	if text := bytes.TrimSpace(c.Data); len(text) > 0 && string(text) != "null" { // the subject may tell enough
		var err error
		if data, err = readCEData(text); err != nil {
			return e, fmt.Errorf("data: %w", err)
		}
	}
	if data.contradict(&e); e.Action == "" {
		return e, nil
	}
	e.MediaType = data.text("mediatype", "manifestmediatype")
	e.Actor = data.text("actor", "pusher", "pushedby", "user", "username", "operator")
	registry, repository, tag, digest := c.image(data)
	m := manifest{tag: tag, mediaType: e.MediaType, artifactType: data.text("artifacttype", "artifactmediatype")}
	if config := data.text("configmediatype"); config != "" {
		m.parts = []string{config}
	}
	e.Ignored = cmp.Or(e.Ignored, m.ignored())
	return named(e, registry, repository, tag, digest), nil
}

var ceVersion = regexp.MustCompile(`^v?[0-9]+$`)

// ceVerdict is the action that the type names with its last word, versions
// aside, and why it starts nothing. More than that word would be guessing: an
// image.push.failed is no push.
func ceVerdict(kind string) (action, ignored string) {
	kind = strings.ToLower(kind)
	if !ceAboutImage(kind) {
		return "", "other-event"
	}
	words := strings.FieldsFunc(kind, func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) })
	for len(words) > 0 && ceVersion.MatchString(words[len(words)-1]) {
		words = words[:len(words)-1]
	}
	if len(words) == 0 {
		return "", "other-event"
	}
	return ceVerb(words[len(words)-1])
}

func ceAboutImage(kind string) bool {
	for _, noun := range []string{"image", "container", "docker", "registry", "artifact"} {
		if strings.Contains(kind, noun) {
			return true
		}
	}
	return false
}

func ceVerb(word string) (action, ignored string) {
	for _, v := range []struct{ ending, action, ignored string }{
		{"push", trigger.Push, ""},
		{"pushed", trigger.Push, ""},
		{"published", trigger.Push, ""},
		{"delete", trigger.Delete, ""},
		{"deleted", trigger.Delete, ""},
		{"pull", "", "pull"},
		{"pulled", "", "pull"},
	} {
		if strings.HasSuffix(word, v.ending) {
			return v.action, v.ignored
		}
	}
	return "", "other-event"
}

// ceData is the data of an event by its keys in lower case without dashes and
// underscores: every sender spells them in its own way.
type ceData map[string]json.RawMessage

func readCEData(raw json.RawMessage) (ceData, error) {
	var keys map[string]json.RawMessage
	if err := readJSON(raw, &keys); err != nil {
		return nil, err
	}
	data := ceData{}
	data.add(keys)
	// Some put what they tell of the image one level deeper.
	for _, key := range []string{"image", "artifact", "target"} {
		var inner map[string]json.RawMessage
		if json.Unmarshal(data[key], &inner) == nil {
			data.add(inner)
		}
	}
	for _, key := range []string{"repository", "repositoryname", "image", "tag", "imagetag", "digest", "imagedigest"} {
		if raw := bytes.TrimSpace(data[key]); len(raw) > 0 && raw[0] != '"' && raw[0] != '{' && string(raw) != "null" {
			return nil, fmt.Errorf("%s is not a string", key)
		}
	}
	return data, nil
}

// ceMarks separate the words in a key.
var ceMarks = strings.NewReplacer("-", "", "_", "")

func (d ceData) add(keys map[string]json.RawMessage) {
	for key, value := range keys {
		key = ceMarks.Replace(strings.ToLower(key))
		if _, ok := d[key]; !ok {
			d[key] = value
		}
	}
}

// text is the first of the keys that holds a string; "" when none does.
func (d ceData) text(keys ...string) string {
	for _, key := range keys {
		var s string
		if json.Unmarshal(d[key], &s) == nil && s != "" {
			return s
		}
	}
	return ""
}

// contradict lets the data take back what the type says: some send one type
// for all that happens to an image.
func (d ceData) contradict(e *trigger.Event) {
	if action := d.text("action", "actiontype"); action != "" {
		said, ignored := ceVerb(strings.ToLower(action))
		if said != e.Action {
			e.Action, e.Ignored = said, ignored
		}
	}
	switch strings.ToLower(d.text("result")) {
	case "", "success", "succeeded", "ok":
	default:
		e.Ignored = cmp.Or(e.Ignored, "failed-"+e.Action)
	}
}

// image puts the name together from the data, the subject (REPOSITORY:TAG) and
// the source.
func (c cloudEvent) image(data ceData) (registry, repository, tag, digest string) {
	digest = data.text("digest", "imagedigest", "manifestdigest")
	tag = data.text("tag", "imagetag")
	repository = data.text("repository", "repositoryname", "imagename")
	for _, reference := range []string{data.text("image", "imageuri", "reference"), string(c.Subject)} {
		r, name, t := takeApart(reference, repository)
		if repository == "" {
			registry, repository = r, name
		}
		if repository != name {
			continue
		}
		registry = cmp.Or(registry, r)
		tag = cmp.Or(tag, t)
		if _, d, ok := strings.Cut(reference, "@"); ok {
			digest = cmp.Or(digest, d)
		}
	}
	if registry == "" && data.text("repository") == repository {
		registry, repository, _ = takeApart(repository, "")
	}
	registry = host(hostOf(data.text("registry", "registryurl", "registryhost", "loginserver", "host")), registry, c.ecr(data), c.origin(repository))
	return registry, repository, tag, digest
}

// hostOf is the host of an address with or without a scheme.
func hostOf(address string) string {
	if _, rest, ok := strings.Cut(address, "://"); ok {
		address = rest
	}
	address, _, _ = strings.Cut(address, "/")
	return address
}

var ecrResource = regexp.MustCompile(`^(?:arn|urn):aws[a-z-]*:ecr:([a-z0-9-]+):([0-9]{12}):`)

// ecr is the registry of a source that is a resource of Amazon ECR. Its events
// come as CloudEvents when a rule of EventBridge rewrites them.
func (c cloudEvent) ecr(data ceData) string {
	m := ecrResource.FindStringSubmatch(string(c.Source))
	if m == nil {
		return ""
	}
	return ecrDelivery{Region: m[1], Account: cmp.Or(data.text("registryid"), m[2])}.registry()
}

// origin is the host of the source where that is the address of a host and
// nothing below it, or of the very repository: who sends a push from there is
// the registry.
func (c cloudEvent) origin(repository string) string {
	if r, name, _ := takeApart(string(c.Source), ""); name == repository && r != "" {
		return r
	}
	u, err := url.Parse(string(c.Source))
	if err != nil || strings.Trim(u.Path, "/") != "" || u.Scheme != "https" && u.Scheme != "http" {
		return ""
	}
	return u.Host
}

// isCloudEvent reports whether a request is of CloudEvents, in any mode.
func isCloudEvent(l look) bool {
	return l.header.Get("Ce-Type") != "" || l.has("specversion") && l.has("type") ||
		strings.HasPrefix(bare(l.header.Get("Content-Type")), "application/cloudevents")
}

// ceType and ceSource are those of the first event of a request; "" when it is
// none of CloudEvents.
func ceType(l look) string {
	if !l.has("specversion") {
		return ceHeader(l.header, "Ce-Type")
	}
	return l.text("type")
}

func ceSource(l look) string {
	if !l.has("specversion") {
		return ceHeader(l.header, "Ce-Source")
	}
	return l.text("source")
}

// recogniseCloudEvents knows the CloudEvents that no other sender owns.
func recogniseCloudEvents(l look) bool {
	if !isCloudEvent(l) {
		return false
	}
	for _, other := range []func(look) bool{recogniseEventGrid, hasHarborForm, recogniseZot, recogniseCDEvents, recogniseAliyun, recogniseGCR, recogniseGAR} {
		if other(l) {
			return false
		}
	}
	return true
}

func sampleCloudEvents(img trigger.Image, at time.Time) (http.Header, []byte) {
	registry := cmp.Or(img.Registry, "registry.example.com")
	data := map[string]any{
		"repository":  img.Repository,
		"digest":      cmp.Or(img.Digest, inventDigest()),
		"registryUrl": registry,
	}
	subject := img.Repository
	if img.Tag != "" {
		subject += ":" + img.Tag
		data["tag"] = img.Tag
	}
	body, _ := json.Marshal(map[string]any{
		"specversion":     "1.0",
		"id":              inventUUID(),
		"type":            "container.image.push",
		"source":          "https://" + registry,
		"subject":         subject,
		"time":            at.UTC(),
		"datacontenttype": "application/json",
		"data":            data,
	})
	return http.Header{"Content-Type": {"application/cloudevents+json; charset=utf-8"}}, body
}

var (
	originGrammar = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?$`)
	rateGrammar   = regexp.MustCompile(`^[1-9][0-9]{0,8}$`)
)

// cloudEventsOptions grants a sender of CloudEvents leave to deliver
// (CloudEvents, "HTTP 1.1 Web Hooks for Event Delivery", section "Abuse
// Protection"). It grants nothing to who does not say its name;
// WebHook-Request-Callback is never fetched.
func cloudEventsOptions(h http.Header) *Reply {
	reply := &Reply{Status: http.StatusOK, Header: http.Header{"Allow": {"POST, OPTIONS"}}}
	origin, rate := h.Get("WebHook-Request-Origin"), h.Get("WebHook-Request-Rate")
	if !originGrammar.MatchString(origin) {
		return reply
	}
	if !rateGrammar.MatchString(rate) {
		rate = "*"
	}
	reply.Header.Set("WebHook-Allowed-Origin", origin)
	reply.Header.Set("WebHook-Allowed-Rate", rate)
	return reply
}
