package rules

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"text/template"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/dockbell/dockbell/trigger"
)

// pushed is what every template may name.
type pushed struct {
	Registry   string
	Repository string
	Tag        string
	Digest     string
	Image      string // the reference that pulls it: registry/repository:tag
	Pinned     string // the same with the digest, when it is known
	Actor      string
	Source     string
	Action     string // push or delete
	OccurredAt stamp
}

// variables are what the templates of a rule may name.
type variables struct {
	pushed
	Match map[string]string // the named groups of the rule's tag
}

// outcome is what the templates of a notification may name.
type outcome struct {
	pushed
	Rule       string
	State      string // as `on` has it
	Reason     string
	Target     string
	Kind       string
	Run        string // its id
	Attempt    int    // tries begun
	From       string // the Image that this one replaces; "" when that is not known
	Took       string // from the first try to the end; "" when it was never tried
	StartedAt  stamp
	FinishedAt stamp
	Link       string // to where more is to be read; "" without server.url
	Title      string // all of it in one sentence
	Text       string // the rest, in lines
	Count      int    // of the outcomes that this tells of: 1, or more in a summary
}

// stamp is a time that prints as RFC 3339.
type stamp struct{ time.Time }

func (s stamp) String() string { return s.UTC().Format(time.RFC3339) }

func newPushed(e trigger.Event) pushed {
	return pushed{
		Registry: e.Registry, Repository: e.Repository, Tag: e.Tag, Digest: e.Digest,
		Image: e.Image.String(), Pinned: e.Pinned(), Actor: e.Actor, Source: e.Source, Action: e.Action,
		OccurredAt: stamp{e.Time()},
	}
}

func newVariables(e trigger.Event, groups map[string]string) *variables {
	return &variables{pushed: newPushed(e), Match: groups}
}

var functions = template.FuncMap{
	"lower":      strings.ToLower,
	"upper":      strings.ToUpper,
	"replace":    func(from, to, s string) string { return strings.ReplaceAll(s, from, to) },
	"trimPrefix": func(prefix, s string) string { return strings.TrimPrefix(s, prefix) },
	"trimSuffix": func(suffix, s string) string { return strings.TrimSuffix(s, suffix) },
	"json": func(v any) (string, error) {
		b, err := json.Marshal(v)
		return string(b), err
	},
}

// text is a string of the configuration that may hold a template.
type text struct {
	literal  string
	template *template.Template // nil: the literal is all there is
}

// compileText compiles a string. vars is an example of what it may name: in a
// rule *variables, in a notification *outcome.
func compileText(s string, vars any) (text, error) {
	if !strings.Contains(s, "{{") {
		return text{literal: s}, nil
	}
	t, err := template.New("template").Option("missingkey=error").Funcs(functions).Parse(s)
	if err != nil {
		return text{}, cleanTemplateError(err)
	}
	if err := checkNames(t, vars); err != nil {
		return text{}, err
	}
	return text{template: t}, nil
}

func (t text) render(vars any) (string, error) {
	if t.template == nil {
		return t.literal, nil
	}
	var b strings.Builder
	if err := t.template.Execute(&b, vars); err != nil {
		return "", cleanTemplateError(err)
	}
	return b.String(), nil
}

var typeName = regexp.MustCompile(` in type \*?rules\.\w+`)

// cleanTemplateError leaves out what only says that it is a template.
func cleanTemplateError(err error) error {
	msg := err.Error()
	msg = strings.TrimPrefix(msg, "template: template:")
	if i := strings.Index(msg, ": "); i >= 0 {
		msg = msg[i+2:]
	}
	msg = strings.TrimPrefix(msg, `executing "template" at `)
	msg = typeName.ReplaceAllString(msg, "")
	return fmt.Errorf("template: %s", msg)
}

// document is a YAML value made ready to be written as JSON: what is fixed is
// written already, and only the strings with templates are left open. A value
// that a template yields is quoted as a whole, so that it cannot break out of
// its string.
type document struct {
	fixed [][]byte // one more than holes
	holes []text
}

// compileDocument makes a document; what is wrong in it goes to fault.
func compileDocument(y *yaml.Node, vars any, fault func(*yaml.Node, error)) document {
	c := &documentCompiler{vars: vars, fault: fault}
	c.value(y)
	c.doc.fixed = append(c.doc.fixed, c.open.Bytes())
	return c.doc
}

type documentCompiler struct {
	doc   document
	open  bytes.Buffer
	vars  any
	fault func(*yaml.Node, error)
}

func (c *documentCompiler) value(y *yaml.Node) {
	switch y.Kind {
	case yaml.MappingNode:
		c.open.WriteByte('{')
		for i := 0; i < len(y.Content); i += 2 {
			if i > 0 {
				c.open.WriteByte(',')
			}
			if key := y.Content[i]; key.Kind != yaml.ScalarNode {
				c.fault(key, errors.New("a key must be a plain word"))
			} else if strings.Contains(key.Value, "{{") {
				c.fault(key, errors.New("a key cannot be a template"))
			}
			c.quote(y.Content[i].Value)
			c.open.WriteByte(':')
			c.value(y.Content[i+1])
		}
		c.open.WriteByte('}')
	case yaml.SequenceNode:
		c.open.WriteByte('[')
		for i, item := range y.Content {
			if i > 0 {
				c.open.WriteByte(',')
			}
			c.value(item)
		}
		c.open.WriteByte(']')
	default:
		c.scalar(y)
	}
}

func (c *documentCompiler) scalar(y *yaml.Node) {
	switch y.ShortTag() {
	case "!!null":
		c.open.WriteString("null")
		return
	case "!!bool":
		var b bool
		if err := y.Decode(&b); err == nil {
			fmt.Fprintf(&c.open, "%t", b)
			return
		}
	case "!!int", "!!float":
		// As it was written: 1.10 may be meant for a string.
		if json.Valid([]byte(y.Value)) {
			c.open.WriteString(y.Value)
			return
		}
	}
	if y.ShortTag() == "!!binary" {
		c.fault(y, errors.New("binary values are not understood here"))
	}
	t, err := compileText(y.Value, c.vars)
	if err != nil {
		c.fault(y, err)
	}
	if t.template == nil {
		c.quote(y.Value)
		return
	}
	c.doc.fixed = append(c.doc.fixed, bytes.Clone(c.open.Bytes()))
	c.doc.holes = append(c.doc.holes, t)
	c.open.Reset()
}

func (c *documentCompiler) quote(s string) { c.open.Write(quoted(s)) }

// quoted is a string as JSON, for people to read too: & stays &.
func quoted(s string) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(s) // a string always encodes
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// templated reports whether the document depends on the event.
func (d document) templated() bool { return len(d.holes) > 0 }

// render writes the document with all templates filled in.
func (d document) render(vars any) (json.RawMessage, error) {
	if !d.templated() {
		return d.fixed[0], nil
	}
	var b bytes.Buffer
	for i, hole := range d.holes {
		b.Write(d.fixed[i])
		s, err := hole.render(vars)
		if err != nil {
			return nil, err
		}
		b.Write(quoted(s))
	}
	b.Write(d.fixed[len(d.holes)])
	return b.Bytes(), nil
}

// rendered is a copy of a YAML value with all templates filled in. It keeps
// the lines, so that faults are found where they were written.
func rendered(y *yaml.Node, vars any, fault func(*yaml.Node, error)) *yaml.Node {
	c := *y
	c.Content = make([]*yaml.Node, len(y.Content))
	for i, child := range y.Content {
		c.Content[i] = rendered(child, vars, fault)
	}
	if y.Kind != yaml.ScalarNode {
		return &c
	}
	t, err := compileText(y.Value, vars)
	if err != nil || t.template == nil {
		return &c // a bad template has been reported by compileDocument
	}
	if c.Value, err = t.render(vars); err != nil {
		fault(y, err)
	}
	c.Tag, c.Style = "!!str", yaml.DoubleQuotedStyle
	return &c
}
