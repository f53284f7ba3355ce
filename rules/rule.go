package rules

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/Masterminds/semver/v3"

	"github.com/dockbell/dockbell/trigger"
)

// rule is one rule, compiled.
type rule struct {
	name        string
	line        int
	event       string // trigger.Push or trigger.Delete
	sources     []string
	repos       []repoGlob
	excludeRepo []repoGlob
	tag         *trigger.TagPattern // nil: any tag
	excludeTag  []*trigger.TagPattern
	untagged    bool
	semver      *semver.Constraints
	gate        gate
	sequence    bool // its actions are steps that follow each other
	actions     []action
}

// condition is one question that a rule asks of an event. It gives the reason
// why the event fails it, or "".
type condition struct {
	name string
	fail func(r *rule, e trigger.Event, m *match) string
}

const onRepo = "repo"

// match is what the conditions know and learn on the way.
type match struct {
	names  names
	groups map[string]string // of the tag
}

// conditions are asked in this order: telling ones first. A rule that gets
// past onRepo is for the repository.
var conditions = []condition{
	{onRepo, (*rule).failRepo},
	{"event", (*rule).failEvent},
	{"exclude.repo", (*rule).failExcludeRepo},
	{"sources", (*rule).failSources},
	{"tag", (*rule).failTag},
	{"exclude.tag", (*rule).failExcludeTag},
	{"semver", (*rule).failSemver},
}

// decide asks all conditions up to the first that fails.
func (r *rule) decide(e trigger.Event, n names) (Verdict, match) {
	m := match{names: n}
	for i, c := range conditions {
		if why := c.fail(r, e, &m); why != "" {
			return Verdict{Rule: r.name, Line: r.line, Condition: c.name, Reason: why, rank: i}, m
		}
	}
	return Verdict{Rule: r.name, Line: r.line, Matched: true, rank: len(conditions)}, m
}

func (r *rule) failEvent(e trigger.Event, _ *match) string {
	if e.Ignored != "" {
		return "it is no image push: " + e.Ignored
	}
	if e.Action != r.event {
		return fmt.Sprintf("it is a %s, the rule is for a %s", e.Action, r.event)
	}
	return ""
}

func (r *rule) failRepo(e trigger.Event, m *match) string {
	for _, g := range r.repos {
		if g.matches(m.names) {
			return ""
		}
	}
	return fmt.Sprintf("%s does not match %s", e.Name(), globs(r.repos))
}

func (r *rule) failExcludeRepo(e trigger.Event, m *match) string {
	for _, g := range r.excludeRepo {
		if g.matches(m.names) {
			return fmt.Sprintf("%s matches %s", e.Name(), g.written)
		}
	}
	return ""
}

func (r *rule) failSources(e trigger.Event, _ *match) string {
	if len(r.sources) == 0 || slices.Contains(r.sources, e.Source) {
		return ""
	}
	return fmt.Sprintf("it comes from %s, the rule listens to %s", e.Source, strings.Join(r.sources, ", "))
}

func (r *rule) failTag(e trigger.Event, m *match) string {
	if e.Tag == "" {
		if r.untagged || r.event == trigger.Delete && r.tag == nil {
			return ""
		}
		return "it was pushed by digest, without a tag; a rule for those says `untagged: true`"
	}
	if r.tag == nil {
		return ""
	}
	if m.groups = groupsOf(r.tag, e.Tag); m.groups == nil {
		return fmt.Sprintf("%q does not match %s", e.Tag, r.tag)
	}
	return ""
}

// groupsOf gives the named groups of a tag; nil when it does not match.
func groupsOf(re *trigger.TagPattern, tag string) map[string]string {
	found := re.FindStringSubmatch(tag)
	if found == nil {
		return nil
	}
	groups := map[string]string{}
	for i, name := range re.SubexpNames() {
		if name != "" {
			groups[name] = found[i]
		}
	}
	return groups
}

func (r *rule) failExcludeTag(e trigger.Event, _ *match) string {
	for _, re := range r.excludeTag {
		if e.Tag != "" && re.MatchString(e.Tag) {
			return fmt.Sprintf("%q matches %s", e.Tag, re)
		}
	}
	return ""
}

// failSemver compares the group named version where the tag has one, and the
// whole tag otherwise.
func (r *rule) failSemver(e trigger.Event, m *match) string {
	if r.semver == nil {
		return ""
	}
	text, ok := m.groups["version"]
	if !ok {
		text = e.Tag
	}
	v, err := semver.NewVersion(text)
	if err != nil {
		return fmt.Sprintf("%q is not a semantic version", text)
	}
	if r.semver.Check(v) {
		return ""
	}
	_, why := r.semver.Validate(v)
	reasons := make([]string, len(why))
	for i, err := range why {
		reasons[i] = err.Error()
	}
	return strings.Join(reasons, ", ")
}

// plan adds the runs of a rule that matched.
func (r *rule) plan(runs []trigger.Run, e trigger.Event, m match, now time.Time) []trigger.Run {
	var vars *variables // made for the first action that has a template
	for i := range r.actions {
		run := trigger.Run{Rule: r.name, Index: i, Event: e, CreatedAt: now, NotBefore: now}
		if r.actions[i].templated && vars == nil {
			vars = newVariables(e, m.groups)
		}
		r.actions[i].plan(&run, vars)
		if !r.sequence || i == 0 { // the others wait for the first one
			r.gate.hold(&run, now)
		}
		runs = append(runs, run)
	}
	return runs
}
