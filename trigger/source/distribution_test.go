package source

import "testing"

func TestNotDistribution(t *testing.T) {
	refused(t, "distribution", map[string]string{
		"other object":       `{"push_data": {}}`,
		"events no list":     `{"events": {}}`,
		"a list":             `[]`,
		"no object":          `{"events": [1, "x", null]}`,
		"older Harbor":       `{"event_type": "pushImage", "events": [{"repo_name": "pilot", "tag": "1"}]}`,
		"only one, illtyped": `{"events": [{"action": "push", "target": {"repository": "a/b", "tag": 1}}]}`,
	})
}

func FuzzParseDistribution(f *testing.F) { fuzzParse(f, "distribution") }
