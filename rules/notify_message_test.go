package rules

import (
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/dockbell/dockbell/trigger"
)

// withChat are the kinds with one that writes to people.
func withChat() map[string]trigger.Kind {
	all := maps.Clone(kinds)
	chat := kinds["call"]
	chat.Message = map[string]string{"to": "{{.Title}}", "any": "{{.Text}}|{{.Link}}|{{.State}}|{{.Count}}"}
	all["chat"] = chat
	return all
}

// message is what a run of kind chat says.
func message(t *testing.T, r trigger.Run) (title, rest string) {
	t.Helper()
	var spec struct{ To, Any string }
	if err := json.Unmarshal(r.Spec, &spec); err != nil || r.State != "" {
		t.Fatalf("%s is %s (%s), %v", r.Spec, r.State, r.Reason, err)
	}
	return spec.To, spec.Any
}

// One line of configuration makes a message that says what, where, from what to
// what, how long, why and where to read on.
func TestMessage(t *testing.T) {
	set, err := loadNotices(t, "- {on: [failed, succeeded, approval, unknown], chat: {}}")
	if err != nil {
		t.Fatal(err)
	}
	const about, link = "rule web, pushed by crane", "|https://dockbell.example.com/api/v1/runs/42|"
	other := "sha256:" + strings.Repeat("b", 64)
	for _, tt := range []struct {
		name        string
		change      func(*trigger.Notice)
		title, text string
	}{
		{"of a failure", func(*trigger.Notice) {}, "deployment prod/web failed: ghcr.io/shop/web:v1", "no such host\n" + about + ", 3 tries" + link + "failed|1"},
		{"of a success that took a while", func(n *trigger.Notice) {
			n.From = n.Run.Event.Image
			n.From.Tag = "v0"
			n.Run.State, n.Run.Reason, n.Run.Attempt = trigger.Succeeded, "", 1
			n.Run.FirstAt, n.Run.FinishedAt = now, now.Add(123456*time.Millisecond)
		}, "deployment prod/web succeeded: ghcr.io/shop/web:v1", "v0 → v1\n" + about + ", took 2m3s" + link + "succeeded|1"},
		{"of a tag that was moved", func(n *trigger.Notice) {
			n.From = n.Run.Event.Image
			n.From.Digest, n.Run.Reason, n.Run.Attempt = other, "", 1
		}, "deployment prod/web failed: ghcr.io/shop/web:v1", "v1: sha256:bbbbbbbbbbbb → " + digest[:19] + "\n" + about + link + "failed|1"},
		{"of another image in the lane", func(n *trigger.Notice) {
			n.From = trigger.Image{Registry: "docker.io", Repository: "library/nginx", Tag: "1"}
			n.Run.Reason, n.Run.Attempt = "", 1
		}, "deployment prod/web failed: ghcr.io/shop/web:v1", about + link + "failed|1"},
		{"of the same image", func(n *trigger.Notice) { n.From, n.Run.Attempt = n.Run.Event.Image, 1 }, "deployment prod/web failed: ghcr.io/shop/web:v1", "no such host\n" + about + link + "failed|1"},
		{"of one that waits", func(n *trigger.Notice) {
			n.Run.State, n.Run.Approvals, n.Run.Reason, n.Run.Attempt = trigger.Waiting, 1, "waits for 1 approvals", 0
		}, "deployment prod/web waits for approval: ghcr.io/shop/web:v1", "waits for 1 approvals\n" + about + link + "approval|1"},
		{"of a long reason", func(n *trigger.Notice) { n.Run.Reason, n.Run.Attempt = strings.Repeat("ä", 400), 1 },
			"deployment prod/web failed: ghcr.io/shop/web:v1", strings.Repeat("ä", 300) + "…\n" + about + link + "failed|1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := trigger.Notice{Run: ended(t, trigger.Failed)}
			tt.change(&n)
			runs := set.Notices([]trigger.Notice{n}, now)
			if len(runs) != 1 {
				t.Fatalf("%d runs", len(runs))
			}
			title, text := message(t, runs[0])
			if title != tt.title || text != tt.text {
				t.Errorf("got\n%s\n%s\nwant\n%s\n%s", title, text, tt.title, tt.text)
			}
		})
	}
}

// Who writes a part of the message gets that, and the rest as it is.
func TestMessageOfOnesOwn(t *testing.T) {
	set, err := loadNotices(t, "- {on: failed, chat: {to: 'oh no: {{.Title}}'}}")
	if err != nil {
		t.Fatal(err)
	}
	title, rest := message(t, set.Notices(told(ended(t, trigger.Failed)), now)[0])
	if title != "oh no: deployment prod/web failed: ghcr.io/shop/web:v1" || !strings.HasPrefix(rest, "no such host\n") {
		t.Errorf("%s\n%s", title, rest)
	}
}

// The times of a run bound what is drawn for it, and one that was never tried
// has them, too.
func TestTimesOfAnOutcome(t *testing.T) {
	set, err := loadNotices(t, "- {on: [failed, approval], call: {to: '{{.StartedAt}} {{.FinishedAt}} {{.Took}}'}}")
	if err != nil {
		t.Fatal(err)
	}
	run := ended(t, trigger.Failed)
	run.FirstAt, run.StartedAt, run.FinishedAt = now, now.Add(time.Hour), now.Add(2*time.Hour)
	at := func(d time.Duration) string { return now.Add(d).UTC().Format(time.RFC3339) }
	never, waits := run, run
	never.FirstAt = time.Time{}
	waits.State, waits.Approvals, waits.FirstAt, waits.FinishedAt = trigger.Waiting, 1, time.Time{}, time.Time{}
	later := now.Add(3 * time.Hour)
	var got []string
	for _, r := range set.Notices(told(run, never, waits), later) {
		got = append(got, r.Target)
	}
	want := []string{at(0) + " " + at(2*time.Hour) + " 2h0m0s", at(2*time.Hour) + " " + at(2*time.Hour) + " ", at(3*time.Hour) + " " + at(3*time.Hour) + " "}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// Of more outcomes than people read one by one they get one message, which
// begins with the worst. Machines are told of each.
func TestSummary(t *testing.T) {
	set, err := loadNotices(t, `
- {name: few, on: [failed, succeeded], atMost: 3, chat: {to: "just {{.Title}}"}}
- {name: bad, on: failed, chat: {}}
- {name: machine, on: [failed, succeeded], call: {to: x}}
`)
	if err != nil {
		t.Fatal(err)
	}
	var runs []trigger.Run
	for i := range 7 {
		r := ended(t, trigger.Succeeded)
		r.ID, r.EventID, r.Target, r.FinishedAt = int64(i+1), int64(100+i), fmt.Sprint("deployment prod/web", i), now
		if i == 2 || i == 6 {
			r.State = trigger.Failed
		}
		runs = append(runs, r)
	}
	made := map[string][]trigger.Run{}
	for _, r := range set.Notices(told(runs...), now) {
		made[r.Rule] = append(made[r.Rule], r)
	}
	if len(made["notify/few"]) != 1 || len(made["notify/bad"]) != 2 || len(made["notify/machine"]) != 7 {
		t.Fatalf("%d, %d and %d runs", len(made["notify/few"]), len(made["notify/bad"]), len(made["notify/machine"]))
	}
	sum := made["notify/few"][0]
	if sum.Tells != 1 || sum.EventID != 100 || sum.Lane != "notify/few" || sum.Kind != "chat" {
		t.Errorf("%+v", sum)
	}
	title, rest := message(t, sum)
	line := func(i int, how string) string {
		return fmt.Sprintf("deployment prod/web%d %s: ghcr.io/shop/web:v1\n", i, how)
	}
	want := line(2, "failed") + line(6, "failed") + line(0, "succeeded") + line(1, "succeeded") + line(3, "succeeded") + "and 2 more|https://dockbell.example.com|failed|7"
	if title != "7 outcomes: 2 failed, 5 succeeded" || rest != want {
		t.Errorf("got\n%s\n%s\nwant\n%s", title, rest, want)
	}
	if few := set.Notices(told(runs[:3]...), now); len(few) != 3+1+3 {
		t.Errorf("of three: %d runs", len(few))
	}
}

// The times of a summary are those of all that it is of.
func TestTimesOfASummary(t *testing.T) {
	at := func(minute int) stamp { return stamp{now.Add(time.Duration(minute) * time.Minute)} }
	sum := summarise([]*outcome{
		{State: "succeeded", StartedAt: at(3), FinishedAt: at(9)}, {State: "failed", StartedAt: at(2), FinishedAt: at(4)}, {State: "succeeded", StartedAt: at(1), FinishedAt: at(5)},
	}, "")
	if sum.StartedAt != at(1) || sum.FinishedAt != at(9) || sum.State != "failed" || sum.Count != 3 || sum.Took != "" || sum.Link != "" {
		t.Errorf("%+v", sum)
	}
}
