package source

import (
	"net/http"
	"testing"
)

func TestNotGitHub(t *testing.T) {
	refused(t, "github", map[string]string{
		"empty object":       `{}`,
		"a list":             `[]`,
		"git push":           `{"ref": "refs/heads/main", "repository": {"name": "pilot"}}`,
		"no action":          `{"package": {"package_version": {}}}`,
		"no version":         `{"action": "published", "package": {"name": "pilot", "namespace": "dockyard"}}`,
		"package null":       `{"action": "published", "package": null}`,
		"package no object":  `{"action": "published", "package": "pilot"}`,
		"name no text":       `{"action": "published", "package": {"name": 1, "package_version": {}}}`,
		"tag no text":        `{"action": "published", "package": {"name": "pilot", "package_version": {"container_metadata": {"tag": {"name": 1.0}}}}}`,
		"metadata no object": `{"action": "published", "package": {"name": "pilot", "package_type": "container", "package_version": {"container_metadata": []}}}`,
		"a form":             `payload=%7B%22zen%22%3A%22%22%2C%22hook_id%22%3A1%7D`,
		"half a ping":        `{"zen": ""}`,
	})
}

// The header decides what the body is about: a git push may hold anything.
func TestGitHubHeader(t *testing.T) {
	const push = `{"action": "published", "package": {"name": "pilot", "namespace": "dockyard", "package_version": {"container_metadata": {"tag": {"name": "1", "digest": "x"}}}}}`
	tests := []struct {
		event, body, want string
		wrong             bool
	}{
		{"package", push, "", false},
		{"Package", push, "", false},
		{"registry_package", push, "", false},
		{"push", push, "other-event", false},
		{"ping", push, "ping", false},
		{"ping", `{}`, "ping", false},
		{"workflow_run", `{"package": 1}`, "other-event", false},
		{"push", `[]`, "", true},
		{"ping", ``, "", true},
		{"package", `{"zen": ""}`, "", true},
	}
	s := open(t, "github")
	for _, tt := range tests {
		h := http.Header{}
		h.Set("X-GitHub-Event", tt.event)
		events, err := s.Parse(h, []byte(tt.body))
		switch {
		case (err != nil) != tt.wrong:
			t.Errorf("%s %s: error %v", tt.event, tt.body, err)
		case err == nil && (len(events) != 1 || events[0].Ignored != tt.want):
			t.Errorf("%s %s: got %+v", tt.event, tt.body, events)
		}
	}
}

// Gitea sends GitHub's headers beside its own, and both have a package in the
// body.
func TestRecogniseGitHubAndGitea(t *testing.T) {
	const (
		github = `{"action": "published", "package": {"package_version": {}}}`
		gitea  = `{"action": "created", "package": {"type": "container", "name": "pilot", "version": "1"}}`
	)
	tests := []struct {
		headers []string
		body    string
		want    string
	}{
		{[]string{"X-GitHub-Event"}, github, "github"},
		{[]string{"X-GitHub-Event"}, `{}`, "github"},
		{[]string{"X-GitHub-Event", "X-Gogs-Event", "X-Gitea-Event"}, gitea, "gitea"},
		{[]string{"X-GitHub-Event", "X-Gogs-Event", "X-Gitea-Event", "X-Forgejo-Event"}, `{}`, "gitea"},
		{[]string{"X-Forgejo-Event"}, gitea, "gitea"},
		{nil, github, "github"},
		{nil, gitea, "gitea"},
		{nil, `{"zen": "", "hook_id": 1}`, "github"},
		{nil, `{"action": "updated", "registry_package": {}}`, "github"},
		{nil, `{"action": "x", "package": {}}`, ""},
		{nil, `{"action": "x", "package": 1}`, ""},
		{nil, `[` + github + `]`, ""},
	}
	for _, tt := range tests {
		h := http.Header{}
		for _, name := range tt.headers {
			h.Set(name, "package")
		}
		l := glance(h, []byte(tt.body))
		for kind, recognise := range map[string]func(look) bool{"github": recogniseGitHub, "gitea": recogniseGitea} {
			if got := recognise(l); got != (kind == tt.want) {
				t.Errorf("%s recognises %v %s: %v", kind, tt.headers, tt.body, got)
			}
		}
	}
}

func FuzzParseGitHub(f *testing.F) { fuzzParse(f, "github") }
