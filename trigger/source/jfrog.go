package source

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/go-json-experiment/json/v1"

	"github.com/dockbell/dockbell/trigger"
)

// jfrogDelivery is the predefined webhook of JFrog Artifactory (JFrog Platform
// Administration, "Webhooks", "Event Types", "Domain: Docker"). It has neither
// an id nor a time. A custom webhook has any body its author likes.
type jfrogDelivery struct {
	Domain      string            `json:"domain"`
	EventType   string            `json:"event_type"`
	Data        *each[jfrogImage] `json:"data"`
	Origin      freeText          `json:"jpd_origin"`
	UserContext each[jfrogUser]   `json:"userContext"`

	// The data may come alone: so the documentation shows it, and so does a
	// custom webhook send it whose payload is nothing else.
	RepoKey freeText `json:"repo_key"`
}

type jfrogImage struct {
	RepoKey   string            `json:"repo_key"`
	Path      string            `json:"path"` // image/tag/manifest.json
	SHA256    string            `json:"sha256"`
	ImageName string            `json:"image_name"`
	Tag       string            `json:"tag"`
	ImageType string            `json:"image_type"`
	Platforms []json.RawMessage `json:"platforms"`
}

type jfrogUser struct {
	ID freeText `json:"id"`
}

// sampleChecksum is in the event that the Test button sends, which is otherwise
// one of the kind that the webhook is for.
const sampleChecksum = "sample_checksum"

// jfrogAuth is the header with the signature when the webhook is set to sign
// with its secret; otherwise it holds the secret itself.
const jfrogAuth = "X-JFrog-Event-Auth"

func parseJFrog(_ http.Header, body []byte) ([]trigger.Event, error) {
	e, err := jfrogEvent(body)
	if err != nil {
		return nil, fmt.Errorf(`expected an event of JFrog Artifactory, {"domain": …, "event_type": …, "data": {…}}: %w`, err)
	}
	return []trigger.Event{e}, nil
}

func jfrogEvent(body []byte) (trigger.Event, error) {
	var d jfrogDelivery
	err := readJSON(body, &d)
	if err == nil && d.Domain == "" && d.EventType != "" && d.RepoKey != "" {
		d.Domain, d.Data = "docker", new(each[jfrogImage])
		err = readJSON(body, d.Data)
	}
	switch {
	case err != nil:
		return trigger.Event{}, err
	case d.Domain == "":
		return trigger.Event{}, errors.New("no domain")
	case d.EventType == "":
		return trigger.Event{}, errors.New("no event_type")
	}
	e := trigger.Event{Actor: string(d.UserContext.value.ID)}
	e.Action, e.Ignored = d.verdict()
	switch {
	case !strings.EqualFold(d.Domain, "docker"):
		return e, nil
	case d.Data == nil:
		err = errors.New("no data")
	case d.Data.err != nil:
		err = fmt.Errorf("data: %w", d.Data.err)
	}
	if err != nil {
		if e.Ignored != "" {
			return e, nil
		}
		return trigger.Event{}, err
	}
	image := d.Data.value
	tag := image.tag()
	if image.SHA256 == sampleChecksum {
		e.Ignored = "ping"
	}
	e.Ignored = cmp.Or(e.Ignored, manifest{tag: tag}.ignored(), image.ignored())
	return named(e, host(d.origin()), image.repository(), tag, image.digest()), nil
}

func (d jfrogDelivery) verdict() (action, ignored string) {
	if !strings.EqualFold(d.Domain, "docker") {
		return "", "other-event" // of domain artifact, for each file of an image
	}
	switch strings.ToLower(d.EventType) {
	case "pushed":
		return trigger.Push, ""
	case "deleted":
		return trigger.Delete, ""
	case "promoted":
		return "", "promotion"
	}
	return "", "other-event"
}

// origin is the host of Artifactory's own address, whose path is that of its
// web pages.
func (d jfrogDelivery) origin() string {
	address := string(d.Origin)
	if !strings.Contains(address, "://") {
		address = "//" + address
	}
	u, err := url.Parse(address)
	if err != nil {
		return ""
	}
	return u.Host
}

// repository is the name by the repository path method, Artifactory's usual
// way: the key of the repository comes first. The name of an image in a folder
// may lack that, which the path has. "" when there is no name.
func (j jfrogImage) repository() string {
	name := j.ImageName
	if longer, _ := j.fromPath(); name == "" || strings.HasSuffix(longer, "/"+name) {
		name = longer
	}
	if name == "" {
		return ""
	}
	return strings.Trim(j.RepoKey+"/"+name, "/")
}

// underscored is how Artifactory names the folder of a manifest without a tag.
var underscored = regexp.MustCompile(`^sha256__([0-9a-f]{64})$`)

func (j jfrogImage) tag() string {
	tag := j.Tag
	if tag == "" {
		_, tag = j.fromPath()
	}
	return underscored.ReplaceAllString(tag, "sha256:$1")
}

func (j jfrogImage) fromPath() (name, tag string) {
	parts := strings.Split(j.Path, "/")
	if len(parts) < 3 {
		return "", ""
	}
	last := len(parts) - 2
	return strings.Join(parts[:last], "/"), parts[last]
}

func (j jfrogImage) digest() string {
	digits := strings.ToLower(j.SHA256)
	return "sha256:" + strings.TrimPrefix(digits, "sha256:")
}

// ignored tells images from the rest by the kind of the repository. One of
// kind OCI holds charts as well as images, but only images have platforms.
func (j jfrogImage) ignored() string {
	switch strings.ToLower(j.ImageType) {
	case "", "docker":
		return ""
	case "oci":
		if len(j.Platforms) > 0 {
			return ""
		}
	}
	return "artifact"
}

func recogniseJFrog(l look) bool {
	return !l.list && l.has("event_type") && (l.has("domain") || l.has("repo_key"))
}

func sampleJFrog(img trigger.Image, _ time.Time) (http.Header, []byte) {
	key, name, _ := strings.Cut(img.Repository, "/")
	digest := cmp.Or(img.Digest, inventDigest())
	tag := cmp.Or(img.Tag, digest)
	body, _ := json.Marshal(map[string]any{
		"domain":     "docker",
		"event_type": "pushed",
		"data": map[string]any{
			"repo_key":   key,
			"event_type": "pushed",
			"path":       name + "/" + tag + "/manifest.json",
			"name":       "manifest.json",
			"sha256":     strings.TrimPrefix(digest, "sha256:"),
			"size":       1574,
			"image_name": name,
			"tag":        tag,
			"image_type": "docker",
			"platforms":  []map[string]string{{"architecture": "amd64", "os": "linux"}},
		},
		"subscription_key": "dockbell",
		"jpd_origin":       "https://" + cmp.Or(img.Registry, "dockyard.jfrog.io"),
		"source":           "jfrog/crane",
		"userContext":      map[string]any{"id": "crane", "isToken": true, "realm": "token"},
	})
	return http.Header{"Content-Type": {"application/json"}}, body
}
