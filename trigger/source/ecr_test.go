package source

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/dockbell/dockbell/trigger"
)

func TestNotECR(t *testing.T) {
	refused(t, "aws-ecr", map[string]string{
		"empty object":        `{}`,
		"a list":              `[{"detail-type": "ECR Image Action", "source": "aws.ecr"}]`,
		"no source":           `{"detail-type": "ECR Image Action", "detail": {"action-type": "PUSH"}}`,
		"no detail-type":      `{"source": "aws.ecr", "detail": {"action-type": "PUSH"}}`,
		"no detail":           `{"detail-type": "ECR Image Action", "source": "aws.ecr"}`,
		"detail is text":      `{"detail-type": "ECR Image Action", "source": "aws.ecr", "detail": "SUCCESS"}`,
		"tag is a number":     `{"detail-type": "ECR Image Action", "source": "aws.ecr", "detail": {"action-type": "PUSH", "repository-name": "a", "image-tag": 1}}`,
		"no repository":       `{"detail-type": "ECR Image Action", "source": "aws.ecr", "detail": {"action-type": "PUSH", "image-tag": "1"}}`,
		"message of no type":  `{"Type": "Postcard", "Message": "x"}`,
		"message is no text":  `{"Type": "Notification", "Message": {}}`,
		"CloudEvent":          `{"specversion": "1.0", "type": "x", "source": "aws.ecr", "id": "1"}`,
		"looks like a pushed": `{"push_data": {"tag": "1"}, "repository": {"repo_name": "a/b"}}`,
	})
}

func TestECRHandshake(t *testing.T) {
	const good = `{"Type": "SubscriptionConfirmation", "TopicArn": "arn:aws:sns:eu-west-1:210987654321:pushes",
		"SubscribeURL": "https://sns.eu-west-1.amazonaws.com/?Action=ConfirmSubscription&Token=t&TopicArn=arn:aws:sns:eu-west-1:210987654321:pushes"}`
	tests := []struct {
		name, old, new string
		confirmed      bool
	}{
		{"as SNS sends it", "", "", true},
		{"China", "amazonaws.com", "amazonaws.com.cn", true},
		{"no Action", "Action=ConfirmSubscription&", "", false},
		{"other Action", "ConfirmSubscription&", "Unsubscribe&", false},
		{"path", "amazonaws.com/", "amazonaws.com/x", false},
		{"plain HTTP", "https:", "http:", false},
		{"other host", "sns.eu-west-1.amazonaws.com", "evil.example", false},
		{"longer host", "amazonaws.com", "amazonaws.com.evil.example", false},
		{"other service", "sns.", "sqs.", false},
		{"user", "https://", "https://sns@", false},
		{"host as user", "https://sns.eu-west-1.amazonaws.com/", "https://sns.eu-west-1.amazonaws.com@evil.example/", false},
		{"port", "amazonaws.com/", "amazonaws.com:8443/", false},
		{"no address", "https://sns.eu-west-1.amazonaws.com/?Action=ConfirmSubscription&", "", false},
		{"unsubscription", "SubscriptionConfirmation", "UnsubscribeConfirmation", false},
		{"notification", "SubscriptionConfirmation", "Notification", false},
		{"no JSON", "{", "", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := open(t, "aws-ecr").Handshake(http.Header{}, []byte(strings.Replace(good, tt.old, tt.new, 1)))
			switch {
			case !tt.confirmed && r != nil:
				t.Errorf("answered %+v", r)
			case tt.confirmed && (r == nil || r.Status != 200 || !strings.Contains(r.Confirm, ".amazonaws.com")):
				t.Errorf("answered %+v", r)
			}
		})
	}
}

func TestRecogniseECR(t *testing.T) {
	recognised(t, "aws-ecr", recogniseECR, map[string]string{
		"a CloudEvent":       `{"specversion": "1.0", "type": "com.amazon.ecr.image.push", "source": "urn:aws:ecr:x", "detail-type": "x", "detail": {}}`,
		"another's detail":   `{"detail": {}, "source": "x"}`,
		"a list":             `[{"detail-type": "ECR Image Action", "source": "aws.ecr", "detail": {}}]`,
		"another's Type":     `{"Type": "push", "Message": "x"}`,
		"no object":          `1`,
		"Event Grid's event": `[{"id": "1", "eventType": "Microsoft.ContainerRegistry.ImagePushed", "data": {}}]`,
	})
}

func TestSampleECR(t *testing.T) {
	for _, registry := range []string{"", "123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn", "123456789012.dkr.ecr.eu-central-1.amazonaws.com"} {
		roundTrip(t, "aws-ecr", registry)
	}
}

func FuzzParseECR(f *testing.F) { fuzzParse(f, "aws-ecr") }

// recognised checks that all samples of the kind are recognised and that the
// bodies, by what they are, are not.
func recognised(t *testing.T, kind string, recognise func(look) bool, others map[string]string) {
	t.Helper()
	for name, d := range cases(t, kind) {
		if len(d.body) > 0 && !recognise(glance(d.header, d.body)) {
			t.Errorf("%s/%s is not recognised", kind, name)
		}
	}
	for name, body := range others {
		if recognise(glance(http.Header{}, []byte(body))) {
			t.Errorf("%s: %s is recognised", kind, name)
		}
	}
}

// roundTrip checks that the sample of a push in the registry, or in one of its
// own choice, is read as that push.
func roundTrip(t *testing.T, kind, registry string) {
	t.Helper()
	at := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	for _, img := range []trigger.Image{
		{Registry: registry, Repository: "dockyard/pilot", Tag: "2.7.1"},
		{Registry: registry, Repository: "dockyard/pilot", Tag: "2.7.1", Digest: inventDigest()},
		{Registry: registry, Repository: "dockyard/pilot", Digest: inventDigest()},
	} {
		h, body := senders[kind].Sample(img, at)
		if !senders[kind].Recognise(glance(h, body)) {
			t.Errorf("%s: %s is not recognised: %s", kind, img, body)
		}
		events, err := open(t, kind).Parse(h, body)
		if err != nil || len(events) != 1 {
			t.Fatalf("%s: %s gives %v, %v", kind, img, events, err)
		}
		e := events[0]
		if e.Ignored != "" || e.Action != trigger.Push || e.ID == "" || !e.OccurredAt.Equal(at) || e.Digest == "" || e.Registry == "" {
			t.Errorf("%s: %s gives %+v", kind, img, e)
		}
		got := e.Image
		if img.Digest == "" {
			got.Digest = ""
		}
		if img.Registry == "" {
			got.Registry = ""
		}
		if got != img {
			t.Errorf("%s: %+v gives %+v", kind, img, e.Image)
		}
	}
}
