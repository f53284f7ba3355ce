package source

import "testing"

func TestNotJFrog(t *testing.T) {
	refused(t, "jfrog", map[string]string{
		"empty object":    `{}`,
		"a list":          `[]`,
		"no domain":       `{"event_type": "pushed", "data": {"repo_key": "docker-local", "image_name": "pilot", "tag": "1"}}`,
		"no event_type":   `{"domain": "docker", "data": {"repo_key": "docker-local", "image_name": "pilot", "tag": "1"}}`,
		"domain no text":  `{"domain": {}, "event_type": "pushed", "data": {}}`,
		"no data":         `{"domain": "docker", "event_type": "pushed"}`,
		"data null":       `{"domain": "docker", "event_type": "deleted", "data": null}`,
		"data no object":  `{"domain": "docker", "event_type": "pushed", "data": ["docker-local"]}`,
		"tag no text":     `{"domain": "docker", "event_type": "pushed", "data": {"repo_key": "a", "image_name": "b", "tag": 1}}`,
		"custom webhook":  `{"text": "docker-local/pilot:1 was pushed"}`,
		"older Harbor":    `{"event_type": "pushImage", "events": [{"full_name": "a/b", "tag": "1"}]}`,
		"bare event data": `{"repo_key": "docker-local", "path": "pilot/1/manifest.json", "image_name": "pilot", "tag": "1"}`,
	})
}

func FuzzParseJFrog(f *testing.F) { fuzzParse(f, "jfrog") }
