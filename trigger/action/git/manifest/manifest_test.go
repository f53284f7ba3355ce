package manifest

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"

	"github.com/dockbell/dockbell/trigger"
	"github.com/dockbell/dockbell/trigger/fieldpath"
)

var update = flag.Bool("update", false, "write the goldens in testdata/git anew")

const digest = "sha256:3333333333333333333333333333333333333333333333333333333333333333"

var web = Image{
	Image:   trigger.Image{Registry: "registry.example.com", Repository: "shop/web", Tag: "v1.3.0", Digest: digest},
	Aliases: trigger.Aliases{"registry:5000": "registry.example.com"},
}

func pinned(i Image) Image { i.Pin = true; return i }

func path(t testing.TB, s string) fieldpath.Path {
	t.Helper()
	p, err := fieldpath.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Every file of testdata/git is changed as its users would have it; the golden
// beside it is what must come of it.
func TestGoldens(t *testing.T) {
	for name, tt := range map[string]struct {
		image  Image
		places []Place
	}{
		"kustomization.yaml":           {web, []Place{Kustomize("registry.example.com/shop/web")}},
		"kustomization-digest.yaml":    {web, []Place{Kustomize("web")}},
		"values.yaml":                  {web, []Place{Helm(path(t, "web.image")), Text(path(t, "web.labels.version"), "1.3.0")}},
		"values-of-parts.yaml":         {pinned(web), []Place{Helm(path(t, "image")), Helm(path(t, "sidecars[name=copy].image"))}},
		"values-crlf-bom.yaml":         {web, []Place{Helm(path(t, "image"))}},
		"deployment.yaml":              {web, []Place{Field(path(t, "spec.template.spec.containers[name=web].image"), Whole)}},
		"deployment-pinned.yaml":       {pinned(web), []Place{Field(path(t, "spec.template.spec.containers[0].image"), Whole)}},
		"flux-markers.yaml":            {web, []Place{Marked("flux-system:web")}},
		"chart.json":                   {web, []Place{Field(path(t, "images[0].tag"), Tag), Field(path(t, "images[0].digest"), Digest), Field(path(t, "images[0].name"), Repository)}},
		"quotes-where-they-are.yaml":   {web, []Place{Text(path(t, "plain"), "1.10"), Text(path(t, "double"), `a "b" \ c`), Text(path(t, "single"), "it's"), Text(path(t, "flow.tag"), "a, b"), Text(path(t, "anchored"), "yes")}},
		"lines-of-other-scripts.yaml":  {web, []Place{Field(path(t, "größe.etikett"), Tag)}},
		"names-with-dots-in-them.yaml": {web, []Place{Field(path(t, `a\.b/c.d`), Tag)}},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join("../../../../testdata/git", name)
			before, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got, edits := change(t, before, tt.image, tt.places...)
			if len(edits) == 0 {
				t.Error("nothing is changed")
			}
			if *update {
				if err := os.WriteFile(file+".golden", got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file + ".golden")
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
			again, edits := change(t, got, tt.image, tt.places...)
			if len(edits) > 0 || !bytes.Equal(again, got) {
				t.Errorf("a second time changes something: %v", edits)
			}
		})
	}
}

func change(t *testing.T, text []byte, image Image, places ...Place) ([]byte, []Edit) {
	t.Helper()
	f, err := Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	var all []Edit
	for _, p := range places {
		edits, err := p(f, image)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, edits...)
	}
	got, err := f.Apply(all)
	if err != nil {
		t.Fatal(err)
	}
	return got, all
}

func TestRefused(t *testing.T) {
	untagged, unsigned := web, web
	untagged.Tag, unsigned.Digest = "", ""
	for name, tt := range map[string]struct {
		text  string
		place Place
		image Image
		want  string
	}{
		"no element":        {"images: [{name: api, newTag: v1}]\n", Kustomize("web"), web, "has no element with `name: web` in `images`, only [\"api\"]"},
		"nothing to set":    {"images: [{name: web, newName: x}]\n", Kustomize("web"), web, "images[name=web] has no newTag that could be set"},
		"no field":          {"a: {b: v1}\n", Field(path(t, "a.c"), Tag), web, "has no a.c; only a field that is there is changed"},
		"no document":       {"", Field(path(t, "a"), Tag), web, "has no a"},
		"several documents": {"tag: v1\n---\ntag: v1\n", Field(path(t, "tag"), Tag), web, "in several documents"},
		"several elements":  {"a: [{n: x, t: v1}, {n: x, t: v1}]\n", Field(path(t, "a[n=x].t"), Tag), web, "several elements have the n x"},
		"key twice":         {"tag: v1\ntag: v2\n", Field(path(t, "tag"), Tag), web, "the key tag is there twice"},
		"alias":             {"a: &t v1\nb: *t\n", Field(path(t, "b"), Tag), web, "b is *t: give the path to the place of &t"},
		"through an alias":  {"a: &t {c: v1}\nb: *t\n", Field(path(t, "b.c"), Tag), web, "goes through *t"},
		"mapping":           {"a: {b: c}\n", Field(path(t, "a"), Tag), web, "a is no single value"},
		"empty":             {"tag:\nother: x\n", Field(path(t, "tag"), Tag), web, `tag is empty: write "" first`},
		"block":             {"tag: |\n  v1\n", Field(path(t, "tag"), Tag), web, "tag is a block of lines"},
		"several lines":     {"tag: a\n  b\n", Field(path(t, "tag"), Tag), web, "tag is written over several lines"},
		"yaml tag":          {"tag: !!str 1\n", Field(path(t, "tag"), Tag), web, "without a !tag"},
		"no tag":            {"tag: v1\n", Field(path(t, "tag"), Tag), untagged, "holds a tag, and the event has none"},
		"no digest":         {"images: [{name: web, digest: 'sha256:1'}]\n", Kustomize("web"), unsigned, "holds a digest, and the event has none"},
		"no line":           {"tag: v1\n", Text(path(t, "tag"), "a\nb"), web, "is not one line of text"},
		"two at once": {"tag: v1 # {\"$imagepolicy\": \"ns:web:tag\"}\n", func(f *File, i Image) ([]Edit, error) {
			a, _ := Marked("ns:web")(f, i)
			b, err := Text(path(t, "tag"), "v2")(f, i)
			return append(a, b...), err
		}, web, `would be set to "v1.3.0" and to "v2"`},
		"no YAML":   {"a: [\n", Marked("x:y"), web, "is not YAML"},
		"no letter": {"a: \xff\n", Marked("x:y"), web, "is not UTF-8"},
	} {
		t.Run(name, func(t *testing.T) {
			f, err := Parse([]byte(tt.text))
			var edits []Edit
			if err == nil {
				edits, err = tt.place(f, tt.image)
			}
			if err == nil {
				_, err = f.Apply(edits)
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func TestOrder(t *testing.T) {
	for _, tt := range []struct {
		text  string
		place Place
		order trigger.Order
		want  string
	}{
		{"tag: v1.2.9\n", Field(path(t, "tag"), Tag), "", ""},
		{"tag: v1.4.0\n", Field(path(t, "tag"), Tag), "", "tag is at v1.4.0, and v1.3.0 is a lower version than v1.4.0"},
		{"tag: v1.4.0\n", Field(path(t, "tag"), Tag), trigger.OrderAny, ""},
		{"tag: main-5\n", Field(path(t, "tag"), Tag), "", ""},
		{"image: registry:5000/shop/web:v1.4.0\n", Field(path(t, "image"), Whole), "", "v1.3.0 is a lower version than v1.4.0"},
		{"image: registry:5000/shop/api:v1.4.0\n", Field(path(t, "image"), Whole), "", ""},
		{"app: 1.4.0\n", Text(path(t, "app"), "1.3.0"), "", "1.3.0 is a lower version than 1.4.0"},
	} {
		f, err := Parse([]byte(tt.text))
		if err != nil {
			t.Fatal(err)
		}
		edits, err := tt.place(f, web)
		if err != nil || len(edits) != 1 {
			t.Fatalf("%q: %v, %v", tt.text, edits, err)
		}
		if got := edits[0].Backwards(tt.order); (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) {
			t.Errorf("%q: %q, want %q", tt.text, got, tt.want)
		}
	}
}

// Whatever the file, the result differs in the bytes of the value alone.
func FuzzApply(f *testing.F) {
	files, err := filepath.Glob("../../../../testdata/git/*")
	if err != nil || len(files) == 0 {
		f.Fatalf("no seeds: %v", err)
	}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text, uint8(3), "v1.3.0")
	}
	f.Fuzz(func(t *testing.T, text []byte, which uint8, value string) {
		file, err := Parse(text)
		if err != nil {
			return
		}
		var scalars []*yaml.Node
		for _, doc := range file.docs {
			scalars = append(scalars, values(doc)...)
		}
		if len(scalars) == 0 {
			return
		}
		n := scalars[int(which)%len(scalars)]
		got, err := file.Apply([]Edit{{Where: "it", To: value, node: n}})
		if err != nil {
			return
		}
		body := bytes.TrimPrefix(got, []byte(file.mark))
		start, end, err := file.span(n)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.HasPrefix(body, file.text[:start]) || !bytes.HasSuffix(body, file.text[end:]) || len(body) < start+len(file.text)-end {
			t.Fatalf("other bytes have changed:\n%q\n%q", text, got)
		}
		after, err := Parse(got)
		if err != nil {
			t.Fatal(err)
		}
		for i, doc := range file.docs {
			if !equal(doc, after.docs[i], map[*yaml.Node]string{n: value}) {
				t.Fatalf("more than the value has changed:\n%q\n%q", text, got)
			}
		}
	})
}

// values are the scalars that are no keys.
func values(n *yaml.Node) (all []*yaml.Node) {
	for i, c := range n.Content {
		if n.Kind == yaml.MappingNode && i%2 == 0 {
			continue
		}
		if c.Kind == yaml.ScalarNode {
			all = append(all, c)
		}
		all = append(all, values(c)...)
	}
	return all
}
