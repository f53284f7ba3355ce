package source

import (
	"net/http"
	"time"

	"github.com/go-json-experiment/json/v1"

	"github.com/dockbell/dockbell/trigger"
)

// recogniseGitLab knows GitLab's registry by what it adds to the events of a
// distribution registry (GitLab Container Registry, "Notifications"): the kind
// of user, and renames. Older versions add nothing; like distribution 2, from
// which they come, they send version 1 of the media type.
func recogniseGitLab(l look) bool {
	if !recogniseDistribution(l) {
		return false
	}
	if bare(l.header.Get("Content-Type")) == eventsMediaType+"v1+json" {
		return true
	}
	var events []each[struct {
		Action string                     `json:"action"`
		Actor  map[string]json.RawMessage `json:"actor"`
		Target map[string]json.RawMessage `json:"target"`
	}]
	_ = json.Unmarshal(l.keys["events"], &events) // what is no list has no marks
	for _, e := range events {
		_, kind := e.value.Actor["user_type"]
		_, renamed := e.value.Target["rename"]
		if kind || renamed || e.value.Action == "rename" {
			return true
		}
	}
	return false
}

func sampleGitLab(img trigger.Image, at time.Time) (http.Header, []byte) {
	return distributionSample(img, at, map[string]string{"name": "crane", "user_type": "build"}, "v1")
}
