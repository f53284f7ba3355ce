package rules

import (
	"errors"
	"regexp"
	"slices"
	"strings"

	"github.com/bmatcuk/doublestar/v4"

	"github.com/dockbell/dockbell/trigger"
)

// repoGlob is a pattern for repositories: * within a path segment, ** across.
type repoGlob struct {
	written string // as it stands in the file
	pattern string // with the registry in its normal form
	full    bool   // matched against registry/repository, else the repository alone
	literal string // what every match begins with
	exact   bool   // the literal is all there is
}

const globMeta = `*?[{\`

var (
	errBadGlob = errors.New("not a valid pattern; * matches within a path segment, ** across")

	// partialStars is a ** that would only mean *.
	partialStars = regexp.MustCompile(`[^/{,]\*\*|\*\*[^/},]`)
)

// compileRepo reads a pattern. One whose first segment can only be a registry
// (a dot, a colon, localhost) is for that registry, any other for every one.
// What could never match a name is refused. A registry with several names is
// known by the one that counts, as in events.
func compileRepo(pattern string, aliases trigger.Aliases) (repoGlob, error) {
	g := repoGlob{written: pattern, pattern: pattern}
	switch {
	case pattern == "" || !doublestar.ValidatePattern(pattern):
		return g, errBadGlob
	case strings.Contains(pattern, "://"):
		return g, errors.New("a repository is named without https://")
	case strings.LastIndexAny(pattern, ":@") > strings.LastIndexByte(pattern, '/'):
		return g, errors.New("a repository is named without tag and digest; the tag has a key of its own, `tag`")
	case strings.HasPrefix(pattern, "/") || strings.HasSuffix(pattern, "/") || strings.Contains(pattern, "//"):
		return g, errors.New("has an empty path segment")
	case partialStars.MatchString(pattern):
		return g, errors.New("** must be a path segment of its own, as in shop/**")
	}
	if first, rest, ok := strings.Cut(pattern, "/"); ok && trigger.IsRegistry(first) {
		g.full = true
		g.pattern = aliases.Canonical(first) + "/" + rest
	}
	g.literal, g.exact = g.pattern, true
	if i := strings.IndexAny(g.pattern, globMeta); i >= 0 {
		g.literal, g.exact = g.pattern[:i], false
	}
	return g, nil
}

// names are what patterns are compared with. Those of one kind see the full
// name, those of the other the repository; an official image of Docker Hub
// goes by a short name, too. Those that there are not are "".
type names struct{ full, fullShort, bare, short string }

func namesOf(img trigger.Image) names {
	n := names{bare: img.Repository}
	if img.Registry != "" {
		n.full = img.Name()
	}
	if short, ok := strings.CutPrefix(img.Repository, "library/"); ok && img.Registry == trigger.DockerHub {
		n.short, n.fullShort = short, trigger.DockerHub+"/"+short
	}
	return n
}

func (g repoGlob) matches(n names) bool {
	if g.full {
		return n.full != "" && g.match(n.full) || n.fullShort != "" && g.match(n.fullShort)
	}
	return g.match(n.bare) || n.short != "" && g.match(n.short)
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
		patterns[i] = g.written
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
func (x index) candidates(into []int, n names) []int {
	if n.full != "" {
		into = x.full.find(into, n.full)
	}
	into = x.bare.find(into, n.bare)
	if n.short != "" {
		into = x.full.find(into, n.fullShort)
		into = x.bare.find(into, n.short)
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
