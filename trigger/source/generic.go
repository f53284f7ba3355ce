package source

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/v1"
	"github.com/tidwall/gjson"
	"gopkg.in/yaml.v3"

	"github.com/dockbell/dockbell/trigger"
	"github.com/dockbell/dockbell/trigger/strictyaml"
)

// genericType is the sender that a source itself describes.
const genericType = "generic-json"

// fields says where a sender's JSON has what. Paths are those of GJSON
// ("GJSON Path Syntax"): image, repository.name, items.0.tag, tags.#.name.
// Where a field has several, the first that yields something counts.
type fields struct {
	Events string `yaml:"events"` // where the list of events is, for senders that send several; other paths begin there

	Image      paths `yaml:"image"` // a whole reference: registry/repository:tag@digest
	Registry   paths `yaml:"registry"`
	Repository paths `yaml:"repository"`
	Tag        paths `yaml:"tag"` // one, or a list: an event each
	Digest     paths `yaml:"digest"`
	Actor      paths `yaml:"actor"`
	ID         paths `yaml:"id"`
	Time       paths `yaml:"time"` // RFC 3339, or seconds since 1970

	// When names values that must be there for an event to be a push.
	When map[string]paths `yaml:"when"`
}

// paths is one string or several.
type paths []string

func (p *paths) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode {
		var one string
		err := n.Decode(&one)
		*p = paths{one}
		return err
	}
	return n.Decode((*[]string)(p))
}

// usualFields are for what people post from their builds: a name and a tag,
// a whole reference, or the parts of one in an object as Helm charts have it.
var usualFields = fields{
	Image:      paths{"image", "name", "image.name"},
	Registry:   paths{"registry", "image.registry"},
	Repository: paths{"repository", "image.repository"},
	Tag:        paths{"tag", "tags", "image.tag"},
	Digest:     paths{"digest", "image.digest"},
	Actor:      paths{"actor"},
	ID:         paths{"id"},
	Time:       paths{"time"},
}

// loadFields reads the `fields` of a source.
func loadFields(n strictyaml.Node) (fields, bool) {
	var f fields
	if !n.Decode(&f) {
		return f, false
	}
	ok := true
	all := f.all()
	for _, key := range slices.Sorted(maps.Keys(all)) {
		if slices.Contains(all[key], "") {
			n.Key(key).Faultf("a path is empty")
			ok = false
		}
	}
	switch {
	case len(f.Image) == 0 && len(f.Repository) == 0:
		n.Faultf("needs image or repository: where the JSON has the name of the image")
		return f, false
	case len(f.Image) == 0 && len(f.Tag) == 0 && len(f.Digest) == 0:
		n.Faultf("needs tag or digest: where the JSON has what was pushed")
		return f, false
	}
	for _, path := range all["when"] {
		if len(f.When[path]) == 0 {
			n.Key("when").Key(path).Faultf("needs a value, or a list of them")
			ok = false
		}
	}
	return f, ok
}

// all are the paths by key.
func (f fields) all() map[string]paths {
	return map[string]paths{
		"image": f.Image, "registry": f.Registry, "repository": f.Repository, "tag": f.Tag, "digest": f.Digest,
		"actor": f.Actor, "id": f.ID, "time": f.Time, "when": slices.Sorted(maps.Keys(f.When)),
	}
}

// generic is the sender that its source describes.
func generic(f fields) Sender {
	return Sender{Parse: f.parse, Sample: f.sample}
}

func (f fields) parse(h http.Header, body []byte) ([]trigger.Event, error) {
	const want = "expected JSON that has the image where the source's fields say: %w"
	body = postedJSON(h, body)
	var whole json.RawMessage
	if err := readJSON(body, &whole); err != nil {
		return nil, fmt.Errorf(want, err)
	}
	root := gjson.ParseBytes(body)
	if f.Events != "" {
		if root = root.Get(f.Events); !root.Exists() {
			return nil, fmt.Errorf(want, fmt.Errorf("nothing at %s", f.Events))
		}
	}
	elements := []gjson.Result{root}
	if root.IsArray() {
		elements = root.Array()
	}
	var events []trigger.Event
	var first error
	for _, element := range elements {
		found, err := f.events(element)
		if err != nil {
			first = cmp.Or(first, err)
			found = []trigger.Event{unreadable(err)}
		}
		events = append(events, found...)
	}
	if first != nil && !slices.ContainsFunc(events, func(e trigger.Event) bool { return e.Repository != "" || e.Ignored == otherEvent }) {
		return nil, fmt.Errorf(want, first)
	}
	return events, nil
}

// postedJSON is the JSON of a body. What `curl -d` posts says of itself that it
// is a form, whatever it is; when it is one, its fields are those of an object.
func postedJSON(h http.Header, body []byte) []byte {
	body = bytes.TrimSpace(body)
	if !isForm(h) || bytes.HasPrefix(body, []byte("{")) || bytes.HasPrefix(body, []byte("[")) {
		return body
	}
	if inner := payload(h, body); len(inner) > 0 {
		return inner
	}
	form, err := url.ParseQuery(string(body))
	if err != nil || !bytes.Contains(body, []byte("=")) {
		return body
	}
	object := map[string]any{}
	for key, values := range form {
		if object[key] = values; len(values) == 1 {
			object[key] = values[0]
		}
	}
	text, _ := json.Marshal(object) // strings always marshal
	return text
}

const otherEvent = "other-event"

func unreadable(err error) trigger.Event { return trigger.Event{Ignored: "unreadable: " + err.Error()} }

// events are those of one element: one for each of its tags.
func (f fields) events(element gjson.Result) ([]trigger.Event, error) {
	if !element.IsObject() {
		return nil, errors.New("not an object")
	}
	for path, values := range f.When {
		if !slices.Contains(values, value(element.Get(path))) {
			return []trigger.Event{{Ignored: otherEvent}}, nil
		}
	}
	registry, path := registryAddress(one(element, f.Registry))
	img := trigger.Image{
		Registry:   registry,
		Repository: one(element, f.Repository),
		Digest:     one(element, f.Digest),
	}
	if first, rest, ok := strings.Cut(img.Repository, "/"); ok && trigger.IsRegistry(first) && (img.Registry == "" || strings.EqualFold(img.Registry, first)) {
		img.Registry, img.Repository = first, rest
	}
	tags := several(element, f.Tag)
	if ref := one(element, f.Image); ref != "" {
		whole, err := trigger.ParseImage(ref)
		if err != nil {
			return nil, err
		}
		if img.Registry != "" && !strings.Contains(ref, "/") {
			whole.Repository = strings.TrimPrefix(whole.Repository, "library/") // it is not Docker Hub's
		}
		img.Registry = cmp.Or(img.Registry, whole.Registry)
		img.Repository = cmp.Or(img.Repository, whole.Repository)
		img.Digest = cmp.Or(img.Digest, whole.Digest)
		if len(tags) == 0 && whole.Tag != "" {
			tags = []string{whole.Tag}
		}
	}
	if img.Repository == "" {
		return nil, errors.New("no image and no repository")
	}
	if path != "" && !strings.HasPrefix(img.Repository, path+"/") {
		img.Repository = path + "/" + img.Repository
	}
	if len(tags) == 0 {
		tags = []string{""}
	}
	e := trigger.Event{
		ID:         one(element, f.ID),
		Action:     trigger.Push,
		Actor:      one(element, f.Actor),
		OccurredAt: moment(json.RawMessage(find(element, f.Time, isScalar).Raw), time.UTC),
	}
	var all []trigger.Event
	var first error
	bad := 0
	for _, tag := range tags {
		if _, err := trigger.NewImage(img.Registry, img.Repository, tag, img.Digest); err != nil {
			first = cmp.Or(first, err)
			bad++
			all = append(all, unreadable(err))
			continue
		}
		e.Ignored = manifest{tag: tag}.ignored()
		all = append(all, named(e, img.Registry, img.Repository, tag, img.Digest))
	}
	if bad == len(all) {
		return nil, first
	}
	return all, nil
}

// registryAddress is the host in what somebody calls a registry, and the path
// that all names of images there begin with: ghcr.io/dockyard, or none in
// https://index.docker.io/v1/, for that one is of the API.
func registryAddress(s string) (host, path string) {
	if _, rest, ok := strings.Cut(s, "://"); ok {
		s = rest
	}
	host, path, _ = strings.Cut(s, "/")
	if path = strings.Trim(path, "/"); path == "v1" || path == "v2" {
		path = ""
	}
	return host, path
}

// find gives what the first of the paths yields that yields something of use.
func find(element gjson.Result, from paths, of func(gjson.Result) bool) gjson.Result {
	for _, path := range from {
		if r := element.Get(path); of(r) {
			return r
		}
	}
	return gjson.Result{}
}

func isScalar(r gjson.Result) bool { return scalar(r) != "" }

func one(element gjson.Result, from paths) string { return scalar(find(element, from, isScalar)) }

// several are the strings of a list; a string is a list of one.
func several(element gjson.Result, from paths) []string {
	of := func(r gjson.Result) []string {
		var all []string
		for _, item := range r.Array() { // what is no list is one of one
			if s := scalar(item); s != "" {
				all = append(all, s)
			}
		}
		return all
	}
	return of(find(element, from, func(r gjson.Result) bool { return len(of(r)) > 0 }))
}

// scalar is a string, or a number as it is written: the tag 1.10 is not 1.1.
func scalar(r gjson.Result) string {
	switch r.Type {
	case gjson.String:
		return strings.TrimSpace(r.Str) // a file's last line ends, as scripts read it
	case gjson.Number:
		return r.Raw
	}
	return ""
}

// value is a scalar or a truth value, as `when` compares it.
func value(r gjson.Result) string {
	if r.IsBool() {
		return r.Raw
	}
	return scalar(r)
}

// sample is a delivery in which the source finds the image. Nothing can be put
// where a path leads by more than keys and positions.
func (f fields) sample(img trigger.Image, at time.Time) (http.Header, []byte) {
	var element any = map[string]any{}
	put := func(at paths, text string) bool {
		i := slices.IndexFunc(at, plainPath.MatchString)
		if i >= 0 && text != "" {
			element = place(element, strings.Split(at[i], "."), text)
		}
		return i >= 0
	}
	if !put(f.Image, img.Pinned()) {
		put(f.Registry, img.Registry)
		put(f.Repository, img.Repository)
		put(f.Tag, img.Tag)
		put(f.Digest, img.Digest)
	}
	put(f.Actor, "dockbell")
	put(f.ID, inventUUID())
	put(f.Time, at.UTC().Format(time.RFC3339Nano))
	for _, path := range f.all()["when"] {
		put(paths{path}, f.When[path][0])
	}
	if plainPath.MatchString(f.Events) {
		element = place(nil, strings.Split(f.Events, "."), []any{element})
	}
	body, _ := json.Marshal(element) // strings always marshal
	return http.Header{"Content-Type": {"application/json"}}, body
}

// plainPath is one of keys, positions in a list, and # for all of a list.
var plainPath = regexp.MustCompile(`^[A-Za-z0-9_-]+(?:\.#\.[A-Za-z0-9_-]+|\.[A-Za-z0-9_-]+)*$`)

// place puts something into a document, which grows as it must.
func place(into any, keys []string, what any) any {
	if len(keys) == 0 {
		return what
	}
	if position, err := strconv.ParseUint(keys[0], 10, 8); err == nil || keys[0] == "#" {
		list, _ := into.([]any)
		for len(list) <= int(position) {
			list = append(list, nil)
		}
		list[position] = place(list[position], keys[1:], what)
		return list
	}
	object, ok := into.(map[string]any)
	if !ok {
		object = map[string]any{}
	}
	object[keys[0]] = place(object[keys[0]], keys[1:], what)
	return object
}
