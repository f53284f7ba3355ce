package server

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/dockbell/dockbell/trigger"
)

// However far a run has come between two looks, its states are told in order
// and each once.
func TestBetween(t *testing.T) {
	at := func(s int) time.Time { return time.Unix(int64(s), 0) }
	waiting := trigger.Run{ID: 1, State: trigger.Waiting, CreatedAt: at(1)}
	running := waiting
	running.State, running.Attempt, running.StartedAt = trigger.Running, 1, at(2)
	begun := running
	begun.Begun = "item 7"
	again := running
	again.State, again.Reason = trigger.Waiting, "not now"
	second := again
	second.State, second.Reason, second.Attempt, second.StartedAt = trigger.Running, "", 2, at(4)
	failed := second
	failed.State, failed.Reason, failed.FinishedAt = trigger.Failed, "no", at(5)
	skipped := waiting
	skipped.State, skipped.FinishedAt = trigger.Skipped, at(1)
	approved := waiting
	approved.Approved, approved.Reason = 1, "approved by ann"
	retried := failed
	retried.State, retried.Reason, retried.FinishedAt = trigger.Waiting, "tried again by ann", time.Time{}

	for name, tt := range map[string]struct {
		before, after trigger.Run
		want          string
	}{
		"new":                     {trigger.Run{}, waiting, "1 waiting"},
		"new and started":         {trigger.Run{}, running, "1 waiting, 2 running"},
		"new and at its end":      {trigger.Run{}, failed, "1 waiting, 4 running, 5 failed"},
		"new and skipped":         {trigger.Run{}, skipped, "1 waiting, 1 skipped"},
		"new and to try again":    {trigger.Run{}, again, "1 waiting, 2 running, 9 waiting"},
		"started":                 {waiting, running, "2 running"},
		"started and failed once": {waiting, again, "2 running, 9 waiting"},
		"only waits":              {running, begun, "9 running"},
		"to try again":            {running, again, "9 waiting"},
		"second try":              {running, second, "4 running"},
		"second try and its end":  {again, failed, "4 running, 5 failed"},
		"its end":                 {second, failed, "5 failed"},
		"approved":                {waiting, approved, "9 waiting"},
		"tried again":             {failed, retried, "9 waiting"},
		"nothing":                 {failed, failed, ""},
		"nothing while it runs":   {running, running, ""},
	} {
		var got []string
		for _, c := range between(tt.before, tt.after, at(9)) {
			got = append(got, fmt.Sprintf("%d %s", c.At.Unix(), c.State))
			if !c.State.Ended() && !c.FinishedAt.IsZero() {
				t.Errorf("%s: %s and has ended", name, c.State)
			}
		}
		if text := strings.Join(got, ", "); text != tt.want {
			t.Errorf("%s: %s, want %s", name, text, tt.want)
		}
	}
}
