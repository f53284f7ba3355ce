package source

import (
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

// githubDelivery is a webhook of GitHub about a package (GitHub Docs, "Webhook
// events and payloads", sections "package" and "registry_package"; the two
// differ in the name of the key). Hooks of a repository or an organisation
// send the first, hooks of an app the second.
type githubDelivery struct {
	Action          string           `json:"action"`
	Package         *githubPackage   `json:"package"`
	RegistryPackage *githubPackage   `json:"registry_package"`
	Organization    each[githubUser] `json:"organization"`
	Sender          each[githubUser] `json:"sender"`

	// A ping has these.
	Zen    json.RawMessage `json:"zen"`
	HookID json.RawMessage `json:"hook_id"`
}

type githubUser struct {
	Login freeText `json:"login"`
}

type githubPackage struct {
	Name      string           `json:"name"`
	Namespace string           `json:"namespace"`
	Ecosystem freeText         `json:"ecosystem"`
	Type      freeText         `json:"package_type"`
	Owner     each[githubUser] `json:"owner"`
	UpdatedAt json.RawMessage  `json:"updated_at"`
	Version   *githubVersion   `json:"package_version"`
	Registry  each[struct {
		URL freeText `json:"url"`
	}] `json:"registry"`
}

// githubVersion is a manifest. Its name is the digest; its own times are
// mostly of the year 1. The Docker registry of before ghcr.io had the tag for
// its version, and nothing of the manifest.
type githubVersion struct {
	Name      freeText               `json:"name"`
	Version   freeText               `json:"version"`
	URL       freeText               `json:"package_url"` // HOST/NAME:TAG, with the colon even where there is no tag
	CreatedAt json.RawMessage        `json:"created_at"`
	UpdatedAt json.RawMessage        `json:"updated_at"`
	Container *each[githubContainer] `json:"container_metadata"`
}

type githubContainer struct {
	Tag struct {
		Name   string `json:"name"` // "" for what is pushed by digest
		Digest string `json:"digest"`
	} `json:"tag"`
	Manifest each[githubManifest] `json:"manifest"`
}

type githubManifest struct {
	Digest    string                     `json:"digest"`
	MediaType string                     `json:"media_type"`
	Config    githubManifestPart         `json:"config"`
	Layers    []each[githubManifestPart] `json:"layers"`
}

type githubManifestPart struct {
	MediaType string `json:"media_type"`
}

func parseGitHub(h http.Header, body []byte) ([]trigger.Event, error) {
	e, err := githubEvent(h.Get("X-GitHub-Event"), payload(h, body))
	if err != nil {
		return nil, fmt.Errorf(`expected a package event of GitHub, {"action": …, "package": {"package_version": {…}}}: %w`, err)
	}
	e.ID = h.Get("X-GitHub-Delivery")
	return []trigger.Event{e}, nil
}

// githubEvent parses the event that the header names. Without the header the
// body tells enough.
func githubEvent(kind string, body []byte) (trigger.Event, error) {
	switch strings.ToLower(kind) {
	case "", "package", "registry_package", "package_v2": // the last is what ghcr.io was new under
	default:
		var keys map[string]json.RawMessage
		if err := readJSON(body, &keys); err != nil {
			return trigger.Event{}, err
		}
		if strings.EqualFold(kind, "ping") {
			return trigger.Event{Ignored: "ping"}, nil
		}
		return trigger.Event{Ignored: "other-event"}, nil
	}
	var d githubDelivery
	if err := readJSON(body, &d); err != nil {
		return trigger.Event{}, err
	}
	switch p := cmp.Or(d.Package, d.RegistryPackage); {
	case p != nil && p.Version == nil && kind == "":
		return trigger.Event{}, errors.New("no package_version")
	case p != nil:
		return d.event(*p)
	case d.Zen != nil && d.HookID != nil:
		return trigger.Event{Ignored: "ping"}, nil
	}
	return trigger.Event{}, errors.New("neither package nor registry_package")
}

func (d githubDelivery) event(p githubPackage) (trigger.Event, error) {
	e := trigger.Event{Actor: string(d.Sender.value.Login)}
	switch strings.ToLower(d.Action) {
	case "":
		return e, errors.New("no action")
	case "published", "updated", "create":
		e.Action = trigger.Push
	case "deleted":
		e.Action = trigger.Delete
	default:
		e.Ignored = "other-event"
		return e, nil
	}
	if p.Version == nil { // GitHub's own schema lets it be null
		e.Ignored = "no package_version"
		return e, nil
	}
	if !p.isImage() {
		e.Ignored = "artifact"
		return e, nil
	}
	v := *p.Version
	var c githubContainer
	if v.Container != nil {
		if v.Container.err != nil {
			return e, fmt.Errorf("container_metadata: %w", v.Container.err)
		}
		c = v.Container.value
	}
	m := c.Manifest.value
	registry, repository, tag := p.image(string(d.Organization.value.Login))
	if c.Tag.Name != "" || c.Tag.Digest != "" || m.Digest != "" {
		tag = c.Tag.Name
	} else {
		tag = cmp.Or(tag, notDigest(v.Version), notDigest(v.Name))
	}
	digest := firstDigest(c.Tag.Digest, m.Digest, string(v.Name), string(v.Version))
	e.OccurredAt = p.pushedAt()
	e.MediaType = m.MediaType
	e.Ignored = m.ignored(tag)
	return named(e, registry, repository, tag, digest), nil
}

// pushedAt is the time of the version, where it has one that is real: that of
// the package may be of a later push.
func (p githubPackage) pushedAt() time.Time {
	for _, raw := range []json.RawMessage{p.Version.UpdatedAt, p.UpdatedAt, p.Version.CreatedAt} {
		if t := moment(raw, time.UTC); !t.IsZero() {
			return t
		}
	}
	return time.Time{}
}

// isImage tells images from packages of other kinds. The words for the kind
// come in any case and contradict each other even in GitHub's own examples;
// only images have metadata of a container.
func (p githubPackage) isImage() bool {
	if c := p.Version.Container; c != nil && (c.err != nil || c.value.Tag.Digest != "" || c.value.Manifest.value.Digest != "") {
		return true
	}
	kind := strings.ToLower(string(cmp.Or(p.Type, p.Ecosystem)))
	return kind == "container" || kind == "docker"
}

func (m githubManifest) ignored(tag string) string {
	parts := manifest{tag: tag, mediaType: m.MediaType}
	if m.Config.MediaType != "" {
		parts.parts = append(parts.parts, m.Config.MediaType)
		for _, l := range m.Layers {
			parts.parts = append(parts.parts, l.value.MediaType)
		}
	}
	return parts.ignored()
}

// image is the name of the image by the address to pull it, which tells an
// Enterprise Server's own host, too; older deliveries have none. Owners may be
// written with capitals, images never are. The Docker registry of before
// ghcr.io had the git repository in the name.
func (p githubPackage) image(organization string) (registry, repository, tag string) {
	registry, repository, tag = takeApart(string(p.Version.URL), "")
	if registry == "" && p.Namespace == "" {
		registry, repository, _ = takeApart(string(p.Registry.value.URL), "")
		repository += "/" + p.Name
	}
	if registry == "" {
		owner := cmp.Or(p.Namespace, string(p.Owner.value.Login), organization)
		registry, repository = "ghcr.io", owner+"/"+p.Name
	}
	return host(registry), strings.ToLower(repository), tag
}

// notDigest is the name of a version where that can be a tag.
func notDigest(name freeText) string {
	if strings.Contains(string(name), ":") {
		return ""
	}
	return string(name)
}

// firstDigest is the first of the candidates that is a digest; "" when none
// is.
func firstDigest(candidates ...string) string {
	for _, c := range candidates {
		if img, err := trigger.NewImage("", "any", "", c); err == nil && img.Digest != "" {
			return img.Digest
		}
	}
	return ""
}

// recogniseGitHub knows GitHub by its header, which Gitea sends too, beside
// its own; without it by what only GitHub calls so.
func recogniseGitHub(l look) bool {
	if isGitea(l.header) || l.list {
		return false
	}
	return l.header.Get("X-GitHub-Event") != "" ||
		l.has("zen", "hook_id") || l.has("action", "registry_package") ||
		l.has("action", "package") && l.inner("package").has("package_version")
}

func sampleGitHub(img trigger.Image, at time.Time) (http.Header, []byte) {
	owner, name, _ := strings.Cut(img.Repository, "/")
	digest := cmp.Or(img.Digest, inventDigest())
	user := map[string]any{"login": owner, "id": 71002, "type": "Organization", "site_admin": false}
	never := time.Time{}
	body, _ := json.Marshal(map[string]any{
		"action": "published",
		"package": map[string]any{
			"id":           3007123,
			"name":         name,
			"namespace":    owner,
			"description":  "",
			"ecosystem":    "CONTAINER",
			"package_type": "CONTAINER",
			"html_url":     "https://github.com/orgs/" + owner + "/packages/container/" + url.PathEscape(name),
			"created_at":   at.UTC().Add(-90 * 24 * time.Hour).Truncate(time.Second),
			"updated_at":   at.UTC().Truncate(time.Second),
			"owner":        user,
			"package_version": map[string]any{
				"id":         42100777,
				"version":    digest,
				"name":       digest,
				"created_at": never,
				"updated_at": never,
				"container_metadata": map[string]any{
					"tag":    map[string]any{"name": img.Tag, "digest": digest},
					"labels": map[string]any{},
					"manifest": map[string]any{
						"digest":     digest,
						"media_type": "application/vnd.oci.image.manifest.v1+json",
						"uri":        "repositories/" + img.Repository + "/manifests/" + digest,
						"size":       1487,
						"config":     map[string]any{"media_type": "application/vnd.oci.image.config.v1+json"},
						"layers":     []any{},
					},
				},
				"package_url": cmp.Or(img.Registry, "ghcr.io") + "/" + img.Repository + ":" + img.Tag,
			},
			"registry": map[string]any{"name": "GitHub CONTAINER registry", "type": "CONTAINER", "vendor": "GitHub Inc"},
		},
		"sender": user,
	})
	h := http.Header{"Content-Type": {"application/json"}, "User-Agent": {"GitHub-Hookshot/7d1c0de"}}
	h.Set("X-GitHub-Event", "package")
	h.Set("X-GitHub-Delivery", inventUUID())
	h.Set("X-GitHub-Hook-ID", "300711900")
	return h, body
}
