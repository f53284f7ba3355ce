package source

import "testing"

func TestNotQuay(t *testing.T) {
	refused(t, "quay", map[string]string{
		"empty object":         `{}`,
		"a list":               `[]`,
		"no repository":        `{"updated_tags": ["1"]}`,
		"repository an object": `{"repository": {"name": "pilot"}, "push_data": {"tag": "1"}}`,
		"namespace only":       `{"namespace": "dockyard", "updated_tags": ["1"]}`,
		"address no text":      `{"repository": "a/b", "docker_url": 1, "updated_tags": ["1"]}`,
	})
}

func FuzzParseQuay(f *testing.F) { fuzzParse(f, "quay") }
