package source

import (
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/go-json-experiment/json/v1"

	"github.com/dockbell/dockbell/trigger"
)

// ecrDelivery is an event of Amazon ECR as EventBridge sends it (Amazon ECR,
// "Amazon ECR events and EventBridge"; Amazon EventBridge, "Event structure
// reference"), or a message of SNS that holds one.
type ecrDelivery struct {
	snsMessage

	DetailType string          `json:"detail-type"`
	ID         string          `json:"id"`
	Source     string          `json:"source"`
	Account    string          `json:"account"`
	Region     string          `json:"region"`
	Time       json.RawMessage `json:"time"`
	Detail     each[ecrDetail] `json:"detail"`
}

type ecrDetail struct {
	ActionType        string `json:"action-type"`
	Result            string `json:"result"`
	Repository        string `json:"repository-name"`
	Tag               string `json:"image-tag"` // missing or "" for what is pushed by digest
	Digest            string `json:"image-digest"`
	ManifestMediaType string `json:"manifest-media-type"`
	ArtifactMediaType string `json:"artifact-media-type"`
}

const ecrImageAction = "ECR Image Action"

// ecrIgnored are the events that start nothing, by their detail-type (Amazon
// EventBridge, "Amazon Elastic Container Registry events"). Several have all
// the fields of a push.
var ecrIgnored = map[string]string{
	"ECR Image Scan":                "scan",
	"ECR Scan Resource Change":      "scan",
	"ECR Replication Action":        "replication",
	"ECR Pull Through Cache Action": "cache-sync",
	"ECR Artifact Action":           "artifact",
	"ECR Referrer Action":           "artifact",
}

func parseECR(h http.Header, body []byte) ([]trigger.Event, error) {
	e, err := ecrEvent(body)
	if err != nil && isRawSNS(h) {
		// A topic may carry other messages, too, and they come as they are.
		return []trigger.Event{{ID: h.Get(snsMessageID), Ignored: "other-event"}}, nil
	}
	if err != nil {
		return nil, fmt.Errorf(`expected an event of EventBridge, {"detail-type": …, "source": …, "detail": {…}}, or a message of SNS: %w`, err)
	}
	return []trigger.Event{e}, nil
}

const snsMessageID = "X-Amz-Sns-Message-Id"

// isRawSNS knows what SNS delivers without its envelope (Amazon SNS, "Raw
// message delivery").
func isRawSNS(h http.Header) bool { return h.Get("X-Amz-Sns-Rawdelivery") == "true" }

func ecrEvent(body []byte) (trigger.Event, error) {
	var d ecrDelivery
	if err := readJSON(body, &d); err != nil {
		return trigger.Event{}, err
	}
	switch d.Type {
	case "":
		return d.event()
	case snsSubscribe:
		return trigger.Event{ID: d.MessageID, Ignored: "handshake"}, nil
	case snsUnsubscribe:
		return trigger.Event{ID: d.MessageID, Ignored: "control"}, nil
	case snsNotification:
		return d.notified(), nil
	}
	return trigger.Event{}, fmt.Errorf("unknown Type %q", printable(d.Type))
}

// notified is the event in a notification. A topic may carry other messages,
// too.
func (d ecrDelivery) notified() trigger.Event {
	other := trigger.Event{ID: d.MessageID, Ignored: "other-event"}
	var inner ecrDelivery
	if readJSON([]byte(d.Message), &inner) != nil || inner.DetailType == "" {
		return other
	}
	e, err := inner.event()
	if err != nil {
		return trigger.Event{ID: d.MessageID, Ignored: "unreadable: " + err.Error()}
	}
	e.ID = cmp.Or(e.ID, d.MessageID)
	return e
}

func (d ecrDelivery) event() (trigger.Event, error) {
	e := trigger.Event{ID: d.ID, OccurredAt: moment(d.Time, time.UTC)}
	switch {
	case d.DetailType == "":
		return e, errors.New("no detail-type")
	case d.Source == "":
		return e, errors.New("no source")
	case d.Source != "aws.ecr":
		e.Ignored = "other-event"
		return e, nil
	case d.DetailType == ecrImageAction && d.Detail.err != nil:
		return e, fmt.Errorf("detail: %w", d.Detail.err)
	case d.DetailType == ecrImageAction && d.Detail.value.Repository == "":
		return e, errors.New("no detail.repository-name")
	}
	detail := d.Detail.value
	e.MediaType = detail.ManifestMediaType
	e.Action, e.Ignored = d.verdict()
	if detail.Repository == "" {
		return e, nil // not of any image
	}
	return named(e, d.registry(), detail.Repository, detail.Tag, detail.Digest), nil
}

// verdict is the event's action, and why it starts nothing.
func (d ecrDelivery) verdict() (action, ignored string) {
	detail := d.Detail.value
	m := manifest{tag: detail.Tag, mediaType: detail.ManifestMediaType, artifactType: detail.ArtifactMediaType}
	if d.DetailType != ecrImageAction {
		reason := cmp.Or(ecrIgnored[d.DetailType], "other-event")
		if reason == "artifact" {
			reason = cmp.Or(m.ignored(), reason)
		}
		return "", reason
	}
	switch strings.ToUpper(detail.ActionType) {
	case "PUSH":
		action, ignored = trigger.Push, m.ignored()
	case "DELETE":
		action, ignored = trigger.Delete, m.ignored()
	default:
		return "", "other-event" // such as a move to the archive
	}
	if detail.Result != "" && !strings.EqualFold(detail.Result, "SUCCESS") {
		ignored = "failed-" + action
	}
	return action, ignored
}

var (
	awsAccount = regexp.MustCompile(`^[0-9]{12}$`)
	awsRegion  = regexp.MustCompile(`^[a-z]{2,5}(-[a-z0-9]+)+$`)
)

// registry is the host of the account's registry in the region: no event has
// it (AWS General Reference, "Amazon ECR endpoints and quotas"; the isolated
// regions have domains of their own, to be configured).
func (d ecrDelivery) registry() string {
	if !awsAccount.MatchString(d.Account) || !awsRegion.MatchString(d.Region) {
		return ""
	}
	domain := "amazonaws.com"
	switch {
	case strings.HasPrefix(d.Region, "cn-"):
		domain = "amazonaws.com.cn"
	case strings.HasPrefix(d.Region, "eusc-"):
		domain = "amazonaws.eu"
	}
	return host(d.Account + ".dkr.ecr." + d.Region + "." + domain)
}

// ecrHandshake confirms the subscription of an endpoint to a topic (Amazon
// SNS, "Confirming a subscription"): SNS delivers nothing before its address
// has been visited.
func ecrHandshake(_ http.Header, body []byte) *Reply {
	var m snsMessage
	if json.Unmarshal(body, &m) != nil {
		return nil
	}
	address := m.confirm()
	if address == "" {
		return nil
	}
	return &Reply{Status: http.StatusOK, Confirm: address}
}

// recogniseECR knows events of EventBridge and messages of SNS: nothing else
// that is configured here sends either.
func recogniseECR(l look) bool {
	if l.list || l.has("specversion") {
		return false
	}
	return l.has("detail-type", "source", "detail") || l.has("Type", "MessageId", "TopicArn") || isRawSNS(l.header)
}

var ecrHost = regexp.MustCompile(`^([0-9]{12})\.dkr\.ecr\.([a-z0-9-]+)\.amazonaws\.`)

func sampleECR(img trigger.Image, at time.Time) (http.Header, []byte) {
	account, region := "210987654321", "eu-west-1"
	if m := ecrHost.FindStringSubmatch(img.Registry); m != nil {
		account, region = m[1], m[2]
	}
	body, _ := json.Marshal(map[string]any{
		"version":     "0",
		"id":          inventUUID(),
		"detail-type": ecrImageAction,
		"source":      "aws.ecr",
		"account":     account,
		"time":        at.UTC().Format(time.RFC3339),
		"region":      region,
		"resources":   []string{},
		"detail": ecrDetail{
			ActionType:        "PUSH",
			Result:            "SUCCESS",
			Repository:        img.Repository,
			Tag:               img.Tag,
			Digest:            cmp.Or(img.Digest, inventDigest()),
			ManifestMediaType: "application/vnd.oci.image.manifest.v1+json",
			ArtifactMediaType: "application/vnd.oci.image.config.v1+json",
		},
	})
	return http.Header{
		"Content-Type": {"application/json; charset=utf-8"},
		"User-Agent":   {"Amazon/EventBridge/ApiDestinations"},
	}, body
}

// inventUUID is an id for a sample.
func inventUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// inventDigest is a digest for a sample of a vendor that always sends one.
func inventDigest() string {
	var b [32]byte
	_, _ = rand.Read(b[:])
	return fmt.Sprintf("sha256:%x", b)
}
