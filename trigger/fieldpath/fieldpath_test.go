package fieldpath

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func field(name string) Step        { return Step{Kind: Field, Name: name} }
func number(i int) Step             { return Step{Kind: Number, Index: i} }
func search(key, value string) Step { return Step{Kind: Search, Name: key, Value: value} }

func TestParse(t *testing.T) {
	for text, want := range map[string]Path{
		"tag":                             {field("tag")},
		"spec.containers[name=web].image": {field("spec"), field("containers"), search("name", "web"), field("image")},
		"lists[0][12]":                    {field("lists"), number(0), number(12)},
		"[0].value":                       {number(0), field("value")},
		"list[name=image.tag]":            {field("list"), search("name", "image.tag")},
		"list[a=b=c]":                     {field("list"), search("a", "b=c")},
		"list[7=x]":                       {field("list"), search("7", "x")},
		`a\.b/c~d.e=f`:                    {field("a.b/c~d"), field("e=f")},
		`\[0\]\\`:                         {field(`[0]\`)},
		`args[flag\=x=a\[0\]\\]`:          {field("args"), search("flag=x", `a[0]\`)},
		"größe.x y":                       {field("größe"), field("x y")},
	} {
		got, err := Parse(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if diff := cmp.Diff(want, got); diff != "" || got.String() != text {
			t.Errorf("%s is written as %s\n%s", text, got, diff)
		}
	}
}

func TestFaults(t *testing.T) {
	const inBrackets = "in brackets must be a number, as [0], or a key and its value, as [name=web]"
	for text, want := range map[string]string{
		"":                 "at its end: a name is missing",
		"spec.":            "at its end: a name is missing",
		".spec":            `at character 1, ".spec": a name is missing`,
		"spec..image":      `at character 6, ".image": a name is missing`,
		"spec.[0]":         `at character 6, "[0]": a name is missing`,
		"größe[x]":         `at character 6, "[x]": ` + inBrackets,
		"list[]":           `at character 5, "[]": ` + inBrackets,
		"list[-1]":         `at character 5, "[-1]": ` + inBrackets,
		"list[+1]":         `at character 5, "[+1]": ` + inBrackets,
		"list[01]":         `at character 5, "[01]": ` + inBrackets,
		"list[9999999999]": `at character 5, "[9999999999]": ` + inBrackets,
		"list[=web].tag":   `at character 5, "[=web].tag": ` + inBrackets,
		"list[name=]":      `at character 5, "[name=]": ` + inBrackets,
		"list[0":           `at character 5, "[0": a bracket is not closed`,
		"list[a[0]=b]":     `at character 5, "[a[0]=b]": a bracket is not closed`,
		"list[a=b[0]]":     `at character 5, "[a=b[0]]": a bracket is not closed`,
		"list[0]tag":       `at character 8, "tag": here only a dot or an opening bracket may come`,
		"list]":            `at character 5, "]": here only a dot or an opening bracket may come`,
		`spec.a\b`:         `at character 7, "\\b": a backslash must be before one of .[]\ here`,
		`spec\`:            `at character 5, "\\": a backslash must be before one of .[]\ here`,
		`list[a\.b=c]`:     `at character 7, "\\.b=c]": a backslash must be before one of =[]\ here`,
		`list[a=b\=c]`:     `at character 9, "\\=c]": a backslash must be before one of []\ here`,
	} {
		if _, err := Parse(text); err == nil || !strings.HasPrefix(err.Error(), "cannot be read "+want) {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}

// A path is read as it is written, and each can be written.
func FuzzPath(f *testing.F) {
	for _, path := range []string{"spec.image", `spec.a\.b/c~d.tag`, "spec.parts[name=web].tag", "[0][1].a", "a[b=c=d]", `\\.\[`, `a[b\=c=d\]]`, "ä.ö[1]"} {
		f.Add(path, uint8(1), "0")
	}
	f.Fuzz(func(t *testing.T, path string, at uint8, word string) {
		p, err := Parse(path)
		if err != nil {
			return
		}
		if p.String() != path {
			t.Fatalf("%q is written as %q", path, p)
		}
		if word == "" {
			return
		}
		p[int(at)%len(p)] = Step{Kind: Field, Name: word}
		p = append(p, Step{Kind: Search, Name: word, Value: word})
		again, err := Parse(p.String())
		if diff := cmp.Diff(p, again); err != nil || diff != "" {
			t.Fatalf("%q is read as something else: %v\n%s", p, err, diff)
		}
	})
}
