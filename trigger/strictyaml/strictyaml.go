// Package strictyaml reads YAML so that nothing is silently ignored: unknown
// and repeated keys, wrong types and failed checks are all reported, each with
// its file, line and path, and all at once.
package strictyaml

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"gopkg.in/yaml.v3"

	"github.com/dockbell/dockbell/trigger"
)

// Fault is one thing that is wrong in a file.
type Fault struct {
	File string
	Line int
	Path string // of keys, as in rules[0].tag; "" for the whole file
	Msg  string
	Err  error // what Msg says, for faults that come from an error; or nil
}

func (f Fault) Error() string {
	s := fmt.Sprintf("%s:%d: ", f.File, f.Line)
	if f.Path != "" {
		s += f.Path + ": "
	}
	return s + f.Msg
}

func (f Fault) Unwrap() error { return f.Err }

// Node is a place in a file: what stands there can be decoded and found
// faulty. All nodes of a file share one list of faults.
type Node struct {
	yaml *yaml.Node
	path string
	file *file
	also []string
}

type file struct {
	name   string
	faults []Fault
}

// Parse reads one YAML document. What cannot be read at all yields an error;
// everything else is found by Decode.
func Parse(name string, r io.Reader) (Node, error) {
	data, err := io.ReadAll(r)
	if err != nil {
		return Node{}, fmt.Errorf("%s: %w", name, err)
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, second yaml.Node
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return Node{}, Fault{File: name, Line: 1, Msg: "the file is empty"}
	} else if err != nil {
		return Node{}, syntaxFault(name, data, err)
	}
	if err := dec.Decode(&second); err == nil {
		return Node{}, Fault{File: name, Line: second.Line, Msg: "more than one YAML document in the file"}
	} else if !errors.Is(err, io.EOF) {
		return Node{}, syntaxFault(name, data, err)
	}
	root, err := expand(doc.Content[0])
	var here *placedError
	if errors.As(err, &here) {
		return Node{}, Fault{File: name, Line: here.line, Msg: here.msg}
	}
	return Node{yaml: root, file: &file{name: name}}, nil
}

// syntaxFault finds the line of an error of the YAML parser, which has it
// right for what its scanner says, one too low for what its grammar says, and
// not at all for the rest.
func syntaxFault(name string, data []byte, err error) Fault {
	f := Fault{File: name, Line: 1, Msg: strings.TrimPrefix(err.Error(), "yaml: ")}
	lineOf := func(at int) int { return 1 + bytes.Count(data[:max(at, 0)], []byte("\n")) }
	if line, msg, ok := cutLine(f.Msg); ok {
		f.Line, f.Msg = line, msg
		if strings.HasPrefix(msg, "did not find expected") {
			f.Line++
		}
	} else if _, rest, ok := strings.Cut(f.Msg, "unknown anchor '"); ok {
		anchor, _, _ := strings.Cut(rest, "'")
		f.Line = lineOf(bytes.Index(data, []byte("*"+anchor)))
	} else if strings.Contains(f.Msg, "control characters") || strings.Contains(f.Msg, "UTF-8") {
		f.Line = lineOf(bytes.IndexFunc(data, func(r rune) bool {
			return r == utf8.RuneError || r != '\n' && r != '\r' && r != '\t' && unicode.IsControl(r)
		}))
	}
	return f
}

// cutLine parts "line N: message".
func cutLine(s string) (line int, msg string, ok bool) {
	rest, ok := strings.CutPrefix(s, "line ")
	if !ok {
		return 0, "", false
	}
	number, msg, ok := strings.Cut(rest, ": ")
	line, err := strconv.Atoi(number)
	return line, msg, ok && err == nil
}

// Err gives all faults of the file so far in the order of their lines, or nil.
func (n Node) Err() error {
	faults := slices.Clone(n.file.faults)
	slices.SortStableFunc(faults, func(a, b Fault) int { return a.Line - b.Line })
	var errs []error
	said := map[string]bool{}
	for _, f := range faults {
		if s := f.Error(); !said[s] {
			said[s] = true
			errs = append(errs, f)
		}
	}
	return errors.Join(errs...)
}

// Line is where the node begins.
func (n Node) Line() int { return n.yaml.Line }

// YAML is the node itself; what is done to it is done to the file. It holds
// neither aliases nor merge keys: both have been resolved.
func (n Node) YAML() *yaml.Node { return n.yaml }

// With is the same place holding something else: what a template made of it.
func (n Node) With(y *yaml.Node) Node { n.yaml = y; return n }

// Also is the same place with more keys that belong there and are read by
// somebody else: they are named to who misspells one.
func (n Node) Also(keys ...string) Node { n.also = keys; return n }

// Key is the value below a key of a mapping. Where there is none, a fault is
// put on the mapping.
func (n Node) Key(name string) Node {
	child := Node{yaml: n.yaml, path: name, file: n.file}
	if n.path != "" {
		child.path = n.path + "." + name
	}
	if v := value(n.yaml, name); v != nil {
		child.yaml = v
	}
	return child
}

// Has reports whether a mapping has the key.
func (n Node) Has(name string) bool { return value(n.yaml, name) != nil }

// Items are the elements of a sequence.
func (n Node) Items() []Node {
	if n.yaml.Kind != yaml.SequenceNode {
		return nil
	}
	items := make([]Node, len(n.yaml.Content))
	for i, c := range n.yaml.Content {
		items[i] = Node{yaml: c, path: n.path + "[" + strconv.Itoa(i) + "]", file: n.file}
	}
	return items
}

// Keys are the keys of a mapping, in their order.
func (n Node) Keys() []string {
	if n.yaml.Kind != yaml.MappingNode {
		return nil
	}
	var keys []string
	for i := 0; i < len(n.yaml.Content); i += 2 {
		keys = append(keys, n.yaml.Content[i].Value)
	}
	return keys
}

// Faultf reports that something is wrong here.
func (n Node) Faultf(format string, args ...any) {
	n.file.faults = append(n.file.faults, Fault{n.file.name, n.yaml.Line, n.path, fmt.Sprintf(format, args...), nil})
}

// Fault reports an error here, or at the field that it names
// ([trigger.FieldError]); each part of a joined error by itself.
func (n Node) Fault(err error) {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			n.Fault(e)
		}
		return
	}
	var field *trigger.FieldError
	if errors.As(err, &field) {
		at := n
		for key := range strings.SplitSeq(field.Field, ".") {
			at = at.Key(key)
		}
		at.Fault(field.Err)
		return
	}
	n.file.faults = append(n.file.faults, Fault{n.file.name, n.yaml.Line, n.path, err.Error(), err})
}

// Decode fills the struct that v points to and reports every unknown and
// repeated key and wrong type. It returns false when there were any.
func (n Node) Decode(v any) bool {
	before := len(n.file.faults)
	err := n.yaml.Decode(v)
	n.check(reflect.TypeOf(v), err != nil)
	if err != nil && len(n.file.faults) == before {
		n.decodeFault(err)
	}
	return len(n.file.faults) == before
}

// check walks node and type together, since yaml neither knows paths nor minds
// unknown keys. Where some value is wrong it tries each by itself, to find out
// which.
func (n Node) check(t reflect.Type, wrong bool) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	selfMade := reflect.PointerTo(t).Implements(reflect.TypeFor[yaml.Unmarshaler]())
	switch {
	case t == reflect.TypeFor[yaml.Node](), n.yaml.Tag == "!!null":
	case t.Kind() == reflect.Struct && n.yaml.Kind == yaml.MappingNode && !selfMade:
		fields := map[string]reflect.Type{}
		fieldTypes(t, fields)
		n.eachKey(func(key *yaml.Node, child Node) {
			if ft, ok := fields[key.Value]; ok {
				child.check(ft, wrong)
				return
			}
			known := slices.Sorted(maps.Keys(fields))
			known = append(known, n.also...)
			n.With(key).Faultf("unknown key %q; known are %s", key.Value, strings.Join(known, ", "))
		})
	case t.Kind() == reflect.Map && n.yaml.Kind == yaml.MappingNode && !selfMade:
		n.eachKey(func(_ *yaml.Node, child Node) { child.check(t.Elem(), wrong) })
	case t.Kind() == reflect.Slice && n.yaml.Kind == yaml.SequenceNode && !selfMade:
		for _, item := range n.Items() {
			item.check(t.Elem(), wrong)
		}
	case wrong:
		if err := n.yaml.Decode(reflect.New(t).Interface()); err != nil {
			n.decodeFault(err)
		}
	}
}

// eachKey gives the keys of a mapping with their values, without those that
// are no words or stand there again.
func (n Node) eachKey(f func(key *yaml.Node, child Node)) {
	lines := map[string]int{}
	for i := 0; i < len(n.yaml.Content); i += 2 {
		key := n.yaml.Content[i]
		child := n.Key(key.Value).With(n.yaml.Content[i+1])
		if key.Kind != yaml.ScalarNode {
			n.With(key).Faultf("a key must be a plain word")
		} else if line, ok := lines[key.Value]; ok {
			child.With(key).Faultf("the key is there twice; the other is on line %d", line)
		} else {
			lines[key.Value] = key.Line
			f(key, child)
		}
	}
}

// decodeFault reports what yaml says about the node.
func (n Node) decodeFault(err error) {
	var wrong *yaml.TypeError
	if !errors.As(err, &wrong) {
		n.Faultf("%s", strings.TrimPrefix(err.Error(), "yaml: "))
		return
	}
	for _, e := range wrong.Errors {
		fault := Fault{File: n.file.name, Line: n.yaml.Line, Path: n.path, Msg: readable(e)}
		if line, msg, ok := cutLine(e); ok {
			fault.Line, fault.Msg = line, readable(msg)
		}
		n.file.faults = append(n.file.faults, fault)
	}
}

var mismatch = regexp.MustCompile("^cannot unmarshal !!([a-z]+)(?: `(?s:(.*))`)? into (.+)$")

// readable words what yaml says of a wrong type for people who know the file
// but not this program. It shows no text where a mapping is wanted: that may
// be a secret which somebody wrote in place of a reference.
func readable(msg string) string {
	m := mismatch.FindStringSubmatch(msg)
	if m == nil {
		return msg
	}
	given := map[string]string{"map": "a mapping", "seq": "a list", "str": "a string", "int": "a number", "float": "a number", "bool": "a truth value"}[m[1]]
	if given == "" {
		given = "a value of type " + m[1]
	}
	wanted, isSimple := map[string]string{
		"bool": "true or false", "time.Duration": "a duration, as in 30s", "string": "a string",
		"int": "a whole number", "int64": "a whole number", "float64": "a number",
	}[m[3]]
	switch {
	case isSimple && m[2] != "":
		given += fmt.Sprintf(" (%s)", m[2])
	case isSimple:
	case strings.HasPrefix(m[3], "[]"):
		wanted = "a list"
	default:
		wanted = "a mapping"
	}
	return "must be " + wanted + ", not " + given
}

// fieldTypes collects the keys of a struct as yaml.v3 names them.
func fieldTypes(t reflect.Type, into map[string]reflect.Type) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		switch {
		case name == "-" || !f.IsExported():
		case strings.Contains(options, "inline"):
			fieldTypes(f.Type, into)
		case name == "":
			into[strings.ToLower(f.Name)] = f.Type
		default:
			into[name] = f.Type
		}
	}
}

// value finds a key of a mapping; nil when there is none.
func value(y *yaml.Node, key string) *yaml.Node {
	if y.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i < len(y.Content); i += 2 {
		if y.Content[i].Value == key {
			return y.Content[i+1]
		}
	}
	return nil
}
