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

// dockerHubPush is the webhook of Docker Hub (Docker documentation, "Docker
// Hub webhooks", section "Example webhook payload"). There is no digest, no
// event id and no other kind of event. Only what is used is named here: other
// fields change their type between one sample and the next.
type dockerHubPush struct {
	CallbackURL freeText `json:"callback_url"`
	PushData    *struct {
		PushedAt  json.RawMessage `json:"pushed_at"` // seconds, written as an integer or as 1.4e+09
		Pusher    freeText        `json:"pusher"`
		Tag       string          `json:"tag"`        // automated builds once sent none
		MediaType string          `json:"media_type"` // of the config, not of the manifest
	} `json:"push_data"`
	Repository *struct {
		RepoName  string `json:"repo_name"`
		Namespace string `json:"namespace"`
		Name      string `json:"name"`
	} `json:"repository"`
}

func parseDockerHub(_ http.Header, body []byte) ([]trigger.Event, error) {
	e, err := dockerHubEvent(body)
	if err != nil {
		return nil, fmt.Errorf(`expected a push of Docker Hub, {"push_data": {…}, "repository": {…}}: %w`, err)
	}
	return []trigger.Event{e}, nil
}

func dockerHubEvent(body []byte) (trigger.Event, error) {
	var p dockerHubPush
	err := readJSON(body, &p)
	if err != nil {
		if lenient := literalBackslashes(body); len(lenient) > len(body) {
			p = dockerHubPush{}
			err = readJSON(lenient, &p)
		}
	}
	switch {
	case err != nil:
		return trigger.Event{}, err
	case p.PushData == nil:
		return trigger.Event{}, errors.New("no push_data")
	case p.Repository == nil:
		return trigger.Event{}, errors.New("no repository")
	}
	img, err := trigger.NewImage(trigger.DockerHub, p.repository(), p.PushData.Tag, "")
	if err != nil {
		return trigger.Event{}, err
	}
	e := trigger.Event{
		Image:      img,
		Action:     trigger.Push,
		Actor:      string(p.PushData.Pusher),
		OccurredAt: moment(p.PushData.PushedAt, time.UTC),
		Ignored:    manifest{tag: img.Tag, parts: []string{p.PushData.MediaType}}.ignored(),
		Callback:   dockerHubCallback(string(p.CallbackURL)),
	}
	if img.Tag == "" && img.Digest == "" {
		e.Ignored = "no tag"
	}
	return e, nil
}

// repository is the name with its namespace, which repo_name may lack. A name
// that has none anywhere is an official image.
func (p dockerHubPush) repository() string {
	name, namespace := p.Repository.RepoName, p.Repository.Namespace
	if name == "" {
		name = p.Repository.Name
	}
	if namespace == "" || strings.Contains(name, "/") {
		return name
	}
	return namespace + "/" + name
}

// dockerHubCallback lets only Docker's own hosts be called back. The body is
// not signed, so anybody who learns the hook's address could otherwise have
// dockbell send a request anywhere.
func dockerHubCallback(s string) string {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "https" || u.User != nil || u.Opaque != "" {
		return ""
	}
	if u.Host != "registry.hub.docker.com" && u.Host != "hub.docker.com" {
		return ""
	}
	return u.String()
}

// literalBackslashes doubles each backslash in a string that stands before a
// character which JSON does not let be escaped. Docker's documentation prints
// a Dockerfile with "\]" in it, and people try a receiver with that sample.
func literalBackslashes(body []byte) []byte {
	var out bytes.Buffer
	inString := false
	for i := 0; i < len(body); i++ {
		c := body[i]
		out.WriteByte(c)
		switch {
		case c == '"':
			inString = !inString
		case c == '\\' && inString && i+1 < len(body):
			if strings.IndexByte(`"\/bfnrtu`, body[i+1]) < 0 {
				out.WriteByte('\\')
				continue
			}
			i++
			out.WriteByte(body[i])
		}
	}
	return out.Bytes()
}

// recogniseDockerHub knows the form of Docker Hub's webhook where it is not
// from Alibaba Cloud, which has borrowed it.
func recogniseDockerHub(l look) bool {
	return !l.list && l.has("push_data", "repository") && !l.has("specversion") && !recogniseAliyun(l)
}

func sampleDockerHub(img trigger.Image, at time.Time) (http.Header, []byte) {
	namespace, name, ok := strings.Cut(img.Repository, "/")
	if !ok {
		namespace, name = "library", img.Repository
	}
	body, _ := json.Marshal(map[string]any{
		"callback_url": "https://registry.hub.docker.com/u/" + img.Repository + "/hook/" + inventUUID() + "/",
		"push_data": map[string]any{
			"images":     []string{},
			"media_type": "application/vnd.oci.image.config.v1+json",
			"pushed_at":  at.Unix(),
			"pusher":     "pilot",
			"tag":        cmp.Or(img.Tag, "latest"), // a push is of a tag
		},
		"repository": map[string]any{
			"comment_count":    0,
			"date_created":     at.Add(-90 * 24 * time.Hour).Unix(),
			"description":      "",
			"dockerfile":       "",
			"full_description": "",
			"is_official":      namespace == "library",
			"is_private":       true,
			"is_trusted":       false,
			"name":             name,
			"namespace":        namespace,
			"owner":            namespace,
			"repo_name":        img.Repository,
			"repo_url":         "https://hub.docker.com/r/" + img.Repository,
			"star_count":       0,
			"status":           "Active",
		},
	})
	return http.Header{"Content-Type": {"application/json"}, "User-Agent": {"Go-http-client/1.1"}}, body
}
