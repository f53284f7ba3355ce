// Package strictyaml reads YAML so that nothing is silently ignored: unknown
// and repeated keys, wrong types and failed checks are all reported, each with
// its file, line and path, and all at once.
package strictyaml

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/dockbell/dockbell/trigger"
)

// Fault is one thing that is wrong in a file.
type Fault struct {
	File string
	Line int
	Path string // of keys, as in rules[0].tag; "" for the whole file
	Msg  string
}

func (f Fault) Error() string {
	s := fmt.Sprintf("%s:%d: ", f.File, f.Line)
	if f.Path != "" {
		s += f.Path + ": "
	}
	return s + f.Msg
}

// Node is a place in a file: what stands there can be decoded and found
// faulty. All nodes of a file share one list of faults.
type Node struct {
	yaml *yaml.Node
	path string
	file *file
}

type file struct {
	name   string
	faults []Fault
}

// Parse reads one YAML document. A document that is no YAML at all yields an
// error; everything else is found by Decode.
func Parse(name string, r io.Reader) (Node, error) {
	dec := yaml.NewDecoder(r)
	var doc, second yaml.Node
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return Node{}, fmt.Errorf("%s: the file is empty", name)
	} else if err != nil {
		return Node{}, fmt.Errorf("%s: %s", name, strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if err := dec.Decode(&second); !errors.Is(err, io.EOF) {
		return Node{}, fmt.Errorf("%s: more than one YAML document in the file", name)
	}
	return Node{yaml: doc.Content[0], file: &file{name: name}}, nil
}

// Err gives all faults of the file so far in the order of their lines, or nil.
func (n Node) Err() error {
	faults := slices.Clone(n.file.faults)
	slices.SortStableFunc(faults, func(a, b Fault) int { return a.Line - b.Line })
	errs := make([]error, len(faults))
	for i, f := range slices.Compact(faults) {
		errs[i] = f
	}
	return errors.Join(errs...)
}

// Line is where the node begins.
func (n Node) Line() int { return n.yaml.Line }

// YAML is the node itself; what is done to it is done to the file.
func (n Node) YAML() *yaml.Node { return n.yaml }

// With is the same place holding something else: what a template made of it.
func (n Node) With(y *yaml.Node) Node { n.yaml = y; return n }

// Key is the value below a key of a mapping. Where there is none, a fault is
// put on the mapping.
func (n Node) Key(name string) Node {
	child := Node{yaml: n.yaml, path: name, file: n.file}
	if n.path != "" {
		child.path = n.path + "." + name
	}
	if v := Value(n.yaml, name); v != nil {
		child.yaml = v
	}
	return child
}

// Has reports whether a mapping has the key.
func (n Node) Has(name string) bool { return Value(n.yaml, name) != nil }

// Items are the elements of a sequence.
func (n Node) Items() []Node {
	y := resolve(n.yaml)
	if y.Kind != yaml.SequenceNode {
		return nil
	}
	items := make([]Node, len(y.Content))
	for i, c := range y.Content {
		items[i] = Node{yaml: c, path: n.path + "[" + strconv.Itoa(i) + "]", file: n.file}
	}
	return items
}

// Keys are the keys of a mapping, in their order.
func (n Node) Keys() []string {
	y := resolve(n.yaml)
	if y.Kind != yaml.MappingNode {
		return nil
	}
	var keys []string
	for i := 0; i < len(y.Content); i += 2 {
		keys = append(keys, y.Content[i].Value)
	}
	return keys
}

// Faultf reports that something is wrong here.
func (n Node) Faultf(format string, args ...any) {
	n.file.faults = append(n.file.faults, Fault{n.file.name, n.yaml.Line, n.path, fmt.Sprintf(format, args...)})
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
	n.Faultf("%s", err)
}

// Decode fills the struct that v points to and reports every unknown key and
// wrong type. It returns false when there were any.
func (n Node) Decode(v any) bool {
	before := len(n.file.faults)
	err := n.yaml.Decode(v)
	var wrong *yaml.TypeError
	if err != nil && !errors.As(err, &wrong) {
		// Not a tree that can be walked: an anchor that contains itself.
		n.Faultf("%s", strings.TrimPrefix(err.Error(), "yaml: "))
		return false
	}
	n.unknownKeys(reflect.TypeOf(v))
	if wrong != nil {
		for _, e := range wrong.Errors {
			n.typeFault(e)
		}
	}
	return len(n.file.faults) == before
}

// typeFault puts yaml's "line N: message" where it belongs.
func (n Node) typeFault(e string) {
	fault := Fault{File: n.file.name, Line: n.yaml.Line, Path: n.path, Msg: e}
	if rest, ok := strings.CutPrefix(e, "line "); ok {
		if number, msg, ok := strings.Cut(rest, ": "); ok {
			if line, err := strconv.Atoi(number); err == nil {
				fault.Line, fault.Msg = line, msg
			}
		}
	}
	n.file.faults = append(n.file.faults, fault)
}

// unknownKeys walks node and type together. It stops at types that decode
// themselves.
func (n Node) unknownKeys(t reflect.Type) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t == reflect.TypeFor[yaml.Node]() || reflect.PointerTo(t).Implements(reflect.TypeFor[yaml.Unmarshaler]()) {
		return
	}
	y := resolve(n.yaml)
	switch {
	case t.Kind() == reflect.Struct && y.Kind == yaml.MappingNode:
		fields := map[string]reflect.Type{}
		fieldTypes(t, fields)
		for i := 0; i < len(y.Content); i += 2 {
			key := y.Content[i]
			if key.Tag == "!!merge" {
				n.With(y.Content[i+1]).unknownKeys(t)
				continue
			}
			child := n.Key(key.Value)
			if ft, ok := fields[key.Value]; ok {
				child.unknownKeys(ft)
				continue
			}
			known := slices.Sorted(maps.Keys(fields))
			n.With(key).Faultf("unknown key %q; known are %s", key.Value, strings.Join(known, ", "))
		}
	case t.Kind() == reflect.Map && y.Kind == yaml.MappingNode:
		for i := 0; i < len(y.Content); i += 2 {
			n.Key(y.Content[i].Value).unknownKeys(t.Elem())
		}
	case t.Kind() == reflect.Slice && y.Kind == yaml.SequenceNode:
		for _, item := range n.Items() {
			item.unknownKeys(t.Elem())
		}
	}
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

// Value finds a key of a mapping; nil when there is none.
func Value(y *yaml.Node, key string) *yaml.Node {
	y = resolve(y)
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

func resolve(y *yaml.Node) *yaml.Node {
	if y.Kind == yaml.AliasNode {
		return y.Alias
	}
	return y
}
