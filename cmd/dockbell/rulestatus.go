package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"strconv"
	"time"

	"github.com/dockbell/dockbell/k8s"
	"github.com/dockbell/dockbell/trigger"
)

const (
	// reportEvery is how often the status of rules is brought up to date, and
	// reportPause what lies at least between two times. Each time reportMost of
	// them are written at the most: how much is pushed does not count for how
	// much the API server has to write.
	reportEvery = 5 * time.Second
	reportPause = time.Second
	reportMost  = 50

	// reportRuns is how many runs are read at once to see which are new, and
	// reportPages how often before what is older is left out.
	reportRuns  = 200
	reportPages = 10
)

// ruleReporter writes into the status of the rules of a cluster how they do.
type ruleReporter struct {
	*reloader
	clusters *openClusters
	turn     int                    // of the rules, where to begin
	newest   int64                  // run that has been looked at
	last     map[string]trigger.Run // by rule
	said     string                 // what was logged last
}

func newRuleReporter(r *reloader, clusters *openClusters) *ruleReporter {
	return &ruleReporter{reloader: r, clusters: clusters, last: map[string]trigger.Run{}}
}

// run reports now and then, and soon after a change, until ctx ends.
func (r *ruleReporter) run(ctx context.Context, changed <-chan struct{}) {
	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-changed:
		}
		if err := r.report(ctx); err == nil {
			r.said = ""
		} else if ctx.Err() == nil && err.Error() != r.said {
			r.said = err.Error()
			r.log.Error("the status of rules cannot be written; trying again", "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(reportPause):
		}
	}
}

// report writes what has changed. Of several replicas one does it.
func (r *ruleReporter) report(ctx context.Context) error {
	r.mu.Lock()
	found, compiled := r.found.rules, r.found.compiled // neither is changed, only replaced
	r.mu.Unlock()
	if len(found) == 0 {
		return nil
	}
	if err := r.look(ctx, found); err != nil {
		return err
	}
	var first error
	written, failed, leads := 0, 0, false
	begin := r.turn
	for i := range found {
		at := (begin + i) % len(found)
		rule := found[at]
		report := r.reportOf(rule, compiled[rule.String()].faults)
		if rule.Tells(report) {
			continue
		}
		if !leads {
			var err error
			if leads, err = r.db.Lead(ctx, "rule status"); err != nil || !leads {
				return err
			}
		}
		if err := r.clusters.Report(ctx, rule, report); err != nil {
			first = cmp.Or(first, err)
			failed++
		}
		r.turn = at + 1 // the others come first next time
		if written++; written == reportMost {
			break
		}
	}
	if first != nil {
		return fmt.Errorf("%d of %d: %w", failed, written, first)
	}
	return nil
}

// look finds out what the last run of each rule is, and how it stands.
func (r *ruleReporter) look(ctx context.Context, found []k8s.Rule) error {
	known := map[string]bool{}
	for _, rule := range found {
		known[rule.String()] = true
	}
	maps.DeleteFunc(r.last, func(name string, _ trigger.Run) bool { return !known[name] })
	fresh, newest := map[string]bool{}, r.newest
	for page, before := 0, int64(0); page < reportPages; page++ {
		runs, err := r.db.Runs(ctx, trigger.RunFilter{Before: before, Limit: reportRuns})
		if err != nil {
			return err
		}
		for _, run := range runs {
			if before = run.ID; run.ID <= r.newest {
				break
			}
			newest = max(newest, run.ID)
			if known[run.Rule] && run.Tells == 0 && !fresh[run.Rule] {
				fresh[run.Rule], r.last[run.Rule] = true, run
			}
		}
		if len(runs) < reportRuns || before <= r.newest {
			break
		}
	}
	r.newest = newest
	for _, rule := range found {
		if err := r.refresh(ctx, rule, fresh[rule.String()]); err != nil {
			return err
		}
	}
	return nil
}

// refresh reads a rule's last run again if it may have changed. After a start
// the status is what is known of it.
func (r *ruleReporter) refresh(ctx context.Context, rule k8s.Rule, fresh bool) error {
	last, ok := r.last[rule.String()]
	if !ok {
		told := rule.LastRun()
		last.ID, _ = strconv.ParseInt(told.ID, 10, 64) // 0 for none
		last.State = trigger.State(told.State)
	}
	if fresh || last.ID == 0 || last.State.Ended() {
		return nil
	}
	run, _, found, err := r.db.Run(ctx, last.ID)
	if found && err == nil {
		r.last[rule.String()] = run
	}
	return err
}

func (r *ruleReporter) reportOf(rule k8s.Rule, faults []string) k8s.RuleReport {
	var report k8s.RuleReport
	if len(faults) > 0 {
		report.Fault = faults[0]
	}
	if len(faults) > 1 {
		report.Fault += fmt.Sprintf(" (faults: %d)", len(faults))
	}
	run, ok := r.last[rule.String()]
	if !ok {
		return report
	}
	at := run.FinishedAt
	for _, t := range []time.Time{run.StartedAt, run.CreatedAt} {
		if at.IsZero() {
			at = t
		}
	}
	report.Event = k8s.RuleEvent{ID: strconv.FormatInt(run.EventID, 10), Image: run.Event.Image.String(), At: moment(run.Event.ReceivedAt)}
	report.Run = k8s.RuleRun{ID: strconv.FormatInt(run.ID, 10), Target: run.Target, State: string(run.State), Reason: run.Reason, At: moment(at)}
	return report
}

func moment(t time.Time) string { return t.UTC().Format(time.RFC3339) }
