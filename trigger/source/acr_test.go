package source

import "testing"

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

func FuzzParseACR(f *testing.F) { fuzzParse(f, "azure-acr") }
