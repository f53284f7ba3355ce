package source

import (
	"net/http"
	"testing"
)

func TestNotACR(t *testing.T) {
	refused(t, "azure-acr", map[string]string{
		"empty object":         `{}`,
		"no action":            `{"id": "1", "target": {"repository": "a/b", "tag": "1"}}`,
		"action no text":       `{"action": 1, "target": {"repository": "a/b", "tag": "1"}}`,
		"push of nothing":      `{"id": "1", "timestamp": "2026-03-04T05:06:07Z", "action": "push"}`,
		"delete of nothing":    `{"action": "delete", "target": null}`,
		"target no object":     `{"action": "push", "target": "a/b:1"}`,
		"no repository":        `{"action": "push", "target": {"tag": "1"}}`,
		"Event Grid":           `[{"eventType": "ImagePushed", "data": {"action": "push"}}]`,
		"distribution":         `{"events": [{"action": "push", "target": {"repository": "a/b", "tag": "1"}}]}`,
		"CloudEvent":           `{"specversion": "1.0", "type": "Microsoft.ContainerRegistry.ImagePushed", "data": {"action": "push"}}`,
		"several at once":      `[{"action": "push", "target": {"repository": "a/b", "tag": "1"}}]`,
		"repository a number":  `{"action": "push", "target": {"repository": 7, "tag": "1"}}`,
		"tag a number":         `{"action": "push", "target": {"repository": "a/b", "tag": 1}}`,
		"ping in another form": `{"zen": "x", "hook_id": 1}`,
	})
}

// Nothing but the form tells who sends it: the webhook has no headers of its
// own.
func TestRecogniseACR(t *testing.T) {
	const push = `{"action": "push", "target": {"repository": "a/b", "tag": "1"}, "request": {"host": "dockyard.azurecr.io"}}`
	tests := []struct {
		name, header, value, body string
		want                      bool
	}{
		{"no id and time", "", "", push, true},
		{"User-Agent", "User-Agent", "AzureContainerRegistry/1.0", `{"action": "ping"}`, true},
		{"User-Agent, no version", "User-Agent", "AzureContainerRegistry", `{"action": "ping"}`, true},
		{"any action", "", "", `{"action": "published"}`, false},
		{"target of something", "", "", `{"action": "created", "target": {"url": "https://yard.example/"}}`, false},
		{"data of a CloudEvent", "Ce-Type", "Microsoft.ContainerRegistry.ImagePushed", push, false},
	}
	for _, tt := range tests {
		h := http.Header{}
		if tt.header != "" {
			h.Set(tt.header, tt.value)
		}
		if got := recogniseACR(glance(h, []byte(tt.body))); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
}

func FuzzParseACR(f *testing.F) { fuzzParse(f, "azure-acr") }
