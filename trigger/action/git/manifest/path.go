package manifest

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"
)

// Path leads to a value: names with dots between them, and [2] or [name=web]
// for elements of lists, as in spec.containers[name=web].image. A backslash
// before a dot, a bracket or a backslash makes it part of a name.
type Path struct {
	text  string
	steps []step
}

// step leads into a mapping by key; into a list by number, or to the one
// element whose key has a value.
type step struct {
	key, value string
	index      int
	kind       byte // of mapping, number, search
}

const (
	mapping = iota
	number
	search
)

var (
	stepGrammar = regexp.MustCompile(`^(?:\[([0-9]{1,6})\]|\[([^=\[\]]+)=([^\[\]]+)\]|((?:[^.\[\]\\]|\\[.\[\]\\])+))`)
	escaped     = regexp.MustCompile(`\\(.)`)
)

// ParsePath reads a path.
func ParsePath(s string) (Path, error) {
	p := Path{text: s}
	if s == "" {
		return p, errors.New("leads nowhere: write the way to the value, as image.tag")
	}
	for rest := s; rest != ""; {
		m := stepGrammar.FindStringSubmatch(rest)
		if m == nil {
			return p, fmt.Errorf("cannot be read at %q: write names with dots between them, and [0] or [name=web] for elements of lists", rest)
		}
		rest = rest[len(m[0]):]
		switch {
		case m[1] != "":
			n, _ := strconv.Atoi(m[1]) // digits alone
			p.steps = append(p.steps, step{kind: number, index: n})
		case m[2] != "":
			p.steps = append(p.steps, step{kind: search, key: m[2], value: m[3]})
		default:
			p.steps = append(p.steps, step{key: escaped.ReplaceAllString(m[4], "$1")})
		}
		if after, ok := strings.CutPrefix(rest, "."); ok && after != "" && after[0] != '[' {
			rest = after
		} else if rest != "" && rest[0] != '[' {
			return p, fmt.Errorf("cannot be read at %q: a name begins behind a dot", rest)
		}
	}
	return p, nil
}

func (p Path) String() string { return p.text }

// find goes the way in a document; nil when it ends before.
func (p Path) find(doc *yaml.Node) (*yaml.Node, error) {
	n := doc.Content[0]
	for _, s := range p.steps {
		var err error
		if n, err = s.into(n); err != nil {
			return nil, fmt.Errorf("%s %w", p, err)
		}
		if n == nil {
			return nil, nil
		}
	}
	return n, nil
}

func (s step) into(n *yaml.Node) (found *yaml.Node, err error) {
	if n.Kind == yaml.AliasNode {
		return nil, fmt.Errorf("goes through *%s: give the path to the place of &%s", n.Value, n.Value)
	}
	switch {
	case s.kind == mapping && n.Kind == yaml.MappingNode:
		return child(n, s.key)
	case s.kind == number && n.Kind == yaml.SequenceNode && s.index < len(n.Content):
		return n.Content[s.index], nil
	case s.kind != search || n.Kind != yaml.SequenceNode:
		return nil, nil
	}
	for _, element := range n.Content {
		if element.Kind != yaml.MappingNode {
			continue
		}
		value, err := child(element, s.key)
		if err != nil || value == nil || value.Value != s.value {
			continue
		}
		if found != nil {
			return nil, fmt.Errorf("is not clear: several elements have the %s %s", s.key, s.value)
		}
		found = element
	}
	return found, nil
}

// child is the value of a key of a mapping; nil when there is none.
func child(n *yaml.Node, key string) (found *yaml.Node, err error) {
	for i := 0; n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value != key || n.Content[i].Kind != yaml.ScalarNode {
			continue
		}
		if found != nil {
			return nil, fmt.Errorf("is not clear: the key %s is there twice", key)
		}
		found = n.Content[i+1]
	}
	return found, nil
}
