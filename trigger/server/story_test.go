package server

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/dockbell/dockbell/trigger"
)

func TestStory(t *testing.T) {
	at := func(second int) time.Time { return time.Date(2026, 3, 4, 5, 6, second, 0, time.UTC) }
	push := trigger.Event{
		Image:  trigger.Image{Registry: "docker.io", Repository: "shop/web", Tag: "v1"},
		Source: "hub", Action: trigger.Push, Actor: "crane", OccurredAt: at(0), ReceivedAt: at(1),
	}
	const began = "1 received from source hub: push of docker.io/shop/web:v1 by crane at 2026-03-04T05:06:00Z\n1 accepted by rule web, action 0: http POST /"
	for name, tt := range map[string]struct {
		run   trigger.Run
		notes []trigger.Note
		tries []trigger.Attempt
		want  string
	}{
		"waits": {
			run:  trigger.Run{State: trigger.Waiting, Reason: "outside its window until tomorrow"},
			want: "; outside its window until tomorrow",
		},
		"waits, as a note says": {
			run:   trigger.Run{State: trigger.Waiting, Reason: "outside its window until tomorrow"},
			notes: []trigger.Note{{At: at(1), Text: "outside its window until tomorrow"}},
			want:  "\n1 outside its window until tomorrow",
		},
		"runs": {
			run:  trigger.Run{State: trigger.Running, Attempt: 1, StartedAt: at(2)},
			want: "\n2 try 1 began",
		},
		"tried twice": {
			run: trigger.Run{State: trigger.Succeeded, Attempt: 2, StartedAt: at(6), FinishedAt: at(7)},
			tries: []trigger.Attempt{
				{N: 1, StartedAt: at(2), FinishedAt: at(3), State: trigger.Waiting, Reason: "answered 500"},
				{N: 2, StartedAt: at(6), FinishedAt: at(7), State: trigger.Succeeded},
			},
			notes: []trigger.Note{{At: at(5), Text: "tried again by anna"}},
			want:  "\n3 try 1 took 1s: failed, to be tried again: answered 500\n5 tried again by anna\n7 try 2 took 1s: succeeded",
		},
		"rejected": {
			run:   trigger.Run{State: trigger.Rejected, Reason: "rejected by anna: too early", FinishedAt: at(4)},
			notes: []trigger.Note{{At: at(3), Text: "approved by bob"}},
			want:  "\n3 approved by bob\n4 rejected by anna: too early",
		},
		"cancelled": {
			run:  trigger.Run{State: trigger.Skipped, Reason: "cancelled by anna", FinishedAt: at(4)},
			want: "\n4 ended as skipped: cancelled by anna",
		},
		"expired, as a note says": {
			run:   trigger.Run{State: trigger.Expired, Reason: "nobody approved it", FinishedAt: at(4)},
			notes: []trigger.Note{{At: at(4), Text: "nobody approved it"}},
			want:  "\n4 nobody approved it\n4 ended as expired",
		},
		"superseded after a try": {
			run:   trigger.Run{State: trigger.Superseded, Attempt: 1, Reason: "superseded by run 9", FinishedAt: at(4)},
			tries: []trigger.Attempt{{N: 1, StartedAt: at(2), FinishedAt: at(3), State: trigger.Waiting}},
			want:  "\n3 try 1 took 1s: failed, to be tried again\n4 superseded by run 9",
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := tt.run
			r.Event, r.Rule, r.Kind, r.Target, r.CreatedAt = push, "web", "http", "POST /", at(1)
			var got strings.Builder
			for _, c := range story(r, tt.tries, tt.notes) {
				fmt.Fprintf(&got, "%d %s\n", c.At.Second(), c.Text)
			}
			if want := began + tt.want + "\n"; got.String() != want {
				t.Errorf("got\n%swant\n%s", got.String(), want)
			}
		})
	}
}

// The chapter that ends a try leads to its log.
func TestStoryOfOneRun(t *testing.T) {
	s := fill(t)
	r := get[RunView](t, s, "/api/v1/runs/1")
	last := r.Story[len(r.Story)-1]
	if last.Try != 1 || !strings.HasPrefix(last.Text, "try 1 took ") || !strings.HasSuffix(last.Text, ": succeeded") || !last.At.Equal(r.FinishedAt) {
		t.Errorf("%+v", last)
	}
}
