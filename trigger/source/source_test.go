package source

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"

	"github.com/dockbell/dockbell/trigger"
	"github.com/dockbell/dockbell/trigger/strictyaml"
)

var update = flag.Bool("update", false, "write the golden files anew")

const samples = "../../testdata/sources"

// load makes a source of its YAML, or returns the faults that were found.
func load(t testing.TB, text string) (*Source, error) {
	t.Helper()
	n, err := strictyaml.Parse("dockbell.yaml", strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	s := Load("dock", n)
	if (s == nil) == (n.Err() == nil) {
		t.Fatalf("Load gave %v with faults %v", s, n.Err())
	}
	return s, n.Err()
}

func mustLoad(t testing.TB, text string) *Source {
	t.Helper()
	s, err := load(t, text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// open is a source of the type that shows all that its parser yields.
func open(t testing.TB, kind string) *Source {
	text := "{type: " + kind + ", auth: none}"
	if kind == "dockerhub" {
		text = "{type: dockerhub, auth: none, callback: true}"
	}
	return mustLoad(t, text)
}

// cases are the sample bodies of a type, by name.
func cases(t testing.TB, kind string) map[string][]byte {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(samples, kind, "*.json"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no samples for %s: %v", kind, err)
	}
	bodies := map[string][]byte{}
	for _, path := range paths {
		body, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		bodies[strings.TrimSuffix(filepath.Base(path), ".json")] = body
	}
	return bodies
}

func TestGolden(t *testing.T) {
	for _, kind := range Types() {
		s := open(t, kind)
		for name, body := range cases(t, kind) {
			t.Run(kind+"/"+name, func(t *testing.T) {
				events, err := s.Parse(http.Header{}, body)
				if err != nil {
					t.Fatal(err)
				}
				checkEvents(t, events)
				got, err := json.MarshalIndent(events, "", "  ")
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, '\n')
				golden := filepath.Join(samples, kind, name+".golden")
				if *update {
					if err := os.WriteFile(golden, got, 0o644); err != nil {
						t.Fatal(err)
					}
				}
				want, err := os.ReadFile(golden)
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(got, want) {
					t.Errorf("got %s\nwant %s", got, want)
				}
			})
		}
	}
}

// checkEvents checks what holds for every event of every sender.
func checkEvents(t testing.TB, events []trigger.Event) {
	t.Helper()
	for _, e := range events {
		if e.Source != "dock" {
			t.Errorf("source is %q", e.Source)
		}
		if e.Ignored == "" {
			img, err := trigger.NewImage(e.Registry, e.Repository, e.Tag, e.Digest)
			if err != nil || img != e.Image {
				t.Errorf("image %+v is not normal: %+v, %v", e.Image, img, err)
			}
			if e.Tag == "" && e.Digest == "" {
				t.Errorf("%+v has neither tag nor digest", e)
			}
			if e.Action != trigger.Push && e.Action != trigger.Delete {
				t.Errorf("action is %q", e.Action)
			}
		}
		for _, s := range []string{e.Registry, e.Repository, e.Tag, e.Digest, e.ID, e.Action, e.MediaType, e.Actor, e.Ignored, e.Callback} {
			if strings.ContainsFunc(s, func(r rune) bool { return r == unicode.ReplacementChar || !unicode.IsPrint(r) }) {
				t.Errorf("%q is not printable", s)
			}
		}
		if e.Callback != "" && !strings.HasPrefix(e.Callback, "https://registry.hub.docker.com") && !strings.HasPrefix(e.Callback, "https://hub.docker.com") {
			t.Errorf("callback %q is not Docker's", e.Callback)
		}
		if _, err := json.Marshal(e); err != nil {
			t.Error(err)
		}
	}
}

func TestNotADelivery(t *testing.T) {
	everywhere := map[string]string{
		"empty":            "",
		"blank":            " \n",
		"text":             "push",
		"string":           `"push"`,
		"number":           `1`,
		"null":             `null`,
		"cut off":          `{"events": [`,
		"trailing garbage": `{} {}`,
		"trailing brace":   `{"events": []}}`,
		"not UTF-8":        "{\"\xff\": }",
		"deep":             strings.Repeat("[", 1<<20),
		"deep object":      strings.Repeat(`{"a":`, 1<<18),
	}
	bodies := map[string]map[string]string{
		"distribution": {
			"other object":       `{"push_data": {}}`,
			"events no list":     `{"events": {}}`,
			"a list":             `[]`,
			"no object":          `{"events": [1, "x", null]}`,
			"older Harbor":       `{"event_type": "pushImage", "events": [{"repo_name": "pilot", "tag": "1"}]}`,
			"only one, illtyped": `{"events": [{"action": "push", "target": {"repository": "a/b", "tag": 1}}]}`,
		},
		"dockerhub": {
			"empty object":   `{}`,
			"a list":         `[]`,
			"no repository":  `{"push_data": {"tag": "1"}}`,
			"no push_data":   `{"repository": {"repo_name": "a/b"}}`,
			"no tag":         `{"push_data": {}, "repository": {"repo_name": "a/b"}}`,
			"no name":        `{"push_data": {"tag": "1"}, "repository": {}}`,
			"bad tag":        `{"push_data": {"tag": "1;reboot"}, "repository": {"repo_name": "a/b"}}`,
			"bad name":       `{"push_data": {"tag": "1"}, "repository": {"repo_name": "../b"}}`,
			"tag a number":   `{"push_data": {"tag": 1.0}, "repository": {"repo_name": "a/b"}}`,
			"more than that": `{"push_data": {"tag": "\d"}, "repository": {"repo_name": "a/b"}}`,
			"escape outside": `{\d "push_data": {"tag": "1"}, "repository": {"repo_name": "a/b"}}`,
			"bad \\u":        `{"push_data": {"tag": "1", "pusher": "\uZZZZ"}, "repository": {"repo_name": "a/b"}}`,
			"cut in escape":  `{"push_data": {"tag": "\`,
		},
		"aliyun": {
			"empty object":        `{}`,
			"a list":              `[]`,
			"no repository":       `{"push_data": {"tag": "1"}}`,
			"no push_data":        `{"repository": {"repo_full_name": "a/b"}}`,
			"no tag":              `{"push_data": {}, "repository": {"repo_full_name": "a/b"}}`,
			"no name":             `{"push_data": {"tag": "1"}, "repository": {}}`,
			"bad tag":             `{"push_data": {"tag": "$(id)"}, "repository": {"repo_full_name": "a/b"}}`,
			"event, no data":      `{"specversion": "1.0", "source": "acs.cr", "type": "cr:Artifact:PushCompleted"}`,
			"event, data is text": `{"specversion": "1.0", "source": "acs.cr", "type": "cr:Artifact:PushCompleted", "data": "x"}`,
		},
		"azure-eventgrid": {
			"empty object":   `{}`,
			"no type":        `[{"id": "1", "data": {"action": "push"}}]`,
			"no objects":     `[1, null, "x", []]`,
			"native webhook": `{"id": "1", "action": "push", "target": {"repository": "a", "tag": "1"}, "request": {"host": "dockyard.azurecr.io"}}`,
			"data no object": `[{"eventType": "ImagePushed", "data": "x"}]`,
		},
	}
	for _, kind := range Types() {
		s := open(t, kind)
		for _, set := range []map[string]string{everywhere, bodies[kind]} {
			for name, body := range set {
				t.Run(kind+"/"+name, func(t *testing.T) {
					events, err := s.Parse(http.Header{}, []byte(body))
					if err == nil {
						t.Fatalf("no error, but %+v", events)
					}
					if msg := err.Error(); !strings.HasPrefix(msg, "not a valid delivery: expected ") || len(msg) > 1000 {
						t.Errorf("error does not say what was expected, or too much: %.200s", msg)
					}
				})
			}
		}
	}
}

func TestErrorsSayWhatIsWrong(t *testing.T) {
	tests := []struct{ kind, body, want string }{
		{"distribution", `{"type": "PUSH_ARTIFACT", "event_data": {}}`, `not a valid delivery: expected the envelope of a distribution registry, {"events": […]}: no events, but event_data, type`},
		{"distribution", `{"events": [{"action": "push", "target": {"tag": 1}}]}`, `not a valid delivery: expected the envelope of a distribution registry, {"events": […]}: event 0: target.tag is of type number`},
		{"dockerhub", `{"push_data": {"tag": "1"}`, `not a valid delivery: expected a push of Docker Hub, {"push_data": {…}, "repository": {…}}: not JSON: unexpected end of JSON input at byte 26`},
		{"aliyun", `[]`, `not a valid delivery: expected a push of Alibaba Cloud Container Registry, {"push_data": {…}, "repository": {…}}, or its event of EventBridge: it is of type array`},
		{"azure-eventgrid", `{}`, `not a valid delivery: expected events of Event Grid with eventType, or CloudEvents with type: event 0: no type of event`},
	}
	for _, tt := range tests {
		_, err := open(t, tt.kind).Parse(nil, []byte(tt.body))
		if err == nil || err.Error() != tt.want {
			t.Errorf("%s %s:\n got %v\nwant %s", tt.kind, tt.body, err, tt.want)
		}
	}
}

func TestConfiguredRegistry(t *testing.T) {
	body := []byte(`{"push_data": {"tag": "1"}, "repository": {"repo_full_name": "dockyard/pilot", "region": "cn-hangzhou"}}`)
	tests := []struct{ registry, want string }{
		{"yard-registry.cn-hangzhou.cr.aliyuncs.com", "yard-registry.cn-hangzhou.cr.aliyuncs.com/dockyard/pilot:1"},
		{"Yard.Example:5000", "yard.example:5000/dockyard/pilot:1"},
		{"index.docker.io", "docker.io/dockyard/pilot:1"},
	}
	for _, tt := range tests {
		s := mustLoad(t, "{type: aliyun, auth: none, registry: '"+tt.registry+"'}")
		events, err := s.Parse(nil, body)
		if err != nil || events[0].String() != tt.want {
			t.Errorf("registry %s: got %v, %v, want %s", tt.registry, events, err, tt.want)
		}
	}

	// A name without a namespace gets its own on Docker Hub only.
	s := mustLoad(t, "{type: distribution, auth: none, registry: docker.io}")
	events, err := s.Parse(nil, []byte(`{"events": [{"action": "push", "target": {"repository": "barge", "tag": "1"}}, {"action": "pull"}]}`))
	if err != nil || events[0].String() != "docker.io/library/barge:1" {
		t.Errorf("got %v, %v", events, err)
	}
	checkEvents(t, events)
}

func TestPrintable(t *testing.T) {
	tests := map[string]string{
		"crane":                        "crane",
		"Köln 港":                       "Köln 港",
		"a\nb\x1b[31m\x00\u202ec":      "ab[31mc",
		"\xff\xfe":                     "",
		strings.Repeat("a", 300):       strings.Repeat("a", 256),
		strings.Repeat("ä", 200):       strings.Repeat("ä", 128),
		"a" + strings.Repeat("ä", 200): "a" + strings.Repeat("ä", 127),
	}
	for in, want := range tests {
		if got := printable(in); got != want {
			t.Errorf("printable(%q) = %q, want %q", in, got, want)
		}
	}
}

func FuzzParseAliyun(f *testing.F)       { fuzzParse(f, "aliyun") }
func FuzzParseEventGrid(f *testing.F)    { fuzzParse(f, "azure-eventgrid") }
func FuzzParseDistribution(f *testing.F) { fuzzParse(f, "distribution") }
func FuzzParseDockerHub(f *testing.F)    { fuzzParse(f, "dockerhub") }

func fuzzParse(f *testing.F, kind string) {
	for _, body := range cases(f, kind) {
		f.Add(body)
	}
	s := open(f, kind)
	f.Fuzz(func(t *testing.T, body []byte) {
		if r := s.Handshake(http.Header{}, body); r != nil && r.Status != 200 {
			t.Errorf("answered %+v", r)
		}
		events, err := s.Parse(http.Header{}, body)
		if err != nil {
			if events != nil || errors.Is(err, ErrUnauthorized) {
				t.Errorf("%v with %v", events, err)
			}
			return
		}
		checkEvents(t, events)
	})
}

func BenchmarkParse(b *testing.B) {
	for kind, name := range map[string]string{
		"aliyun": "push", "azure-eventgrid": "push", "distribution": "push-tag", "dockerhub": "push",
	} {
		b.Run(kind, func(b *testing.B) {
			s, body := open(b, kind), cases(b, kind)[name]
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.Parse(nil, body); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
