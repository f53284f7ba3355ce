package rules

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dockbell/dockbell/trigger"
)

func TestApprove(t *testing.T) {
	const office = "window: {cron: '0 9 * * MON-FRI', for: 8h, timezone: Europe/Berlin}"
	const saturday, monday = "2026-11-21T12:00:00Z", "2026-11-23T09:00:00+01:00"
	const inAWeek = "2026-11-28T12:00:00Z"
	for _, tt := range []struct {
		name, keys string
		count      int
		by         []string
		until      string
		opens      string // "" for now
		reason     string
	}{
		{"none", "", 0, nil, "", "", ""},
		{"one", "approve: 1", 1, nil, inAWeek, "", "waits for 1 approval until " + inAWeek},
		{"two", "approve: {count: 2}", 2, nil, inAWeek, "", "waits for 2 approvals until " + inAWeek},
		{"one by default", "approve: {within: 72h}", 1, nil, "2026-11-24T12:00:00Z", "", "waits for 1 approval until 2026-11-24T12:00:00Z"},
		{"of a circle", "approve: {count: 2, by: [bob, alice, carol, bob]}", 2, []string{"alice", "bob", "carol"}, inAWeek, "", "waits for 2 approvals by alice, bob, carol until " + inAWeek},
		{"by one person", "approve: {by: alice}", 1, []string{"alice"}, inAWeek, "", "waits for 1 approval by alice until " + inAWeek},
		{"and the window", "approve: 1\n" + office, 1, nil, inAWeek, monday, "waits for 1 approval until " + inAWeek + "; outside its window until " + monday},
		{"before the window opens", "approve: {within: 1h}\n" + office, 1, nil, "2026-11-21T13:00:00Z", monday, "waits for 1 approval until 2026-11-21T13:00:00Z; outside its window until " + monday},
		{"and quiet", "approve: 1\nsettle: 30s", 1, nil, inAWeek, "2026-11-21T12:00:30Z", "waits for 1 approval until " + inAWeek + "; waits for pushes to settle until 2026-11-21T12:00:30Z"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			now := at(t, saturday)
			runs, _ := mustLoad(t, gated(tt.keys)).Match(push(t, "shop/web:v1"), now)
			opens, until := now, time.Time{}
			if tt.opens != "" {
				opens = at(t, tt.opens)
			}
			if tt.until != "" {
				until = at(t, tt.until)
			}
			r := runs[0]
			if r.Approvals != tt.count || !slices.Equal(r.Approvers, tt.by) || !r.ApproveBy.Equal(until) {
				t.Errorf("%d approvals by %q until %s", r.Approvals, r.Approvers, r.ApproveBy)
			}
			if !r.NotBefore.Equal(opens) || r.Reason != tt.reason || r.State != "" {
				t.Errorf("not before %s: %s, state %q; want %s: %s", r.NotBefore, r.Reason, r.State, opens, tt.reason)
			}
		})
	}
}

// Nobody is asked about what will not be done.
func TestNoApprovalOfWhatEndsAtOnce(t *testing.T) {
	// There is no 29 February between 2096 and 2104.
	const never = "approve: 1\nwindow: {cron: '0 0 29 2 *', for: 1h}\nfreeze: {from: 2026-01-01, to: 2096-12-31}"
	for _, tt := range []struct {
		name, rule string
		want       trigger.State
	}{
		{"a window that stays shut", gated(never), trigger.Skipped},
		{"a template that fails", strings.Replace(gated("approve: 1"), "call: {}", "call: {to: '{{slice .Tag 0 4}}'}", 1), trigger.Failed},
	} {
		runs, _ := mustLoad(t, tt.rule).Match(push(t, "shop/web:v1"), now)
		if r := runs[0]; r.State != tt.want || r.Approvals != 0 || !r.ApproveBy.IsZero() {
			t.Errorf("%s: %s: %s, %d approvals", tt.name, r.State, r.Reason, r.Approvals)
		}
	}
}

func TestApproveFaults(t *testing.T) {
	for _, tt := range []struct{ name, keys, want string }{
		{"nobody", "approve: 0", "r.yaml:3: [0].approve: must be at least 1: how many people have to say yes"},
		{"nothing", "approve:", "r.yaml:3: [0].approve: must be at least 1: how many people have to say yes"},
		{"no number", "approve: all", "r.yaml:3: [0].approve: must be a whole number, not a string (all)"},
		{"a list", "approve: [alice]", "r.yaml:3: [0].approve: must be a mapping, not a list"},
		{"less than nobody", "approve:\n  by: alice\n  count: -1", "r.yaml:5: [0].approve.count: must be at least 1: how many people have to say yes"},
		{"too few", "approve: {count: 2, by: [alice]}", "r.yaml:3: [0].approve.by: names too few people: 1 of 2 that must say yes"},
		{"too few, one of them twice", "approve: {count: 2, by: [alice, alice]}", "r.yaml:3: [0].approve.by: names too few people: 1 of 2 that must say yes"},
		{"an empty circle", "approve: {by: []}", "r.yaml:3: [0].approve.by: names too few people: 0 of 1 that must say yes"},
		{"an empty name", "approve: {by: [alice, '']}", "r.yaml:3: [0].approve.by: has an empty name"},
		{"no time", "approve: {within: 0s}", "r.yaml:3: [0].approve.within: must be longer than nothing, as in 72h"},
		{"no duration", "approve: {within: week}", "r.yaml:3: [0].approve.within: must be a duration, as in 30s, not a string (week)"},
		{"unknown key", "approve: {until: 72h}", `r.yaml:3: [0].approve: unknown key "until"; known are by, count, within`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := load(t, gated(tt.keys)); err == nil || err.Error() != tt.want {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
		})
	}
}
