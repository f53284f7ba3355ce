package rules

import (
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/Masterminds/semver/v3"

	"github.com/dockbell/dockbell/trigger"
	"github.com/dockbell/dockbell/trigger/strictyaml"
	"gopkg.in/yaml.v3"
)

// spec is a rule as it is written.
type spec struct {
	Name    string             `yaml:"name"`
	Event   string             `yaml:"event"`
	Sources strictyaml.Strings `yaml:"sources"`
	Repo    strictyaml.Strings `yaml:"repo"`
	Tag     string             `yaml:"tag"`
	Semver  string             `yaml:"semver"`
	Exclude struct {
		Repo strictyaml.Strings `yaml:"repo"`
		Tag  strictyaml.Strings `yaml:"tag"`
	} `yaml:"exclude"`
	Untagged bool          `yaml:"untagged"`
	Approve  yaml.Node     `yaml:"approve"`
	Window   yaml.Node     `yaml:"window"`
	Freeze   yaml.Node     `yaml:"freeze"`
	Settle   time.Duration `yaml:"settle"`
	MinAge   time.Duration `yaml:"minAge"`
	Sequence bool          `yaml:"sequence"`
	Actions  []yaml.Node   `yaml:"actions"`
}

type loader struct {
	kinds   map[string]trigger.Kind
	sources []string
	decode  Decoder
	aliases trigger.Aliases
	options []string // that actions may have
	given   string   // the name of the rule where it does not say it itself
}

// Load compiles the list of rules at n: expressions, patterns, constraints,
// templates and actions, the latter built for a sample event. All faults are
// reported to n; the Set is of use only when there are none. sources are the
// names that a rule may listen to; patterns may name a registry by any of its
// aliases.
func Load(n strictyaml.Node, kinds map[string]trigger.Kind, sources []string, aliases trigger.Aliases, decode Decoder) *Set {
	l := &loader{kinds: kinds, sources: sources, decode: decode, aliases: aliases, options: optionKeys}
	set := &Set{}
	if n.YAML().Kind != yaml.SequenceNode {
		n.Faultf("must be a list of rules")
		return set
	}
	lines := map[string]int{}
	for _, item := range n.Items() {
		r := l.loadRule(item)
		if line, ok := lines[r.name]; ok && r.name != "" {
			item.Key("name").Faultf("another rule is named %q, on line %d", r.name, line)
		}
		lines[r.name] = item.Line()
		set.rules = append(set.rules, r)
	}
	set.index = newIndex(set.rules)
	return set
}

// LoadOne compiles the one rule at n, which somebody else than the author of
// the configuration has written, into a set of its own. Its name is given, and
// its actions cannot name their lane, since there they could stand in the way
// of others' runs. Faults are reported as by [Load].
func LoadOne(n strictyaml.Node, name string, kinds map[string]trigger.Kind, sources []string, aliases trigger.Aliases, decode Decoder) *Set {
	options := slices.DeleteFunc(slices.Clone(optionKeys), func(key string) bool { return key == "lane" })
	l := &loader{kinds: kinds, sources: sources, decode: decode, aliases: aliases, options: options, given: name}
	set := &Set{rules: []*rule{l.loadRule(n)}}
	set.index = newIndex(set.rules)
	return set
}

func (l *loader) kindNames() string {
	return strings.Join(slices.Sorted(maps.Keys(l.kinds)), ", ")
}

var ruleName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9])?$`)

func (l *loader) loadRule(n strictyaml.Node) *rule {
	s := spec{Event: trigger.Push}
	ok := n.Decode(&s)
	// A value that could not be decoded is not missing.
	faulty := func(key string) bool { return !ok && n.Has(key) }
	r := &rule{name: s.Name, line: n.Line(), event: s.Event, sources: s.Sources, untagged: s.Untagged, sequence: s.Sequence}
	switch {
	case l.given != "" && n.Has("name"):
		n.Key("name").Faultf("is not for the rule to say: it is called %s", l.given)
	case l.given != "":
		r.name = l.given
	case !ruleName.MatchString(s.Name) && (s.Name != "" || !faulty("name")):
		n.Key("name").Faultf("a rule needs a name of letters, digits, dots, dashes and underscores, at most 64: it is in logs, metrics and lanes")
	}
	if s.Event != trigger.Push && s.Event != trigger.Delete {
		n.Key("event").Faultf("must be push or delete, not %q", s.Event)
	}
	for _, name := range s.Sources {
		if !slices.Contains(l.sources, name) {
			n.Key("sources").Faultf("there is no source %q; there are %s", name, strings.Join(l.sources, ", "))
		}
	}
	if len(s.Repo) == 0 && !faulty("repo") {
		n.Key("repo").Faultf("is missing: name a repository, or ** for all of them")
	}
	r.repos = compileAll(n.Key("repo"), s.Repo, l.compileRepo)
	exclude := n.Key("exclude")
	r.excludeRepo = compileAll(exclude.Key("repo"), s.Exclude.Repo, l.compileRepo)
	r.excludeTag = compileAll(exclude.Key("tag"), s.Exclude.Tag, trigger.CompileTag)
	if s.Tag != "" {
		if tags := compileAll(n.Key("tag"), []string{s.Tag}, trigger.CompileTag); len(tags) == 1 {
			r.tag = tags[0]
		}
	}
	if s.Semver != "" {
		if constraints := compileAll(n.Key("semver"), []string{s.Semver}, semver.NewConstraint); len(constraints) == 1 {
			r.semver = constraints[0]
		}
	}
	if len(s.Actions) == 0 && !faulty("actions") {
		n.Key("actions").Faultf("is missing: a rule needs at least one action")
	}
	r.gate = loadGate(n, s)
	p := place{waits: r.gate.waits(), keys: l.options, vars: sample(r)}
	for i, item := range n.Key("actions").Items() {
		p.lane = "rule/" + r.name + "/" + strconv.Itoa(i)
		if s.Sequence {
			p.step = i + 1
		}
		if a := l.loadAction(item, p); a != nil {
			r.actions = append(r.actions, *a)
		}
	}
	return r
}

func (l *loader) compileRepo(pattern string) (repoGlob, error) {
	return compileRepo(pattern, l.aliases)
}

// compileAll compiles each of the strings; those that cannot be are faults.
func compileAll[T any](n strictyaml.Node, list []string, compile func(string) (T, error)) []T {
	var compiled []T
	for i, s := range list {
		at := n
		if items := n.Items(); i < len(items) {
			at = items[i]
		}
		c, err := compile(s)
		if err != nil {
			at.Faultf("%q: %v", s, err)
			continue
		}
		compiled = append(compiled, c)
	}
	return compiled
}
