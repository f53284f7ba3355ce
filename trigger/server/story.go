package server

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/dockbell/dockbell/trigger"
)

// Chapter is one thing that happened to a run.
type Chapter struct {
	At   time.Time `json:"at"`
	Text string    `json:"text"`
	Try  int       `json:"try,omitzero"` // the try that ended here, and has a log
}

// story tells from the push to the end what became of a run, in order of time.
func story(r trigger.Run, tries []trigger.Attempt, notes []trigger.Note) []Chapter {
	all := []Chapter{{At: r.Event.ReceivedAt, Text: received(r.Event)}, {At: r.CreatedAt, Text: accepted(r, notes)}}
	for _, n := range notes {
		all = append(all, Chapter{At: n.At, Text: n.Text})
	}
	for _, a := range tries {
		all = append(all, Chapter{At: a.FinishedAt, Text: tried(a), Try: a.N})
	}
	if r.State == trigger.Running {
		all = append(all, Chapter{At: r.StartedAt, Text: fmt.Sprintf("try %d began", r.Attempt)})
	}
	slices.SortStableFunc(all, func(a, b Chapter) int { return a.At.Compare(b.At) })
	if text := ended(r, all[len(all)-1].Text, tries); text != "" {
		all = append(all, Chapter{At: r.FinishedAt, Text: text})
	}
	return all
}

func received(e trigger.Event) string {
	text := fmt.Sprintf("received from source %s: %s of %s", e.Source, e.Action, e.Image.Pinned())
	if e.Actor != "" {
		text += " by " + e.Actor
	}
	if !e.OccurredAt.IsZero() {
		text += " at " + e.OccurredAt.UTC().Format(time.RFC3339)
	}
	return text
}

func accepted(r trigger.Run, notes []trigger.Note) string {
	how := "accepted by"
	if r.Parent != 0 {
		how = fmt.Sprintf("found by run %d of", r.Parent)
	}
	text := fmt.Sprintf("%s rule %s, action %d: %s %s", how, r.Rule, r.Index, r.Kind, r.Target)
	noted := slices.ContainsFunc(notes, func(n trigger.Note) bool { return n.Text == r.Reason })
	if r.State == trigger.Waiting && r.Attempt == 0 && r.Reason != "" && !noted {
		text += "; " + r.Reason
	}
	return text
}

func tried(a trigger.Attempt) string {
	how := string(a.State)
	if a.State == trigger.Waiting {
		how = "failed, to be tried again" // it waits again because it has not got there
	}
	text := fmt.Sprintf("try %d took %s: %s", a.N, a.FinishedAt.Sub(a.StartedAt).Round(time.Millisecond), how)
	if a.Reason != "" {
		text += ": " + a.Reason
	}
	return text
}

// ended is how the run ended, where that has not just been told; else "".
func ended(r trigger.Run, last string, tries []trigger.Attempt) string {
	byTry := len(tries) > 0 && tries[len(tries)-1].State == r.State
	if !r.State.Ended() || byTry {
		return ""
	}
	switch {
	case strings.Contains(last, r.Reason):
		return "ended as " + string(r.State)
	case strings.HasPrefix(r.Reason, string(r.State)):
		return r.Reason // rejected by …
	}
	return "ended as " + string(r.State) + ": " + r.Reason
}
