package source

import (
	"cmp"
	"encoding/base64"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/v1"

	"github.com/dockbell/dockbell/trigger"
)

// googlePush is a push of Google Cloud Pub/Sub (Pub/Sub, "Push subscriptions",
// section "Receive messages"): a message with its data in base64 or, with
// payload unwrapping, the data alone (Pub/Sub, "Payload unwrapping").
type googlePush struct {
	Message *googleMessage `json:"message"`
	googleImage
}

// googleMessage has id and time in two spellings, of which a sender may leave
// one out.
type googleMessage struct {
	Data         string          `json:"data"`
	ID           json.RawMessage `json:"messageId"`
	SnakeID      json.RawMessage `json:"message_id"`
	Publish      json.RawMessage `json:"publishTime"`
	SnakePublish json.RawMessage `json:"publish_time"`
}

// googleImage is what Container Registry and Artifact Registry publish, both
// to the topic gcr (Artifact Registry, "Configure Pub/Sub notifications").
// Digest and tag are whole references. A push by tag is published twice:
// without the tag and with it.
type googleImage struct {
	Action string `json:"action"`
	Digest string `json:"digest,omitempty"`
	Tag    string `json:"tag,omitempty"`
}

// The headers of an unwrapped message, where the subscription is set to write
// its metadata.
const (
	googleSubscription = "X-Goog-Pubsub-Subscription-Name"
	googleMessageID    = "X-Goog-Pubsub-Message-Id"
	googlePublishTime  = "X-Goog-Pubsub-Publish-Time"
)

func parseGoogle(h http.Header, body []byte) ([]trigger.Event, error) {
	e, err := googleEvent(h, body)
	if err != nil {
		return nil, fmt.Errorf(`expected a push of Pub/Sub, {"message": {"data": …}}, or an unwrapped one, {"action": …, "digest": …}: %w`, err)
	}
	return []trigger.Event{e}, nil
}

func googleEvent(h http.Header, body []byte) (trigger.Event, error) {
	push, err := readGoogle(body)
	switch {
	case err == nil && push.Message != nil:
		m := push.Message
		e := trigger.Event{ID: cmp.Or(googleID(m.ID), googleID(m.SnakeID)), OccurredAt: moment(m.Publish, time.UTC)}
		if e.OccurredAt.IsZero() {
			e.OccurredAt = moment(m.SnakePublish, time.UTC)
		}
		return push.event(e), nil
	case googleUnwrapped(h):
		// Anybody may publish to the topic, so the data may be anything. To
		// refuse it is to get it again for a week.
		published, _ := json.Marshal(h.Get(googlePublishTime))
		return push.event(trigger.Event{ID: h.Get(googleMessageID), OccurredAt: moment(published, time.UTC)}), nil
	case err != nil:
		return trigger.Event{}, err
	case push.Action == "":
		return trigger.Event{}, errors.New("neither message nor action")
	}
	return push.event(trigger.Event{}), nil
}

func googleUnwrapped(h http.Header) bool {
	return h.Get(googleSubscription) != "" || h.Get(googleMessageID) != ""
}

// readGoogle reads a body, and what is in the message if there is one. Data
// that is not of a registry leaves the image empty.
func readGoogle(body []byte) (googlePush, error) {
	var push googlePush
	if err := readJSON(body, &push); err != nil {
		return googlePush{}, err
	}
	if push.Message == nil {
		return push, nil
	}
	push.googleImage = googleImage{}
	text, err := base64.RawStdEncoding.DecodeString(googleAlphabet.Replace(push.Message.Data))
	if err != nil {
		return googlePush{}, fmt.Errorf("message.data: %w", err)
	}
	var img googleImage
	if json.Unmarshal(text, &img) == nil {
		push.googleImage = img
	}
	return push, nil
}

// googleAlphabet makes the standard one without padding of both. That with
// padding is documented; the other one cannot be taken for it.
var googleAlphabet = strings.NewReplacer("-", "+", "_", "/", "=", "")

// googleID reads the id of a message, which is digits in a string.
func googleID(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) == nil {
		return s
	}
	if _, err := strconv.ParseUint(string(raw), 10, 64); err == nil {
		return string(raw)
	}
	return ""
}

func (g googleImage) event(e trigger.Event) trigger.Event {
	switch strings.ToUpper(g.Action) {
	case "INSERT":
		e.Action = trigger.Push
	case "DELETE":
		e.Action = trigger.Delete
	default:
		e.Ignored = "other-event"
		return e
	}
	registry, repository, tag, digest, err := g.parts()
	if err != nil {
		e.Ignored = err.Error()
		return e
	}
	e.Ignored = manifest{tag: tag}.ignored()
	return named(e, registry, repository, tag, digest)
}

// parts takes the references apart: HOST/PATH@DIGEST and HOST/PATH:TAG. A tag
// that is nothing but a tag is of the image of the digest.
func (g googleImage) parts() (registry, repository, tag, digest string, err error) {
	name, digest, _ := strings.Cut(g.Digest, "@")
	if name != "" && !strings.ContainsAny(g.Tag, "/:@") {
		tag = g.Tag
	} else if g.Tag != "" {
		tagged, _, _ := strings.Cut(g.Tag, "@")
		if i := strings.LastIndexByte(tagged, ':'); i > strings.LastIndexByte(tagged, '/') {
			tagged, tag = tagged[:i], tagged[i+1:]
		}
		if name != "" && name != tagged {
			return "", "", "", "", errors.New("tag and digest are of different images")
		}
		name = tagged
	}
	registry, repository, _ = strings.Cut(name, "/")
	if !trigger.IsRegistry(registry) {
		return "", "", "", "", errors.New("no reference with a registry")
	}
	return registry, repository, tag, digest, nil
}

// recogniseGCR and recogniseGAR tell the two registries apart by the host in
// the references. gcr.io is Container Registry's, even where Artifact Registry
// serves it by now. A message without such a host may be for either.
func recogniseGCR(l look) bool {
	registry, ok := googleRegistry(l)
	return ok && !strings.HasSuffix(registry, ".pkg.dev")
}

func recogniseGAR(l look) bool {
	registry, ok := googleRegistry(l)
	return ok && registry != "gcr.io" && !strings.HasSuffix(registry, ".gcr.io")
}

// googleRegistry is the host of the image that a push of Pub/Sub is about, ""
// when it is about none; false when it is no push of Pub/Sub.
func googleRegistry(l look) (string, bool) {
	if l.list {
		return "", false
	}
	img := googleImage{Action: l.text("action"), Digest: l.text("digest"), Tag: l.text("tag")}
	m := l.inner("message")
	wrapped := m.has("messageId") || m.has("message_id") || l.has("message", "subscription")
	if wrapped {
		body, err := json.Marshal(map[string]json.RawMessage{"message": l.keys["message"]})
		if err != nil {
			return "", false
		}
		push, _ := readGoogle(body) // unreadable: about no image
		img = push.googleImage
	}
	registry, _, _, _, err := img.parts()
	if err != nil {
		return "", wrapped || googleUnwrapped(l.header)
	}
	known := img.Action == "INSERT" || img.Action == "DELETE"
	return strings.ToLower(registry), known || wrapped || googleUnwrapped(l.header)
}

func sampleGCR(img trigger.Image, at time.Time) (http.Header, []byte) {
	img.Registry = cmp.Or(img.Registry, "gcr.io")
	return sampleGoogle(img, at)
}

func sampleGAR(img trigger.Image, at time.Time) (http.Header, []byte) {
	img.Registry = cmp.Or(img.Registry, "europe-west1-docker.pkg.dev")
	return sampleGoogle(img, at)
}

func sampleGoogle(img trigger.Image, at time.Time) (http.Header, []byte) {
	g := googleImage{Action: "INSERT", Digest: img.Name() + "@" + cmp.Or(img.Digest, inventDigest())}
	if img.Tag != "" {
		g.Tag = img.Name() + ":" + img.Tag
	}
	data, _ := json.Marshal(g)
	id := strconv.FormatUint(rand.Uint64N(9e15)+1e15, 10)
	published := at.UTC().Format("2006-01-02T15:04:05.000Z07:00")
	body, _ := json.Marshal(map[string]any{
		"message": map[string]any{
			"data":         data, // in base64, as JSON has bytes
			"messageId":    id,
			"message_id":   id,
			"publishTime":  published,
			"publish_time": published,
		},
		"subscription": "projects/dockyard/subscriptions/dockbell",
	})
	return http.Header{
		"Content-Type": {"application/json"},
		"User-Agent":   {"CloudPubSub-Google"},
	}, body
}
