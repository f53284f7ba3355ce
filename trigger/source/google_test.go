package source

import (
	"encoding/base64"
	"net/http"
	"testing"
)

func TestNotGoogle(t *testing.T) {
	for _, kind := range []string{"google-gcr", "google-gar"} {
		refused(t, kind, map[string]string{
			"empty object":       `{}`,
			"a list":             `[{"message": {}}]`,
			"no message":         `{"message": null, "subscription": "projects/dockyard/subscriptions/dockbell"}`,
			"message is text":    `{"message": "x"}`,
			"data is an object":  `{"message": {"data": {"action": "INSERT"}}}`,
			"data is no base64":  `{"message": {"data": "{}"}}`,
			"action is a number": `{"action": 1, "tag": "gcr.io/dockyard/pilot:1"}`,
			"no action":          `{"digest": "gcr.io/dockyard/pilot@sha256:1"}`,
			"push of Docker Hub": `{"push_data": {"tag": "1"}, "repository": {"repo_name": "a/b"}}`,
		})
	}
}

func TestGoogleReferences(t *testing.T) {
	const digest = "sha256:6e0f8b5e6a0f5b0c9f3e0a1b2c3d4e606e0f8b5e6a0f5b0c9f3e0a1b2c3d4e60"
	tests := []struct{ digest, tag, want, ignored string }{
		{"gcr.io/a/b@" + digest, "gcr.io/a/b:1", "gcr.io/a/b:1@" + digest, ""},
		{"", "gcr.io/a/b:1@" + digest, "gcr.io/a/b:1", ""},
		{"", "gcr.io:443/a/b:1", "gcr.io:443/a/b:1", ""},
		{"GCR.io/a/b@" + digest, "", "gcr.io/a/b@" + digest, ""},
		{"", "gcr.io/a/b", "gcr.io/a/b", "neither tag nor digest"},
		{"", "gcr.io:443/a", "gcr.io:443/a", "neither tag nor digest"},
		{"", "gcr.io/a/b:", "gcr.io/a/b", "neither tag nor digest"},
		{"", "gcr.io/a/b:$(id)", "", `tag "$(id)" is not a tag`},
		{"", "gcr.io/a/../b:1", "", `repository "a/../b" is not a repository name`},
		{"", "gcr.io/:1", "", `repository "" is not a repository name`},
		{"", "b:1", "", "no reference with a registry"},
		{"", "a/b:1", "", "no reference with a registry"},
		{digest, "", "", `registry "` + digest + `" is not host[:port]`},
		{"gcr.io/a/b@" + digest, "gcr.io/a/c:1", "", "tag and digest are of different images"},
		{"us.gcr.io/a/b@" + digest, "gcr.io/a/b:1", "", "tag and digest are of different images"},
	}
	for _, tt := range tests {
		body := `{"action": "INSERT", "digest": "` + tt.digest + `", "tag": "` + tt.tag + `"}`
		events, err := open(t, "google-gcr").Parse(http.Header{}, []byte(body))
		if err != nil || len(events) != 1 {
			t.Fatalf("%s gives %v, %v", body, events, err)
		}
		if e := events[0]; e.Pinned() != tt.want || e.Ignored != tt.ignored {
			t.Errorf("%s gives %s, ignored %q", body, e.Pinned(), e.Ignored)
		}
	}
}

func TestRecogniseGoogle(t *testing.T) {
	others := map[string]string{
		"a list":            `[{"message": {"messageId": "1"}}]`,
		"a native webhook":  `{"id": "1", "action": "push", "target": {"repository": "a", "tag": "1"}, "request": {"host": "dockyard.azurecr.io"}}`,
		"an image to push":  `{"action": "push", "tag": "registry.example.com/a/b:1"}`,
		"a message of text": `{"message": "hello", "tag": "1"}`,
		"no image":          `{"action": "INSERT", "tag": "1"}`,
		"a CloudEvent":      `{"specversion": "1.0", "type": "x", "source": "y", "id": "1", "data": {"message": {"messageId": "1"}}}`,
		"no object":         `"INSERT"`,
	}
	recognised(t, "google-gcr", recogniseGCR, others)
	for name, body := range others {
		if recogniseGAR(glance(http.Header{}, []byte(body))) {
			t.Errorf("%s is recognised as Artifact Registry's", name)
		}
	}

	wrapped := func(data string) string {
		return `{"message": {"data": "` + base64.StdEncoding.EncodeToString([]byte(data)) + `", "messageId": "1"}}`
	}
	tests := []struct {
		name, body string
		gcr, gar   bool
	}{
		{"gcr.io", wrapped(`{"action": "INSERT", "tag": "gcr.io/a/b:1"}`), true, false},
		{"a region of gcr.io", wrapped(`{"action": "DELETE", "digest": "Asia.gcr.io/a/b@sha256:1"}`), true, false},
		{"pkg.dev", wrapped(`{"action": "INSERT", "tag": "us-docker.pkg.dev/a/b/c:1"}`), false, true},
		{"like gcr.io", wrapped(`{"action": "INSERT", "tag": "notgcr.io/a/b:1"}`), true, true},
		{"others' data", wrapped(`{"kind": "storage#object"}`), true, true},
		{"no data", `{"message": {"messageId": "1"}}`, true, true},
		{"bad data", `{"message": {"data": "{", "messageId": "1"}}`, true, true},
		{"unwrapped gcr.io", `{"action": "INSERT", "tag": "gcr.io/a/b:1"}`, true, false},
		{"unwrapped pkg.dev", `{"action": "DELETE", "tag": "us-docker.pkg.dev/a/b/c:1"}`, false, true},
	}
	for _, tt := range tests {
		l := glance(http.Header{}, []byte(tt.body))
		if gcr, gar := recogniseGCR(l), recogniseGAR(l); gcr != tt.gcr || gar != tt.gar {
			t.Errorf("%s: gcr %v, gar %v", tt.name, gcr, gar)
		}
	}
}

func TestSampleGoogle(t *testing.T) {
	roundTrip(t, "google-gcr", "")
	roundTrip(t, "google-gcr", "asia.gcr.io")
	roundTrip(t, "google-gar", "")
	roundTrip(t, "google-gar", "us-docker.pkg.dev")
}

func FuzzParseGCR(f *testing.F) { fuzzParse(f, "google-gcr") }
func FuzzParseGAR(f *testing.F) { fuzzParse(f, "google-gar") }
