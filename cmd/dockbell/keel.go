package main

import (
	"bytes"
	"context"
	"fmt"
	"reflect"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/dockbell/dockbell/k8s"
	"github.com/dockbell/dockbell/rules"
	"github.com/dockbell/dockbell/trigger"
	"github.com/dockbell/dockbell/trigger/strictyaml"
)

// followKeel says that what keel's labels and annotations ask for is done, too.
type followKeel struct {
	Namespaces []string `yaml:"namespaces"` // none: all
	Schedule   string   `yaml:"schedule"`   // of polling where a workload names none
}

// loadFollowKeel reads `followKeel: true`, or a mapping that says more; nil for
// false.
func loadFollowKeel(n strictyaml.Node) *followKeel {
	f := &followKeel{}
	if n.YAML().Kind == yaml.MappingNode {
		n.Decode(f)
		var err error
		if f.Schedule == "" {
			return f
		} else if f.Schedule, err = k8s.KeelSchedule(f.Schedule); err != nil {
			n.Key("schedule").Fault(err)
		}
		return f
	}
	var on bool
	if !n.Decode(&on) || !on {
		return nil
	}
	return f
}

// keelRetry is when a cluster that cannot be followed is tried again.
const keelRetry = 10 * time.Second

// keelState is what keel's annotations say.
type keelState struct {
	known   bool
	keel    k8s.Keel
	changed chan struct{} // told when keel has changed
}

// notYet is why nothing can be decided: a push would be acknowledged that
// nobody acts on.
func (s *keelState) notYet(c *config) string {
	if c.followKeel == nil || s.known {
		return ""
	}
	return "the annotations of keel are not known yet"
}

// compile makes sets of the rules. One that is faulty, as a rule that needs
// approval where nobody can approve, is none of the others' business.
func (s *keelState) compile(c *config) (sets []*rules.Set, faults []error) {
	if c.followKeel == nil {
		return nil, nil
	}
	for _, r := range s.keel.Rules {
		name := r.Name
		r.Name = "" // a rule of its own set is given it
		text, _ := yaml.Marshal(r)
		n, err := strictyaml.Parse(name, bytes.NewReader(text))
		if err != nil {
			faults = append(faults, err)
			continue
		}
		set := rules.LoadOne(n, name, c.kinds, c.sourceNames(), c.registries.Aliases(), decodeSpec)
		if n.Err() == nil {
			c.checkApprovals(set, []strictyaml.Node{n})
		}
		if err := n.Err(); err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", r.Workload, err))
			continue
		}
		sets = append(sets, set)
	}
	return sets, faults
}

// withKeel adds to a configuration the pollers that keel's annotations ask
// for, and the pull secrets of registries of which it says nothing.
func withKeel(config []byte, keel k8s.Keel) ([]byte, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal(config, &doc); err != nil {
		return nil, err
	}
	root := doc.Content[0]
	for _, p := range keel.Polls {
		sources := child(root, "sources", yaml.MappingNode)
		sources.Content = append(sources.Content, word(p.Name), node(p))
	}
	var said []struct {
		Host    string   `yaml:"host"`
		Aliases []string `yaml:"aliases"`
	}
	named := map[string]bool{}
	registries := child(root, "registries", yaml.SequenceNode)
	if err := registries.Decode(&said); err != nil {
		return nil, err
	}
	for _, s := range said {
		for _, name := range append(s.Aliases, s.Host) {
			named[trigger.NormalRegistry(name)] = true
		}
	}
	for _, r := range keel.Registries {
		if !named[r.Host] {
			registries.Content = append(registries.Content, node(r))
		}
	}
	return yaml.Marshal(&doc)
}

// child gives what stands below a key of a mapping, and makes it where there is
// nothing.
func child(root *yaml.Node, key string, kind yaml.Kind) *yaml.Node {
	for i := 0; i < len(root.Content); i += 2 {
		if at := root.Content[i+1]; root.Content[i].Value == key {
			if at.Tag == "!!null" {
				*at = yaml.Node{Kind: kind}
			}
			return at
		}
	}
	at := &yaml.Node{Kind: kind}
	root.Content = append(root.Content, word(key), at)
	return at
}

func node(v any) *yaml.Node {
	var n yaml.Node
	_ = n.Encode(v) // structs of strings always encode
	return &n
}

// followKeel keeps what keel's annotations say in force, until ctx ends.
func (r *reloader) followKeel(ctx context.Context, clusters *openClusters, f followKeel) {
	options := k8s.KeelOptions{Schedule: f.Schedule, Prefix: "keel.", Follows: true}
	for ctx.Err() == nil {
		err := clusters.FollowKeel(ctx, k8s.DefaultCluster, f.Namespaces, func(workloads []k8s.KeelWorkload) {
			r.useKeel(ctx, k8s.TranslateKeel(workloads, options))
		})
		if err == nil {
			return
		}
		r.log.Error("the annotations of keel cannot be followed; trying again", "error", err, "every", keelRetry)
		select {
		case <-ctx.Done():
		case <-time.After(keelRetry):
		}
	}
}

// useKeel takes down what keel's annotations say now, and has it put to work.
// It does not wait for that: who reloads may wait for the job that calls this.
func (r *reloader) useKeel(ctx context.Context, keel k8s.Keel) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if ctx.Err() != nil || r.keel.known && reflect.DeepEqual(r.keel.keel, keel) {
		return
	}
	r.keel.known, r.keel.keel = true, keel
	for _, line := range keelReport(keel) {
		r.log.Info("keel is followed but for this", "reason", line)
	}
	select {
	case r.keel.changed <- struct{}{}:
	default:
	}
}

// keelNow is what keel's annotations say, as far as that is known.
func (r *reloader) keelNow() (keel k8s.Keel, known bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.keel.keel, r.keel.known
}
