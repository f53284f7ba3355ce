package strictyaml

import (
	"fmt"

	"gopkg.in/yaml.v3"
)

// How many nodes a file may have once each alias is what it stands for: some
// for each that is written, and some more. A few lines can otherwise stand for
// billions.
const (
	expandedEach = 10
	expandedMore = 100_000
)

// placedError is an error with its line.
type placedError struct {
	line int
	msg  string
}

func (e *placedError) Error() string { return fmt.Sprintf("line %d: %s", e.line, e.msg) }

// expand puts in the place of each alias what it stands for, and in that of
// each merge key what it brings, so that nobody else has to know of them. What
// comes out is finite: an anchor that contains itself is an error.
func expand(root *yaml.Node) (*yaml.Node, error) {
	x := expander{sizes: map[*yaml.Node]int{}}
	if plain(root) {
		return root, nil
	}
	root, size, err := x.node(root)
	if err == nil && size > expandedMore+expandedEach*len(x.sizes) {
		err = &placedError{root.Line, "aliases make the file too large"}
	}
	return root, err
}

// plain reports whether there is nothing to expand.
func plain(y *yaml.Node) bool {
	if y.Kind == yaml.AliasNode || y.Kind == yaml.ScalarNode && y.Tag == "!!merge" {
		return false
	}
	for _, c := range y.Content {
		if !plain(c) {
			return false
		}
	}
	return true
}

type expander struct {
	sizes map[*yaml.Node]int // with all that is below; inside while that is being counted
}

const (
	inside = 0
	huge   = 1 << 40 // where counting stops
)

// node expands a node and gives its size.
func (x *expander) node(y *yaml.Node) (*yaml.Node, int, error) {
	if y.Kind == yaml.AliasNode {
		if size, ok := x.sizes[y.Alias]; ok && size == inside {
			return nil, 0, &placedError{y.Line, fmt.Sprintf("anchor %q contains itself", y.Value)}
		}
		return x.node(y.Alias)
	}
	if size, ok := x.sizes[y]; ok {
		return y, size, nil
	}
	x.sizes[y] = inside
	size := 1
	for i, c := range y.Content {
		expanded, n, err := x.node(c)
		if err != nil {
			return nil, 0, err
		}
		y.Content[i] = expanded
		size = min(size+n, huge)
	}
	if y.Kind == yaml.MappingNode {
		if err := merge(y); err != nil {
			return nil, 0, err
		}
	}
	x.sizes[y] = size
	return y, size, nil
}

// merge replaces the merge keys of a mapping by the keys that they bring. Its
// own keys come first, then those of the first mapping that has them.
func merge(y *yaml.Node) error {
	var own, brought []*yaml.Node
	have := map[string]bool{}
	for i := 0; i < len(y.Content); i += 2 {
		key, v := y.Content[i], y.Content[i+1]
		if key.Tag != "!!merge" {
			own = append(own, key, v)
			have[key.Value] = true
			continue
		}
		from := []*yaml.Node{v}
		if v.Kind == yaml.SequenceNode {
			from = v.Content
		}
		for _, m := range from {
			if m.Kind != yaml.MappingNode {
				return &placedError{v.Line, "<< takes a mapping, or a list of mappings"}
			}
			brought = append(brought, m.Content...)
		}
	}
	for i := 0; i < len(brought); i += 2 {
		if key := brought[i]; !have[key.Value] {
			have[key.Value] = true
			own = append(own, key, brought[i+1])
		}
	}
	y.Content = own
	return nil
}
