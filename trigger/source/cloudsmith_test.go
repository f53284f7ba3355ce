package source

import "testing"

func TestNotCloudsmith(t *testing.T) {
	refused(t, "cloudsmith", map[string]string{
		"empty object":  `{}`,
		"no event":      `{"meta": {}, "data": {"format": "docker"}}`,
		"meta null":     `{"meta": null, "data": {}}`,
		"event no text": `{"meta": {"event_id": 7}, "data": {}}`,
		"no data":       `{"meta": {"event_id": "package.synced"}}`,
		"data null":     `{"meta": {"event_id": "package.synced"}, "data": null}`,
		"no format":     `{"meta": {"event_id": "package.synced"}, "data": {"name": "pilot"}}`,
		"no name":       `{"meta": {"event_id": "package.synced"}, "data": {"format": "docker", "namespace": "a", "repository": "b"}}`,
		"name no text":  `{"meta": {"event_id": "package.synced"}, "data": {"format": "docker", "name": 1}}`,
		"no objects":    `[1, "x", null]`,
		"a form":        `payload=%7B%7D`,
		"of a template": `{"text": "dockyard/pilot was synchronised"}`,
	})
}

func FuzzParseCloudsmith(f *testing.F) { fuzzParse(f, "cloudsmith") }
