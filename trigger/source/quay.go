package source

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/go-json-experiment/json/v1"

	"github.com/dockbell/dockbell/trigger"
)

// quayEvent is a notification of Quay (Red Hat Quay documentation, "Use Red
// Hat Quay", chapter "Repository notifications", section "Repository events
// description"). None tells its type, an id, a time or who did it; which it is
// shows in the fields it has.
type quayEvent struct {
	Repository  string   `json:"repository"`
	Namespace   string   `json:"namespace"`
	Name        string   `json:"name"`
	DockerURL   string   `json:"docker_url"`
	Homepage    string   `json:"homepage"`
	UpdatedTags quayTags `json:"updated_tags"`
}

// quayMarks tell what is no push, even if it should hold the tags of one.
var quayMarks = []struct{ key, reason string }{
	{"build_id", "build"},
	{"build_name", "build"},
	{"docker_tags", "build"},
	{"vulnerability", "scan"},
	{"vulnerabilities", "scan"},
	{"vulnerable_index_report_created", "scan"},
	{"expiring_in", "expiry"},
}

// quayTags are the tags of a push, in the order in which they stand: a list,
// in old versions an object whose keys they are.
type quayTags []string

func (t *quayTags) UnmarshalJSON(b []byte) error {
	*t = nil
	dec := json.NewDecoder(bytes.NewReader(b))
	open, err := dec.Token()
	_, nested := open.(json.Delim)
	for err == nil && nested && dec.More() {
		var tag any
		if open == json.Delim('{') {
			tag, err = dec.Token()
			err = cmp.Or(err, dec.Decode(new(json.RawMessage))) // the id of a layer, once
		} else {
			err = dec.Decode(&tag)
		}
		if name, ok := tag.(string); ok && name != "" {
			*t = append(*t, name)
		}
	}
	return err
}

func parseQuay(_ http.Header, body []byte) ([]trigger.Event, error) {
	events, err := quayEvents(body)
	if err != nil {
		return nil, fmt.Errorf(`expected a notification of Quay, {"repository": …, "docker_url": …}: %w`, err)
	}
	return events, nil
}

func quayEvents(body []byte) ([]trigger.Event, error) {
	var q quayEvent
	var keys map[string]json.RawMessage
	if err := readJSON(body, &q); err != nil {
		return nil, err
	}
	if err := readJSON(body, &keys); err != nil {
		return nil, err
	}
	registry, repository := q.image()
	if repository == "" && q.DockerURL == "" {
		return nil, errors.New("no repository")
	}
	ignored := quayIgnored(keys)
	if ignored == "" && len(q.UpdatedTags) == 0 {
		ignored = "no tags"
	}
	if ignored != "" {
		return []trigger.Event{named(trigger.Event{Ignored: ignored}, registry, repository, "", "")}, nil
	}
	var events []trigger.Event
	for _, tag := range q.UpdatedTags {
		e := trigger.Event{Action: trigger.Push, Ignored: manifest{tag: tag}.ignored()}
		events = append(events, named(e, registry, repository, tag, ""))
	}
	return events, nil
}

// quayIgnored says why an event with these keys starts nothing; "" for a push.
func quayIgnored(keys map[string]json.RawMessage) string {
	for _, m := range quayMarks {
		if _, ok := keys[m.key]; ok {
			return m.reason
		}
	}
	if _, ok := keys["updated_tags"]; ok {
		return ""
	}
	if _, ok := keys["message"]; ok {
		return "mirror"
	}
	return "other-event"
}

// image is what the event is about. The web page is on the host of the
// registry.
func (q quayEvent) image() (registry, repository string) {
	repository = q.Repository
	if repository == "" && q.Namespace != "" && q.Name != "" {
		repository = q.Namespace + "/" + q.Name
	}
	registry, name, _ := takeApart(q.DockerURL, repository)
	if registry == "" && trigger.IsRegistry(name) && !strings.Contains(name, "/") {
		registry, name = name, "" // an address that is but a host
	}
	page := ""
	if u, err := url.Parse(q.Homepage); err == nil {
		page = u.Host
	}
	return host(registry, page), cmp.Or(repository, name)
}

func recogniseQuay(l look) bool {
	return !l.list && (l.has("docker_url") || l.has("repository", "updated_tags"))
}

func sampleQuay(img trigger.Image, _ time.Time) (http.Header, []byte) {
	registry := cmp.Or(img.Registry, "quay.io")
	namespace, name, ok := strings.Cut(img.Repository, "/")
	if !ok {
		namespace, name = "", img.Repository
	}
	body, _ := json.Marshal(map[string]any{
		"repository":   img.Repository,
		"namespace":    namespace,
		"name":         name,
		"docker_url":   registry + "/" + img.Repository,
		"homepage":     "https://" + registry + "/repository/" + img.Repository,
		"updated_tags": []string{cmp.Or(img.Tag, "latest")}, // a push by digest is not reported
	})
	return http.Header{"Content-Type": {"application/json"}, "User-Agent": {"python-requests/2.32.3"}}, body
}
