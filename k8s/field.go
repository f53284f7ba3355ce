package k8s

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// fieldPath leads to a field of a custom resource.
type fieldPath []pathStep

// pathStep is one step on the way: into a mapping by name, into a list by
// number, or to the one element whose key has a value.
type pathStep struct {
	name       string // of the field; or of the key, in a list
	value      string
	index      int
	list, byNo bool
}

// parsePath reads names with dots between them, and [2] or [name=web] for the
// elements of lists: spec.parameters[name=image.tag].value. A backslash before
// a dot, a bracket or a backslash makes it part of a name.
func parsePath(s string) (fieldPath, error) {
	var p fieldPath
	for rest := s; ; {
		name, after, err := pathName(rest)
		if err != nil {
			return nil, err
		}
		p = append(p, pathStep{name: name})
		for strings.HasPrefix(after, "[") {
			inside, behind, ok := strings.Cut(after[1:], "]")
			if !ok {
				return nil, fmt.Errorf("the bracket at %q is not closed", after)
			}
			step, err := listStep(inside)
			if err != nil {
				return nil, err
			}
			p, after = append(p, step), behind
		}
		if after == "" {
			return p, nil
		}
		if after[0] != '.' {
			return nil, fmt.Errorf("%q comes behind a bracket, where only a dot or another bracket may be", after)
		}
		rest = after[1:]
	}
}

func pathName(s string) (name, after string, err error) {
	var b strings.Builder
	i := 0
	for ; i < len(s) && s[i] != '.' && s[i] != '['; i++ {
		switch {
		case s[i] == ']':
			return "", "", fmt.Errorf("%q closes a bracket that is not open", s[i:])
		case s[i] == '\\':
			if i++; i == len(s) || !strings.ContainsRune(`.[]\`, rune(s[i])) {
				return "", "", errors.New(`a backslash must be followed by a dot, a bracket or a backslash`)
			}
		}
		b.WriteByte(s[i])
	}
	if b.Len() == 0 {
		return "", "", errors.New("a name is empty")
	}
	return b.String(), s[i:], nil
}

func listStep(inside string) (pathStep, error) {
	if key, value, ok := strings.Cut(inside, "="); ok && key != "" && value != "" {
		return pathStep{list: true, name: key, value: value}, nil
	}
	n, err := strconv.Atoi(inside)
	if err != nil || n < 0 || strconv.Itoa(n) != inside {
		return pathStep{}, fmt.Errorf("[%s] must be a number, as [0], or a key and its value, as [name=web]", inside)
	}
	return pathStep{list: true, byNo: true, index: n}, nil
}

// String is the path as parsePath reads it.
func (p fieldPath) String() string {
	var b strings.Builder
	for i, s := range p {
		switch {
		case s.byNo:
			fmt.Fprintf(&b, "[%d]", s.index)
		case s.list:
			fmt.Fprintf(&b, "[%s=%s]", s.name, s.value)
		default:
			if i > 0 {
				b.WriteByte('.')
			}
			b.WriteString(strings.NewReplacer(`\`, `\\`, ".", `\.`, "[", `\[`, "]", `\]`).Replace(s.name))
		}
	}
	return b.String()
}

// find goes the way in an object. What it finds must be text that is there: a
// slip in the path must not make a field that nobody reads.
func (p fieldPath) find(object map[string]any) (slot, error) {
	var at any = object
	var where place
	for i, step := range p {
		var err error
		if at, err = step.into(at, &where); err != nil {
			return slot{}, fmt.Errorf("there is no %s: %w", p[:i+1], err)
		}
	}
	value, ok := at.(string)
	if !ok {
		return slot{}, fmt.Errorf("%s is no text; if it is a number, put it in quotes", p)
	}
	return slot{role: field, name: p.String(), at: &where, image: value}, nil
}

// into goes one step, and notes the way and how to test that it stays the same.
func (s pathStep) into(at any, where *place) (any, error) {
	if !s.list {
		m, ok := at.(map[string]any)
		if !ok {
			return nil, errors.New("what it should be in is no mapping")
		}
		next, ok := m[s.name]
		if !ok {
			return nil, errors.New("only a field that is there is changed")
		}
		where.pointer += "/" + escape(s.name)
		where.managed = append(where.managed, "f:"+s.name)
		return next, nil
	}
	list, ok := at.([]any)
	if !ok {
		return nil, errors.New("what it should be in is no list")
	}
	index, key, err := s.index, "name", error(nil)
	if !s.byNo {
		key = s.name
		index, err = s.search(list)
	} else if index >= len(list) {
		err = fmt.Errorf("the list has %d elements", len(list))
	}
	if err != nil {
		return nil, err
	}
	where.pointer += "/" + strconv.Itoa(index)
	if m, ok := list[index].(map[string]any); ok {
		if value, ok := m[key].(string); ok {
			where.guards = append(where.guards, op{"test", where.pointer + "/" + escape(key), value})
			where.managed = append(where.managed, managedKey(key, value))
			return list[index], nil
		}
	}
	where.managed = append(where.managed, fmt.Sprintf("i:%d", index))
	return list[index], nil
}

// search finds the one element that is meant.
func (s pathStep) search(list []any) (int, error) {
	found := -1
	for i, one := range list {
		m, _ := one.(map[string]any)
		if value, ok := m[s.name].(string); !ok || value != s.value {
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
