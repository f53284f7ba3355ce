package manifest

import (
	"fmt"

	"gopkg.in/yaml.v3"

	"github.com/dockbell/dockbell/trigger/fieldpath"
)

// walk goes the way in a document; nil when it ends before.
func walk(doc *yaml.Node, path fieldpath.Path) (*yaml.Node, error) {
	n := doc.Content[0]
	for _, s := range path {
		var err error
		if n, err = into(n, s); err != nil {
			return nil, fmt.Errorf("%s %w", path, err)
		}
		if n == nil {
			return nil, nil
		}
	}
	return n, nil
}

func into(n *yaml.Node, s fieldpath.Step) (found *yaml.Node, err error) {
	if n.Kind == yaml.AliasNode {
		return nil, fmt.Errorf("goes through *%s: give the path to the place of &%s", n.Value, n.Value)
	}
	switch {
	case s.Kind == fieldpath.Field && n.Kind == yaml.MappingNode:
		return child(n, s.Name)
	case s.Kind == fieldpath.Number && n.Kind == yaml.SequenceNode && s.Index < len(n.Content):
		return n.Content[s.Index], nil
	case s.Kind != fieldpath.Search || n.Kind != yaml.SequenceNode:
		return nil, nil
	}
	for _, element := range n.Content {
		if element.Kind != yaml.MappingNode {
			continue
		}
		value, err := child(element, s.Name)
		if err != nil || value == nil || value.Value != s.Value {
			continue
		}
		if found != nil {
			return nil, fmt.Errorf("is not clear: several elements have the %s %s", s.Name, s.Value)
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
