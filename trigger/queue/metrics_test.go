package queue

import (
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dockbell/dockbell/trigger"
)

// runsOf gives rules with their kinds, as "web call".
func runsOf(all ...string) iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for _, one := range all {
			if rule, kind, _ := strings.Cut(one, " "); !yield(rule, kind) {
				return
			}
		}
	}
}

// What may be counted is there before it is, and goes with its rule. What has
// been counted stays as it is.
func TestExpect(t *testing.T) {
	r := &rig{T: t, metrics: prometheus.NewRegistry()}
	m := NewMetrics(r.metrics)
	m.Expect(runsOf("web call", "web call", "api set"))
	m.led(trigger.Run{Rule: "web", Kind: "call"}, trigger.Failed)
	m.Expect(runsOf("web call", "db call"))
	want := map[string]float64{
		"dockbell_runs_running call": 0, "dockbell_runs_running set": 0, "dockbell_run_try_seconds call": 0, "dockbell_run_try_seconds set": 0,
		"dockbell_run_start_delay_seconds": 0,
	}
	for _, state := range []string{"waiting", "succeeded", "failed", "superseded", "skipped", "rolled-back", "unknown"} {
		want["dockbell_run_tries_total call db "+state] = 0
		want["dockbell_run_tries_total call web "+state] = 0
	}
	want["dockbell_run_tries_total call web failed"] = 1
	if got := r.counted(); !maps.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)))
	}

	var many []string
	for i := range 2 * mostExpected {
		many = append(many, fmt.Sprintf("rule%d call", i))
	}
	m.Expect(runsOf(many...))
	if got, most := len(r.counted()), mostExpected*len(tried)+len(want); got > most {
		t.Errorf("%d metrics before anything has been counted, at most %d", got, most)
	}
}
