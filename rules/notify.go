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
	name    string
	on      []string
	rules   []string // none: all
	action  action
	summary *action // of more than atMost outcomes; nil tells of each of them
	atMost  int
}

type noticeSpec struct {
	Name   string             `yaml:"name"`
	On     strictyaml.Strings `yaml:"on"`
	Rules  strictyaml.Strings `yaml:"rules"`
	AtMost int                `yaml:"atMost"`
}

var noticeKeys = []string{"name", "on", "rules", "atMost"}

// usualAtMost is how many messages at once people still read one by one.
const usualAtMost = 10

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

// Notices gives the runs that tell people of outcomes, with everything
// rendered. Nobody is told of those runs themselves. Of more outcomes than a
// notification has messages for, people get one that sums them up: it tells of
// the first of them. A template that cannot be rendered yields a run that has
// failed, so that it is seen.
func (s *Set) Notices(told []trigger.Notice, now time.Time) []trigger.Run {
	var runs []trigger.Run
	vars := make([]*outcome, len(told)) // made for the first notification that matches
	for i := range s.notices {
		n := &s.notices[i]
		var about []int
		for j := range told {
			if !n.matches(told[j].Run) {
				continue
			}
			if vars[j] == nil {
				vars[j] = newOutcome(told[j], s.url, now)
			}
			about = append(about, j)
		}
		if n.summary != nil && len(about) > n.atMost {
			all := make([]*outcome, len(about))
			for k, j := range about {
				all[k] = vars[j]
			}
			runs = append(runs, n.tell(n.summary, told[about[0]].Run, summarise(all, s.url), now))
			continue
		}
		for _, j := range about {
			runs = append(runs, n.tell(&n.action, told[j].Run, vars[j], now))
		}
	}
	return runs
}

// matches reports whether the notification is about how the run stands.
func (n *notice) matches(r trigger.Run) bool {
	return r.Tells == 0 && slices.Contains(n.on, noticeWord(r)) && (len(n.rules) == 0 || slices.Contains(n.rules, r.Rule))
}

// tell makes the run of an action that tells of another run.
func (n *notice) tell(a *action, of trigger.Run, vars *outcome, now time.Time) trigger.Run {
	r := trigger.Run{EventID: of.EventID, Event: of.Event, Rule: noticePrefix + n.name, Tells: of.ID, CreatedAt: now, NotBefore: now}
	a.plan(&r, vars)
	return r
}

// LoadNotices compiles the list of notifications at n into a set that nobody
// uses yet. Their links lead to the dockbell at url; there are none when that
// is "". All faults are reported to n; the set is of use only when there are
// none.
func (s *Set) LoadNotices(n strictyaml.Node, url string, kinds map[string]trigger.Kind, decode Decoder) {
	if n.YAML().Kind != yaml.SequenceNode {
		n.Faultf("must be a list of notifications")
		return
	}
	s.url = strings.TrimRight(url, "/")
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
	s := noticeSpec{Name: name, AtMost: usualAtMost}
	ok = n.With(general).Decode(&s)
	loaded = notice{name: s.Name, on: s.On, rules: s.Rules, atMost: s.AtMost}
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
	keys := n.With(special).Keys()
	if len(keys) != 1 {
		n.Faultf("needs one action beside %s: one of %s; it has %s", strings.Join(noticeKeys, ", "), l.kindNames(), orNone(keys))
		return loaded, false
	}
	joins := l.kinds[keys[0]].Message != nil
	switch _, known := l.kinds[keys[0]]; {
	case known && !joins && n.Has("atMost"):
		n.Key("atMost").Faultf("is for messages to people; %s actions tell of each outcome by itself", keys[0])
	case s.AtMost < 1:
		n.Key("atMost").Faultf("must be at least 1: how many messages at once are not summed up in one")
	}
	p := place{lane: noticePrefix + s.Name, keys: noticeOptions, vars: sampleOutcome(about, s.On)}
	a := l.loadAction(n.With(withMessage(special, l.kinds, false)), p)
	if a == nil {
		return loaded, false
	}
	loaded.action = *a
	if joins {
		loaded.summary = l.loadAction(n.With(withMessage(special, l.kinds, true)), p)
	}
	return loaded, ok
}
