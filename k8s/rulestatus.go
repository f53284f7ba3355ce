package k8s

import (
	"context"
	"encoding/json"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// RuleReport is what dockbell says of a Rule, below its status.
type RuleReport struct {
	Fault string // why it is not in force; "" when it is
	Event RuleEvent
	Run   RuleRun
}

// RuleEvent is the last push that started something by a rule. Its zero value
// is none.
type RuleEvent struct {
	ID    string `json:"id,omitempty"`
	Image string `json:"image,omitempty"`
	At    string `json:"at,omitempty"`
}

// RuleRun is what was started last by a rule. Its zero value is nothing.
type RuleRun struct {
	ID     string `json:"id,omitempty"`
	Target string `json:"target,omitempty"`
	State  string `json:"state,omitempty"`
	Reason string `json:"reason,omitempty"`
	At     string `json:"at,omitempty"` // when it got into the state, as far as is kept
}

// ruleStatus is the status as it is written.
type ruleStatus struct {
	ObservedGeneration int64              `json:"observedGeneration,omitempty"`
	Conditions         []metav1.Condition `json:"conditions,omitempty"`
	LastEvent          *RuleEvent         `json:"lastEvent,omitempty"`
	LastRun            *RuleRun           `json:"lastRun,omitempty"`
}

// LastRun is the run that the status tells of.
func (r Rule) LastRun() RuleRun {
	if r.status.LastRun == nil {
		return RuleRun{}
	}
	return *r.status.LastRun
}

// Tells reports whether the status says already what is to be reported.
func (r Rule) Tells(report RuleReport) bool {
	_, changed := r.next(report)
	return !changed
}

// next is the status that tells of a report, and whether it differs from what
// is there.
func (r Rule) next(report RuleReport) (ruleStatus, bool) {
	next := r.status
	next.ObservedGeneration, next.Conditions = r.Generation, slices.Clone(r.status.Conditions)
	ready := metav1.Condition{Type: "Ready", Status: metav1.ConditionTrue, Reason: "InForce", Message: "the rule is in force", ObservedGeneration: r.Generation}
	if report.Fault != "" {
		ready.Status, ready.Reason, ready.Message = metav1.ConditionFalse, "Faulty", report.Fault
	}
	changed := meta.SetStatusCondition(&next.Conditions, ready) || r.status.ObservedGeneration != r.Generation
	if report.Run.ID != "" && (next.LastRun == nil || *next.LastRun != report.Run) {
		next.LastEvent, next.LastRun, changed = &report.Event, &report.Run, true
	}
	return next, changed
}

// Report writes the status of a rule. A rule that is gone meanwhile needs none.
func (c *Clusters) Report(ctx context.Context, r Rule, report RuleReport) error {
	client, err := c.ruleClient()
	if err != nil {
		return err
	}
	status, _ := r.next(report)
	// The uid lets it fail for another rule that has the name by now.
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": r.UID}, "status": status})
	if err != nil {
		return err
	}
	_, err = client.Namespace(r.Namespace).Patch(ctx, r.Name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: "dockbell"}, "status")
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return explainRules(err)
}
