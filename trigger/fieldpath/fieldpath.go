// Package fieldpath reads and writes the paths by which a configuration names
// a field of some document, as in spec.containers[name=web].image. It knows the
// language and no documents: where a path leads is for who has one.
package fieldpath

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Path is the way to a field, step by step. One that was parsed has a step at
// least.
type Path []Step

// Step leads into a mapping or into a list.
type Step struct {
	Kind  Kind
	Name  string // of the field; or of the key by which an element is known
	Value string // of that key
	Index int    // of an element, from 0
}

// Kind tells the steps apart.
type Kind int

const (
	// Field is the one of a mapping with the name.
	Field Kind = iota
	// Number is the element of a list at the index.
	Number
	// Search is the element of a list whose key, the name, has the value.
	Search
)

// What ends a word; a backslash makes it part of the word.
const (
	endsName  = ".[]"
	endsKey   = "=[]"
	endsValue = "[]"
)

// Parse reads names with dots between them, and [2] or [name=web] for the
// elements of lists: spec.parameters[name=image.tag].value. A backslash before
// a character that would end a name, or before a backslash, makes it part of
// the name. The error says where the path cannot be read, and is meant to
// stand behind it.
func Parse(s string) (Path, error) {
	var p Path
	for rest := s; rest != "" || p == nil; {
		step, after, err := next(rest, p == nil)
		if err != nil {
			where := "at its end"
			if after != "" {
				where = fmt.Sprintf("at character %d, %q", 1+utf8.RuneCountInString(s[:len(s)-len(after)]), after)
			}
			return nil, fmt.Errorf("cannot be read %s: %w", where, err)
		}
		p, rest = append(p, step), after
	}
	return p, nil
}

// next reads a step, and gives what comes after it, or where it is wrong.
func next(s string, first bool) (step Step, after string, err error) {
	if strings.HasPrefix(s, "[") {
		return element(s)
	}
	rest, dot := s, true
	if !first {
		rest, dot = strings.CutPrefix(s, ".")
	}
	if !dot {
		return step, s, errors.New("here only a dot or an opening bracket may come")
	}
	if step.Name, after, err = word(rest, endsName); err == nil && step.Name == "" {
		err = errors.New("a name is missing")
	}
	return step, after, err
}

// element reads a step in brackets.
func element(s string) (step Step, after string, err error) {
	name, after, err := word(s[1:], endsKey)
	if err != nil {
		return step, after, err
	}
	if value, ok := strings.CutPrefix(after, "="); ok {
		step = Step{Kind: Search, Name: name}
		step.Value, after, err = word(value, endsValue)
	} else {
		n, _ := strconv.ParseUint(name, 10, 31) // what is no number is not written as one, below
		step = Step{Kind: Number, Index: int(n)}
	}
	rest, closed := strings.CutPrefix(after, "]")
	switch {
	case err != nil:
		return step, after, err
	case !closed:
		return step, s, errors.New("a bracket is not closed")
	case step.String()+rest != s, step.Kind == Search && (step.Name == "" || step.Value == ""):
		return step, s, errors.New("in brackets must be a number, as [0], or a key and its value, as [name=web]")
	}
	return step, rest, nil
}

// word reads up to one of the characters that end it, or to the end.
func word(s, ends string) (text, after string, err error) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case strings.IndexByte(ends, s[i]) >= 0:
			return b.String(), s[i:], nil
		case s[i] != '\\':
		case i+1 == len(s) || strings.IndexByte(ends+`\`, s[i+1]) < 0:
			return "", s[i:], fmt.Errorf(`a backslash must be before one of %s\ here; write \\ for itself`, ends)
		default:
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String(), "", nil
}

// String is the path as Parse reads it; there is no other way to write it.
func (p Path) String() string {
	var b strings.Builder
	for i, s := range p {
		if i > 0 && s.Kind == Field {
			b.WriteByte('.')
		}
		b.WriteString(s.String())
	}
	return b.String()
}

// String is the step alone.
func (s Step) String() string {
	switch s.Kind {
	case Number:
		return fmt.Sprintf("[%d]", s.Index)
	case Search:
		return "[" + quote(s.Name, endsKey) + "=" + quote(s.Value, endsValue) + "]"
	default:
		return quote(s.Name, endsName)
	}
}

// quote writes a word so that only its end ends it.
func quote(text, ends string) string {
	var b strings.Builder
	for i := range len(text) {
		if text[i] == '\\' || strings.IndexByte(ends, text[i]) >= 0 {
			b.WriteByte('\\')
		}
		b.WriteByte(text[i])
	}
	return b.String()
}
