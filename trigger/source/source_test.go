package source

import (
	"bufio"
	"bytes"
	"errors"
	"flag"
	"net/http"
	"net/textproto"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"

	"github.com/go-json-experiment/json/v1"

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
	s := Load("dock", n, Outside{})
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

// delivery is a request of testdata: NAME.json, or NAME.form for a form, and
// NAME.header with the headers that the parser needs, where it needs any.
type delivery struct {
	header http.Header
	body   []byte
}

// cases are the sample deliveries of a type, by name.
func cases(t testing.TB, kind string) map[string]delivery {
	t.Helper()
	found := map[string]delivery{}
	for _, ext := range []string{".json", ".form"} {
		paths, err := filepath.Glob(filepath.Join(samples, kind, "*"+ext))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			body, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			name := strings.TrimSuffix(path, ext)
			found[filepath.Base(name)] = delivery{readHeader(t, name+".header", ext), body}
		}
	}
	if len(found) == 0 {
		t.Fatalf("no samples for %s", kind)
	}
	return found
}

// readHeader reads a file of headers as HTTP has them; there may be none.
func readHeader(t testing.TB, path, ext string) http.Header {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	h, err := textproto.NewReader(bufio.NewReader(strings.NewReader(strings.TrimSpace(string(text)) + "\n\n"))).ReadMIMEHeader()
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	if ext == ".form" {
		h.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	return http.Header(h)
}

func TestGolden(t *testing.T) {
	for _, kind := range Types() {
		s := open(t, kind)
		for name, d := range cases(t, kind) {
			t.Run(kind+"/"+name, func(t *testing.T) {
				events, err := s.Parse(d.header, d.body)
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
	for _, kind := range Types() {
		refused(t, kind, everywhere)
	}
}

// refused checks that bodies, by what is wrong with them, are no deliveries of
// the kind, and that the error says what was expected.
func refused(t *testing.T, kind string, bodies map[string]string) {
	s := open(t, kind)
	for name, body := range bodies {
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

	n, err := strictyaml.Parse("f", strings.NewReader("{type: distribution, auth: none}"))
	if err != nil {
		t.Fatal(err)
	}
	aliased := Load("dock", n, Outside{Aliases: trigger.Aliases{"registry:5000": "registry.example.com"}})
	events, err := aliased.Parse(nil, []byte(`{"events": [{"action": "push", "target": {"repository": "barge", "tag": "1"}, "request": {"host": "REGISTRY:5000"}}]}`))
	if err != nil || events[0].String() != "registry.example.com/barge:1" {
		t.Errorf("by an alias: got %v, %v", events, err)
	}

	// A reference without a host is of the registry that the source names.
	local := mustLoad(t, "{type: generic-json, auth: none, registry: yard.example}")
	if events, err = local.Parse(nil, []byte(`{"image": "barge:1"}`)); err != nil || events[0].String() != "yard.example/barge:1" {
		t.Errorf("without a host: got %v, %v", events, err)
	}

	// A name without a namespace gets its own on Docker Hub only.
	s := mustLoad(t, "{type: distribution, auth: none, registry: docker.io}")
	events, err = s.Parse(nil, []byte(`{"events": [{"action": "push", "target": {"repository": "barge", "tag": "1"}}, {"action": "pull"}]}`))
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

// fuzzParse fuzzes a parser with bodies, under the headers of the samples.
func fuzzParse(f *testing.F, kind string) {
	var headers []http.Header
	for _, d := range cases(f, kind) {
		f.Add(len(headers), d.body)
		headers = append(headers, d.header)
	}
	s := open(f, kind)
	f.Fuzz(func(t *testing.T, header int, body []byte) {
		h := headers[uint(header)%uint(len(headers))]
		if r := s.Handshake(h, body); r != nil && r.Status != 200 {
			t.Errorf("answered %+v", r)
		}
		events, err := s.Parse(h, body)
		if err != nil {
			if events != nil || errors.Is(err, ErrUnauthorized) {
				t.Errorf("%v with %v", events, err)
			}
			return
		}
		checkEvents(t, events)
	})
}

// BenchmarkParse parses the sample named push of each sender.
func BenchmarkParse(b *testing.B) {
	for _, kind := range Types() {
		b.Run(kind, func(b *testing.B) {
			s, d := open(b, kind), cases(b, kind)["push"]
			b.SetBytes(int64(len(d.body)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.Parse(d.header, d.body); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
