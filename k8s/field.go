package k8s

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"strconv"

	"github.com/dockbell/dockbell/trigger/fieldpath"
)

// parsePath reads a path into an object, which is a mapping.
func parsePath(s string) (fieldpath.Path, error) {
	p, err := fieldpath.Parse(s)
	if err == nil && p[0].Kind != fieldpath.Field {
		err = errors.New("must begin with a name, as in spec.image")
	}
	return p, err
}

// findField goes the way in an object. What it finds must be text that is
// there: a slip in the path must not make a field that nobody reads.
func findField(object map[string]any, path fieldpath.Path) (slot, error) {
	var at any = object
	var where place
	for i, step := range path {
		var err error
		if at, err = where.into(at, step); err != nil {
			return slot{}, fmt.Errorf("there is no %s: %w", path[:i+1], err)
		}
	}
	value, ok := at.(string)
	if !ok {
		return slot{}, fmt.Errorf("%s is no text; if it is a number, put it in quotes", path)
	}
	return slot{role: field, name: path.String(), at: &where, image: value}, nil
}

// into goes one step, and notes the way and how to test that it stays the same.
func (p *place) into(at any, s fieldpath.Step) (any, error) {
	if s.Kind == fieldpath.Field {
		m, ok := at.(map[string]any)
		if !ok {
			return nil, errors.New("what it should be in is no mapping")
		}
		next, ok := m[s.Name]
		if !ok {
			return nil, errors.New("only a field that is there is changed")
		}
		p.pointer += "/" + escape(s.Name)
		p.managed = append(p.managed, "f:"+s.Name)
		return next, nil
	}
	list, ok := at.([]any)
	if !ok {
		return nil, errors.New("what it should be in is no list")
	}
	index, key, err := s.Index, "name", error(nil)
	if s.Kind == fieldpath.Search {
		key = s.Name
		index, err = search(list, s)
	} else if index >= len(list) {
		err = fmt.Errorf("the list has %d elements", len(list))
	}
	if err != nil {
		return nil, err
	}
	p.pointer += "/" + strconv.Itoa(index)
	if m, ok := list[index].(map[string]any); ok {
		if value, ok := m[key].(string); ok {
			p.guards = append(p.guards, op{"test", p.pointer + "/" + escape(key), value})
			p.managed = append(p.managed, managedKey(key, value))
			return list[index], nil
		}
	}
	p.managed = append(p.managed, fmt.Sprintf("i:%d", index))
	return list[index], nil
}

// search finds the one element that is meant.
func search(list []any, s fieldpath.Step) (int, error) {
	found := -1
	for i, one := range list {
		m, _ := one.(map[string]any)
		if value, ok := m[s.Name].(string); !ok || value != s.Value {
			continue
		}
		if found >= 0 {
			return 0, errors.New("there are several")
		}
		found = i
	}
	if found < 0 {
		return 0, errors.New("no element of the list is that")
	}
	return found, nil
}

// short stands for a path that cannot be in the key of an annotation.
func (s slot) short() string { return fmt.Sprintf("field-%x", sha256.Sum256([]byte(s.name)))[:22] }

// What a field of a custom resource may hold.
const (
	holdsImage      = "image" // a whole reference
	holdsTag        = "tag"
	holdsDigest     = "digest"
	holdsRepository = "repository"
)
