package main

import (
	"strings"
	"testing"

	"github.com/dockbell/dockbell/k8s"
)

// What keel's annotations ask for is added to a configuration, and nothing of
// its own is changed.
func TestWithKeel(t *testing.T) {
	const config = `
registries:
  - {host: one.example.com, aliases: [two.example.com]}
sources:
  own: {type: dockerhub, auth: none}
followKeel: true
`
	workload := func(name, host string) k8s.KeelWorkload {
		return k8s.KeelWorkload{
			Kind: "deployment", Namespace: "shop", Name: name, PullSecrets: []string{"regcred"},
			Annotations: map[string]string{"keel.sh/policy": "minor", "keel.sh/trigger": "poll"},
			Images:      []k8s.KeelImage{{Name: "web", Reference: host + "/web:1.2.3"}},
		}
	}
	keel := k8s.TranslateKeel([]k8s.KeelWorkload{workload("a", "one.example.com"), workload("b", "two.example.com"), workload("c", "three.example.com")}, k8s.KeelOptions{Follows: true, Prefix: "keel."})
	for _, start := range []string{config, "followKeel: {namespaces: [shop]}\n", "sources:\nfollowKeel: true\n"} {
		merged, err := withKeel([]byte(start), keel)
		if err != nil {
			t.Fatal(err)
		}
		conf, err := parseConfig("merged", merged, offlineKinds(t.Context(), true))
		if err != nil {
			t.Fatalf("%v\n%s", err, merged)
		}
		if len(conf.pollers) != 1 || conf.pollers[0].Name != "keel.poll-every-1m" {
			t.Errorf("pollers %+v", conf.pollers)
		}
		if start == config && (strings.Count(string(merged), "pullSecret") != 1 || !strings.Contains(string(merged), "own: {type: dockerhub, auth: none}")) {
			t.Errorf("merged:\n%s", merged)
		}
	}
}

// A rule that cannot be is told of, and the others are in force.
func TestKeelCompilesWhatIsGood(t *testing.T) {
	conf, err := parseConfig("c", []byte("followKeel: true\n"), offlineKinds(t.Context(), true))
	if err != nil {
		t.Fatal(err)
	}
	var workloads []k8s.KeelWorkload
	for name, approvals := range map[string]string{"good": "0", "asks": "1"} {
		workloads = append(workloads, k8s.KeelWorkload{
			Kind: "deployment", Namespace: "shop", Name: name, Labels: map[string]string{"keel.sh/policy": "all", "keel.sh/approvals": approvals},
			Images: []k8s.KeelImage{{Name: "web", Reference: "one.example.com/web:1.2.3"}},
		})
	}
	state := keelState{known: true, keel: k8s.TranslateKeel(workloads, k8s.KeelOptions{Prefix: "keel."})}
	sets, faults := state.compile(conf)
	if len(sets) != 1 || len(faults) != 1 || !strings.Contains(faults[0].Error(), "deployment shop/asks: ") || !strings.Contains(faults[0].Error(), "needs 1 who may approve") {
		t.Errorf("%d sets, faults %v", len(sets), faults)
	}
	if why := (&keelState{}).notYet(conf); why == "" {
		t.Error("pushes are decided about before the annotations are known")
	}
}

func TestFollowKeelFaults(t *testing.T) {
	for config, want := range map[string]string{
		"followKeel: often":                         "must be true or false",
		"followKeel: {schedule: often}":             "followKeel.schedule: keel cannot read it either",
		"followKeel: {namespace: shop}":             "unknown key",
		"followKeel: false\nsources: {}\nrules: []": "sources: is missing",
	} {
		_, err := parseConfig("c", []byte(config), offlineKinds(t.Context(), true))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", config, err, want)
		}
	}
}
