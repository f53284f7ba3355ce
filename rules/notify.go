package rules

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/dockbell/dockbell/trigger"
	"github.com/dockbell/dockbell/trigger/strictyaml"
)

// notice is one notification: which outcomes people are told of, and how.
type notice struct {
	name   string
	on     []string
	rules  []string // none: all
	action action
}

type noticeSpec struct {
	Name  string             `yaml:"name"`
	On    strictyaml.Strings `yaml:"on"`
	Rules strictyaml.Strings `yaml:"rules"`
}

var noticeKeys = []string{"name", "on", "rules"}

// noticePrefix begins what the runs of a notification have for a rule and for
// a lane. A rule of a cluster may have such a name, too; its lanes are others.
const noticePrefix = "notify/"

// noticeOptions are those that make sense for what nothing waits for.
var noticeOptions = []string{"attempts", "backoff", "deadline", "timeout"}

// onApproval is the word for a run that waits for people, which is no outcome.
const onApproval = "approval"

// noticeWords are what `on` may have.
var noticeWords = []string{
	string(trigger.Succeeded), string(trigger.Failed), string(trigger.Unknown), string(trigger.RolledBack), string(trigger.Expired),
	string(trigger.Rejected), string(trigger.Superseded), string(trigger.Skipped), onApproval,
}

// noticeWord is the word for how a run stands.
func noticeWord(r trigger.Run) string {
	if r.Awaits() {
		return onApproval
	}
	return string(r.State)
}

// NoticeStates are the states that any notification is about, sorted, and
// "approval" when one is about runs that wait for people.
func (s *Set) NoticeStates() []string {
	var all []string
	for _, n := range s.notices {
		all = append(all, n.on...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// Notices gives the runs that tell people how a run stands, with everything
// rendered. Nobody is told of those runs themselves. A template that cannot be
// rendered yields a run that has failed, so that it is seen.
func (s *Set) Notices(run trigger.Run, now time.Time) []trigger.Run {
	if run.Tells != 0 {
		return nil
	}
	var runs []trigger.Run
	var vars *outcome // made for the first notification that matches
	for i := range s.notices {
		n := &s.notices[i]
		if !slices.Contains(n.on, noticeWord(run)) || len(n.rules) > 0 && !slices.Contains(n.rules, run.Rule) {
			continue
		}
		if vars == nil {
			vars = newOutcome(run)
		}
		tell := trigger.Run{
			EventID: run.EventID, Event: run.Event, Rule: noticePrefix + n.name, Tells: run.ID, CreatedAt: now, NotBefore: now,
		}
		n.action.plan(&tell, vars)
		runs = append(runs, tell)
	}
	return runs
}

// LoadNotices compiles the list of notifications at n into a set that nobody
// uses yet. All faults are reported to n; the set is of use only when there
// are none.
func (s *Set) LoadNotices(n strictyaml.Node, kinds map[string]trigger.Kind, decode Decoder) {
	if n.YAML().Kind != yaml.SequenceNode {
		n.Faultf("must be a list of notifications")
		return
	}
	// Whatever its kind, a notification is a call: each one is made, in order.
	calls := maps.Clone(kinds)
	for name, row := range calls {
		row.Declarative = false
		calls[name] = row
	}
	l := &loader{kinds: calls, decode: decode}
	lines := map[string]int{}
	for i, item := range n.Items() {
		loaded, ok := l.loadNotice(item, s, strconv.Itoa(i+1))
		if line, twice := lines[loaded.name]; twice && loaded.name != "" {
			item.Key("name").Faultf("another notification is named %q, on line %d", loaded.name, line)
		}
		lines[loaded.name] = item.Line()
		if ok {
			s.notices = append(s.notices, loaded)
		}
	}
}

// loadNotice compiles one notification. Unless it has a name, that is the
// given one.
func (l *loader) loadNotice(n strictyaml.Node, set *Set, name string) (loaded notice, ok bool) {
	general, special := split(n.YAML(), noticeKeys)
	s := noticeSpec{Name: name}
	ok = n.With(general).Decode(&s)
	loaded = notice{name: s.Name, on: s.On, rules: s.Rules}
	if n.YAML().Kind != yaml.MappingNode {
		return loaded, false
	}
	if !ruleName.MatchString(s.Name) {
		n.Key("name").Faultf("must be of letters, digits, dots, dashes and underscores, at most 64: it is in logs, metrics and lanes")
	}
	words := strings.Join(noticeWords, ", ")
	if len(s.On) == 0 && (ok || !n.Has("on")) {
		n.Key("on").Faultf("is missing: what to tell people of, some of %s", words)
	}
	for _, word := range s.On {
		if !slices.Contains(noticeWords, word) {
			n.Key("on").Faultf("there is no state %q to tell people of; there are %s", word, words)
		}
	}
	about := &rule{name: "web", event: trigger.Push} // what the sample is of
	for _, name := range s.Rules {
		if i := slices.IndexFunc(set.rules, func(r *rule) bool { return r.name == name }); i >= 0 {
			about = set.rules[i]
		} else if !strings.Contains(name, "/") { // else it is of a cluster, where rules come and go
			n.Key("rules").Faultf("there is no rule %q", name)
		}
	}
	if keys := n.With(special).Keys(); len(keys) != 1 {
		n.Faultf("needs one action beside name, on and rules: one of %s; it has %s", l.kindNames(), orNone(keys))
		return loaded, false
	}
	p := place{lane: noticePrefix + s.Name, keys: noticeOptions, vars: sampleOutcome(about, s.On)}
	a := l.loadAction(n.With(special), p)
	if a == nil {
		return loaded, false
	}
	loaded.action = *a
	return loaded, ok
}
