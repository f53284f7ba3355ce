package rules

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"text/template"
	"text/template/parse"
)

// checkNames finds names that there are not in all branches of a template:
// trying it out would only find them in those that the example goes through.
func checkNames(t *template.Template, vars any) error {
	c := nameCheck{vars: vars}
	c.list(t.Root, true)
	return c.err
}

type nameCheck struct {
	vars any
	err  error // the first fault
}

// list looks through nodes. dot says whether the dot still is the event there,
// and not what range or with made it.
func (c *nameCheck) list(l *parse.ListNode, dot bool) {
	if l == nil {
		return
	}
	for _, n := range l.Nodes {
		switch n := n.(type) {
		case *parse.ActionNode:
			c.node(n.Pipe, dot)
		case *parse.TemplateNode:
			c.node(n.Pipe, dot)
		case *parse.IfNode:
			c.branch(&n.BranchNode, dot, dot)
		case *parse.RangeNode:
			c.branch(&n.BranchNode, dot, false)
		case *parse.WithNode:
			c.branch(&n.BranchNode, dot, false)
		}
	}
}

func (c *nameCheck) branch(b *parse.BranchNode, dot, inside bool) {
	c.node(b.Pipe, dot)
	c.list(b.List, inside)
	c.list(b.ElseList, dot)
}

func (c *nameCheck) node(n parse.Node, dot bool) {
	switch n := n.(type) {
	case *parse.PipeNode:
		if n == nil {
			return
		}
		for _, cmd := range n.Cmds {
			for _, arg := range cmd.Args {
				c.node(arg, dot)
			}
		}
	case *parse.ChainNode:
		c.node(n.Node, dot)
	case *parse.FieldNode:
		if dot {
			c.name(n.Ident)
		}
	case *parse.VariableNode:
		if n.Ident[0] == "$" {
			c.name(n.Ident[1:])
		}
	}
}

// name checks a path of names from the root on.
func (c *nameCheck) name(path []string) {
	if len(path) == 0 || c.err != nil {
		return
	}
	var known []string
	for _, f := range reflect.VisibleFields(reflect.TypeOf(c.vars).Elem()) {
		if !f.Anonymous {
			known = append(known, f.Name)
		}
	}
	if !slices.Contains(known, path[0]) {
		c.err = fmt.Errorf("template: there is no .%s; there are .%s", path[0], strings.Join(known, ", ."))
		return
	}
	vars, ok := c.vars.(*variables)
	if !ok || path[0] != "Match" || len(path) < 2 {
		return
	}
	if _, ok := vars.Match[path[1]]; !ok {
		c.err = fmt.Errorf("template: there is no .Match.%s; the named groups of the rule's tag are %s", path[1], orNone(slices.Sorted(maps.Keys(vars.Match))))
	}
}

func orNone(list []string) string {
	if len(list) == 0 {
		return "none"
	}
	return strings.Join(list, ", ")
}
