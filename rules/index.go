package rules

import (
	"slices"
	"strings"

	"github.com/bmatcuk/doublestar/v4"

	"github.com/dockbell/dockbell/trigger"
)

// repoGlob is a pattern for repositories: * within a path segment, ** across.
type repoGlob struct {
	pattern string
	full    bool   // matched against registry/repository, else the repository alone
	literal string // what every match begins with
	exact   bool   // the literal is all there is
}

const globMeta = `*?[{\`

// compileRepo reads a pattern. One whose first segment can only be a registry
// (a dot, a colon, localhost) is for that registry, any other for every one.
func compileRepo(pattern string) (repoGlob, error) {
	g := repoGlob{pattern: pattern, literal: pattern}
	if !doublestar.ValidatePattern(pattern) || pattern == "" {
		return g, errBadGlob
	}
	if first, rest, ok := strings.Cut(pattern, "/"); ok && trigger.IsRegistry(first) {
		g.full = true
		registry := trigger.NormalRegistry(first)
		if registry == trigger.DockerHub && !strings.Contains(rest, "/") && !strings.ContainsAny(rest, globMeta) {
			rest = "library/" + rest
		}
		g.literal = registry + "/" + rest
	}
	whole := g.literal
	if i := strings.IndexAny(g.literal, globMeta); i >= 0 {
		g.literal = g.literal[:i]
	} else {
		g.exact = true
	}
	g.pattern = whole
	return g, nil
}

// names are what patterns are compared with: the full name for one kind, for
// the other the repository, and for an official image of Docker Hub its short
// name, too.
func names(img trigger.Image) (full, bare, short string) {
	if img.Registry != "" {
		full = img.Name()
	}
	if img.Registry == trigger.DockerHub {
		short, _ = strings.CutPrefix(img.Repository, "library/")
	}
	if short == img.Repository {
		short = ""
	}
	return full, img.Repository, short
}

func (g repoGlob) matches(img trigger.Image) bool {
	full, bare, short := names(img)
	if g.full {
		return full != "" && g.match(full)
	}
	return g.match(bare) || short != "" && g.match(short)
}

func (g repoGlob) match(name string) bool {
	if g.exact {
		return name == g.literal
	}
	return strings.HasPrefix(name, g.literal) && doublestar.MatchUnvalidated(g.pattern, name)
}

func globs(list []repoGlob) string {
	patterns := make([]string, len(list))
	for i, g := range list {
		patterns[i] = g.pattern
	}
	return strings.Join(patterns, ", ")
}

// index finds the rules that can match a name without looking at the others:
// by the whole name, and by each prefix of it that some pattern begins with.
type index struct{ full, bare prefixes }

type prefixes struct {
	exact   map[string][]int
	begins  map[string][]int
	lengths []int // of the keys of begins, ascending
}

func newIndex(rules []*rule) index {
	var x index
	for i, r := range rules {
		for _, g := range r.repos {
			if g.full {
				x.full.add(g, i)
			} else {
				x.bare.add(g, i)
			}
		}
	}
	return x
}

func (p *prefixes) add(g repoGlob, rule int) {
	if p.exact == nil {
		p.exact, p.begins = map[string][]int{}, map[string][]int{}
	}
	if g.exact {
		p.exact[g.literal] = append(p.exact[g.literal], rule)
		return
	}
	p.begins[g.literal] = append(p.begins[g.literal], rule)
	if i, found := slices.BinarySearch(p.lengths, len(g.literal)); !found {
		p.lengths = slices.Insert(p.lengths, i, len(g.literal))
	}
}

// candidates adds the rules that may match, in their order and each once.
func (x index) candidates(into []int, img trigger.Image) []int {
	full, bare, short := names(img)
	if full != "" {
		into = x.full.find(into, full)
	}
	into = x.bare.find(into, bare)
	if short != "" {
		into = x.bare.find(into, short)
	}
	slices.Sort(into)
	return slices.Compact(into)
}

func (p *prefixes) find(into []int, name string) []int {
	into = append(into, p.exact[name]...)
	for _, n := range p.lengths {
		if n > len(name) {
			break
		}
		into = append(into, p.begins[name[:n]]...)
	}
	return into
}
