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

// giteaDelivery is a webhook of Gitea or Forgejo about a package (Gitea
// documentation, "Webhooks"; fields as in the type PackagePayload of its
// source). It has neither digest nor media type beside a tag. The signature is
// over the JSON, also where that is sent in a form.
type giteaDelivery struct {
	Action  string          `json:"action"`
	Package *giteaPackage   `json:"package"`
	Sender  each[giteaUser] `json:"sender"`
}

type giteaPackage struct {
	Type      string          `json:"type"`
	Name      string          `json:"name"`
	Version   string          `json:"version"` // the tag, or the digest of what was pushed without one
	HTMLURL   freeText        `json:"html_url"`
	CreatedAt json.RawMessage `json:"created_at"`
	Owner     each[giteaUser] `json:"owner"`
	Creator   each[giteaUser] `json:"creator"`
}

type giteaUser struct {
	Login    string   `json:"login"`
	Username string   `json:"username"` // what older versions call it besides
	HTMLURL  freeText `json:"html_url"`
}

func (u giteaUser) name() string { return cmp.Or(u.Login, u.Username) }

// giteaEventHeaders name the event; Forgejo sends its own beside Gitea's, and
// both send those of the systems that they can stand in for.
var giteaEventHeaders = []string{"X-Gitea-Event", "X-Forgejo-Event", "X-Gogs-Event"}

func isGitea(h http.Header) bool {
	return firstHeader(h, giteaEventHeaders) != ""
}

func firstHeader(h http.Header, names []string) string {
	for _, name := range names {
		if v := h.Get(name); v != "" {
			return v
		}
	}
	return ""
}

func parseGitea(h http.Header, body []byte) ([]trigger.Event, error) {
	e, err := giteaEvent(firstHeader(h, giteaEventHeaders), payload(h, body))
	if err != nil {
		return nil, fmt.Errorf(`expected a package event of Gitea, {"action": …, "package": {"type": …, "name": …, "version": …}}: %w`, err)
	}
	e.ID = firstHeader(h, []string{"X-Gitea-Delivery", "X-Forgejo-Delivery", "X-Gogs-Delivery"})
	return []trigger.Event{e}, nil
}

func giteaEvent(kind string, body []byte) (trigger.Event, error) {
	if kind != "" && !strings.EqualFold(kind, "package") {
		var keys map[string]json.RawMessage
		if err := readJSON(body, &keys); err != nil {
			return trigger.Event{}, err
		}
		return trigger.Event{Ignored: "other-event"}, nil
	}
	var d giteaDelivery
	if err := readJSON(body, &d); err != nil {
		return trigger.Event{}, err
	}
	switch {
	case d.Package == nil:
		return trigger.Event{}, errors.New("no package")
	case d.Action == "":
		return trigger.Event{}, errors.New("no action")
	case d.Package.Type == "":
		return trigger.Event{}, errors.New("no package.type")
	}
	return d.event(*d.Package), nil
}

func (d giteaDelivery) event(p giteaPackage) trigger.Event {
	e := trigger.Event{
		Actor:      cmp.Or(d.Sender.value.name(), p.Creator.value.name()),
		OccurredAt: moment(p.CreatedAt, time.UTC),
	}
	switch strings.ToLower(d.Action) {
	case "created":
		e.Action = trigger.Push
	case "deleted":
		// The time is still that of the push.
		e.Action, e.OccurredAt = trigger.Delete, time.Time{}
	default:
		e.Ignored = "other-event"
		return e
	}
	if !strings.EqualFold(p.Type, "container") {
		e.Ignored = "artifact"
		return e
	}
	registry, owner := p.address()
	repository := strings.ToLower(cmp.Or(p.Owner.value.name(), owner) + "/" + p.Name)
	e.Ignored = manifest{tag: p.Version}.ignored()
	return named(e, registry, repository, p.Version, "")
}

// address is the host of the registry and the owner by the address of the
// package's page, HOST/OWNER/-/packages/container/NAME/VERSION. Gitea may be
// below a path, its registry never is.
func (p giteaPackage) address() (registry, owner string) {
	for _, s := range []freeText{p.HTMLURL, p.Owner.value.HTMLURL, p.Creator.value.HTMLURL} {
		u, err := url.Parse(string(s))
		if err != nil || u.Host == "" {
			continue
		}
		if before, _, ok := strings.Cut(u.Path, "/-/packages/"); ok {
			owner = before[strings.LastIndexByte(before, '/')+1:]
		}
		return host(u.Host), owner
	}
	return "", ""
}

func recogniseGitea(l look) bool {
	if isGitea(l.header) {
		return true
	}
	p := l.inner("package")
	return !l.list && l.header.Get("X-GitHub-Event") == "" && l.has("action", "package") &&
		p.has("type", "name", "version") && !p.has("package_version")
}

func sampleGitea(img trigger.Image, at time.Time) (http.Header, []byte) {
	owner, name, _ := strings.Cut(img.Repository, "/")
	home := "https://" + cmp.Or(img.Registry, "gitea.example.com") + "/"
	version := cmp.Or(img.Tag, img.Digest)
	user := func(id int, login string) map[string]any {
		return map[string]any{"id": id, "login": login, "full_name": "", "html_url": home + login, "visibility": "private", "username": login}
	}
	body, _ := json.Marshal(map[string]any{
		"action":     "created",
		"repository": nil,
		"package": map[string]any{
			"id":         207,
			"owner":      user(12, owner),
			"repository": nil,
			"creator":    user(31, "pilot"),
			"type":       "container",
			"name":       name,
			"version":    version,
			"html_url":   home + owner + "/-/packages/container/" + url.PathEscape(name) + "/" + url.PathEscape(version),
			"created_at": at.UTC().Truncate(time.Second),
		},
		"organization": nil,
		"sender":       user(31, "pilot"),
	})
	h := http.Header{"Content-Type": {"application/json"}, "User-Agent": {"Go-http-client/1.1"}}
	id := inventUUID()
	for _, system := range []string{"Gitea", "Gogs", "GitHub"} {
		h.Set("X-"+system+"-Event", "package")
		h.Set("X-"+system+"-Event-Type", "package")
		h.Set("X-"+system+"-Delivery", id)
	}
	return h, body
}
