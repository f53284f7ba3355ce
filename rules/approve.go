package rules

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/dockbell/dockbell/trigger"
	"github.com/dockbell/dockbell/trigger/strictyaml"
)

// approval is who must say yes before a run starts, and how soon. Its zero
// value asks nobody.
type approval struct {
	count  int
	by     []string // nil: anybody
	within time.Duration
}

// approveWithin is how long people have when the rule does not say it: nobody
// comes back from the weekend to find that a run has expired.
const approveWithin = 7 * 24 * time.Hour

// ask makes a run wait for people, beside whatever else it waits for.
func (a approval) ask(run *trigger.Run, now time.Time) {
	if a.count == 0 {
		return
	}
	run.Approvals, run.Approvers, run.ApproveBy = a.count, a.by, now.Add(a.within)
	why := "waits for " + strconv.Itoa(a.count) + " approval"
	if a.count > 1 {
		why += "s"
	}
	if len(a.by) > 0 {
		why += " by " + strings.Join(a.by, ", ")
	}
	why = until(run.ApproveBy, why)
	if run.Reason != "" {
		why += "; " + run.Reason
	}
	run.Reason = why
}

// loadApproval reads how many must approve, or a mapping that says more.
func loadApproval(n strictyaml.Node) (a approval) {
	s := struct {
		Count  int                `yaml:"count"`
		By     strictyaml.Strings `yaml:"by"`
		Within time.Duration      `yaml:"within"`
	}{Count: 1, Within: approveWithin}
	count, into := n.Key("count"), any(&s)
	if n.YAML().Kind == yaml.ScalarNode {
		s.Count = 0
		count, into = n, &s.Count
	}
	if !n.Decode(into) {
		return a
	}
	if s.Count < 1 {
		count.Faultf("must be at least 1: how many people have to say yes")
	}
	by := slices.Compact(slices.Sorted(slices.Values(s.By)))
	if slices.Contains(by, "") {
		n.Key("by").Faultf("has an empty name")
	} else if n.Has("by") && len(by) < s.Count {
		n.Key("by").Faultf("names too few people: %d of %d that must say yes", len(by), s.Count)
	}
	if s.Within <= 0 {
		n.Key("within").Faultf("must be longer than nothing, as in 72h")
	}
	return approval{count: s.Count, by: by, within: s.Within}
}

// Approval is what a rule asks of people.
type Approval struct {
	Index int      // of the rule in the file, from 0
	Count int      // how many must say yes
	By    []string // who they may be; nil for anybody
}

// Approvals are those of the rules that have one.
func (s *Set) Approvals() []Approval {
	var all []Approval
	for i, r := range s.rules {
		if a := r.gate.approve; a.count > 0 {
			all = append(all, Approval{i, a.count, a.by})
		}
	}
	return all
}
