package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/dockbell/dockbell/k8s"
	"github.com/dockbell/dockbell/rules"
	"github.com/dockbell/dockbell/trigger"
	"github.com/dockbell/dockbell/trigger/strictyaml"
)

// rulesFrom says where there are rules beside those of the file: in the
// cluster, as resources of kind Rule.
type rulesFrom struct {
	Namespaces []string `yaml:"namespaces"` // none: all
	Kinds      []string `yaml:"kinds"`      // of actions that they may have
}

// kindOfTeams is the one kind of action that can be kept within a namespace.
const kindOfTeams = "kubernetes"

func defaultRulesFrom() *rulesFrom { return &rulesFrom{Kinds: []string{kindOfTeams}} }

// loadRulesFrom reads `rulesFrom: cluster`, or a mapping that says more.
func loadRulesFrom(n strictyaml.Node, kinds map[string]trigger.Kind) *rulesFrom {
	from := defaultRulesFrom()
	if n.YAML().Kind == yaml.ScalarNode {
		if n.YAML().Value != "cluster" {
			n.Faultf("can be cluster, not %q", n.YAML().Value)
		}
		return from
	}
	into := struct {
		Cluster *rulesFrom `yaml:"cluster"`
	}{from}
	n.Decode(&into) // what is wrong is in n; the rest is checked all the same
	if !n.Has("cluster") {
		n.Faultf("can be cluster, or a mapping with that key")
	}
	if len(from.Kinds) == 0 {
		n.Key("cluster").Key("kinds").Faultf("is empty: no rule could do anything")
	}
	for i, name := range from.Namespaces {
		if name == "" || strings.Contains(name, "/") {
			n.Key("cluster").Key("namespaces").Items()[i].Faultf("%q is not the name of a namespace", name)
		}
	}
	for i, kind := range from.Kinds {
		if _, ok := kinds[kind]; !ok {
			n.Key("cluster").Key("kinds").Items()[i].Faultf("unknown action %q; known are %s", kind, strings.Join(slices.Sorted(maps.Keys(kinds)), ", "))
		}
	}
	return from
}

// clusterState is what is known of the rules of the cluster.
type clusterState struct {
	unknown  bool // since the start nobody could tell
	rules    []k8s.Rule
	compiled map[string]compiledRule // by name
}

// compiledRule is what a configuration has made of a rule.
type compiledRule struct {
	rule   k8s.Rule
	conf   *config
	set    *rules.Set
	faults []string // why it is not in force; none when it is
}

// notYet is why nothing can be decided: with half of the rules a push would be
// acknowledged that nobody acts on.
func (s *clusterState) notYet() string {
	if s.unknown {
		return "the rules of the cluster are not known yet"
	}
	return ""
}

// compile makes sets of the rules as far as they are good, and takes down what
// is wrong with the others. Of many rules one changes at a time: only what has
// changed is compiled again.
func (s *clusterState) compile(c *config) (sets []*rules.Set) {
	before := s.compiled
	s.compiled = map[string]compiledRule{}
	for _, r := range s.rules {
		one, ok := before[r.String()]
		if !ok || one.conf != c || !one.rule.Same(r) {
			one = compiledRule{rule: r, conf: c}
			var err error
			if one.set, err = c.compileRule(r); err != nil {
				one.faults = faultsOf(err)
			}
		}
		s.compiled[r.String()] = one
		if len(one.faults) == 0 {
			sets = append(sets, one.set)
		}
	}
	return sets
}

// faulty counts the rules that are not in force.
func (s *clusterState) faulty() (n int) {
	for _, one := range s.compiled {
		if len(one.faults) > 0 {
			n++
		}
	}
	return n
}

// compileRule makes a set of one rule, or says all that is wrong with it.
func (c *config) compileRule(r k8s.Rule) (*rules.Set, error) {
	n, err := strictyaml.ParseJSON(r.String(), r.Spec)
	if err != nil {
		return nil, err
	}
	actions := n.Key("actions").Items()
	for _, a := range actions {
		if spec := a.Key(kindOfTeams); a.Has(kindOfTeams) && spec.YAML().Kind == yaml.MappingNode && !spec.Has("namespace") {
			own := spec.YAML()
			own.Content = append(own.Content, word("namespace"), word(r.Namespace))
		}
		refuseSecrets(a)
	}
	set := rules.LoadOne(n, r.String(), c.kindsWithin(r.Namespace), c.sourceNames(), c.registries.Aliases(), decodeSpec)
	if n.Err() == nil {
		c.checkApprovals(set, []strictyaml.Node{n})
	}
	return set, n.Err()
}

func word(s string) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s, Line: 1}
}

// refuseSecrets finds references to secrets. Those are dockbell's: whoever may
// write a rule could have them sent anywhere.
func refuseSecrets(n strictyaml.Node) {
	keys := n.Keys()
	for _, key := range keys {
		refuseSecrets(n.Key(key))
	}
	for _, item := range n.Items() {
		refuseSecrets(item)
	}
	if len(keys) == 1 && (keys[0] == "env" || keys[0] == "file") && n.Key(keys[0]).YAML().Kind == yaml.ScalarNode {
		n.Faultf("a rule of the cluster cannot name secrets: they are those of dockbell itself")
	}
}

// kindsWithin is the table of actions for the rules of a namespace.
func (c *config) kindsWithin(namespace string) map[string]trigger.Kind {
	within := maps.Clone(c.kinds)
	for name, row := range within {
		switch {
		case !slices.Contains(c.rulesFrom.Kinds, name):
			row.Build = func(func(any) error) (trigger.Action, error) {
				return nil, fmt.Errorf("a rule of the cluster cannot have this action: rulesFrom.cluster.kinds allows %s", strings.Join(c.rulesFrom.Kinds, ", "))
			}
		case name == kindOfTeams:
			row.Build = k8s.Within(namespace, row.Build)
		}
		within[name] = row
	}
	return within
}

// faultsOf gives what is wrong with a resource, where each of it is by its
// path: it has no lines.
func faultsOf(err error) []string {
	var all []string
	for _, e := range partsOf(err) {
		text := e.Error()
		if f, ok := e.(strictyaml.Fault); ok {
			if text = f.Msg; f.Path != "" {
				text = f.Path + ": " + f.Msg
			}
		}
		all = append(all, text)
	}
	return all
}

// followRules keeps the rules of the cluster in force, and tells in their
// status how they do, until ctx ends.
func (r *reloader) followRules(ctx context.Context, clusters *openClusters, namespaces []string) {
	changed := make(chan struct{}, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		newRuleReporter(r, clusters).run(ctx, changed)
	}()
	clusters.Rules(ctx, namespaces, func(found []k8s.Rule) {
		r.useRules(ctx, found)
		select {
		case changed <- struct{}{}:
		default:
		}
	})
	<-done
}

// useRules puts the rules of the cluster to work as they are now.
func (r *reloader) useRules(ctx context.Context, found []k8s.Rule) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.now().conf.rulesFrom == nil || ctx.Err() != nil {
		return // they are not asked for any more
	}
	before := r.found
	r.found.rules = found
	if !before.unknown && slices.EqualFunc(before.rules, found, k8s.Rule.Same) {
		return // but for their status
	}
	r.found.unknown = false
	next := *r.now()
	r.swap(&next)
	r.log.Info("rules of the cluster in force", "rules", len(found)-r.found.faulty(), "faulty", r.found.faulty())
	for _, rule := range found {
		if faults := r.found.compiled[rule.String()].faults; len(faults) > 0 && !slices.Equal(faults, before.compiled[rule.String()].faults) {
			r.log.Warn("a rule of the cluster is not in force", "rule", rule, "faults", faults)
		}
	}
}
