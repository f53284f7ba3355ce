package rules

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/dockbell/dockbell/trigger"
	"github.com/dockbell/dockbell/trigger/strictyaml"
)

// options are the keys that an action may have beside those of its kind.
type options struct {
	Timeout  *time.Duration `yaml:"timeout"`
	Attempts *int           `yaml:"attempts"`
	Deadline time.Duration  `yaml:"deadline"`
	Backoff  struct {
		First time.Duration `yaml:"first"`
		Most  time.Duration `yaml:"most"`
	} `yaml:"backoff"`
	Lane      string        `yaml:"lane"`
	Mode      trigger.Mode  `yaml:"mode"`
	Order     trigger.Order `yaml:"order"`
	OnFailure string        `yaml:"onFailure"`
	When      trigger.When  `yaml:"when"`
}

// optionKeys are those of the actions of rules.
var optionKeys = []string{"attempts", "backoff", "deadline", "lane", "mode", "onFailure", "order", "timeout", "when"}

// longestBackoff keeps a slip in a unit from making a run wait for days.
const longestBackoff = time.Hour

// holdOnFailure is the one thing that onFailure can be.
const holdOnFailure = "hold"

// action is one action of a rule or a notification, compiled.
type action struct {
	kind      string
	row       trigger.Kind
	spec      document
	options   options
	lane      text   // as the user named it; empty for the default
	defLane   string // of a call
	templated bool
	target    string // when it does not depend on the event
	finds     bool   // it is a [trigger.Finder]
	decode    Decoder
}

// place is where an action stands in the file, and what that makes of it.
type place struct {
	lane  string   // of a call, unless the user names another
	waits bool     // its runs may have to wait before their first try
	step  int      // of a sequence, from 1; 0 outside one
	keys  []string // those of the options that it may have
	vars  any      // a sample of what its templates may name
}

// Decoder turns a stored specification into what a [trigger.Builder] takes.
type Decoder func(spec json.RawMessage) func(any) error

// plan fills in the action's part of a run.
func (a *action) plan(run *trigger.Run, vars any) {
	o := &a.options
	run.Kind, run.Target, run.Mode = a.kind, a.target, o.Mode
	run.When = o.When
	run.Order, run.Ordered = o.Order, a.row.Declarative && o.Order != trigger.OrderAny
	run.Attempts, run.Timeout, run.Deadline = *o.Attempts, *o.Timeout, o.Deadline
	run.FirstBackoff, run.MostBackoff, run.HoldFailed, run.Finds = o.Backoff.First, o.Backoff.Most, o.OnFailure == holdOnFailure, a.finds
	spec, lane, err := a.render(vars)
	if err == nil && run.Target == "" {
		run.Target, err = a.buildTarget(spec)
	}
	if _, again := trigger.Retryable(err); again && !a.row.Declarative {
		// A secret is away for the moment. The lane does not depend on the
		// target, and the queue tries again.
		run.Target, err = a.kind, nil
	}
	run.Spec, run.Lane = spec, a.laneKey(lane, run)
	if err != nil {
		run.State, run.Reason, run.FinishedAt = trigger.Failed, err.Error(), run.CreatedAt
		// Where it was going is not known: it must stand in nobody's way.
		run.Spec, run.Target, run.Lane = json.RawMessage("null"), a.kind, a.defLane
		run.Ordered, run.HoldFailed = false, false
	}
}

func (a *action) render(vars any) (spec json.RawMessage, lane string, err error) {
	if spec, err = a.spec.render(vars); err != nil {
		return nil, "", err
	}
	lane, err = a.lane.render(vars)
	return spec, lane, err
}

func (a *action) buildTarget(spec json.RawMessage) (string, error) {
	built, err := a.row.Build(a.decode(spec))
	if err != nil {
		return "", err
	}
	return built.Target(), nil
}

func (a *action) laneKey(named string, run *trigger.Run) string {
	switch {
	case named != "":
		return "lane/" + named
	case a.finds: // for one repository a search is not made needless by that for another
		return trigger.LaneOf(a.kind, run.Target) + " for " + run.Event.Name()
	case a.row.Declarative:
		return trigger.LaneOf(a.kind, run.Target)
	}
	return a.defLane
}

// loadAction compiles the action at n and tries it with a sample. It returns
// nil when there are faults.
func (l *loader) loadAction(n strictyaml.Node, p place) *action {
	keys := n.Keys()
	if len(keys) != 1 {
		n.Faultf("an action is a mapping with one key, its kind: %s", l.kindNames())
		return nil
	}
	row, ok := l.kinds[keys[0]]
	if !ok {
		n.Faultf("unknown action %q; known are %s", keys[0], l.kindNames())
		return nil
	}
	n = n.Key(keys[0])
	if n.YAML().Kind != yaml.MappingNode {
		n.Faultf("must be a mapping with the parameters of the %s action", keys[0])
		return nil
	}
	a := &action{kind: keys[0], row: row, defLane: p.lane, decode: l.decode}
	general, special := split(n.YAML(), p.keys)
	if ok = a.loadOptions(n.With(general), p); !fixed(n, row.Fixed) {
		return nil
	}

	faults := 0
	fault := func(y *yaml.Node, err error) { faults++; n.With(y).Fault(err) }
	a.spec = compileDocument(special, p.vars, fault)
	a.templated = a.spec.templated() || a.lane.template != nil
	if faults > 0 {
		return nil
	}
	if !a.try(n, special, p, fault) || !ok || faults > 0 {
		return nil
	}
	return a
}

// fixed reports whether there are no templates in the keys that have none.
func fixed(n strictyaml.Node, keys map[string]string) bool {
	good := true
	for key, instead := range keys {
		if strings.Contains(n.Key(key).YAML().Value, "{{") {
			n.Key(key).Faultf("cannot hold a template: %s", instead)
			good = false
		}
	}
	return good
}

// loadOptions reads the options. Of runs that have to wait only the newest is
// of interest, unless the rule says otherwise.
func (a *action) loadOptions(n strictyaml.Node, p place) bool {
	a.options = options{Timeout: &a.row.Timeout, Attempts: &a.row.Attempts, Mode: trigger.Queue}
	o := &a.options
	if a.row.Declarative || p.waits {
		o.Mode = trigger.Latest
	}
	if !n.Decode(o) {
		return false
	}
	var errs []error
	fault := func(field, format string, args ...any) { errs = append(errs, trigger.Field(field, format, args...)) }
	switch o.Mode {
	case trigger.Latest, trigger.Queue, trigger.Parallel:
	default:
		fault("mode", "must be latest, queue or parallel, not %q", o.Mode)
	}
	switch o.Order {
	case trigger.OrderDefault, trigger.OrderSemver, trigger.OrderMinor, trigger.OrderPatch, trigger.OrderTime, trigger.OrderAny:
	default:
		fault("order", "must be semver, minor, patch, time or any, not %q", o.Order)
	}
	if o.Order != "" && !a.row.Declarative {
		fault("order", "%s actions have no order: each call is made", a.kind)
	}
	if o.Timeout == nil || *o.Timeout <= 0 {
		fault("timeout", "must be longer than nothing, as in 30s")
	}
	if o.Attempts == nil || *o.Attempts < 0 {
		fault("attempts", "must not be negative")
	}
	if n.Has("deadline") && o.Deadline <= 0 {
		fault("deadline", "must be longer than nothing, as in 1h")
	}
	first, most := o.Backoff.First, o.Backoff.Most
	for _, b := range []struct {
		key  string
		wait time.Duration
	}{{"first", first}, {"most", most}} {
		if n.Key("backoff").Has(b.key) && (b.wait <= 0 || b.wait > longestBackoff) {
			fault("backoff."+b.key, "must be longer than nothing and at most an hour, as in 5s")
		}
	}
	if most > 0 && first > most {
		fault("backoff.first", "must not be longer than most, %s", most)
	}
	switch {
	case n.Has("when") && p.step == 0:
		fault("when", "is for the steps of a sequence: the rule needs `sequence: true`")
	case n.Has("when") && p.step == 1:
		fault("when", "is not for the first step: there is none before it")
	case n.Has("when") && o.When != trigger.WhenSucceeded && o.When != trigger.WhenFailed && o.When != trigger.Always:
		fault("when", "must be succeeded, failed or always, not %q", o.When)
	case p.step > 0 && !n.Has("when"):
		o.When = trigger.WhenSucceeded
	}
	if n.Has("onFailure") && o.OnFailure != holdOnFailure {
		fault("onFailure", "can be hold, which keeps the image from being tried again until a person releases it; not %q", o.OnFailure)
	}
	var err error
	if a.lane, err = compileText(o.Lane, p.vars); err != nil {
		fault("lane", "%w", err)
	} else if _, err = a.lane.render(p.vars); err != nil {
		fault("lane", "%w", err)
	}
	if len(errs) > 0 {
		n.Fault(errors.Join(errs...))
		return false
	}
	return true
}

// try builds the action for a sample event, twice: from the file, so that
// faults have their lines, and from the form in which it will be stored.
func (a *action) try(n strictyaml.Node, special *yaml.Node, p place, fault func(*yaml.Node, error)) bool {
	good := true
	at := n.With(rendered(special, p.vars, func(y *yaml.Node, err error) { good = false; fault(y, err) })).Also(p.keys...)
	if !good {
		return false
	}
	reported := errors.New("reported")
	built, err := a.row.Build(func(v any) error {
		if !at.Decode(v) {
			return reported
		}
		return nil
	})
	if err != nil {
		if !errors.Is(err, reported) {
			at.Fault(err)
		}
		return false
	}
	if _, a.finds = built.(trigger.Finder); a.finds && a.options.Lane != "" {
		n.Key("lane").Faultf("%s finds what it changes, and each of those is in a lane of its own", built.Target())
		return false
	}
	spec, err := a.spec.render(p.vars)
	if err != nil {
		fault(n.YAML(), err)
		return false
	}
	target, err := a.buildTarget(spec)
	if err != nil {
		fault(n.YAML(), fmt.Errorf("cannot be stored: %w", err))
		return false
	}
	if !a.spec.templated() {
		a.target = target
	}
	return true
}

// split parts a mapping into the given keys and the others.
func split(y *yaml.Node, keys []string) (given, others *yaml.Node) {
	g, s := *y, *y
	g.Content, s.Content = nil, nil
	for i := 0; i < len(y.Content); i += 2 {
		into := &s
		if slices.Contains(keys, y.Content[i].Value) {
			into = &g
		}
		into.Content = append(into.Content, y.Content[i], y.Content[i+1])
	}
	return &g, &s
}
