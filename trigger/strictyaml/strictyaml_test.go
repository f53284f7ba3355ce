package strictyaml

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/dockbell/dockbell/trigger"
)

// file has every shape of field that a configuration uses.
type testFile struct {
	Server struct {
		Listen  string        `yaml:"listen"`
		MaxBody int64         `yaml:"maxBody"`
		Wait    time.Duration `yaml:"wait"`
		TLS     *struct {
			Cert string `yaml:"cert"`
		} `yaml:"tls"`
	} `yaml:"server"`
	On    bool                  `yaml:"on"`
	Names Strings               `yaml:"names"`
	Rules []testRule            `yaml:"rules"`
	Map   map[string]testRule   `yaml:"map"`
	Texts map[string]string     `yaml:"texts"`
	Raw   yaml.Node             `yaml:"raw"`
	Any   any                   `yaml:"any"`
	Own   map[string]selfMade   `yaml:"own"`
	Deep  map[string][]testRule `yaml:"deep"`
}

type testRule struct {
	Name string   `yaml:"name"`
	Tags []string `yaml:"tags"`
}

// selfMade decodes itself and has a word to say about lines.
type selfMade struct{ text string }

func (s *selfMade) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind != yaml.ScalarNode {
		return &yaml.TypeError{Errors: []string{fmt.Sprintf("line %d: must be one word", n.Line)}}
	}
	s.text = n.Value
	return nil
}

// faults are what Parse and Decode say about a text.
func faults(text string) string {
	n, err := Parse("f.yaml", strings.NewReader(text))
	if err != nil {
		return err.Error()
	}
	if ok := n.Decode(new(testFile)); ok != (n.Err() == nil) {
		return fmt.Sprintf("Decode says %t and there are these faults: %v", ok, n.Err())
	}
	if n.Err() == nil {
		return ""
	}
	return n.Err().Error()
}

func TestFaults(t *testing.T) {
	const root = "any, deep, map, names, on, own, raw, rules, server, texts"
	tests := []struct{ name, text, want string }{
		{"nothing wrong", "server: {listen: ':1', maxBody: 5, wait: 3s, tls: {cert: a}}\non: true\nnames: [a, b]\nrules: [{name: x, tags: [y]}]\nmap: {k: {name: z}}\nany: {free: [1]}\nraw: {free: 1}\nown: {a: b}\n", ""},
		{"null is nothing", "server:\nrules:\nmap: {k: }\n", ""},

		{"unknown key at the top", "on: true\nsorver: {}\n", `f.yaml:2: unknown key "sorver"; known are ` + root},
		{"unknown key in a mapping", "server:\n  listen: a\n  port: 80\n", `f.yaml:3: server: unknown key "port"; known are listen, maxBody, tls, wait`},
		{"unknown key behind a pointer", "server:\n  tls:\n    key: a\n", `f.yaml:3: server.tls: unknown key "key"; known are cert`},
		{"unknown key in a list", "rules:\n- name: a\n- nome: b\n", `f.yaml:3: rules[1]: unknown key "nome"; known are name, tags`},
		{"unknown key in a map", "map:\n  k:\n    nome: b\n", `f.yaml:3: map.k: unknown key "nome"; known are name, tags`},
		{"unknown key in lists of maps", "deep:\n  k:\n  - name: a\n    x: 1\n", `f.yaml:4: deep.k[0]: unknown key "x"; known are name, tags`},
		{"a key in another case", "Server: {}\n", `f.yaml:1: unknown key "Server"; known are ` + root},

		{"repeated key", "on: true\nnames: a\non: false\n", "f.yaml:3: on: the key is there twice; the other is on line 1"},
		{"repeated key below", "rules:\n- name: a\n  name: b\n", "f.yaml:3: rules[0].name: the key is there twice; the other is on line 2"},
		{"repeated key of a map", "texts: {a: b, a: c}\n", "f.yaml:1: texts.a: the key is there twice; the other is on line 1"},
		{"repeated key of anything", "any:\n  a: 1\n  a: 2\n", `f.yaml:3: any: mapping key "a" already defined at line 2`},
		{"key that is no word", "[a]: b\n", "f.yaml:1: a key must be a plain word"},

		{"number wanted", "server:\n  maxBody: lots\n", "f.yaml:2: server.maxBody: must be a whole number, not a string (lots)"},
		{"duration wanted", "server:\n  wait: 30\n", "f.yaml:2: server.wait: must be a duration, as in 30s, not a number (30)"},
		{"truth wanted", "on: 1\n", "f.yaml:1: on: must be true or false, not a number (1)"},
		{"string wanted", "server: {listen: [a]}\n", "f.yaml:1: server.listen: must be a string, not a list"},
		{"list wanted", "rules: {name: a}\n", "f.yaml:1: rules: must be a list, not a mapping"},
		{"list of strings wanted", "rules:\n- tags: a\n", "f.yaml:2: rules[0].tags: must be a list, not a string"},
		{"mapping wanted, and what may be a secret not shown", "server: hunter2\n", "f.yaml:1: server: must be a mapping, not a string"},
		{"mapping wanted in a list", "rules:\n- a\n", "f.yaml:2: rules[0]: must be a mapping, not a string"},
		{"string or strings wanted", "names: {a: b}\n", "f.yaml:1: names: must be a string, not a mapping"},
		{"another root", "- a\n", "f.yaml:1: must be a mapping, not a list"},
		{"what a type says of itself", "own:\n  a: b\n  c: [d]\n", "f.yaml:3: own.c: must be one word"},

		{"all at once, by line", "rules: [{nome: a}]\nserver: {wait: x}\non: maybe\n", "f.yaml:1: rules[0]: unknown key \"nome\"; known are name, tags\n" +
			"f.yaml:2: server.wait: must be a duration, as in 30s, not a string (x)\n" +
			"f.yaml:3: on: must be true or false, not a string (maybe)"},

		{"alias", "rules: [&r {name: a}, *r]\n", ""},
		{"alias with a fault, once for each path", "rules:\n- &r {nome: a}\n- *r\n", "f.yaml:2: rules[0]: unknown key \"nome\"; known are name, tags\nf.yaml:2: rules[1]: unknown key \"nome\"; known are name, tags"},
		{"merge key", "rules:\n- &r {name: a}\n- {<<: *r, tags: [b]}\n", ""},
		{"merge key, fault in what it brings", "any: &r {name: a, nome: b}\nrules:\n- {<<: *r}\n", `f.yaml:1: rules[0]: unknown key "nome"; known are name, tags`},
		{"merge of several, fault in the second", "any: [&a {name: a}, &b {\n  nome: b}]\nrules:\n- {<<: [*a, *b]}\n", `f.yaml:2: rules[0]: unknown key "nome"; known are name, tags`},
		{"merge of no mapping", "any: 1\nrules:\n- {<<: 5}\n", "f.yaml:3: << takes a mapping, or a list of mappings"},
		{"anchor that contains itself", "any: 1\nraw: &a\n  b: *a\n", `f.yaml:3: anchor "a" contains itself`},
		{"anchor that merges itself", "raw: &a\n  <<: *a\n", `f.yaml:2: anchor "a" contains itself`},
		{"anchors around each other", "raw: &a [&b [*a], *b]\n", `f.yaml:1: anchor "a" contains itself`},
		{"unknown anchor", "on: true\nraw:\n  b: *nowhere\n", "f.yaml:3: unknown anchor 'nowhere' referenced"},
		{"a few lines that stand for billions", bomb(9), "f.yaml:1: aliases make the file too large"},
		{"a few lines that stand for more than can be counted", bomb(60), "f.yaml:1: aliases make the file too large"},

		{"empty", "", "f.yaml:1: the file is empty"},
		{"only comments", "# nothing\n", "f.yaml:1: the file is empty"},
		{"two documents", "on: true\n---\non: false\n", "f.yaml:2: more than one YAML document in the file"},
		{"second document broken", "on: true\n---\nb: [", "f.yaml:4: did not find expected node content"},
		{"broken at the start", "on: true: false\n", "f.yaml:1: mapping values are not allowed in this context"},
		{"broken list, where it begins", "on: true\nrules: [a\nnames: b\n", "f.yaml:2: did not find expected ',' or ']'"},
		{"tab", "on: true\nserver:\n\tlisten: a\n", "f.yaml:3: found character that cannot start any token"},
		{"control character", "on: true\nnames: a\x01\n", "f.yaml:2: control characters are not allowed"},
		{"not UTF-8", "on: true\n\nnames: \xff\n", "f.yaml:3: invalid leading UTF-8 octet"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := faults(tt.text); got != tt.want {
				t.Errorf("got\n%s\nwant\n%s", got, tt.want)
			}
		})
	}
}

// bomb is a file of so many lines, each of which holds the one before ten times.
func bomb(lines int) string {
	s := "raw:\n- &a0 [x]\n"
	for i := range lines {
		s += fmt.Sprintf("- &a%d [%s]\n", i+1, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d, ", i), 10), ", "))
	}
	return s
}

func TestAliasesAndMergeKeysAreResolved(t *testing.T) {
	n, err := Parse("f.yaml", strings.NewReader(`
base: &base {name: base, tags: [x]}
more: &more {name: more, extra: 1}
one: {<<: *base, name: own}
two:
  <<: [*more, *base]
three: *base
`))
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]map[string]any
	if err := n.YAML().Decode(&got); err != nil {
		t.Fatal(err)
	}
	want := "map[base:map[name:base tags:[x]] more:map[extra:1 name:more] one:map[name:own tags:[x]] three:map[name:base tags:[x]] two:map[extra:1 name:more tags:[x]]]"
	if fmt.Sprint(got) != want {
		t.Errorf("got  %v\nwant %s", got, want)
	}
	if one := n.Key("one"); !one.Has("tags") || len(one.Key("tags").Items()) != 1 {
		t.Error("a key that a merge brings is not found")
	}
	if three := n.Key("three"); three.Line() != 2 || three.YAML().Kind != yaml.MappingNode {
		t.Errorf("an alias is on line %d, want that of its anchor", three.Line())
	}
}

func TestFieldErrors(t *testing.T) {
	n, err := Parse("f.yaml", strings.NewReader("rules:\n- name: a\n  env:\n    TOKEN: x\n"))
	if err != nil {
		t.Fatal(err)
	}
	at := n.Key("rules").Items()[0]
	at.Fault(errors.Join(
		trigger.Field("env.TOKEN", "is bad"),
		trigger.Field("absent.key", "is missing"),
		fmt.Errorf("wrapped: %w", trigger.Field("name", "is taken")),
		&trigger.FieldError{Field: "env", Err: errors.Join(errors.New("one"), trigger.Field("TOKEN", "two"))},
		errors.New("as a whole"),
		errors.New("as a whole"),
	))
	want := `f.yaml:2: rules[0].absent.key: is missing
f.yaml:2: rules[0].name: is taken
f.yaml:2: rules[0]: as a whole
f.yaml:4: rules[0].env.TOKEN: is bad
f.yaml:4: rules[0].env: one
f.yaml:4: rules[0].env.TOKEN: two`
	if got := n.Err().Error(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	var fault Fault
	if !errors.As(n.Err(), &fault) || fault.Line != 2 {
		t.Errorf("no Fault in %v", n.Err())
	}
}

func TestKeysReadElsewhereAreNamed(t *testing.T) {
	n, err := Parse("f.yaml", strings.NewReader("nome: a\n"))
	if err != nil {
		t.Fatal(err)
	}
	n.Also("lane").Decode(new(testRule))
	if got, want := fmt.Sprint(n.Err()), `f.yaml:1: unknown key "nome"; known are name, tags, lane`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestNodeOfAnotherKind(t *testing.T) {
	n, err := Parse("f.yaml", strings.NewReader("[a]"))
	if err != nil {
		t.Fatal(err)
	}
	if n.Keys() != nil || n.Has("a") || n.Key("a").Line() != 1 || n.Items()[0].Items() != nil {
		t.Error("a list has keys, or a string items")
	}
}

func TestUnreadable(t *testing.T) {
	if _, err := Parse("f.yaml", iotest.ErrReader(io.ErrUnexpectedEOF)); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got %v", err)
	}
}

func FuzzDecode(f *testing.F) {
	for _, s := range []string{
		"", "on: true\n", "rules: [&r {name: a}, *r, {<<: *r}]\n", "raw: &a [*a]\n", bomb(7), "any: {a: 1, a: 2}\n", "? {a: b}\n: c\n", "own: {a: [b]}\n",
		"server: {wait: 1h, maxBody: 0x10}\ntexts: {a: !!binary aGk=, b: 2026-01-02, c: ~}\n", "<<: {on: true}\n", "--- |\n a\n", "%YAML 1.1\n---\n- !x y\n",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		n, err := Parse("f.yaml", strings.NewReader(text))
		if err != nil {
			if !strings.HasPrefix(err.Error(), "f.yaml:") {
				t.Errorf("an error without its place: %v", err)
			}
			return
		}
		var c testFile
		if ok := n.Decode(&c); ok != (n.Err() == nil) {
			t.Errorf("Decode says %t, the faults are %v", ok, n.Err())
		}
		var fault Fault
		if err := n.Err(); err != nil && (!errors.As(err, &fault) || fault.Line < 1) {
			t.Errorf("a fault without a line: %v", err)
		}
	})
}
