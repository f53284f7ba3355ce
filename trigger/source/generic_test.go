package source

import (
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json/v1"

	"github.com/dockbell/dockbell/trigger"
	"github.com/dockbell/dockbell/trigger/strictyaml"
)

// described makes a source of the fields.
func described(t testing.TB, fields string) *Source {
	t.Helper()
	return mustLoad(t, "{type: generic-json, auth: none, fields: "+fields+"}")
}

// shown are the images of events, or why they are ignored.
func shown(events []trigger.Event) []string {
	var all []string
	for _, e := range events {
		switch {
		case e.Ignored != "":
			all = append(all, "ignored: "+e.Ignored)
		default:
			all = append(all, e.Pinned())
		}
	}
	return all
}

func TestGenericFields(t *testing.T) {
	const digest = "sha256:6b1f0c2d3e4a5968778695a4b3c2d1e0f9e8d7c6b5a4938271605f4e3d2c1b0a"
	parts := "{registry: host, repository: repo.name, tag: repo.tags, digest: manifest.digest}"
	push := "{image: image, when: {type: [push, PUSH], 'data.ok': true, version: 2}}"
	batch := "{events: data.items, image: image, actor: user.name, id: id, when: {kind: push}}"
	tests := []struct {
		name, fields, body string
		want               []string // none: an error
	}{
		{"nested", "{image: data.artifact.reference}", `{"data": {"artifact": {"reference": "registry.example.com/dockyard/pilot:2.7.1"}}}`, []string{"registry.example.com/dockyard/pilot:2.7.1"}},
		{"position in a list", "{image: 'artifacts.1.image'}", `{"artifacts": [{"image": "a/b:1"}, {"image": "a/c:2"}]}`, []string{"docker.io/a/c:2"}},
		{"key with a dot", `{image: 'image\.ref'}`, `{"image.ref": "a/b:1"}`, []string{"docker.io/a/b:1"}},
		{"one of a list by its value", `{image: 'parts.#(kind=="image").ref'}`, `{"parts": [{"kind": "chart", "ref": "a/c:1"}, {"kind": "image", "ref": "a/b:1"}]}`, []string{"docker.io/a/b:1"}},
		{"the usual ones do not count", "{image: ref}", `{"image": "a/b:1"}`, nil},

		{"parts", parts, `{"host": "registry.example.com", "repo": {"name": "dockyard/pilot", "tags": "2.7.1"}, "manifest": {"digest": "` + digest + `"}}`, []string{"registry.example.com/dockyard/pilot:2.7.1@" + digest}},
		{"parts, a list of tags", parts, `{"host": "registry.example.com", "repo": {"name": "dockyard/pilot", "tags": ["2.7.1", "2.7", 1.10]}}`, []string{"registry.example.com/dockyard/pilot:2.7.1", "registry.example.com/dockyard/pilot:2.7", "registry.example.com/dockyard/pilot:1.10"}},
		{"parts, no tags", parts, `{"host": "registry.example.com", "repo": {"name": "dockyard/pilot", "tags": []}, "manifest": {"digest": "` + digest + `"}}`, []string{"registry.example.com/dockyard/pilot@" + digest}},
		{"parts, no host", parts, `{"repo": {"name": "dockyard/pilot", "tags": "1"}}`, []string{"dockyard/pilot:1"}},
		{"parts, a tag that is a digest", parts, `{"repo": {"name": "dockyard/pilot", "tags": "` + digest + `"}}`, []string{"dockyard/pilot@" + digest}},
		{"parts, neither tag nor digest", parts, `{"repo": {"name": "dockyard/pilot"}}`, []string{"ignored: neither tag nor digest"}},
		{"parts, a bad tag among good", parts, `{"repo": {"name": "dockyard/pilot", "tags": ["1", "a b"]}}`, []string{"dockyard/pilot:1", `ignored: unreadable: tag "a b" is not a tag`}},
		{"parts, bad tags only", parts, `{"repo": {"name": "dockyard/pilot", "tags": ["a b"]}}`, nil},
		{"parts, an address for the host", parts, `{"host": "https://registry.example.com/v2/", "repo": {"name": "dockyard/pilot", "tags": "1"}}`, []string{"registry.example.com/dockyard/pilot:1"}},
		{"parts, a path below the host", parts, `{"host": "registry.example.com/dockyard", "repo": {"name": "night/pilot", "tags": "1"}}`, []string{"registry.example.com/dockyard/night/pilot:1"}},
		{"parts, the path in the name, too", parts, `{"host": "registry.example.com/dockyard/", "repo": {"name": "dockyard/pilot", "tags": "1"}}`, []string{"registry.example.com/dockyard/pilot:1"}},
		{"parts, the whole address in the name, too", parts, `{"host": "registry.example.com/dockyard", "repo": {"name": "registry.example.com/dockyard/pilot", "tags": "1"}}`, []string{"registry.example.com/dockyard/pilot:1"}},
		{"a path below the host beside a name", "{image: image, registry: host}", `{"host": "registry.example.com/dockyard", "image": "pilot:1"}`, []string{"registry.example.com/dockyard/pilot:1"}},
		{"parts, bad host", parts, `{"host": "registry example", "repo": {"name": "dockyard/pilot", "tags": "1"}}`, nil},
		{"parts, a host in the name", parts, `{"repo": {"name": "registry.example.com:5000/dockyard/pilot", "tags": "1"}}`, []string{"registry.example.com:5000/dockyard/pilot:1"}},
		{"parts, the host in the name, too", parts, `{"host": "registry.example.com", "repo": {"name": "Registry.example.com/dockyard/pilot", "tags": "1"}}`, []string{"registry.example.com/dockyard/pilot:1"}},
		{"parts, a project like a host", parts, `{"host": "gcr.io", "repo": {"name": "example.com/dockyard/pilot", "tags": "1"}}`, []string{"gcr.io/example.com/dockyard/pilot:1"}},
		{"parts, bad name", parts, `{"repo": {"name": "dockyard//pilot", "tags": "1"}}`, nil},
		{"parts, no name", parts, `{"repo": {"tags": "1"}}`, nil},
		{"parts, the name is a list", parts, `{"repo": {"name": ["dockyard/pilot"], "tags": "1"}}`, nil},
		{"tags of a list of objects", "{repository: repo, tag: 'tags.#.name'}", `{"repo": "dockyard/pilot", "tags": [{"name": "1"}, {"x": 1}, {"name": "2"}]}`, []string{"dockyard/pilot:1", "dockyard/pilot:2"}},

		{"first path that yields something", "{image: [new.image, old.image, images], tag: [tags, tag]}", `{"new": {"image": ""}, "old": {"image": "a/b"}, "tags": [], "tag": "3"}`, []string{"docker.io/a/b:3"}},
		{"a list is no image", "{image: [images, image]}", `{"images": ["a/b:1"], "image": "a/c:1"}`, []string{"docker.io/a/c:1"}},
		{"tags that are nothing", "{image: image, tag: [tags, tag]}", `{"image": "a/b:0", "tags": [null, "", {}], "tag": "1"}`, []string{"docker.io/a/b:1"}},
		{"no path yields anything", "{image: [a, b]}", `{"c": 1}`, nil},

		{"registry beside a name without", "{image: image, registry: host}", `{"image": "pilot:1", "host": "registry.example.com"}`, []string{"registry.example.com/pilot:1"}},
		{"registry beside a path without", "{image: image, registry: host}", `{"image": "dockyard/pilot:1", "host": "registry.example.com"}`, []string{"registry.example.com/dockyard/pilot:1"}},
		{"registry beside a library", "{image: image, registry: host}", `{"image": "library/pilot:1", "host": "registry.example.com"}`, []string{"registry.example.com/library/pilot:1"}},
		{"Docker Hub beside a name without", "{image: image, registry: host}", `{"image": "barge:1", "host": "index.docker.io"}`, []string{"docker.io/library/barge:1"}},
		{"registry beside another", "{image: image, registry: host}", `{"image": "registry.example.com:5000/pilot:1", "host": "mirror.example.com"}`, []string{"mirror.example.com/pilot:1"}},

		{"what it says is a push", push, `{"type": "PUSH", "data": {"ok": true}, "version": 2, "image": "a/b:1"}`, []string{"docker.io/a/b:1"}},
		{"numbers as strings", push, `{"type": "push", "data": {"ok": "true"}, "version": "2", "image": "a/b:1"}`, []string{"docker.io/a/b:1"}},
		{"another type", push, `{"type": "pull", "data": {"ok": true}, "version": 2, "image": "a/b:1"}`, []string{"ignored: other-event"}},
		{"another truth", push, `{"type": "push", "data": {"ok": false}, "version": 2, "image": "a/b:1"}`, []string{"ignored: other-event"}},
		{"no type", push, `{"data": {"ok": true}, "version": 2, "image": "a/b:1"}`, []string{"ignored: other-event"}},
		{"type is null", push, `{"type": null, "data": {"ok": true}, "version": 2, "image": "a/b:1"}`, []string{"ignored: other-event"}},
		{"another type without an image", push, `{"type": "ping"}`, []string{"ignored: other-event"}},
		{"not even an object", push, `"push"`, nil},

		{"several events", batch, `{"data": {"items": [{"kind": "push", "image": "a/b:1"}, {"kind": "pull", "image": "a/b:1"}, {"kind": "push", "image": "a/c:2"}]}}`, []string{"docker.io/a/b:1", "ignored: other-event", "docker.io/a/c:2"}},
		{"one event", batch, `{"data": {"items": {"kind": "push", "image": "a/b:1"}}}`, []string{"docker.io/a/b:1"}},
		{"no events", batch, `{"data": {"items": []}}`, []string{}},
		{"nothing where events should be", batch, `{"items": []}`, nil},
		{"a string where events should be", batch, `{"data": {"items": "push"}}`, nil},
		{"null where events should be", batch, `{"data": {"items": null}}`, nil},
		{"bad among good", batch, `{"data": {"items": [{"kind": "push", "image": "a b"}, {"kind": "push", "image": "a/b:1"}]}}`, []string{`ignored: unreadable: image "a b": repository "a b" is not a repository name`, "docker.io/a/b:1"}},
		{"bad among other events", batch, `{"data": {"items": [{"kind": "push"}, {"kind": "pull"}]}}`, []string{"ignored: unreadable: no image and no repository", "ignored: other-event"}},
		{"bad only", batch, `{"data": {"items": [{"kind": "push"}, {"kind": "push", "image": "a b"}]}}`, nil},
		{"a list of lists", batch, `{"data": {"items": [[{"kind": "push", "image": "a/b:1"}]]}}`, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			events, err := described(t, tt.fields).Parse(http.Header{}, []byte(tt.body))
			if (err != nil) != (tt.want == nil) {
				t.Fatalf("got %q, %v, want %q", shown(events), err, tt.want)
			}
			if err != nil {
				if !strings.HasPrefix(err.Error(), "not a valid delivery: expected JSON that has the image where the source's fields say: ") {
					t.Errorf("got %v", err)
				}
				return
			}
			checkEvents(t, events)
			if got := shown(events); !slices.Equal(got, tt.want) {
				t.Errorf("got  %q\nwant %q", got, tt.want)
			}
		})
	}
}

func TestGenericDetails(t *testing.T) {
	s := described(t, "{image: ref, actor: [by.login, by], id: [uuid, number], time: [at, seconds]}")
	at := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	for _, tt := range []struct {
		body, actor, id string
		at              time.Time
	}{
		{`{"ref": "a/b:1", "by": {"login": "crane"}, "uuid": "x-1", "at": "2026-03-04T05:06:07Z"}`, "crane", "x-1", at},
		{`{"ref": "a/b:1", "by": "crane", "number": 12345678901234567890, "seconds": 1772600767}`, "crane", "12345678901234567890", at},
		{`{"ref": "a/b:1", "seconds": "1772600767"}`, "", "", at},
		{`{"ref": "a/b:1", "at": "2026-03-04T06:06:07+01:00"}`, "", "", at},
		{`{"ref": "a/b:1", "at": "yesterday", "by": {"x": 1}, "uuid": {}}`, "", "", time.Time{}},
		{`{"ref": "a/b:1", "by": "cra\u0007ne\n"}`, "crane", "", time.Time{}},
	} {
		events, err := s.Parse(nil, []byte(tt.body))
		if err != nil || len(events) != 1 {
			t.Errorf("%s: %v, %v", tt.body, events, err)
			continue
		}
		if e := events[0]; e.Actor != tt.actor || e.ID != tt.id || !e.OccurredAt.Equal(tt.at) {
			t.Errorf("%s: %+v", tt.body, e)
		}
	}
}

func TestGenericRegistryOfTheSource(t *testing.T) {
	s := mustLoad(t, "{type: generic-json, auth: none, registry: registry.example.com, fields: {image: image, repository: repo, tag: tag}}")
	for body, want := range map[string]string{
		`{"repo": "dockyard/pilot", "tag": "1"}`:             "registry.example.com/dockyard/pilot:1",
		`{"repo": "pilot", "tag": "1"}`:                      "registry.example.com/pilot:1",
		`{"image": "dockyard/pilot:1"}`:                      "registry.example.com/dockyard/pilot:1",
		`{"image": "other.example.com:5000/pilot", "tag":1}`: "registry.example.com/pilot:1",
	} {
		events, err := s.Parse(nil, []byte(body))
		if err != nil || len(events) != 1 || events[0].Image.String() != want {
			t.Errorf("%s: %v, %v, want %s", body, events, err, want)
		}
	}
}

func TestNotGeneric(t *testing.T) {
	refused(t, genericType, map[string]string{
		"empty object":       `{}`,
		"no image":           `{"tag": "1", "actor": "crane"}`,
		"empty image":        `{"image": "", "tag": "1"}`,
		"image null":         `{"image": null}`,
		"image a number":     `{"image": 1.5.0}`,
		"image a list":       `{"image": ["a/b:1"]}`,
		"bad image":          `{"image": "a b:1"}`,
		"image with options": `{"image": "--privileged"}`,
		"address":            `{"image": "https://registry.example.com/a/b:1"}`,
		"empty tag":          `{"image": "a/b:"}`,
		"bad digest":         `{"image": "a/b@sha256:12"}`,
		"bad tag":            `{"image": "a/b", "tag": "1;reboot"}`,
		"bad tag in a list":  `{"image": "a/b", "tag": ["1;reboot"]}`,
		"bad registry":       `{"registry": "../x", "repository": "a/b", "tag": "1"}`,
		"list of strings":    `["a/b:1"]`,
		"list of nothing":    `[{}]`,
		"long":               `{"image": "` + strings.Repeat("a", 1<<16) + `:1"}`,
	})
	s := open(t, genericType)
	form := http.Header{"Content-Type": {"application/x-www-form-urlencoded; charset=utf-8"}}
	for _, body := range []string{"", "hello", "hello=", "image=a+b:1", "%zz=1", "image={}", "payload=", "payload={", "payload=%zz", "x=1&payload=%5B1%5D"} {
		if events, err := s.Parse(form, []byte(body)); err == nil {
			t.Errorf("form %q gives %v", body, events)
		}
	}
}

// documented are the sources and the blocks of code of a page for operators.
func documented(t *testing.T, page string) (sources []*Source, code map[string][]string) {
	t.Helper()
	text, err := os.ReadFile("../../docs/sources/" + page)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range regexp.MustCompile(`env: ([A-Z_]+)`).FindAllStringSubmatch(string(text), -1) {
		t.Setenv(name[1], token)
	}
	code = map[string][]string{}
	for _, block := range regexp.MustCompile("(?s)```([a-z]+)\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
		code[block[1]] = append(code[block[1]], block[2])
		if block[1] != "yaml" || !strings.HasPrefix(block[2], "sources:") {
			continue
		}
		n, err := strictyaml.Parse(page, strings.NewReader(block[2]))
		if err != nil {
			t.Fatal(err)
		}
		all := n.Key("sources")
		for _, name := range all.Keys() {
			if s := Load("dock", all.Key(name), Outside{}); s != nil {
				sources = append(sources, s)
			}
		}
		if err := n.Err(); err != nil {
			t.Fatal(err)
		}
	}
	return sources, code
}

// The examples for operators do what is said of them.
func TestGenericDocumentation(t *testing.T) {
	sources, code := documented(t, "generic-json.md")
	if len(sources) != 2 || len(code["sh"]) != 1 || len(code["json"]) != 1 {
		t.Fatalf("%d sources, %d bodies", len(sources), len(code["json"]))
	}
	_, call, _ := strings.Cut(code["sh"][0], `-d "`)
	body := strings.NewReplacer(`\"`, `"`, "$CI_COMMIT_TAG", "v1.4.0", "$CI_PIPELINE_ID", "4711").Replace(strings.TrimSuffix(call, "\"\n"))
	for i, tt := range []struct {
		body string
		want []string
	}{
		{body, []string{"registry.example.com/shop/web:v1.4.0"}},
		{code["json"][0], []string{"yard.example.com/shop/web:1.10.2", "yard.example.com/shop/web:1.10"}},
	} {
		events, err := sources[i].Parse(http.Header{}, []byte(tt.body))
		if err != nil {
			t.Fatalf("%v: %s", err, tt.body)
		}
		var got []string
		for _, e := range events {
			got = append(got, e.Image.String())
			if e.Key() == "" || e.Ignored != "" || (i == 1) != (e.Digest != "" && e.Actor == "crane") {
				t.Errorf("got %+v", e)
			}
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("got %q, want %q", got, tt.want)
		}
	}
	if sources, _ := documented(t, "auto.md"); len(sources) != 1 || len(sources[0].senders) != 3 {
		t.Errorf("got %+v", sources)
	}
}

// The work for one body is bounded by its size, not by the square of it.
func TestGenericManyTags(t *testing.T) {
	body := `{"image": "a/b", "tag": [` + strings.TrimSuffix(strings.Repeat(`"1",`, 200_000), ",") + `], "actor": "crane"}`
	began := time.Now()
	events, err := open(t, genericType).Parse(nil, []byte(body))
	if err != nil || len(events) != 200_000 {
		t.Fatalf("%d events, %v", len(events), err)
	}
	if took := time.Since(began); took > time.Minute {
		t.Errorf("took %s", took)
	}
}

func TestFieldsFaults(t *testing.T) {
	for _, tt := range []struct {
		fields string
		want   []string
	}{
		{"{}", []string{"dockbell.yaml:3: fields: needs image or repository"}},
		{"", []string{"dockbell.yaml:3: fields: needs image or repository"}},
		{"[image]", []string{"dockbell.yaml:3: fields: must be a mapping"}},
		{"{image: }", []string{"dockbell.yaml:3: fields: needs image or repository"}},
		{"{tag: x}", []string{"dockbell.yaml:3: fields: needs image or repository"}},
		{"{repository: x}", []string{"dockbell.yaml:3: fields: needs tag or digest"}},
		{"{repository: x, registry: y, actor: z}", []string{"dockbell.yaml:3: fields: needs tag or digest"}},
		{"{image: ''}", []string{"dockbell.yaml:3: fields.image: a path is empty"}},
		{"{image: x, tag: [y, ''], when: {'': push}}", []string{"dockbell.yaml:3: fields.tag: a path is empty", "dockbell.yaml:3: fields.when: a path is empty"}},
		{"{image: {path: x}}", []string{"dockbell.yaml:3: fields.image: must be a list, not a mapping"}},
		{"{images: x}", []string{`dockbell.yaml:3: fields: unknown key "images"; known are actor, digest, events, id, image, registry, repository, tag, time, when`}},
		{"{image: x, when: push}", []string{"dockbell.yaml:3: fields.when: must be a mapping, not a string"}},
		{"{image: x, when: {type: }}", []string{"dockbell.yaml:3: fields.when.type: needs a value, or a list of them"}},
		{"{image: x, when: {type: []}}", []string{"dockbell.yaml:3: fields.when.type: needs a value, or a list of them"}},
		{"{image: x, events: [y]}", []string{"dockbell.yaml:3: fields.events: must be a string, not a list"}},
	} {
		_, err := load(t, "type: generic-json\nauth: none\nfields: "+tt.fields)
		if err == nil {
			t.Errorf("%s: no fault", tt.fields)
			continue
		}
		for _, want := range tt.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s:\ngot  %v\nwant %s", tt.fields, err, want)
			}
		}
		if n := strings.Count(err.Error(), "\n") + 1; n != len(tt.want) {
			t.Errorf("%s: %d faults: %v", tt.fields, n, err)
		}
	}
}

// A sample is of the form that the source itself describes.
func TestGenericSamples(t *testing.T) {
	at := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	img := trigger.Image{Registry: "registry.example.com:5000", Repository: "dockyard/pilot", Tag: "2.7.1", Digest: inventDigest()}
	for _, tt := range []struct{ fields, body string }{
		{"{image: image}", `{"image": "IMAGE"}`},
		{"{image: data.artifact.ref, when: {type: [push, PUSH], data.ok: true}, actor: by.login}", `{"type": "push", "data": {"ok": "true", "artifact": {"ref": "IMAGE"}}, "by": {"login": "dockbell"}}`},
		{"{registry: host, repository: repo.name, tag: 'tags.#.name', digest: digest}", `{"host": "registry.example.com:5000", "repo": {"name": "dockyard/pilot"}, "tags": [{"name": "2.7.1"}], "digest": "DIGEST"}`},
		{"{events: data.items, image: ref, time: at}", `{"data": {"items": [{"ref": "IMAGE", "at": "2026-03-04T05:06:07Z"}]}}`},
		{"{image: [a|b, 'list.1.image']}", `{"list": [null, {"image": "IMAGE"}]}`},
		{"{image: '0.image', tag: '@this.tag'}", `[{"image": "IMAGE"}]`},
	} {
		s := described(t, tt.fields)
		r, err := s.Sample(img, at)
		if err != nil {
			t.Fatal(err)
		}
		want := strings.NewReplacer("IMAGE", img.Pinned(), "DIGEST", img.Digest).Replace(tt.body)
		if got, want := compact(t, r.Body), compact(t, []byte(want)); got != want {
			t.Errorf("%s:\ngot  %s\nwant %s", tt.fields, got, want)
		}
		if strings.HasPrefix(tt.body, "[") {
			continue // a list is one of events, whatever the fields say
		}
		events, err := s.Parse(r.Header, r.Body)
		if err != nil || len(events) != 1 || events[0].Image != img {
			t.Errorf("%s: %+v, %v", tt.fields, events, err)
		}
	}
	// A path that nothing can be put at leaves a sample that is none.
	r, err := described(t, `{image: 'parts.#(kind=="image").ref'}`).Sample(img, at)
	if err != nil || compact(t, r.Body) != "{}" {
		t.Errorf("got %s, %v", r.Body, err)
	}
}

// compact is the JSON with sorted keys and no blanks.
func compact(t *testing.T, body []byte) string {
	t.Helper()
	var v any
	if err := json.Unmarshal(body, &v); err != nil {
		t.Fatal(err)
	}
	out, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// FuzzParseGeneric fuzzes paths as well as bodies: both are somebody's text.
func FuzzParseGeneric(f *testing.F) {
	for _, d := range cases(f, genericType) {
		f.Add("image", "", d.body)
	}
	for _, path := range []string{
		"image", "name", "repo.name", "tags.#.name", "tags.#", "0.image", `image\.ref`, `parts.#(kind=="image").ref`, `parts.#(kind%"i*")#.ref`,
		"@this", "@reverse", "@flatten", "@join", "@values", "@keys", "@ugly", "@pretty", "@tostr|@fromstr", "@dig:image", "..#.image", "..0", "*", "?mage", "[image,name]", "{image,name}", "!\"a/b:1\"", "image|@valid", "#", "#.#", "a.b.c.d.e", "-1", "@", "#(", "#()#", "{", "[", "\\", ".", "|", "!", "~", "@pretty:{\"width\":1}",
	} {
		f.Add(path, path, []byte(`{"image": "registry.example.com/a/b:1", "repo": {"name": "a/b"}, "tags": [{"name": "1"}, {"name": "2"}], "parts": [{"kind": "image", "ref": "a/b:1"}], "image.ref": "a/b:1"}`))
		f.Add(path, "", []byte(`[{"image": "a/b:1"}, {"name": "a/c", "tag": 1.10}, null, [[]], "x"]`))
	}
	f.Fuzz(func(t *testing.T, path, events string, body []byte) {
		g := fields{Events: events, Image: paths{path, "image"}, Repository: paths{path}, Tag: paths{path, "tag"}, Digest: paths{path}, Time: paths{path}, ID: paths{path}, Actor: paths{path}, When: map[string]paths{}}
		if strings.Contains(path, "kind") {
			g.When[path] = paths{"image"}
		}
		s := &Source{Name: "dock", Type: genericType, sender: generic(g)}
		found, err := s.Parse(http.Header{}, body)
		if err != nil {
			if found != nil || !strings.HasPrefix(err.Error(), "not a valid delivery: expected JSON") {
				t.Errorf("%v with %v", found, err)
			}
			return
		}
		checkEvents(t, found)
		img := trigger.Image{Registry: "registry.example.com", Repository: "a/b", Tag: "1"}
		if _, body := g.sample(img, time.Now()); !json.Valid(body) {
			t.Errorf("the sample is no JSON: %s", body)
		}
	})
}
