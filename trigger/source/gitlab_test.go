package source

import (
	"net/http"
	"testing"
)

func TestRecogniseEnvelopes(t *testing.T) {
	const v1, v2 = eventsMediaType + "v1+json", eventsMediaType + "v2+json"
	tests := []struct {
		contentType, body    string
		distribution, gitlab bool
	}{
		{v2, `{"events": [{"action": "push", "actor": {"name": "crane"}}]}`, true, false},
		{v1 + "; charset=utf-8", `{"events": [{"action": "push", "actor": {"name": "crane"}}]}`, true, true},
		{v1, `{"events": [{"action": "push", "actor": {"name": "crane", "user_type": "build"}}]}`, true, true},
		{"", `{"events": [{"action": "pull"}, {"action": "push", "actor": {"user_type": ""}}]}`, true, true},
		{v2, `{"events": [{"action": "rename", "target": {"repository": "a/b"}}]}`, true, true},
		{v2, `{"events": [{"action": "push", "actor": "crane"}, 1, null]}`, true, false},
		{v2, `{"events": []}`, true, false},
		{"", `{"events": []}`, true, false},
		{"", `{"events": null}`, true, false},
		{v2, `{}`, true, false},
		{"", `{}`, false, false},
		{"application/json", `{"events": {}}`, false, false},
		{"application/json", `{"events": [{"name": "crane", "actor": {"user_type": "build"}}]}`, false, false},
		{v1, `{"event_type": "pushImage", "events": [{"full_name": "a/b"}]}`, false, false},
		{v2, `[{"events": []}]`, false, false},
	}
	for _, tt := range tests {
		h := http.Header{"Content-Type": {tt.contentType}}
		l := glance(h, []byte(tt.body))
		if got := recogniseDistribution(l); got != tt.distribution {
			t.Errorf("distribution recognises %s as %q: %v", tt.body, tt.contentType, got)
		}
		if got := recogniseGitLab(l); got != tt.gitlab {
			t.Errorf("gitlab recognises %s as %q: %v", tt.body, tt.contentType, got)
		}
	}
}

func TestNotGitLab(t *testing.T) {
	refused(t, "gitlab", map[string]string{
		"webhook of a project": `{"object_kind": "push", "ref": "refs/heads/main", "project": {"name": "pilot"}}`,
		"events no list":       `{"events": {}}`,
		"older Harbor":         `{"event_type": "pushImage", "events": [{"full_name": "a/b", "tag": "1"}]}`,
	})
}

func FuzzParseGitLab(f *testing.F) { fuzzParse(f, "gitlab") }
