package rules

import (
	"regexp"
	"regexp/syntax"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/dockbell/dockbell/trigger"
)

// sample is what a rule could match, to try its templates with while loading:
// what they make of it has to pass the checks of its actions.
func sample(r *rule) *variables {
	e, groups := sampleEvent(r)
	return newVariables(e, groups)
}

// sampleEvent is an event that a rule could match, with the groups of its tag.
func sampleEvent(r *rule) (trigger.Event, map[string]string) {
	e := trigger.Event{
		Image:      trigger.Image{Registry: "registry.example.com", Repository: "shop/web", Tag: "v1.2.3", Digest: "sha256:" + strings.Repeat("0", 64)},
		Actor:      "somebody",
		Source:     "registry",
		Action:     r.event,
		OccurredAt: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
	}
	if len(r.sources) > 0 {
		e.Source = r.sources[0]
	}
	if len(r.repos) > 0 {
		e.Registry, e.Repository = r.repos[0].example(e.Image)
	}
	groups := map[string]string{}
	if r.tag != nil {
		for _, name := range r.tag.SubexpNames() {
			groups[name] = "1.2.3"
		}
		if tag, ok := exampleTag(r.tag); ok {
			e.Tag = tag
			groups = groupsOf(r.tag, tag)
		}
		delete(groups, "")
	}
	return e, groups
}

// sampleOutcome is how a run of a rule could stand, to try the templates of a
// notification with that is on some words.
func sampleOutcome(r *rule, on []string) *outcome {
	e, _ := sampleEvent(r)
	began := e.OccurredAt.Add(time.Second)
	told := trigger.Notice{From: e.Image, Run: trigger.Run{
		ID: 1, Event: e, Rule: r.name, State: trigger.Failed, Reason: "exit status 1", Target: "deployment prod/web", Kind: "kubernetes", Attempt: 1,
		FirstAt: began, FinishedAt: began.Add(time.Minute),
	}}
	told.From.Tag = "v1.2.2"
	o := newOutcome(told, "https://dockbell.example.com", began)
	if len(on) > 0 {
		o.State = on[0]
	}
	return o
}

var firstOfMany = regexp.MustCompile(`\{([^{},]*)[^{}]*\}`)

// example is a repository that the pattern matches; that of the image when
// none is easily found.
func (g repoGlob) example(img trigger.Image) (registry, repository string) {
	name := firstOfMany.ReplaceAllString(g.pattern, "$1")
	name = strings.NewReplacer("**", "a", "*", "a", "?", "a").Replace(name)
	if !g.full {
		name = img.Registry + "/" + name
	}
	found, err := trigger.ParseImage(name)
	if err != nil || !g.matches(namesOf(found)) {
		return img.Registry, img.Repository
	}
	return found.Registry, found.Repository
}

// exampleTag is a tag that the expression matches, if one is easily found.
func exampleTag(re *trigger.TagPattern) (string, bool) {
	parsed, err := syntax.Parse(re.String(), syntax.Perl)
	if err != nil {
		return "", false
	}
	tag := exampleText(parsed)
	if _, err := trigger.NewImage("", "any", tag, ""); err != nil || tag == "" || !re.MatchString(tag) {
		return "", false
	}
	return tag, true
}

// exampleLength is that of what may be of any length: templates cut pieces from
// the hash of a commit, for one.
const exampleLength = 12

func exampleText(re *syntax.Regexp) string {
	var b strings.Builder
	switch re.Op {
	case syntax.OpLiteral:
		b.WriteString(string(re.Rune))
	case syntax.OpCharClass:
		b.WriteRune(exampleRune(re.Rune))
	case syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		b.WriteByte('a')
	case syntax.OpStar, syntax.OpPlus:
		one := exampleText(re.Sub[0])
		if utf8.RuneCountInString(one) == 1 {
			return strings.Repeat(one, exampleLength)
		}
		return one
	case syntax.OpRepeat:
		for range max(re.Min, min(1, re.Max)) {
			b.WriteString(exampleText(re.Sub[0]))
		}
	case syntax.OpAlternate:
		return exampleText(re.Sub[0])
	default: // once what may be there or not, nothing for assertions
		for _, sub := range re.Sub {
			b.WriteString(exampleText(sub))
		}
	}
	return b.String()
}

// exampleRune is a character of a class, given by pairs of first and last.
func exampleRune(class []rune) rune {
	for _, r := range "a1A" {
		for i := 0; i+1 < len(class); i += 2 {
			if class[i] <= r && r <= class[i+1] {
				return r
			}
		}
	}
	if len(class) == 0 {
		return 'a'
	}
	return class[0]
}
