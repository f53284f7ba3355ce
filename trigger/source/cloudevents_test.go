package source

import (
	"net/http"
	"testing"
)

func TestNotCloudEvents(t *testing.T) {
	refused(t, "cloudevents", map[string]string{
		"empty object":    `{}`,
		"no specversion":  `{"type": "container.image.push", "data": {"repository": "a", "tag": "1"}}`,
		"no type":         `{"specversion": "1.0", "data": {"repository": "a", "tag": "1"}}`,
		"type no text":    `{"specversion": "1.0", "type": ["container.image.push"], "data": {}}`,
		"data no object":  `{"specversion": "1.0", "type": "container.image.push", "data": "a:1"}`,
		"bad base64":      `{"specversion": "1.0", "type": "container.image.push", "data_base64": "{}"}`,
		"tag no text":     `{"specversion": "1.0", "type": "container.image.push", "data": {"repository": "a", "tag": 1.0}}`,
		"tags in a list":  `{"specversion": "1.0", "type": "container.image.push", "data": {"repository": "a", "tag": ["1"]}}`,
		"no objects":      `[1, "x", null]`,
		"none understood": `[{"type": "container.image.push"}, {}]`,
	})
}

func TestCloudEventVerdict(t *testing.T) {
	tests := map[string]string{
		"container.image.push":              "push",
		"com.amazon.ecr.image.push":         "push",
		"Example.Registry.ImagePushed":      "push",
		"com.example.docker/pushed":         "push",
		"com.example.artifact.published.v1": "push",
		"com.example.image.push.1.2":        "push",
		"container.image.delete":            "delete",
		"com.example.image-deleted":         "delete",
		"com.example.image.pull":            "",
		"com.example.image.push.failed":     "",
		"com.example.image.push.requested":  "",
		"com.example.git.push":              "",
		"com.example.repository.push":       "",
		"com.example.container.created":     "",
		"com.example.pushed.image":          "",
		"":                                  "",
		"...":                               "",
		"image.1":                           "",
	}
	for kind, want := range tests {
		if action, ignored := ceVerdict(kind); action != want || (action == "") != (ignored != "") {
			t.Errorf("%s: got %q, %q, want %q", kind, action, ignored, want)
		}
	}
}

// Each CloudEvent belongs to one sender, and those that nobody owns to the
// general one.
func TestRecogniseCloudEvents(t *testing.T) {
	tests := []struct{ ceType, body, want string }{
		{"", `{"specversion": "1.0", "type": "container.image.push"}`, "cloudevents"},
		{"", `[{"specversion": "1.0", "type": "container.image.push"}]`, "cloudevents"},
		{"container.image.push", `{"repository": "a"}`, "cloudevents"},
		{"com.example.other", ``, "cloudevents"},
		{"zotregistry.image.updated", `{"name": "a"}`, "zot"},
		{"ZotRegistry.repository.created", `{}`, "zot"},
		{"", `{"specversion": "1.0", "type": "zotregistry.image.deleted"}`, "zot"},
		{"com.example.registry.image.updated", `{"name": "a", "reference": "1", "digest": "x", "mediaType": ""}`, "zot"},
		{"com.example.repository.created", `{"name": "a", "request": {}}`, "zot"},
		{"com.example.image.updated", `{"name": "a", "tag": "1"}`, "cloudevents"},
		{"", `{"specversion": "1.0", "type": "yard.image.deleted", "data": {"name": "a", "reference": "1", "digest": "x", "mediaType": ""}}`, "zot"},
		{"dev.cdevents.artifact.published.0.2.0", `{}`, "cdevents"},
		{"", `{"specversion": "1.0", "type": "dev.cdevents.build.started.0.2.0"}`, "cdevents"},
		{"", `{"context": {"type": "dev.cdevents.artifact.published.0.2.0"}, "subject": {}}`, "cdevents"},
		{"", `[{"context": {"type": "dev.cdevents.artifact.published.0.2.0"}}]`, "cdevents"},
		{"", `{"specversion": "1.0", "type": "harbor.artifact.pushed", "source": "/projects/1"}`, ""},
		{"", `{"specversion": "1.0", "type": "Microsoft.ContainerRegistry.ImagePushed"}`, ""},
		{"", `{"specversion": "1.0", "type": "cr:Artifact:PushCompleted", "source": "acs.cr"}`, "aliyun"},
		{"", `{"specversion": "1.0", "type": "dev.cdeventsx.yard-image.published.0.1.0"}`, "cdevents"},
		{"google.cloud.pubsub.topic.v1.messagePublished", `{"message": {"messageId": "1"}, "subscription": "x"}`, ""},
		{"google.cloud.audit.log.v1.written", `{"resource": {}}`, "cloudevents"},
		{"", `{"context": {"type": "other"}}`, ""},
		{"", `{"type": "container.image.push"}`, ""},
		{"", `{}`, ""},
	}
	for _, tt := range tests {
		h := http.Header{}
		if tt.ceType != "" {
			h.Set("Ce-Type", tt.ceType)
		}
		l := glance(h, []byte(tt.body))
		for kind, recognise := range map[string]func(look) bool{
			"cloudevents": recogniseCloudEvents, "zot": recogniseZot, "cdevents": recogniseCDEvents, "aliyun": recogniseAliyun,
		} {
			if got := recognise(l); got != (kind == tt.want) {
				t.Errorf("%s recognises %s %s: %v", kind, tt.ceType, tt.body, got)
			}
		}
	}
}

func TestCloudEventsOptions(t *testing.T) {
	for _, kind := range []string{"cloudevents", "cdevents"} {
		r := open(t, kind).Options(http.Header{"Webhook-Request-Origin": {"yard.example"}})
		if r == nil || r.Status != 200 || r.Header.Get("WebHook-Allowed-Origin") != "yard.example" || r.Header.Get("WebHook-Allowed-Rate") != "*" {
			t.Errorf("%s: answered %+v", kind, r)
		}
	}
}

func FuzzParseCloudEvents(f *testing.F) { fuzzParse(f, "cloudevents") }
