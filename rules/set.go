// Package rules decides: which runs an event makes, why it makes none, and who
// is told how a run ended.
// YAML becomes a Set in which everything is compiled and checked, so that a
// decision later cannot fail on syntax. The package is pure: it does no I/O,
// reads no clock, starts nothing and logs nothing.
package rules

import (
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/dockbell/dockbell/trigger"
)

// Set is all rules of a configuration, and its notifications. Once loaded it
// does not change and may be used from many goroutines.
type Set struct {
	rules   []*rule
	index   index
	notices []notice
	url     string // of dockbell, for the links of notifications; "" when it is not known
}

// With is the set with the rules of others behind its own. The notifications
// are its own.
func (s *Set) With(others ...*Set) *Set {
	all := &Set{rules: slices.Clip(s.rules), notices: s.notices, url: s.url}
	for _, o := range others {
		all.rules = append(all.rules, o.rules...)
	}
	all.index = newIndex(all.rules)
	return all
}

// Verdict is what one rule says to one event.
type Verdict struct {
	Rule      string `json:"rule"`
	Line      int    `json:"line"`
	Matched   bool   `json:"matched"`
	Condition string `json:"condition,omitzero"` // the first that failed
	Reason    string `json:"reason,omitzero"`    // why it failed

	rank int // how many conditions held before
}

// Len is the number of rules.
func (s *Set) Len() int { return len(s.rules) }

// Repositories are the patterns of the rules that name a registry, each once.
func (s *Set) Repositories() []string {
	var all []string
	for _, r := range s.rules {
		for _, g := range r.repos {
			if g.full {
				all = append(all, g.pattern)
			}
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// Kinds gives what runs can come of the set: the name of each rule or
// notification as a run has it, with the kind of each of its actions.
func (s *Set) Kinds() iter.Seq2[string, string] {
	return func(yield func(rule, kind string) bool) {
		for _, r := range s.rules {
			for _, a := range r.actions {
				if !yield(r.name, a.kind) {
					return
				}
			}
		}
		for _, n := range s.notices {
			if !yield(noticePrefix+n.name, n.action.kind) {
				return
			}
		}
	}
}

// Match gives the runs that an event makes, rule by rule in the order of the
// file, with everything rendered; when there are none, why. A template that
// cannot be rendered for this event yields a run that has failed, so that it
// is seen.
func (s *Set) Match(e trigger.Event, now time.Time) ([]trigger.Run, string) {
	var buffer [16]int
	n := namesOf(e.Image)
	var runs []trigger.Run
	var closest Verdict
	near := 0 // rules that are for the repository
	for _, i := range s.index.candidates(buffer[:0], n) {
		v, m := s.rules[i].decide(e, n)
		if v.Matched {
			runs = s.rules[i].plan(runs, e, m, now)
			continue
		}
		if v.Condition != onRepo {
			near++
		}
		if closest.Rule == "" || v.rank > closest.rank {
			closest = v
		}
	}
	switch {
	case len(runs) > 0:
		return runs, ""
	case near == 0 && e.Registry == "":
		return nil, fmt.Sprintf("no rule is for the repository %s; the sender does not tell its registry, so rules that name one cannot match: set `registry:` on the source", e.Name())
	case near == 0:
		return nil, fmt.Sprintf("no rule is for the repository %s", e.Name())
	}
	reason := fmt.Sprintf("rule %s: %s: %s", closest.Rule, closest.Condition, closest.Reason)
	if near > 1 {
		reason += fmt.Sprintf(" (rules for this repository: %d, see `dockbell explain`)", near)
	}
	return nil, reason
}

// Explain gives every rule's verdict, by the very code that Match runs.
func (s *Set) Explain(e trigger.Event) []Verdict {
	verdicts := make([]Verdict, len(s.rules))
	n := namesOf(e.Image)
	for i, r := range s.rules {
		verdicts[i], _ = r.decide(e, n)
	}
	return verdicts
}
