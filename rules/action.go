package rules

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/dockbell/dockbell/trigger"
	"github.com/dockbell/dockbell/trigger/strictyaml"
)

// options are the keys that every action has beside those of its kind.
type options struct {
	Timeout  *time.Duration `yaml:"timeout"`
	Attempts *int           `yaml:"attempts"`
	Lane     string         `yaml:"lane"`
	Mode     trigger.Mode   `yaml:"mode"`
	Order    trigger.Order  `yaml:"order"`
}

var optionKeys = []string{"attempts", "lane", "mode", "order", "timeout"}

// action is one action of a rule, compiled.
type action struct {
	kind      string
	row       trigger.Kind
	spec      document
	lane      text   // as the user named it; empty for the default
	defLane   string // of a call: the rule's action
	mode      trigger.Mode
	order     trigger.Order
	attempts  int
	timeout   time.Duration
	templated bool
	target    string // when it does not depend on the event
	decode    Decoder
}

// Decoder turns a stored specification into what a [trigger.Builder] takes.
type Decoder func(spec json.RawMessage) func(any) error

// plan fills in the action's part of a run.
func (a *action) plan(run *trigger.Run, vars *variables) {
	run.Kind, run.Mode, run.Order, run.Ordered = a.kind, a.mode, a.order, a.row.Declarative && a.order != trigger.OrderAny
	run.Attempts, run.Timeout, run.Target = a.attempts, a.timeout, a.target
	spec, lane, err := a.render(vars)
	if err == nil && run.Target == "" {
		run.Target, err = a.buildTarget(spec)
	}
	if _, again := trigger.Retryable(err); again && !a.row.Declarative {
		// A secret is away for the moment. The lane does not depend on the
		// target, and the queue tries again.
		run.Target, err = a.kind, nil
	}
	run.Spec, run.Lane = spec, a.laneKey(lane, run.Target)
	if err != nil {
		run.State, run.Reason, run.FinishedAt = trigger.Failed, err.Error(), run.CreatedAt
		// Where it was going is not known: it must stand in nobody's way.
		run.Spec, run.Target, run.Lane, run.Ordered = json.RawMessage("null"), a.kind, a.defLane, false
	}
}

func (a *action) render(vars *variables) (spec json.RawMessage, lane string, err error) {
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

func (a *action) laneKey(named, target string) string {
	switch {
	case named != "":
		return "lane/" + named
	case a.row.Declarative:
		return a.kind + "/" + target
	}
	return a.defLane
}

// loadAction compiles one item of a rule's actions and tries it with vars. It
// returns nil when there are faults.
func (l *loader) loadAction(n strictyaml.Node, r *rule, index int, vars *variables) *action {
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
	a := &action{kind: keys[0], row: row, defLane: "rule/" + r.name + "/" + strconv.Itoa(index), decode: l.decode}
	general, special := split(n.YAML())
	ok = a.loadOptions(n.With(general), r.gate.waits(), vars)

	faults := 0
	fault := func(y *yaml.Node, err error) { faults++; n.With(y).Fault(err) }
	a.spec = compileDocument(special, vars, fault)
	a.templated = a.spec.templated() || a.lane.template != nil
	if faults > 0 {
		return nil
	}
	if !a.try(n, special, vars, fault) || !ok || faults > 0 {
		return nil
	}
	return a
}

// loadOptions reads the options. Of runs that have to wait only the newest is
// of interest, unless the rule says otherwise.
func (a *action) loadOptions(n strictyaml.Node, waits bool, vars *variables) bool {
	o := options{Timeout: &a.row.Timeout, Attempts: &a.row.Attempts, Mode: trigger.Queue}
	if a.row.Declarative || waits {
		o.Mode = trigger.Latest
	}
	if !n.Decode(&o) {
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
	case trigger.OrderDefault, trigger.OrderSemver, trigger.OrderTime, trigger.OrderAny:
	default:
		fault("order", "must be semver, time or any, not %q", o.Order)
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
	var err error
	if a.lane, err = compileText(o.Lane, vars); err != nil {
		fault("lane", "%w", err)
	} else if _, err = a.lane.render(vars); err != nil {
		fault("lane", "%w", err)
	}
	if len(errs) > 0 {
		n.Fault(errors.Join(errs...))
		return false
	}
	a.mode, a.order, a.attempts, a.timeout = o.Mode, o.Order, *o.Attempts, *o.Timeout
	return true
}

// try builds the action for a sample event, twice: from the file, so that
// faults have their lines, and from the form in which it will be stored.
func (a *action) try(n strictyaml.Node, special *yaml.Node, vars *variables, fault func(*yaml.Node, error)) bool {
	good := true
	at := n.With(rendered(special, vars, func(y *yaml.Node, err error) { good = false; fault(y, err) })).Also(optionKeys...)
	if !good {
		return false
	}
	reported := errors.New("reported")
	_, err := a.row.Build(func(v any) error {
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
	spec, err := a.spec.render(vars)
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

// split parts the options from the parameters of the kind.
func split(y *yaml.Node) (general, special *yaml.Node) {
	g, s := *y, *y
	g.Content, s.Content = nil, nil
	for i := 0; i < len(y.Content); i += 2 {
		into := &s
		if slices.Contains(optionKeys, y.Content[i].Value) {
			into = &g
		}
		into.Content = append(into.Content, y.Content[i], y.Content[i+1])
	}
	return &g, &s
}
